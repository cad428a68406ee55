"""Finds label maps that were misread: foreground that is ignored, or classes that have no pixel."""

import json
import logging
import os
from collections.abc import Sequence
from typing import Literal, get_args

from dlaseg.data.datasets import DATASETS
from dlaseg.data.pairs import SegmentationDataset
from dlaseg.data.statistics import SplitStatistics
from dlaseg.errors import UserError
from dlaseg.labels import IGNORE_INDEX, LabelMap

logger = logging.getLogger(__name__)

OnMissingClass = Literal["stop", "warn"]
"""What follows if label maps look misread, or hold too few classes to train on."""

SHOWN = 10
"""Most classes that a message names."""

Problem = tuple[str, str]
"""What is wrong with the label maps of a split, and the remedy; empty if there is none to tell."""

_LIST_IGNORED = "list an ignored value that is a class as that class in the classes file"


def check_on_missing_class(value: str | None) -> None:
    """Raises a UserError for what is no `OnMissingClass`; None is one, too."""
    if value is not None and value not in get_args(OnMissingClass):
        raise UserError(f"on_missing_class {value!r}: use {' or '.join(get_args(OnMissingClass))}")


def check_labels(
    dataset: SegmentationDataset,
    statistics: SplitStatistics,
    for_training: bool,
    on_missing_class: OnMissingClass = "stop",
    option: str | None = None,
) -> None:
    """Stops at label maps that look misread; logs a warning for what may be right.

    Worth a warning is another class without a pixel, and masks of 0 and 255 among label maps of ids.
    A built-in data set never stops: its ids are fixed, and a part of it may lack classes, which is then worth a
    warning for training alone.

    Args:
        dataset: the split.
        statistics: of the split.
        for_training: whether the split is trained on, which takes two classes.
        on_missing_class: `warn` logs what `stop` raises.
        option: the option that sets `on_missing_class`, for the message.

    Raises:
        UserError: pixels of 255, which nobody listed and which is ignored by default, while a class has no pixel; or
            fewer than two classes for training.
    """
    problem = ignored_foreground(dataset, statistics) or (
        too_few_classes(dataset, statistics) if for_training else None
    )
    own_classes = has_own_classes(dataset)
    if problem is not None and on_missing_class == "stop" and own_classes:
        message = problem_message(dataset, problem)
        raise UserError(f"{message}; {option} warn continues anyway" if option else message)
    if problem is None and (for_training or own_classes):
        problem = missing_classes(dataset, statistics)
    masks = binary_masks(dataset.label_map, statistics) if own_classes else None
    for each in (problem, masks):
        if each is not None:
            logger.warning("%s", problem_message(dataset, each))


def check_scored(
    dataset: SegmentationDataset, statistics: SplitStatistics, on_missing_class: OnMissingClass, option: str
) -> None:
    """Stops at a validation split without a pixel that is scored, also of a built-in data set.

    Args:
        dataset: the split.
        statistics: of the split.
        on_missing_class: `warn` logs what `stop` raises.
        option: the option that sets `on_missing_class`, for the message.

    Raises:
        UserError: no class has a pixel.
    """
    if any(statistics.pixels):
        return
    remedy = "validate on images that show classes"
    if statistics.ignored and has_own_classes(dataset):
        remedy = f"{_LIST_IGNORED}, or {remedy}"
    problem = (
        f"{_where(dataset)}: no class has a pixel{_and_ignored(dataset, statistics)}: a run without a score has no "
        f"best weights: {remedy}"
    )
    if on_missing_class == "stop":
        raise UserError(f"{problem}; {option} warn continues anyway")
    logger.warning("%s", problem)


def problem_message(dataset: SegmentationDataset, problem: Problem) -> str:
    """The folder of the label maps and the split, what is wrong, and the remedy, in one line."""
    return ": ".join(filter(None, (_where(dataset), *problem)))


def has_own_classes(dataset: SegmentationDataset) -> bool:
    """Whether a file of the user defines the classes."""
    entry = DATASETS.get(dataset.name)
    return entry is None or entry.label_map is None


def ignored_foreground(dataset: SegmentationDataset, statistics: SplitStatistics) -> Problem | None:
    """A class that may be stored as 255, which is ignored because nobody listed it."""
    missing = _missing(statistics)
    if not (missing and statistics.ignored and dataset.label_map.ignores_by_default):
        return None
    name = dataset.label_map.names[missing[0]]
    return (
        f"{IGNORE_INDEX} fills {_share(statistics)} of the pixels and is ignored by default, and "
        f"{_described(dataset, missing)}",
        f"in the classes file, write {{name: {json.dumps(name, ensure_ascii=False)}, id: {IGNORE_INDEX}}} if "
        f"{IGNORE_INDEX} is {name}, or ignore: [{IGNORE_INDEX}] if it is void",
    )


def too_few_classes(dataset: SegmentationDataset, statistics: SplitStatistics) -> Problem | None:
    """Label maps of fewer than two classes."""
    present = [label for label, count in enumerate(statistics.pixels) if count]
    if len(present) > 1:
        return None
    only = f"only class {_class(dataset, present[0])} has pixels" if present else "no class has a pixel"
    remedy = "add label maps that show other classes"
    if statistics.ignored:
        remedy = f"{_LIST_IGNORED}, or {remedy}"
    return f"{only}{_and_ignored(dataset, statistics)}: training needs two classes", remedy


def missing_classes(dataset: SegmentationDataset, statistics: SplitStatistics) -> Problem | None:
    """Classes without a pixel."""
    missing = _missing(statistics)
    return (_described(dataset, missing), "") if missing else None


def binary_masks(label_map: LabelMap, statistics: SplitStatistics) -> Problem | None:
    """What says that masks of 0 and 255 are among label maps of ids."""
    beside = statistics.beside_ignored
    if IGNORE_INDEX not in label_map.ignored or len(beside) != 1 or not statistics.without_ignored - beside:
        return None
    (train_id,) = beside
    return (
        f"some label maps hold {label_map.names[train_id]!r} and {IGNORE_INDEX} alone, while those that show other "
        f"classes have no {IGNORE_INDEX}",
        f"if {IGNORE_INDEX} is a class in these, store its id instead: {IGNORE_INDEX} is ignored",
    )


def _where(dataset: SegmentationDataset) -> str:
    """The innermost folder that contains all label maps of a split, and the split, which may share it with others."""
    folder = os.path.commonpath([dataset.label_file(index).parent for index in range(len(dataset))])
    return f"{folder} (split {dataset.split})"


def _missing(statistics: SplitStatistics) -> list[int]:
    return [label for label, count in enumerate(statistics.pixels) if not count]


def _described(dataset: SegmentationDataset, missing: Sequence[int]) -> str:
    """Names classes without a pixel."""
    if len(missing) == 1:
        return f"class {_class(dataset, missing[0])} has no pixel"
    names = ", ".join(_class(dataset, label) for label in missing[:SHOWN])
    more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
    return f"classes {names}{more} have no pixel"


def _class(dataset: SegmentationDataset, label: int) -> str:
    ids = dataset.label_map.ids[label]
    return f"{dataset.label_map.names[label]!r} (id {' or '.join(map(str, ids))})"


def _and_ignored(dataset: SegmentationDataset, statistics: SplitStatistics) -> str:
    """The share of the ignored pixels and what they hold; empty if there are none."""
    if not statistics.ignored:
        return ""
    label_map = dataset.label_map
    ignored = ", ".join(map(str, (*label_map.ignored, *map(list, label_map.ignored_colors))))
    return f", and {_share(statistics)} of the pixels are ignored ({ignored})"


def _share(statistics: SplitStatistics) -> str:
    """Share of the ignored pixels."""
    return f"{100 * statistics.ignored / (statistics.ignored + sum(statistics.pixels)):.3g} %"
