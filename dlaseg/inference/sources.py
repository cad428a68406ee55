"""Finds images and videos: files, folders and everything below them, the frames of animations, and cameras."""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from dlaseg.errors import UserError
from dlaseg.image_suffixes import IMAGE_SUFFIXES, OTHER_IMAGE_SUFFIXES, VIDEO_SUFFIXES
from dlaseg.images import ImageFile, open_image
from dlaseg.inference.folders import SETTINGS, SUFFIXES

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """One image or video to infer.

    Attributes:
        path: of the file; of a camera, what the user typed.
        relative: path below the input folder; of a single file, its name.
        frame: number of a frame of the file, from 0; None for an image, and for a whole video.
        is_video: whether the file is a video, or a camera.
        camera: index of a camera.
    """

    path: Path
    relative: Path
    frame: int | None = None
    is_video: bool = False
    camera: int | None = None

    def open(self, max_pixels: int) -> ImageFile:
        """Reads the file, see `open_image`."""
        return open_image(self.path, max_pixels)

    @property
    def location(self) -> str:
        """Where the file is, whichever way it was found."""
        return os.path.realpath(self.path)


def find_all(inputs: Sequence[Path], exclude: Path | None = None, videos: bool = False) -> list[Source]:
    """Lists the images of files and folders, see `find_images`; an image that is found twice is listed once.

    Args:
        inputs: files and folders.
        exclude: see `find_images`.
        videos: whether videos are found, too, and `camera:0`, or `0` if no file or folder has that name, is a camera.

    Raises:
        UserError: no input, a camera beside other inputs, or as `find_images`.
    """
    if not inputs:
        raise UserError("no input: give an image or a folder of images")
    cameras = [source for input in inputs if videos and (source := _camera(input))]
    if cameras and len(inputs) > 1:
        raise UserError(f"{cameras[0].path}: a camera runs until it is interrupted: give it as the only input")
    sources = cameras or [source for input in inputs for source in find_images(input, exclude, videos)]
    return list({(source.location, source.relative): source for source in sources}.values())


def _camera(input: Path) -> Source | None:
    match = re.fullmatch(r"(?:camera:)?([0-9]{1,4})", str(input))
    if match is None or input.exists():
        return None
    index = int(match[1])
    return Source(input, Path(f"camera{index}"), is_video=True, camera=index)


def expand_frames(sources: Sequence[Source], max_pixels: int, threads: int) -> list[Source]:
    """Replaces every file that has several frames or pages by these.

    Args:
        sources: files. One that cannot be opened stays, and reading it reports the error.
        max_pixels: see `open_image`.
        threads: that read the headers.
    """

    def expand(source: Source) -> list[Source]:
        if source.is_video:
            return [source]
        try:
            frames = source.open(max_pixels).header.frames
        except UserError:
            frames = 1
        return [source] if frames == 1 else [replace(source, frame=frame) for frame in range(frames)]

    with ThreadPoolExecutor(threads) as pool:
        return [frame for frames in pool.map(expand, sources) for frame in frames]


def find_images(input: Path, exclude: Path | None = None, videos: bool = False) -> list[Source]:
    """Lists the images of a file or a folder, and its videos.

    A folder is walked recursively, in sorted order, also through symbolic links. Hidden files and folders (a leading
    dot), files with other suffixes, links back to a folder that contains them, and results of earlier runs are skipped;
    of the results, of images in formats that are not read, and of videos that are not listed, a warning tells. A
    dangling link with an image's suffix is listed, so that reading it reports the missing image.

    Args:
        input: a file or a folder.
        exclude: a folder that is not walked: the output, which may lie inside the input.
        videos: whether videos are listed, too.

    Returns:
        At least one source.

    Raises:
        UserError: no such path, no image in it, a folder that cannot be read, or `exclude` is the input itself.
    """
    suffixes = IMAGE_SUFFIXES | VIDEO_SUFFIXES if videos else IMAGE_SUFFIXES
    known = ", ".join(sorted(suffixes))
    what = "image or video" if videos else "image"

    def source(path: Path, relative: Path) -> Source:
        return Source(path, relative, is_video=path.suffix.lower() in VIDEO_SUFFIXES)

    if input.is_file():
        if input.suffix.lower() not in suffixes:
            raise UserError(
                f"{input}: not the suffix of an {what}: give a folder or a file that ends in one of {known}"
            )
        return [source(input, Path(input.name))]
    if not input.is_dir():
        raise UserError(f"{input}: no such file or folder: give an image or a folder of images")
    excluded = os.path.realpath(exclude) if exclude is not None else None
    if os.path.realpath(input) == excluded:
        raise UserError(f"{input}: input and output are one folder: give another output, such as {input / 'results'}")
    results: list[Path] = []
    try:
        found = list(_walk(input, (), excluded, IMAGE_SUFFIXES | VIDEO_SUFFIXES | OTHER_IMAGE_SUFFIXES, results))
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}: make the folder readable, or move it away") from error
    tell_results(input, len(results))
    sources = [source(path, path.relative_to(input)) for path in found if path.suffix.lower() in suffixes]
    tell_left_out(input, [path for path in found if path.suffix.lower() not in suffixes])
    if not sources:
        raise UserError(f"{input}: contains no {what}, also not below it: their names end in {known}")
    return sources


def tell_left_out(input: Path | str, files: Iterable[PurePath]) -> None:
    """Warns of files that may hold what the user wanted to be read.

    Args:
        input: the folder, or its URL.
        files: those of it that are not read; other suffixes than those of images and videos count for nothing.
    """
    counts = Counter(file.suffix.lower() for file in files)
    for suffixes, remedy in (
        (OTHER_IMAGE_SUFFIXES, "convert them to JPEG or PNG"),
        (VIDEO_SUFFIXES, "`dlaseg infer` reads videos, without --engine ray"),
    ):
        if left_out := {suffix: count for suffix, count in sorted(counts.items()) if suffix in suffixes}:
            logger.warning(
                "%s: %s is not read, files left out: %d: %s", input, ", ".join(left_out), sum(left_out.values()), remedy
            )


def tell_results(input: Path | str, folders: int) -> None:
    """Warns that results of earlier runs are not read.

    Args:
        input: the folder that holds them, or its URL.
        folders: number of folders of results in it.
    """
    if folders:
        reason = f"results of earlier runs, beside their {SETTINGS}, are not read, folders left out"
        logger.warning("%s: %s: %d: give such a folder itself as input to read it", input, reason, folders)


def _walk(
    folder: Path, above: tuple[str, ...], excluded: str | None, suffixes: frozenset[str], results: list[Path]
) -> Iterator[Path]:
    """Yields the files of a folder that have one of the suffixes.

    Args:
        folder: to walk.
        above: its parent folders, links resolved.
        excluded: a folder that is not walked, links resolved.
        suffixes: in lower case.
        results: gets the folders that hold results of `infer`, which are not walked.
    """
    real = os.path.realpath(folder)
    # Only a link back to a parent is a loop; two links to one folder are both walked
    if real in above or real == excluded:
        return
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.name in SUFFIXES and entry.is_dir() and (folder / SETTINGS).is_file():
            results.append(entry)
        elif entry.is_dir():
            yield from _walk(entry, (*above, real), excluded, suffixes, results)
        elif entry.suffix.lower() in suffixes and (entry.is_file() or entry.is_symlink()):
            yield entry
