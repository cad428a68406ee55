"""COCO instances and stuff (https://cocodataset.org/#format-data): objects as polygons and as run lengths."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from pydantic import FiniteFloat

from dlaseg.data.convert.annotations import AnnotatedObject, Annotations, Patch, Skipped, Source, check_size
from dlaseg.data.convert.coco_file import CocoFile
from dlaseg.data.convert.coco_panoptic import read_panoptic
from dlaseg.data.convert.documents import Entry, check
from dlaseg.data.convert.run_lengths import counts_of_string, patch_of_counts
from dlaseg.data.convert.shapes import draw_polygons
from dlaseg.errors import UserError


class Annotation(Entry):
    """An object, or a crowd of objects."""

    image_id: int | str
    category_id: int
    segmentation: Any = None
    iscrowd: int = 0


class RunLengths(Entry):
    """A mask: height and width, and run lengths as a list or as COCO's string."""

    size: tuple[int, int]
    counts: list[int] | str


def read(source: Source) -> Annotations:
    """Reads a COCO file; objects are drawn in the order of the file, as COCO's own tools do.

    Raises:
        UserError: a broken file; names it and the entry.
    """
    file = CocoFile(source)
    if any(isinstance(entry, Mapping) and "segments_info" in entry for entry in file.annotations):
        return read_panoptic(source, file)
    objects: dict[int | str, list[AnnotatedObject]] = {key: [] for key in file.images}
    crowds: dict[int | str, list[AnnotatedObject]] = {key: [] for key in file.images}
    for entry in file.annotations:
        where = file.where("annotation", entry)
        annotation = check(Annotation, entry, where)
        file.check_ids(where, annotation.image_id, annotation.category_id)
        ignored = bool(annotation.iscrowd) and source.ignore_crowds
        label = None if ignored else file.categories[annotation.category_id]
        drawn = _object(annotation, label, where, source.skipped)
        if drawn is not None:
            (crowds if ignored else objects)[annotation.image_id].append(drawn)
    # What is ignored lies below the objects, which were annotated one by one
    images = [file.annotated(image, crowds[key] + objects[key]) for key, image in file.images.items()]
    file.check_order()
    return Annotations(dict.fromkeys(file.categories.values()), images)


def _object(annotation: Annotation, label: str | None, where: str, skipped: Skipped) -> AnnotatedObject | None:
    shape = annotation.segmentation
    if not shape:  # missing, null or []
        skipped.add("a box or key points without segmentation", where)
        return None
    if isinstance(shape, Mapping):
        lengths = check(RunLengths, shape, f"{where}: segmentation")
        return AnnotatedObject(label, partial(_draw_runs, lengths), where, lowest=label is None)
    parts = check(list[list[FiniteFloat]], shape, f"{where}: segmentation")
    for part in parts:
        if len(part) % 2:
            raise UserError(f"{where}: segmentation: a polygon of {len(part)} numbers: use pairs of x and y")
    corners = [np.array(part, np.float64).reshape(-1, 2) for part in parts]  # half the memory of lists
    return AnnotatedObject(label, partial(draw_polygons, corners), where, lowest=label is None)


def _draw_runs(lengths: RunLengths, height: int, width: int) -> Patch:
    check_size(*lengths.size, height, width)
    counts = counts_of_string(lengths.counts) if isinstance(lengths.counts, str) else lengths.counts
    return patch_of_counts(counts, height, width)
