"""A first classes file, from the values that label maps hold."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from dlaseg.data.check.facts import stored_values
from dlaseg.data.datasets import DATASETS
from dlaseg.errors import UserError
from dlaseg.label_images import read_label_file
from dlaseg.labels import IGNORE_INDEX, LabelMap

_NONE = LabelMap.numbered(2)
"""Any classes: all values are of interest."""


def new_classes(root: str | Path, splits: Sequence[str], images: str | None = None, labels: str | None = None) -> str:
    """The text of a classes file for a data set `folder` that has none.

    Every id or colour is a class, named by its value; 255 is ignored, unless it is one of two values, as in masks of
    0 and 255. A comment says how many pixels each has.

    Args:
        root: folder of the data set.
        splits: whose label maps are read.
        images: see `open_dataset`.
        labels: see `open_dataset`.

    Raises:
        UserError: no label maps, one that cannot be read, ids in some and colours in others, or more values than a
            label map can have classes.
    """
    counts: Counter[str] = Counter()
    entry, kinds = DATASETS["folder"], dict[bool, Path]()
    if not entry.has_splits({"images": images, "labels": labels}):
        splits = ("all",)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "classes.yaml"
        file.write_text("classes: [a, b]\n", encoding="utf-8")  # finding the files takes one
        options = entry.with_defaults({"images": images, "labels": labels, "classes": str(file)})
        found = [entry.find_files(Path(root), split, True, **options).labels or {} for split in splits]
    for path in sorted({path for paths in found for path in paths.values()}):
        values, _, indices = stored_values(read_label_file(path), _NONE)
        counts.update(dict(zip(values, np.bincount(indices.ravel()).tolist(), strict=True)))
        kinds.setdefault("," in values[0], path)
        if len(counts) > IGNORE_INDEX + 1:
            raise UserError(
                f"{path}: with it, label maps have more than 256 different values: they hold no classes, or were "
                "scaled with interpolation or saved as JPEG: save the ids of the classes as PNG"
            )
    if len(kinds) > 1:
        raise UserError(f"{kinds[False]} holds ids, {kinds[True]} colors: save all label maps in one way")
    return _text(counts, are_colors=True in kinds)


def _text(counts: Counter[str], are_colors: bool) -> str:
    """The file: a line for each value."""
    total = sum(counts.values())
    values = sorted(counts, key=lambda value: tuple(map(int, value.split(", "))))
    void = str(IGNORE_INDEX) if not are_colors and len(values) > 2 and str(IGNORE_INDEX) in values else None
    lines = ["# Give each class its name; what is void goes to `ignore`.", "classes:"]
    for number, value in enumerate(value for value in values if value != void):
        stored = f"id: {number}, color: [{value}]" if are_colors else f"id: {value}"
        name = json.dumps(f"color {value}" if are_colors else f"class {value}")
        lines.append(f"  - {{name: {name}, {stored}}}  # {counts[value] / total:.2%} of the pixels")
    if void is not None:
        lines.append(f"ignore: [{void}]  # {counts[void] / total:.2%} of the pixels")
    elif not are_colors and str(IGNORE_INDEX) in values:
        lines.append("ignore: []")
    return "\n".join(lines) + "\n"
