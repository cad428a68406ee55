"""Label Studio's JSON export (https://labelstud.io/guide/task_format and https://labelstud.io/tags/)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import Field, FiniteFloat

from dlaseg.data.convert.annotations import (
    AnnotatedImage,
    AnnotatedObject,
    Annotations,
    Patch,
    Source,
    check_size,
    located,
)
from dlaseg.data.convert.documents import Entry, check, id_of, read_json, shown
from dlaseg.data.convert.image_files import ImageFolder
from dlaseg.data.convert.run_lengths import mask_of_brush
from dlaseg.data.convert.shapes import draw_ellipse, draw_polygons, draw_rectangle
from dlaseg.errors import UserError
from dlaseg.image_suffixes import IMAGE_SUFFIXES


class Task(Entry):
    """An image with what several people annotated in it."""

    id: int | str | None = None
    data: dict[str, Any]
    annotations: list[Any]


class Annotation(Entry):
    """What one person annotated."""

    id: int | str | None = None
    result: tuple[Any, ...] = ()
    was_cancelled: bool | None = False
    ground_truth: bool | None = False
    updated_at: str | None = None


class Result(Entry):
    """A region, or the label of the region that has the same id.

    Attributes:
        to_name: name of the image's tag in the labelling interface, often but not always a key of the task's data.
        item_index: number of the image, where one tag shows several.
    """

    id: str | None = None
    type: str
    to_name: str | None = None
    item_index: int | None = None
    value: dict[str, Any] = Field(default_factory=dict)
    original_width: int | None = None
    original_height: int | None = None
    image_rotation: float | None = 0


class Polygon(Entry):
    """Corners, in percent."""

    points: list[tuple[FiniteFloat, FiniteFloat]]


class Rectangle(Entry):
    """Upper left corner and sides, in percent; it is turned about that corner, in degrees."""

    x: FiniteFloat
    y: FiniteFloat
    width: FiniteFloat
    height: FiniteFloat
    rotation: FiniteFloat = 0


class Ellipse(Entry):
    """Centre and radii, in percent; it is turned about the centre, in degrees."""

    x: FiniteFloat
    y: FiniteFloat
    radiusX: FiniteFloat  # noqa: N815
    radiusY: FiniteFloat  # noqa: N815
    rotation: FiniteFloat = 0


class Brush(Entry):
    """A mask of the whole image."""

    rle: list[int]


Region = Polygon | Rectangle | Ellipse | Brush


@dataclass(frozen=True)
class Drawing:
    """The regions of a task.

    Attributes:
        objects: in the order of the file.
        size: height and width of the image as the regions say; None if there is none.
        tags: names of the image tags that they lie on.
    """

    objects: list[AnnotatedObject]
    size: tuple[int, int] | None
    tags: set[str]


def read(source: Source) -> Annotations:
    """Reads a JSON export; regions are drawn in the order of the file.

    Written here, since label-studio-sdk needs an older OpenCV. Of a task that several people annotated, the ground
    truth counts, or else the annotation that was updated last.

    Raises:
        UserError: a broken file, or an export of another kind; names task and region.
    """
    tasks = check(list[Any], read_json(source.path), str(source.path))
    folder = ImageFolder(source.images or source.path.parent)
    labels: set[str] = set()
    annotated: list[tuple[str, Task, Drawing]] = []
    for index, entry in enumerate(tasks):
        where = f"{source.path}: task {id_of(entry) if isinstance(entry, Mapping) and 'id' in entry else index}"
        if isinstance(entry, Mapping) and "annotations" not in entry:
            raise UserError(f"{where}: no annotations: export as JSON, not as JSON-MIN")
        task = check(Task, entry, where)
        annotation = _choose(task, where, source)
        if annotation is None:
            source.skipped.add("a task without annotation", where)
            continue
        annotated.append((where, task, _drawing(annotation, where, source)))
    # One labelling interface for all tasks, so that a task without regions has the tags of the others
    tags = {tag for _, _, drawing in annotated for tag in drawing.tags}
    images = []
    for where, task, drawing in annotated:
        labels.update(drawn.label for drawn in drawing.objects if drawn.label is not None)
        with located(where):
            file, name = folder.find(*_image_names(task, tags))
        images.append(AnnotatedImage(name, file, drawing.objects, where, drawing.size, source.split or "train"))
    return Annotations(dict.fromkeys(sorted(labels)), images)


def _choose(task: Task, where: str, source: Source) -> Annotation | None:
    """The annotation of a task that counts."""
    annotations = [check(Annotation, entry, f"{where}, annotation {id_of(entry)}") for entry in task.annotations]
    annotations = [annotation for annotation in annotations if not annotation.was_cancelled]
    ranked = sorted(annotations, key=lambda entry: (bool(entry.ground_truth), entry.updated_at or ""))
    for left_out in ranked[:-1]:
        source.skipped.add(
            "an annotation of a task that has several (the ground truth counts, else the latest)",
            f"{where}, annotation {left_out.id}",
        )
    return ranked[-1] if ranked else None


def _image_names(task: Task, tags: set[str]) -> tuple[str, ...]:
    """The names under which a task's image may be stored.

    Args:
        task: with one image, or with several of which one has the name of the only tag.
        tags: names of the image tags that regions lie on, in all tasks.

    Raises:
        UserError: the data hold no path or URL of an image, or several of which no tag chooses one.
    """
    images = [
        (key, path)
        for key, value in task.data.items()
        for url in (value if isinstance(value, list) else [value])
        if isinstance(url, str) and PurePosixPath(path := _path_of_url(url)).suffix.lower() in IMAGE_SUFFIXES
    ]
    if not images:
        raise UserError(f"data {shown(task.data)}: no path or URL of an image in a known format: correct the task")
    if len(tags) == 1:
        images = [(key, path) for key, path in images if key in tags] or images
    if len(images) > 1 or len([tag for tag in tags if task.data.get(tag)]) > 1:
        raise UserError(
            f"data {shown(task.data)}: several images, and to_name of the regions, {shown(sorted(tags))}, is not the "
            "key of one: keep only the annotated image in the data, or make a task of each image"
        )
    path = images[0][1]
    name = PurePosixPath(path).name
    # Uploads get eight hexadecimal digits before their names
    return path, name, re.sub(r"^[0-9a-f]{8}-", "", name)


def _path_of_url(url: str) -> str:
    """The path of a file: of a URL, or of a local file that Label Studio serves."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    served = parse_qs(parts.query).get("d", [""])[0] if parts.path.endswith("/local-files/") else ""
    return served or unquote(parts.path)


def _drawing(annotation: Annotation, where: str, source: Source) -> Drawing:
    """The regions of an annotation."""
    results = []
    labels: dict[str, list[str]] = {}
    for index, entry in enumerate(annotation.result):
        place = f"{where}: region {id_of(entry)}"
        result = check(Result, entry, place)
        key = result.id or str(index)
        if isinstance(result.value.get(result.type), list) and result.type.endswith("labels"):
            labels.setdefault(key, []).extend(check(list[str], result.value[result.type], place))
        results.append((key, result, place))
    objects, size, drawn, tags = [], None, set(), set[str]()
    for key, result, place in results:
        region = _region(result, place)
        if region is None:
            source.skipped.add(f"a {shown(result.type)}, which is no polygon, rectangle, ellipse or brush", place)
            continue
        if key in drawn:  # its label, which repeats the shape
            continue
        drawn.add(key)
        names = set(labels.get(key, ()))
        if len(names) != 1:
            raise UserError(f"{place}: {len(names)} labels {shown(sorted(names))}: give each region exactly one")
        if result.original_height is None or result.original_width is None:
            raise UserError(f"{place}: no original_width and original_height: export the file again")
        size = (result.original_height, result.original_width)
        objects.append(AnnotatedObject(names.pop(), partial(_draw, region, size), place))
        if result.to_name is not None:
            tags.add(result.to_name)
    return Drawing(objects, size, tags)


def _region(result: Result, place: str) -> Region | None:
    """The shape of a region; None for results without area, such as key points and choices."""
    if result.image_rotation:
        raise UserError(f"{place}: image_rotation {result.image_rotation:g}: annotate the image without turning it")
    if result.item_index:
        raise UserError(f"{place}: item_index {result.item_index}: a task of several images: make a task of each image")
    fields = result.value.keys()
    if "keypoint" in result.type or "vector" in result.type:
        return None
    if "points" in fields:
        return check(Polygon, result.value, place)
    if "rle" in fields:
        return check(Brush, result.value, place)
    if "radiusX" in fields:
        return check(Ellipse, result.value, place)
    return check(Rectangle, result.value, place) if {"width", "height"} <= fields else None


def _draw(shape: Region, size: tuple[int, int], height: int, width: int) -> Patch:
    check_size(*size, height, width)
    across, down = width / 100, height / 100
    if isinstance(shape, Polygon):
        return draw_polygons([shape.points], height, width, scale=(across, down))
    if isinstance(shape, Brush):
        return Patch(mask_of_brush(shape.rle, height, width))
    if isinstance(shape, Ellipse):
        center, radii = (shape.x * across, shape.y * down), (shape.radiusX * across, shape.radiusY * down)
        return draw_ellipse(center, radii, height, width, shape.rotation)
    box = (shape.height * down, shape.width * across)
    return draw_rectangle(shape.x * across, shape.y * down, box, height, width, shape.rotation)
