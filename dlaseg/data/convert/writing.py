"""Writes images and label maps in the layout of the data set `folder`."""

import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dlaseg.data.convert.annotations import AnnotatedImage, AnnotatedObject, Patch, Skipped, check_size, located
from dlaseg.errors import UserError
from dlaseg.files import check_folder, write_bytes
from dlaseg.images import read_image, write_png


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder, whose content `path` gets on success; on failure, nothing is left.

    Args:
        path: does not exist, or is an empty folder, which may be the current one or a mounted one.

    Raises:
        UserError: there is something at `path`, or it cannot be written to.
    """
    if path.is_symlink() or path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise UserError(f"{path}: exists and is not an empty folder; nothing is overwritten: choose another OUT")
    check_folder(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    name = f".{path.absolute().name[:100]}.{secrets.token_hex(6)}"
    temporary = path / name if path.is_dir() else path.absolute().with_name(name)
    temporary.mkdir()
    try:
        yield temporary
        if temporary.parent == path:
            for child in temporary.iterdir():
                child.rename(path / child.name)
        else:
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class FolderWriter:
    """Writes image after image.

    Args:
        root: gets `images/SPLIT` and `labels/SPLIT`.
        ids: of the classes, by name.
        by_area: whether large objects are drawn before small ones, rather than in the order of the annotations.
        link: whether images are symbolic links rather than copies.
        skipped: collects objects that cover no pixel.

    Attributes:
        splits: names of the splits, in the order of their first image.
        drawn: number of objects that cover a pixel.
    """

    def __init__(self, root: Path, ids: Mapping[str, int], by_area: bool, link: bool, skipped: Skipped):
        self.root = root
        self.splits: list[str] = []
        self.drawn = 0
        self._ids = ids
        self._by_area = by_area
        self._link = link
        self._skipped = skipped
        self._written: dict[object, AnnotatedImage] = {}

    def write(self, image: AnnotatedImage, unlabelled: int, ignored: int) -> None:
        """Writes an image and its label map.

        Args:
            image: to write.
            unlabelled: id of pixels without an object.
            ignored: id of pixels that are ignored.

        Raises:
            UserError: an image that is there already, or one of the same name; a broken image or annotation, or sizes
                that differ.
        """
        self._check_new(image)
        if image.split not in self.splits:
            self.splits.append(image.split)
        target, labels_target = self._places(image)
        height, width = self._place_image(image, target)
        with located(image.source):
            if image.size is not None:
                check_size(*image.size, height, width)
        labels = self._draw(image, height, width, unlabelled, ignored)
        write_png(labels_target, labels)

    def _check_new(self, image: AnnotatedImage) -> None:
        """Refuses a second image of the same file or name in its split, and one that is in a training split as well."""
        file = image.image.resolve() if isinstance(image.image, Path) else image.source
        other = self._written.setdefault(file, image)
        if other.split.startswith("train") != image.split.startswith("train"):
            raise UserError(
                f"{image.source}: {file} is in split {other.split} already ({other.source}): a score on images that "
                "are trained on is too high: list each image in one split"
            )
        for key in (file, image.name.with_suffix("").as_posix().casefold()):
            other = self._written.setdefault((image.split, key), image)
            if other is not image:
                raise UserError(
                    f"{image.source}: {image.name} has the file or the name of {other.name} of {other.source}, in the "
                    f"same split {image.split}: list each image once, and give different images different names"
                )
        for place in self._places(image):
            if taken := [path for path in place.parents if path.is_file()] or [place] * place.exists():
                raise UserError(
                    f"{image.source}: {image.name}: {taken[0].relative_to(self.root)} is a file or folder of another "
                    "image already: rename one of them"
                )

    def _places(self, image: AnnotatedImage) -> tuple[Path, Path]:
        """The files that are written: image and label map."""
        return (
            self.root / "images" / image.split / image.name,
            self.root / "labels" / image.split / image.name.with_suffix(".png"),
        )

    def _place_image(self, image: AnnotatedImage, target: Path) -> tuple[int, int]:
        """Copies, links or extracts the image; returns height and width as it is displayed."""
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(image.image, Path):
            pixels = read_image(image.image)
            if self._link:
                target.symlink_to(image.image.absolute())
            else:
                shutil.copyfile(image.image, target)
        else:
            write_bytes(target, image.image())
            try:
                pixels = read_image(target)
            except UserError as error:  # the file's name means nothing to the user
                raise UserError(f"{image.source}: imageData{str(error).removeprefix(str(target))}") from error
        return pixels.shape[0], pixels.shape[1]

    def _draw(self, image: AnnotatedImage, height: int, width: int, unlabelled: int, ignored: int) -> NDArray[np.uint8]:
        labels = np.full((height, width), unlabelled, np.uint8)
        for patch, drawn in self._patches(image, height, width):
            if not patch.area:
                self._skipped.add("a shape that covers the centre of no pixel", drawn.source)
                continue
            self.drawn += 1
            patch.paint(labels, ignored if drawn.label is None else self._ids[drawn.label])
        return labels

    def _patches(self, image: AnnotatedImage, height: int, width: int) -> Iterable[tuple[Patch, AnnotatedObject]]:
        """The objects in drawing order."""

        def patches() -> Iterator[tuple[Patch, AnnotatedObject]]:
            for drawn in image.objects:
                with located(drawn.source):
                    patch = drawn.draw(height, width)
                yield patch, drawn

        if not self._by_area:
            return patches()
        return sorted(patches(), key=lambda entry: (not entry[1].lowest, -entry[0].area))
