"""CVAT for images 1.1 (https://docs.cvat.ai/docs/other/xml_format/): one XML file for all images."""

import math
from functools import partial
from pathlib import Path
from typing import Any

from dlaseg.data.convert.annotations import AnnotatedImage, AnnotatedObject, Annotations, Patch, Source, located
from dlaseg.data.convert.documents import shown
from dlaseg.data.convert.image_files import ImageFolder
from dlaseg.data.convert.run_lengths import mask_of_counts, place
from dlaseg.data.convert.shapes import draw_ellipse, draw_polygons, draw_rectangle
from dlaseg.data.convert.splits import split_name
from dlaseg.errors import UserError
from dlaseg.labels import Color

WITHOUT_AREA = ("polyline", "points", "cuboid", "skeleton", "tag")


def read(source: Source) -> Annotations:
    """Reads `annotations.xml`, or the folder that holds it; shapes are drawn by `z_order`, then in the file's order.

    Written here, since datumaro needs an older OpenCV; parsed by defusedxml, which expands no entities.

    Raises:
        UserError: a broken file, or an export of video tracks; names the file and the shape.
    """
    path = source.path / "annotations.xml" if source.path.is_dir() else source.path
    root = _parse(path)
    if root.tag != "annotations":
        raise UserError(f"{path}: <{shown(root.tag)}> at the top, not <annotations>: export as 'CVAT for images 1.1'")
    if root.find("track") is not None:
        raise UserError(f"{path}: tracks of a video: export as 'CVAT for images 1.1'")
    classes = _classes(root, path)
    folder = ImageFolder(source.images or path.parent)
    images = []
    for index, element in enumerate(root.iter("image")):
        name = element.get("name", "")
        where = f"{path}: image {shown(element.get('id', index))}"
        with located(where):
            size = (_whole(element, "height"), _whole(element, "width"))
            subset = element.get("subset") or "train"
            file, written = folder.find(name, subsets=[subset])
            split = source.split or split_name(subset, where)
        objects = _objects(element, classes, where, source)
        images.append(AnnotatedImage(written, file, objects, where, size, split))
    if not images:
        raise UserError(f"{path}: no <image> in it: export as 'CVAT for images 1.1'")
    return Annotations(classes, images)


def _parse(path: Path) -> Any:
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import ParseError, parse

    try:
        return parse(path, forbid_dtd=True).getroot()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}: use a file that can be read") from error
    except DefusedXmlException as error:
        raise UserError(
            f"{path}: has a document type or entities, which CVAT does not write: export it again"
        ) from error
    except (ParseError, ValueError, LookupError) as error:
        raise UserError(f"{path}: not XML ({' '.join(str(error).split())}): export the file again") from error


def _classes(root: Any, path: Path) -> dict[str, Color | None]:
    """The labels of the task, project or job with their colours; parts of a skeleton are left out."""
    classes: dict[str, Color | None] = {}
    for label in root.findall("./meta/*/labels/label"):
        if label.findtext("parent"):
            continue
        color = (label.findtext("color") or "").strip().lstrip("#")
        try:
            red, green, blue = bytes.fromhex(color)
            classes[(label.findtext("name") or "").strip()] = (red, green, blue)
        except ValueError:  # older versions write no colour
            classes[(label.findtext("name") or "").strip()] = None
    if not classes:
        raise UserError(f"{path}: no labels in its <meta>: export as 'CVAT for images 1.1'")
    return classes


def _objects(image: Any, classes: dict[str, Any], where: str, source: Source) -> list[AnnotatedObject]:
    ordered = []
    for index, shape in enumerate(image):
        place_of_shape = f"{where}: <{shape.tag[:40]}> {index}"
        if shape.tag in WITHOUT_AREA:
            source.skipped.add(f"a {shape.tag}, which has no area", place_of_shape)
            continue
        if shape.tag not in _DRAW:
            raise UserError(f"{place_of_shape}: a shape that is not known: use one of {', '.join(_DRAW)}")
        label = shape.get("label")
        if label not in classes:
            raise UserError(
                f"{place_of_shape}: label {shown(label)} is not in <meta>: add it there or correct the shape"
            )
        with located(place_of_shape):
            order = _whole(shape, "z_order", "0")
        ordered.append((order, AnnotatedObject(label, partial(_DRAW[shape.tag], shape), place_of_shape)))
    return [drawn for _, drawn in sorted(ordered, key=lambda pair: pair[0])]  # keeps the order of equal ones


def _draw_polygon(shape: Any, height: int, width: int) -> Patch:
    pairs = [pair.split(",") for pair in (shape.get("points") or "").split(";")]
    if any(len(pair) != 2 for pair in pairs):
        raise UserError(f"points {shown(shape.get('points'))}: write x,y;x,y;...")
    return draw_polygons([[(_number(x, "points"), _number(y, "points")) for x, y in pairs]], height, width)


def _draw_box(shape: Any, height: int, width: int) -> Patch:
    left, top, right, bottom = (_float(shape, name) for name in ("xtl", "ytl", "xbr", "ybr"))
    degrees = _float(shape, "rotation", "0")
    return draw_rectangle(left, top, (bottom - top, right - left), height, width, degrees, about_corner=False)


def _draw_ellipse(shape: Any, height: int, width: int) -> Patch:
    center, radii = (_float(shape, "cx"), _float(shape, "cy")), (_float(shape, "rx"), _float(shape, "ry"))
    return draw_ellipse(center, radii, height, width, _float(shape, "rotation", "0"))


def _draw_mask(shape: Any, height: int, width: int) -> Patch:
    top, left, rows, columns = (_whole(shape, name) for name in ("top", "left", "height", "width"))
    if not (0 < rows <= height and 0 < columns <= width):
        raise UserError(f"a mask of {rows} x {columns} pixels in an image of {height} x {width}: correct it")
    counts = [_integer(word, "rle") for word in (shape.get("rle") or "").split(",")]
    return place(mask_of_counts(counts, rows, columns), top, left, height, width)


_DRAW = {"polygon": _draw_polygon, "box": _draw_box, "ellipse": _draw_ellipse, "mask": _draw_mask}


def _float(element: Any, name: str, default: str | None = None) -> float:
    return _number(element.get(name, default), name)


def _whole(element: Any, name: str, default: str | None = None) -> int:
    return _integer(element.get(name, default), name)


def _number(text: str | None, name: str) -> float:
    try:
        number = float(text or "")
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{name} {shown(text)}: use a finite number")
    return number


def _integer(text: str | None, name: str) -> int:
    try:
        return int((text or "").strip())
    except ValueError as error:
        raise UserError(f"{name} {shown(text)}: use a whole number") from error
