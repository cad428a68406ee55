"""A first classes file, from the values that label maps hold."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from dlaseg.data.check.facts import stored_values
from dlaseg.data.datasets import DATASETS, DEFAULT_SPLITS, check_pool, find_split
from dlaseg.errors import MissingSplitError, UserError
from dlaseg.label_images import LabelImage, read_label_file
from dlaseg.labels import IGNORE_INDEX, LabelMap

_NONE = LabelMap.numbered(2)
"""Any classes: all values are of interest."""


def new_classes(
    root: str | Path, splits: Sequence[str] | None = None, images: str | None = None, labels: str | None = None
) -> str:
    """The text of a classes file for a data set `folder` that has none.

    Every id or colour is a class, named by its value; 255 is ignored, unless it is one of two values, as in masks of
    0 and 255. A comment says how many pixels each has. A palette that all label maps share gives the colours.

    Args:
        root: folder of the data set.
        splits: whose label maps are read; None for train, and val if there is one.
        images: see `open_dataset`.
        labels: see `open_dataset`.

    Raises:
        UserError: no label maps, one that cannot be read, ids in some and colours in others, or one value alone, or
            more than a label map can have classes.
    """
    counts = {kind: Counter[str]() for kind in ("ids", "colors", "grey")}
    first: dict[str, Path] = {}
    palette: dict[str, str] | None = {}
    for path in _label_files(Path(root), splits, images, labels):
        stored = read_label_file(path)
        values, _, indices = stored_values(stored, _NONE)
        # Three equal channels are ids that a program saved as RGB, unless other files of the data set hold colours
        kind = "ids" if stored.pixels.ndim == 2 else "colors" if "," in values[0] else "grey"
        first.setdefault(kind, path)
        palette = _with_colors(palette, stored, values)
        counts[kind].update(dict(zip(values, np.bincount(indices.ravel()).tolist(), strict=True)))
        if len(counts[kind]) > IGNORE_INDEX + 1:
            raise UserError(
                f"{path}: with it, label maps have more than 256 different values: they hold no classes, or were "
                "scaled with interpolation or saved as JPEG: save the ids of the classes as PNG"
            )
    if {"ids", "colors"} <= first.keys():
        raise UserError(f"{first['ids']} holds ids, {first['colors']} colors: save all label maps in one way")
    if "colors" in first:
        grey = Counter({f"{value}, {value}, {value}": count for value, count in counts["grey"].items()})
        return _text(counts["colors"] + grey, are_colors=True)
    return _text(counts["ids"] + counts["grey"], are_colors=False, palette=palette or {})


def _with_colors(palette: dict[str, str] | None, stored: LabelImage, values: Sequence[str]) -> dict[str, str] | None:
    """The colours of ids, with those of another label map; None if it has no palette or another one.

    Args:
        palette: colours by id, as text.
        stored: the label map.
        values: its ids.
    """
    if palette is None or stored.palette is None or max(map(int, values)) >= len(stored.palette):
        return None
    own = {value: ", ".join(map(str, stored.palette[int(value)])) for value in values}
    return None if any(palette.get(value, color) != color for value, color in own.items()) else palette | own


def _label_files(root: Path, splits: Sequence[str] | None, images: str | None, labels: str | None) -> list[Path]:
    entry, found = DATASETS["folder"], set[Path]()
    with TemporaryDirectory() as folder:
        file = Path(folder) / "classes.yaml"
        file.write_text("classes: [a, b]\n", encoding="utf-8")  # finding the files takes one
        options = {"images": images, "labels": labels, "classes": str(file)}
        if not entry.has_splits(options):
            check_pool("--splits", splits or (), images, labels)
        for split in splits or (DEFAULT_SPLITS if entry.has_splits(options) else ("all",)):
            try:
                found.update((find_split(entry, root, split, options).labels or {}).values())
            except MissingSplitError:
                if splits is not None or not found:
                    raise
    return sorted(found)


def _text(counts: Counter[str], are_colors: bool, palette: Mapping[str, str] | None = None) -> str:
    """The file: a line for each value.

    Args:
        counts: pixels of each value.
        are_colors: whether the values are colours.
        palette: colours of ids, which are used if they tell the classes apart.
    """
    total = sum(counts.values())
    values = sorted(counts, key=lambda value: tuple(map(int, value.split(", "))))
    void = str(IGNORE_INDEX) if not are_colors and len(values) > 2 and str(IGNORE_INDEX) in values else None
    classes = [value for value in values if value != void]
    if len(classes) == 1:
        raise UserError(
            f"all label maps hold {classes[0]} alone, so that there is one class: use label maps in which others occur"
        )
    if len(classes) > IGNORE_INDEX:
        raise UserError(
            f"the label maps have {len(classes)} different values, a network at most {IGNORE_INDEX} classes: use label "
            "maps with fewer"
        )
    colors = [palette[value] for value in classes] if palette else []
    are_told_apart = len(set(colors)) == len(classes) and colors != [f"{value}, {value}, {value}" for value in classes]
    lines = ["# Give each class its name; what is void goes to `ignore`.", "classes:"]
    for number, value in enumerate(classes):
        stored = f"id: {number}, color: [{value}]" if are_colors else f"id: {value}"
        stored += f", color: [{colors[number]}]" if are_told_apart else ""
        name = json.dumps(f"color {value}" if are_colors else f"class {value}")
        lines.append(f"  - {{name: {name}, {stored}}}  # {counts[value] / total:.2%} of the pixels")
    if void is not None:
        lines.append(f"ignore: [{void}]  # {counts[void] / total:.2%} of the pixels")
    elif not are_colors and str(IGNORE_INDEX) in values:
        lines.append("ignore: []")
    return "\n".join(lines) + "\n"
