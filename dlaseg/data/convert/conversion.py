"""Converts annotations of other tools to the layout of the data set `folder`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from dlaseg.data.convert import coco, cvat, labelme, labelstudio, voc, yolo
from dlaseg.data.convert.annotations import Annotations, Skipped, Source
from dlaseg.data.convert.classes import BACKGROUND, Classes
from dlaseg.data.convert.coco_file import find_files
from dlaseg.data.convert.splits import check_order, check_split, split_of_file
from dlaseg.data.convert.writing import FolderWriter, new_folder
from dlaseg.data.datasets import open_dataset
from dlaseg.data.statistics import statistics, statistics_table
from dlaseg.errors import UserError
from dlaseg.files import write_text
from dlaseg.labels import IGNORE_INDEX
from dlaseg.text import escaped

READERS: dict[str, Callable[[Source], Annotations]] = {
    "coco": coco.read,
    "voc": voc.read,
    "labelme": labelme.read,
    "yolo": yolo.read,
    "cvat": cvat.read,
    "labelstudio": labelstudio.read,
}

WITH_SPLITS = ("voc", "yolo")
"""Formats that always say themselves which image is in which split."""


def convert(
    format: str,
    inputs: Sequence[Path],
    output: Path,
    images: Path | None = None,
    splits: Sequence[str] | None = None,
    unlabelled: Literal["background", "ignore"] | None = None,
    order: Literal["file", "area"] = "file",
    crowd: Literal["class", "ignore"] = "class",
    link: bool = False,
) -> str:
    """Converts annotations, and opens the result as a data set.

    Args:
        format: a name in `READERS`.
        inputs: files or folders of that format.
        output: the folder to write; does not exist or is empty. On failure, it stays so.
        images: folder in which the images are looked for; None for the usual place of the format.
        splits: name of the split of each input; None for what the format or the file's name says.
        unlabelled: what pixels without an object become; None for the format's own meaning.
        order: whether objects are drawn in the order of the annotations, or large ones before small ones.
        crowd: whether COCO's crowd regions are of their class or ignored.
        link: whether images are symbolic links rather than copies.

    Returns:
        What was written and what was skipped, in several lines.

    Raises:
        UserError: an input is missing or broken; names the file and the annotation.
    """
    sources = _sources(format, inputs, images, splits, crowd == "ignore", unlabelled)
    with new_folder(output) as root:
        read = [READERS[format](source) for source in sources]
        skipped = sources[0].skipped
        nothing = f"{inputs[0]}: no annotation with an area"
        if not any(annotations.classes for annotations in read):
            raise UserError(f"{nothing}{_reasons(skipped)}")
        fills = [unlabelled or annotations.unlabelled for annotations in read]
        classes = Classes((annotations.classes for annotations in read), BACKGROUND in fills)
        write_text(root / "classes.yaml", classes.to_yaml())
        writer = FolderWriter(root, classes.ids, order == "area", link, skipped)
        jobs = [(image, fill) for annotations, fill in zip(read, fills, strict=True) for image in annotations.images]
        for image, fill in tqdm(jobs, desc="convert", unit="img", leave=False, disable=None):
            writer.write(image, 0 if fill == BACKGROUND else IGNORE_INDEX, IGNORE_INDEX)
        if not writer.drawn:
            raise UserError(f"{nothing}{_reasons(skipped)}")
        datasets = [open_dataset("folder", root, split) for split in writer.splits]
        table = statistics_table(list(classes.ids), [statistics(dataset) for dataset in datasets])
    return "\n".join([table, *([""] + list(map(escaped, skipped.lines())) if skipped.counts else [])])


def _reasons(skipped: Skipped) -> str:
    return f": {'; '.join(skipped.lines()) or 'it is empty'}: annotate polygons or masks"


def _sources(
    format: str,
    inputs: Sequence[Path],
    images: Path | None,
    splits: Sequence[str] | None,
    ignore_crowds: bool,
    unlabelled: Literal["background", "ignore"] | None,
) -> list[Source]:
    if splits is not None:
        if format in WITH_SPLITS:
            raise UserError(
                f"--split {' '.join(splits)}: {format} says itself which image is in which split: leave it out"
            )
        if len(splits) != len(inputs):
            raise UserError(
                f"--split {' '.join(splits)}: {len(splits)} names for {len(inputs)} inputs: name one for each"
            )
        for name in splits:
            check_split(name, "--split")
    skipped = Skipped()
    sources = []
    for path, split in zip(inputs, splits or repeat(None, len(inputs)), strict=True):
        if not path.exists():
            raise UserError(f"{path}: no such file or folder: name the annotations")
        if path.suffix.lower() == ".zip":
            raise UserError(f"{path}: a ZIP archive: unpack it and name the file or folder in it")
        files = find_files(path) if format == "coco" and path.is_dir() else [path]
        others = tuple(name for name in splits or () if name != split)
        sources += [Source(file, images, split, others, ignore_crowds, unlabelled, skipped) for file in files]
    if format == "coco":
        files = [source.path for source in sources]
        if splits is not None:
            check_order(files, [source.split or "" for source in sources])
        elif len({file.parent for file in files}) > 1:
            sources = [replace(source, split=split_of_file(source.path, by_folder=True)) for source in sources]
    return sources
