"""YOLO segmentation (https://docs.ultralytics.com/datasets/segment/): a text file of polygons for each image."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any

from dlaseg.data.convert.annotations import (
    AnnotatedImage,
    AnnotatedObject,
    Annotations,
    Patch,
    Skipped,
    Source,
    located,
)
from dlaseg.data.convert.documents import Entry, check, read_text, shown
from dlaseg.data.convert.image_files import ImageFolder, images_below
from dlaseg.data.convert.shapes import draw_polygons
from dlaseg.errors import UserError
from dlaseg.image_suffixes import OTHER_IMAGE_SUFFIXES
from dlaseg.yaml_file import read_yaml

TOLERANCE = 0.01
"""Tools round, so that coordinates may lie this far outside of 0 to 1."""


class DataFile(Entry):
    """`data.yaml`: the classes, and where the images of each split are."""

    names: dict[int, Any] | list[Any]
    path: str | None = None
    train: str | list[str] | None = None
    val: str | list[str] | None = None
    test: str | list[str] | None = None


@dataclass(frozen=True)
class LabelFile:
    """The objects of an image, which its text file lists; read when they are asked for.

    Attributes:
        path: of the text file; where there is none, the image has no objects.
        names: the classes.
        skipped: collects what is not converted.
    """

    path: Path
    names: dict[int, str]
    skipped: Skipped

    def __iter__(self) -> Iterator[AnnotatedObject]:
        """One object for each line.

        Raises:
            UserError: a broken line.
        """
        lines = read_text(self.path).splitlines() if self.path.is_file() else []
        for number, line in enumerate(lines, 1):
            where, words = f"{self.path}, line {number}", line.split()
            if not words:
                continue
            label, *numbers = (_number(word, where) for word in words)
            if label not in self.names:
                raise UserError(
                    f"{where}: class {words[0]}: data.yaml has no class of this number: correct one of them"
                )
            if len(numbers) == 4:
                self.skipped.add("a box without polygon", where)
                continue
            if len(numbers) < 6 or len(numbers) % 2:
                raise UserError(f"{where}: {len(words)} numbers: write the class and three or more pairs of x and y")
            if min(numbers) < -TOLERANCE or max(numbers) > 1 + TOLERANCE:
                wrong = min(numbers) if min(numbers) < -TOLERANCE else max(numbers)
                raise UserError(f"{where}: coordinate {wrong:g}: use parts of the image's width and height, 0 to 1")
            corners = list(zip(numbers[::2], numbers[1::2], strict=True))
            yield AnnotatedObject(self.names[int(label)], partial(_draw, corners), where)


class TextFiles:
    """The text files in the folders where those of images are expected."""

    def __init__(self) -> None:
        self._by_name: dict[Path, dict[Path, Path]] = {}
        self._used: set[Path] = set()

    def find(self, expected: Path) -> Path:
        """The file, whose suffix may be in upper case; `expected` itself where there is none."""
        if expected.parent not in self._by_name:
            files = sorted(expected.parent.iterdir()) if expected.parent.is_dir() else []
            texts = [file for file in files if file.suffix.lower() == ".txt" and file.name[0] != "."]
            self._by_name[expected.parent] = {file.with_suffix(".txt"): file for file in texts}
        file = self._by_name[expected.parent].get(expected, expected)
        self._used.add(file)
        return file

    def unused(self) -> list[Path]:
        """The files that belong to no image."""
        return [file for files in self._by_name.values() for file in files.values() if file not in self._used]


def read(source: Source) -> Annotations:
    """Reads the data set that a `data.yaml`, or the folder that holds it, describes.

    Written here, since the ultralytics package is under the AGPL.

    Raises:
        UserError: a broken file; names it and the line.
    """
    path = source.path if source.path.is_file() else source.path / "data.yaml"
    data = check(DataFile, read_yaml(path, "a data.yaml of YOLO"), str(path))
    names = dict(sorted(data.names.items() if isinstance(data.names, dict) else enumerate(data.names)))
    for number, name in names.items():
        if isinstance(name, bool) or not isinstance(name, (str, int)):  # YAML reads no, yes, on and off as booleans
            raise UserError(f"{path}: names {number} {shown(name)}: a name is text: put it in quotes")
        names[number] = str(name)
    root = Path(os.path.normpath((source.images or path.parent).absolute()))
    images, texts = [], TextFiles()
    for split in ("train", "val", "test"):
        places = getattr(data, split)
        where = f"{path}: {split}"
        files = [
            file
            for place in _listed(places)
            for file in _find_images(root, data.path or "", place, where, source.skipped)
        ]
        labels = [texts.find(_label_file(file, root)) for file, _ in files]
        if files and not any(label.is_file() for label in labels):
            raise UserError(f"{labels[0]}: no such file, and none for any other image of {where}: add the labels")
        for (file, name), label in zip(files, labels, strict=True):
            if not label.is_file():
                source.skipped.add("a missing text file, so its image has no objects", str(label))
            images.append(AnnotatedImage(name, file, LabelFile(label, names, source.skipped), where, None, split))
    if not images:
        raise UserError(f"{path}: neither train nor val nor test names a folder of images: add one")
    for unused in texts.unused():
        source.skipped.add("a text file that belongs to no image of train, val or test", str(unused))
    return Annotations(dict.fromkeys(names.values()), images)


def _listed(places: str | list[str] | None) -> list[str]:
    return [places] if places and isinstance(places, str) else places or []


def _find_images(root: Path, base: str, place: str, where: str, skipped: Skipped) -> list[tuple[Path, Path]]:
    """The images of a folder or of a text file that lists them, each with its name."""
    folder = _inside(root, base, place, where)
    if folder.is_file():
        index = ImageFolder(root)
        with located(f"{where}: {folder}"):
            return [index.find(line.strip()) for line in read_text(folder).splitlines() if line.strip()]
    unread = images_below(folder, OTHER_IMAGE_SUFFIXES)
    for path in unread:
        skipped.add("an image of a format that is not read (convert it to JPEG or PNG)", str(path))
    named = [(path, path.relative_to(folder)) for path in images_below(folder)]
    if not named:
        found = f", but {unread[0].name}, of a format that is not read" if unread else ""
        raise UserError(f"{where}: no image in {folder}{found}: add JPEG or PNG images, or leave the split out")
    return named


def _inside(root: Path, base: str, place: str, where: str) -> Path:
    """The place that data.yaml names, tried as ultralytics does, but only below `root`.

    The file often holds paths of the machine that wrote it (`path`, or whole ones), or Roboflow's `../train/images`,
    which mean a folder beside it.
    """
    words = [word for word in place.replace("\\", "/").split("/") if word not in ("", ".")]
    inside = [word for word in words if word != ".."]
    absolute = bool(PureWindowsPath(place).root)  # on any system; its end is the same on this machine
    ends = [root.joinpath(*inside[start:]) for start in range(len(inside) if absolute else 1)]
    for candidate in (root / base / place, root.joinpath(*words), *ends):
        normal = Path(os.path.normpath(candidate))
        if normal.is_relative_to(root) and normal.exists():
            return normal
    raise UserError(
        f"{where} {shown(place)}: no such folder or list below {root}: correct the path, leave the split out, or name "
        "the data set's folder with --images"
    )


def _label_file(image: Path, root: Path) -> Path:
    """The text file of an image: `images` becomes `labels`, where the path has such a folder, at its last place."""
    words = list(image.relative_to(root).parts) if image.is_relative_to(root) else [image.name]
    places = [i for i, word in enumerate(words[:-1]) if word == "images"]
    if not places:
        return image.with_suffix(".txt")
    words[places[-1]] = "labels"
    return root.joinpath(*words).with_suffix(".txt")


def _number(word: str, where: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{where}: {shown(word)}: use finite numbers")
    return number


def _draw(corners: list[tuple[float, float]], height: int, width: int) -> Patch:
    return draw_polygons([corners], height, width, scale=(width, height))
