"""LabelMe (https://github.com/wkentaro/labelme): a JSON file for each image."""

import base64
import posixpath
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import FiniteFloat

from dlaseg.data.convert.annotations import AnnotatedImage, AnnotatedObject, Annotations, Patch, Source, located
from dlaseg.data.convert.documents import Entry, check, read_json, shown
from dlaseg.data.convert.image_files import ImageFolder
from dlaseg.data.convert.run_lengths import place
from dlaseg.data.convert.shapes import draw_ellipse, draw_polygons, draw_rectangle
from dlaseg.data.patterns import files_below
from dlaseg.errors import UserError
from dlaseg.image_header import PILLOW_ERRORS, open_with_pillow, read_header
from dlaseg.image_suffixes import IMAGE_SUFFIXES

SPECIAL: dict[str, str | None] = {"__ignore__": None, "_background_": "background"}
"""Labels with a meaning of their own in LabelMe's scripts, and the classes that they stand for; None is ignored."""

WITHOUT_AREA = ("line", "linestrip", "point", "points")

Points = list[tuple[FiniteFloat, FiniteFloat]]


class Document(Entry):
    """The whole file; `imageData` is read only where the image's file is missing."""

    shapes: list[Any]
    imagePath: str  # noqa: N815
    imageHeight: int | None = None  # noqa: N815
    imageWidth: int | None = None  # noqa: N815


class Embedded(Entry):
    """The image within the file, in base 64."""

    imageData: str | None = None  # noqa: N815


class Shape(Entry):
    """An object."""

    label: str
    points: Points
    shape_type: str | None = None
    mask: str | None = None


def read(source: Source) -> Annotations:
    """Reads the JSON files of a folder and its subfolders, or a single one.

    Written here, since the labelme package is under the GPL and opens windows.

    Raises:
        UserError: a broken file; names it and the shape, counted from 0.
    """
    root = source.path if source.path.is_dir() else source.path.parent
    files = [source.path]
    if source.path.is_dir():
        files = [path for path in files_below(root) if path.suffix.lower() == ".json"]
    if not files:
        raise UserError(f"{root}: no JSON file in it: name the folder in which LabelMe saved its files")
    folder = ImageFolder(source.images or root)
    labels: set[str] = set()
    images = []
    for path in files:
        entry = read_json(path)
        document = check(Document, entry, str(path))
        objects = []
        for index, content in enumerate(document.shapes):
            where = f"{path}: shape {index}"
            shape = check(Shape, content, where)
            if shape.shape_type in WITHOUT_AREA:
                source.skipped.add(f"a shape of type {shape.shape_type}, which has no area", where)
                continue
            label = SPECIAL.get(shape.label, shape.label)
            labels |= {label} if label is not None else set()
            objects.append(AnnotatedObject(label, partial(_draw, shape), where))
        inside = path.relative_to(root)
        place_beside = posixpath.join(inside.parent.as_posix(), document.imagePath.replace("\\", "/"))
        size = None
        if document.imageHeight is not None and document.imageWidth is not None:
            size = (document.imageHeight, document.imageWidth)
        image, name = _find(folder, (place_beside, document.imagePath), path, inside, check(Embedded, entry, str(path)))
        images.append(AnnotatedImage(name, image, objects, str(path), size, source.split or "train"))
    return Annotations(dict.fromkeys(sorted(labels)), images)


def _find(
    folder: ImageFolder, names: tuple[str, str], path: Path, inside: Path, embedded: Embedded
) -> tuple[Any, Path]:
    """The image's file and name; what is embedded in the JSON file where there is none."""
    try:
        with located(str(path)):
            return folder.find(*names)
    except UserError:
        if embedded.imageData is None:
            raise
    suffix = Path(names[1]).suffix.lower()
    return partial(_embedded_image, path), inside.with_suffix(suffix if suffix in IMAGE_SUFFIXES else ".png")


def _embedded_image(path: Path) -> bytes:
    """Reads the file once more, so that only one image is in memory."""
    return _from_base64(check(Embedded, read_json(path), str(path)).imageData or "", f"{path}: imageData")


def _draw(shape: Shape, height: int, width: int) -> Patch:
    points = shape.points
    kind = shape.shape_type or "polygon"
    if kind == "rectangle" and len(points) == 4:  # of X-AnyLabeling, which calls a turned one a rotation
        kind = "oriented_rectangle"
    needed = {"rectangle": 2, "circle": 2, "mask": 2, "oriented_rectangle": 4, "rotation": 4}
    if kind in needed and len(points) != needed[kind]:
        raise UserError(f"a {kind} of {len(points)} points; it has {needed[kind]}: correct it")
    if kind in ("polygon", "oriented_rectangle", "rotation"):
        return draw_polygons([points], height, width)
    if kind == "circle":
        center, edge = np.array(points)
        radius = float(np.hypot(*(edge - center)))
        return draw_ellipse((center[0], center[1]), (radius, radius), height, width)
    if kind not in needed:
        raise UserError(f"a shape of type {shown(kind)}, which is not known: draw a polygon in its place")
    (left, top), (right, bottom) = (np.min(points, axis=0).tolist(), np.max(points, axis=0).tolist())
    if kind == "rectangle":
        return draw_rectangle(left, top, (bottom - top, right - left), height, width)
    return place(
        _read_mask(shape, (int(bottom) - int(top) + 1, int(right) - int(left) + 1)), int(top), int(left), height, width
    )


def _read_mask(shape: Shape, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask of a box, a PNG in base 64.

    Args:
        shape: of type mask.
        size: height and width that the points say.
    """
    content = _from_base64(shape.mask or "", "mask")
    header = read_header(content)  # before anything is decompressed
    if header is None or header.format != "PNG" or (header.height, header.width) != size:
        raise UserError(f"mask: not a PNG of {size[0]} x {size[1]} pixels, as the points say: save it in LabelMe again")
    try:
        with open_with_pillow(content) as picture:
            pixels = np.asarray(picture)
    except PILLOW_ERRORS as error:
        raise UserError(f"mask: a broken PNG ({' '.join(str(error).split())}): save it in LabelMe again") from error
    if pixels.ndim != 2:
        raise UserError("mask: a PNG of colours; a mask has one channel: save it in LabelMe again")
    return pixels > 0


def _from_base64(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise UserError(f"{what}: not in base 64: save it in LabelMe again") from error
