"""COCO panoptic (https://cocodataset.org/#format-data): a PNG for each image, whose colours are ids of segments."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dlaseg.data.convert.annotations import AnnotatedObject, Annotations, Source, draw_stored, located
from dlaseg.data.convert.coco_file import CocoFile
from dlaseg.data.convert.documents import Entry, check, id_of, shown
from dlaseg.data.convert.image_files import ImageFolder
from dlaseg.errors import UserError
from dlaseg.label_images import read_label_image


class Segment(Entry):
    """A segment of an image."""

    id: int
    category_id: int
    iscrowd: int = 0


class Annotation(Entry):
    """The segments of an image."""

    image_id: int | str
    file_name: str
    segments_info: list[Segment]


@dataclass(frozen=True)
class Segments:
    """The objects of an image; reads its PNG when they are asked for.

    Attributes:
        file: the PNG.
        labels: class of each segment by id; None for an ignored one.
        source: file and id of the annotation.
    """

    file: Path
    labels: dict[int, str | None]
    source: str

    def __iter__(self) -> Iterator[AnnotatedObject]:
        """One object for each segment.

        Raises:
            UserError: a broken PNG, or a colour that is no segment.
        """
        colors = read_label_image(self.file)
        if colors.ndim != 3:
            raise UserError(
                f"{self.file}: one channel; a panoptic PNG has three, red + 256 green + 65536 blue: correct it"
            )
        ids = colors.astype(np.int64) @ np.array([1, 256, 65536])
        found = np.unique(ids[ids > 0]).tolist()
        if unknown := [i for i in found if i not in self.labels]:
            raise UserError(f"{self.file}: segment {unknown[0]} is not in segments_info of {self.source}: correct it")
        for i in found:
            yield AnnotatedObject(self.labels[i], partial(draw_stored, ids == i), f"{self.source}: segment {i}")


def read_panoptic(source: Source, file: CocoFile) -> Annotations:
    """Reads a panoptic file; its PNGs lie in the folder of the same name.

    Pixels without a segment are void in this format, so they are ignored by default.

    Raises:
        UserError: a broken file; names it and the entry.
    """
    folder = ImageFolder(source.path.with_suffix(""), "put the PNGs in a folder of the JSON file's name beside it")
    images, remaining = [], dict.fromkeys(file.images)
    for entry in file.annotations:
        where = f"{file.path}: annotation of image {id_of(entry, 'image_id')}"
        annotation = check(Annotation, entry, where)
        file.check_ids(where, annotation.image_id, *(segment.category_id for segment in annotation.segments_info))
        labels = {
            segment.id: None if segment.iscrowd and source.ignore_crowds else file.categories[segment.category_id]
            for segment in annotation.segments_info
        }
        with located(where):
            png, _ = folder.find(annotation.file_name)
        if annotation.image_id not in remaining:
            raise UserError(f"{where}: a second annotation of this image: remove one")
        remaining.pop(annotation.image_id)
        images.append(file.annotated(file.images[annotation.image_id], Segments(png, labels, where)))
    for key in remaining:
        source.skipped.add("an image without a panoptic annotation", f"{file.path}: image {shown(key)}")
    file.check_order()
    return Annotations(dict.fromkeys(file.categories.values()), images, unlabelled="ignore")
