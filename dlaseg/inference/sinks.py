"""Writes results: label maps, colours, overlays, probabilities, contours, in a tree that mirrors the input's."""

import io
import json
import os
import re
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlaseg.errors import UserError
from dlaseg.inference.contours import contours
from dlaseg.inference.folders import SUFFIXES, Folder, LocalFolder
from dlaseg.inference.sources import Source
from dlaseg.labels import LabelMap
from dlaseg.png import encode_png
from dlaseg.visualize import overlay

VIDEO_KINDS = ("color", "overlay")
"""Kinds of results that are videos if the source is one."""

VIDEO_SUFFIX = ".mp4"

INCOMPLETE = ".incomplete"
"""Behind the name of a video's result: a file that exists while the result is not complete."""

KINDS = ("ids", "color", "overlay")
"""The kinds that are saved by default."""

IDS = ("raw", "train")
"""What label maps hold: ids as the data set stores them, or train ids, 0 to C - 1."""

LONGEST_NAME = 255
"""Bytes in the name of a file, as file systems have it."""


class Sink:
    """Writes the results of a source to `OUTPUT/KIND/` and its relative path.

    `streets/a.jpg` becomes `OUTPUT/ids/streets/a.png`, `OUTPUT/contours/streets/a.json`, and so on; a frame of `a.gif`
    becomes `OUTPUT/ids/a/0000.png`. A file is written completely or not at all.

    The results of a video, `a.avi`, are videos of colours and overlays, `OUTPUT/color/a.mp4`, and a folder with a file
    for each frame for the other kinds, `OUTPUT/ids/a/`; see `dlaseg.inference.video`, which writes them.

    Args:
        output: the folder; a local one is created with the first result.
        label_map: gives ids and colours.
        save: some of `SUFFIXES`.
        keep_suffix: whether results are called `a.jpg.png`, and frames `a.gif/0000.png`.
        ids: what label maps hold, see `IDS`.

    Attributes:
        before_write: called before a result gets its name; an error that it raises keeps the old one, or none.

    Raises:
        UserError: nothing to save, an unknown kind, or unknown ids.
    """

    def __init__(
        self,
        output: Path | Folder,
        label_map: LabelMap,
        save: Sequence[str] = KINDS,
        keep_suffix: bool = False,
        ids: str = "raw",
    ):
        save = (save,) if isinstance(save, str) else tuple(save)
        unknown = [kind for kind in save if kind not in SUFFIXES]
        if unknown or not save:
            what = repr(unknown[0]) if unknown else "nothing"
            raise UserError(f"save {what}: results are saved as one or more of {', '.join(SUFFIXES)}")
        if ids not in IDS:
            raise UserError(f"ids {ids!r}: unknown; use raw (as in the data set) or train (0 to C - 1)")
        self.folder: Folder = LocalFolder(output) if isinstance(output, Path) else output
        self._label_map = label_map
        self._keep_suffix = keep_suffix
        self._ids = ids
        self.kinds = tuple(dict.fromkeys(save))
        self.before_write: Callable[[], None] = lambda: None

    def name(self, source: Source) -> Path:
        """The path of a source's pictures, or of its video, below `OUTPUT/KIND`."""
        image = source.relative
        stem = image if self._keep_suffix else image.with_suffix("")
        if source.frame is not None:
            return stem / f"{source.frame:0{6 if source.is_video else 4}}.png"
        return stem.with_name(f"{stem.name}{VIDEO_SUFFIX if source.is_video else '.png'}")

    def file(self, source: Source, kind: str) -> str:
        """The name of a result in the folder, or that of the folder of the frames of a video."""
        name = self.name(source)
        if source.is_video and source.frame is None:
            return (kind / (name if kind in VIDEO_KINDS else name.with_suffix(""))).as_posix()
        return (kind / name.with_suffix(SUFFIXES[kind])).as_posix()

    def path(self, source: Source, kind: str) -> Path:
        """The path of `file`, in a local folder."""
        assert self.is_local
        return Path(self.folder.show(self.file(source, kind)))

    @property
    def is_local(self) -> bool:
        """Whether results are written to a folder of this machine."""
        return isinstance(self.folder, LocalFolder)

    def check(self, sources: Sequence[Source]) -> None:
        """Checks that no result would replace a source; call it before the first `write`.

        Raises:
            UserError: names the source.
        """
        inputs = {source.location for source in sources}
        for source in sources:
            for kind in self.kinds:
                folder, _, name = self.file(source, kind).partition("/")
                if (file := f"{self.folder.location(folder)}/{name}") in inputs:
                    raise UserError(f"{file}: a result would replace this input: give another output folder")

    def exists(self, source: Source, kind: str) -> bool:
        """Whether a result is complete."""
        if source.is_video and source.frame is None:
            if self.folder.exists(self.incomplete(source, kind)):
                return False
            if kind not in VIDEO_KINDS:
                source = replace(source, frame=0)
        return self.folder.exists(self.file(source, kind))

    def incomplete(self, source: Source, kind: str) -> str:
        """The name of a file that exists while the result of a video is not complete."""
        return f"{self.file(source, kind)}{INCOMPLETE}"

    def unnameable(self, sources: Sequence[Source]) -> dict[Path, str]:
        """Finds files whose results would have the same name, such as those of `a.jpg` and `a.png`, or too long a name.

        The result of `a.jpg` and a folder `a.png` have one name, too.

        None of them is chosen, and none is renamed: a name that depends on the other files would change between runs.

        Returns:
            The files, and a message for each.
        """
        folders = {self.name(source).with_suffix(""): source for source in sources if source.is_video}
        named: defaultdict[Path, list[Source]] = defaultdict(list)
        for source in sources:
            named[self.name(source)].append(source)
        messages: dict[Path, str] = {}
        for name, group in named.items():
            for source in group:
                if (length := self._longest_name(source)) > LONGEST_NAME:
                    message = f"its result's name would have {length} bytes, {LONGEST_NAME} are allowed: rename it"
                    messages[source.path] = f"{source.path}: {message}"
                if ".." in name.parts:  # the key of an object store may have one
                    messages[source.path] = f"{source.path}: a name with ..: rename it"
                others = [other.path for other in group if other is not source]
                if others:
                    same_suffix = self._keep_suffix or others[0].suffix == source.path.suffix
                    remedy = "use two output folders" if same_suffix else "use --keep-suffix"
                    message = f"its result and that of {others[0]} would both be {name}: {remedy}, or rename one"
                    messages.setdefault(source.path, f"{source.path}: {message}")
                for video in {folders[parent] for parent in name.parents if parent in folders}:
                    message = f"its frames would be written beside the results of {source.path}: use --keep-suffix"
                    messages.setdefault(video.path, f"{video.path}: {message}, or rename one")
        remedy = "rename one" if self._keep_suffix else "use --keep-suffix, or rename one"
        for pair in self._nested(named):
            for one, other in (pair, pair[::-1]):
                message = f"its result and that of {other.path} would be a file and a folder of one name: {remedy}"
                messages.setdefault(one.path, f"{one.path}: {message}")
        return messages

    def _nested(self, named: Mapping[Path, Sequence[Source]]) -> Iterator[tuple[Source, Source]]:
        """Pairs of sources, where a result of the first would have the name of a folder above one of the second."""
        suffixes = {VIDEO_SUFFIX, *(SUFFIXES[kind] for kind in self.kinds)}
        folders = {name.parent for name in named}
        if not any(PurePath(part).suffix in suffixes for folder in folders for part in folder.parts):
            return  # as nearly always; the names of all results take long
        files = {
            self.file(source, kind): source
            for source in chain.from_iterable(named.values())
            for kind in self.kinds
            if kind in VIDEO_KINDS or source.frame is not None or not source.is_video  # no folder of frames
        }
        for file, source in files.items():
            for folder in PurePosixPath(file).parents:
                if (above := files.get(str(folder))) is not None:
                    yield above, source

    def _longest_name(self, source: Source) -> int:
        """Bytes of the longest name of a file that is written for a source."""
        name = self.incomplete if source.is_video and source.frame is None else self.file
        return max(len(os.fsencode(PurePath(name(source, kind)).name)) for kind in self.kinds)

    def missing(self, source: Source) -> list[str]:
        """The kinds to be saved that do not exist yet."""
        return [kind for kind in self.kinds if not self.exists(source, kind)]

    def write(
        self,
        source: Source,
        image: NDArray[np.uint8],
        labels: NDArray[np.uint8],
        kinds: Sequence[str],
        probabilities: NDArray[np.float16] | None = None,
    ) -> None:
        """Writes the results of one source; replaces existing ones.

        Args:
            source: of the results.
            image: (H, W, 3) uint8, RGB.
            labels: (H, W) uint8 train ids.
            kinds: to write, see `missing`.
            probabilities: (C, H, W) float16, for the kind of that name.

        Raises:
            UserError: the folder cannot be written to, or the disk is full.
        """
        for kind in kinds:
            file = self.file(source, kind)
            content = self._encode(kind, image, labels, probabilities)
            with write_errors(self.folder.show(file)):
                self.before_write()
                self.folder.write(file, content)

    def _encode(
        self,
        kind: str,
        image: NDArray[np.uint8],
        labels: NDArray[np.uint8],
        probabilities: NDArray[np.float16] | None,
    ) -> bytes:
        """The content of a result's file."""
        if kind == "contours":
            return json.dumps(contours(labels, self._label_map), separators=(",", ":")).encode()
        if kind == "probabilities":
            assert probabilities is not None, "the caller computes what `kinds` asks for"
            return _npz({"probabilities": probabilities, "classes": np.array(self._label_map.names)})
        return encode_png(self.picture(kind, image, labels))

    def picture(self, kind: str, image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> NDArray[Any]:
        """Draws a result, (H, W) or (H, W, 3), of image and labels or of the same rows of both."""
        if kind == "ids":
            return labels if self._ids == "train" else self._label_map.decode(labels)
        color = self._label_map.colorize(labels)
        return color if kind == "color" else overlay(image, color)

    def at(self, output: Path) -> "Sink":
        """A sink that writes the same to another folder."""
        return Sink(output, self._label_map, self.kinds, self._keep_suffix, self._ids)


def is_frame(name: str, kind: str) -> bool:
    """Whether a file has the name of a frame's result in the folder of a video."""
    return re.fullmatch(r"[0-9]{6,}" + re.escape(SUFFIXES[kind]), name) is not None


def _npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """What `np.savez_compressed` writes, with the fastest compression: stronger ones take longer and gain nothing."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    return buffer.getvalue()


@contextmanager
def write_errors(path: str | Path) -> Iterator[None]:
    """Makes an error of the system one that names the file and the remedy."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}): make room or give another output folder"
        ) from error
