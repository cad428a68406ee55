"""PASCAL VOC (http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html): label maps and lists of names.

Also with classes of one's own in `labelmap.txt`, as CVAT exports "Pascal VOC" and "Segmentation mask"
(https://docs.cvat.ai/docs/manual/advanced/formats/format-smask/).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlaseg.data.convert.annotations import AnnotatedImage, AnnotatedObject, Annotations, Source, draw_stored
from dlaseg.data.convert.classes import BACKGROUND
from dlaseg.data.convert.documents import read_text, shown
from dlaseg.data.convert.splits import split_name
from dlaseg.data.patterns import FilePattern
from dlaseg.errors import UserError
from dlaseg.label_images import read_label_file
from dlaseg.labels import IGNORE_INDEX, Color

NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""The challenge's classes in the order of their ids."""

BORDER: Color = (224, 224, 192)
"""The colour of pixels that are not scored; in a palette, that of 255."""


@dataclass(frozen=True)
class Classes:
    """What the values of label maps mean; None is ignored.

    Attributes:
        by_id: class of each id.
        by_color: class of each colour; empty if label maps never hold colours.
    """

    by_id: dict[int, str | None]
    by_color: dict[Color, str | None]

    def without_background(self) -> "Classes":
        """The same, with `background` ignored."""

        def others(names: dict[Any, str | None]) -> dict[Any, str | None]:
            return {value: None if name == BACKGROUND else name for value, name in names.items()}

        return Classes(others(self.by_id), others(self.by_color))


@dataclass(frozen=True)
class LabelImage:
    """The objects of an image: one for each class in its label map, which is read when they are asked for."""

    file: Path
    classes: Classes

    def __iter__(self) -> Iterator[AnnotatedObject]:
        """One object for each class.

        Raises:
            UserError: a broken label map, or a value that is no class.
        """
        stored = read_label_file(self.file)
        values: NDArray[np.integer] = stored.pixels
        if self.classes.by_color and stored.palette is not None:
            table = np.zeros((256, 3), np.uint8)
            table[: len(stored.palette)] = stored.palette
            values = table[values]
        if values.ndim == 3:
            packed = values.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
            names = {(r << 16) + (g << 8) + b: name for (r, g, b), name in self.classes.by_color.items()}
        else:
            packed, names = values.astype(np.int32), self.classes.by_id
        for value in np.unique(packed).tolist():
            if value not in names:
                row, column = np.argwhere(packed == value)[0]
                raise UserError(
                    f"{self.file}: {shown(values[row, column].tolist())} at row {row}, column {column} is no class: "
                    "correct it, or list the class in labelmap.txt"
                )
            yield AnnotatedObject(names[value], partial(draw_stored, packed == value), str(self.file))


def read(source: Source) -> Annotations:
    """Reads a folder with `SegmentationClass`, `JPEGImages` and `ImageSets/Segmentation`.

    Written here, since datumaro needs an older OpenCV.

    An image without a label map is skipped; with `labelmap.txt`, it has no object, since CVAT writes none for it.

    Raises:
        UserError: a folder or a file is missing or broken, or a list names an image that is not there.
    """
    root = source.path
    if not (root / "SegmentationClass").is_dir():
        raise UserError(f"{root}: no folder SegmentationClass in it: name the folder that holds it, such as VOC2012")
    labelmap = root / "labelmap.txt"
    classes, colors = _read_labelmap(labelmap) if labelmap.is_file() else _challenge()
    if source.unlabelled == "ignore":
        classes = classes.without_background()
        colors = {name: color for name, color in colors.items() if name != BACKGROUND}
    labels = FilePattern(root / "SegmentationClass", suffixes=frozenset({".png"})).find()
    files = FilePattern(source.images or root / "JPEGImages").find()
    images = []
    for split, names, list_file in _splits(root, sorted(labels)):
        for name in names:
            where = f"{list_file}: {shown(name)}"
            if name not in files:
                raise UserError(f"{where}: there is no image of this name: add or unlist it")
            if name not in labels and not labelmap.is_file():
                source.skipped.add("an image without a label map", where)
                continue
            if name not in labels:
                source.skipped.add("a missing label map, so its image has no objects", where)
            objects = LabelImage(labels[name], classes) if name in labels else ()
            path = Path(name).with_name(files[name].name)
            images.append(AnnotatedImage(path, files[name], objects, where, None, split))
    return Annotations(colors, images)


def _splits(root: Path, names: list[str]) -> Iterator[tuple[str, list[str], Path]]:
    """Name, image names and list file of each split; without lists, everything is in train."""
    folder = root / "ImageSets" / "Segmentation"
    lists = {path.stem: path for path in sorted(folder.glob("*.txt"))}
    if "train" in lists or "val" in lists:
        lists.pop("trainval", None)  # both together
    if not lists:
        yield "train", names, folder
    for name, path in lists.items():
        lines = [line.strip() for line in read_text(path).splitlines()]
        yield "train" if name == "trainval" else split_name(name, str(path)), [line for line in lines if line], path


def _challenge() -> tuple[Classes, dict[str, Color | None]]:
    """The classes of the challenge, whose colours follow from the ids' bits."""
    colors: dict[str, Color | None] = {}
    for i, name in enumerate(NAMES):
        red, green, blue = (sum((i >> (3 * k + channel) & 1) << (7 - k) for k in range(8)) for channel in range(3))
        colors[name] = (red, green, blue)
    return Classes({**dict(enumerate(NAMES)), IGNORE_INDEX: None}, {}), colors


def _read_labelmap(path: Path) -> tuple[Classes, dict[str, Color | None]]:
    """Reads `label:color_rgb:parts:actions`, a line for each class; its number is the class's id in grey label maps."""
    by_id: dict[int, str | None] = {IGNORE_INDEX: None}
    by_color: dict[Color, str | None] = {BORDER: None}
    colors: dict[str, Color | None] = {}
    lines = [(n, line.strip()) for n, line in enumerate(read_text(path).splitlines(), 1)]
    for index, (number, line) in enumerate([(n, line) for n, line in lines if line and not line.startswith("#")]):
        fields = line.rsplit(":", 3)
        values = [value.strip() for value in fields[1].split(",")] if len(fields) == 4 and fields[1].strip() else []
        if len(fields) != 4 or (
            values and not (len(values) == 3 and all(v.isdecimal() and int(v) < 256 for v in values))
        ):
            raise UserError(f"{path}, line {number}: {shown(line)}: write NAME:RED,GREEN,BLUE:: with values 0 to 255")
        name, color = fields[0].strip(), (int(values[0]), int(values[1]), int(values[2])) if values else None
        if name in colors or (color in by_color and color != BORDER):
            raise UserError(f"{path}, line {number}: {shown(line)}: name and colour occur once each: correct it")
        # CVAT's name for the border between objects
        label = None if color == BORDER and name in ("ignored", "void") else name
        by_id[index] = label
        if color is not None:
            by_color[color] = label
        if label is not None:
            colors[label] = color
    return Classes(by_id, by_color), colors
