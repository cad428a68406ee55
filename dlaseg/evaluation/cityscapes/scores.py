"""The Cityscapes benchmark's own scores: IoU and instance-weighted iIoU of classes and categories, from label ids.

Protocol: Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016, sec. 4.1
(https://arxiv.org/abs/1604.01685), as the benchmark's script `evalPixelLevelSemanticLabeling.py` in cityscapesscripts
computes it. No torch here: label maps that any program wrote can be scored where nothing else is installed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlaseg.errors import UserError
from dlaseg.evaluation.metrics.confusion import Scores

BENCHMARK = "cityscapes"
"""Name of the benchmark in the table of data sets, and key of its scores in `scores.json`."""

IDS = 34
"""Label ids are 0 to 33; ids below 0 are not in label maps."""

# Mean size of an instance in the training set, pixels: constants of the benchmark, from its script
_MEAN_SIZE = {
    "bicycle": 4672.3249222261,
    "caravan": 36771.8241758242,
    "motorcycle": 6298.7200839748,
    "rider": 3930.4788056518,
    "bus": 35732.1511111111,
    "train": 67583.7075812274,
    "car": 12794.0202738185,
    "person": 3462.4756337644,
    "truck": 27855.1264367816,
    "trailer": 16926.9763313609,
}


@dataclass(frozen=True)
class Protocol:
    """The label table, as the scores need it.

    Attributes:
        names: (34) of the label ids.
        evaluated: (34,) bool, false for ids that are ignored in the ground truth.
        categories: names of the categories, in the table's order.
        category: (34,) int64, the category of each id.
        mean_size: (34,) float64, of an instance in pixels; 0 for classes without instances.
        instance_categories: (categories,) bool, true where every class has instances.
    """

    names: tuple[str, ...]
    evaluated: NDArray[np.bool_]
    categories: tuple[str, ...]
    category: NDArray[np.int64]
    mean_size: NDArray[np.float64]
    instance_categories: NDArray[np.bool_]


@cache
def protocol() -> Protocol:
    """The benchmark's table of labels."""
    from cityscapesscripts.helpers.labels import labels

    table = sorted((label for label in labels if label.id >= 0), key=lambda label: label.id)
    assert [label.id for label in table] == list(range(IDS))
    categories = tuple(dict.fromkeys(label.category for label in labels))
    return Protocol(
        names=tuple(label.name for label in table),
        evaluated=np.array([not label.ignoreInEval for label in table]),
        categories=categories,
        category=np.array([categories.index(label.category) for label in table]),
        mean_size=np.array([_MEAN_SIZE[label.name] if label.hasInstances else 0.0 for label in table]),
        instance_categories=np.array(
            [all(label.hasInstances for label in table if label.category == name) for name in categories]
        ),
    )


@dataclass(frozen=True)
class Counts:
    """What one image adds, or many.

    Attributes:
        confusion: (34, 34) int64, pixels by ground truth id (rows) and predicted id (columns).
        instances: (4, 34) float64, by class: weighted pixels of its instances that were found, that were missed, that
            were found as any class of their category, that were missed as such.
    """

    confusion: NDArray[np.int64]
    instances: NDArray[np.float64]

    @classmethod
    def none(cls) -> "Counts":
        """Of no image."""
        return cls(np.zeros((IDS, IDS), np.int64), np.zeros((4, IDS)))

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.confusion + other.confusion, self.instances + other.instances)


def count(
    truth: NDArray[np.integer], prediction: NDArray[np.integer], instances: NDArray[np.integer] | None = None
) -> Counts:
    """Counts one image.

    Args:
        truth: (H, W) label ids.
        prediction: (H, W) label ids; any that the table has, also ignored ones.
        instances: (H, W) instance ids, `label id * 1000 + number` where an instance is, else below 1000; None for no
            iIoU.

    Raises:
        UserError: shapes that differ, or an id that the table does not have.
    """
    for what, ids in (("prediction", prediction), ("instance map", instances)):
        if ids is not None and ids.shape != truth.shape:
            raise UserError(f"{what} {_shape(ids)}, ground truth {_shape(truth)}: both have the same height and width")
    for what, ids in (("ground truth", truth), ("prediction", prediction)):
        if ids.size and not 0 <= ids.min() <= ids.max() < IDS:
            wrong = ids[(ids < 0) | (ids >= IDS)][0]
            raise UserError(f"{what} has id {wrong}: label ids are 0 to {IDS - 1} (labelIds, not trainIds or colours)")
    # Maps are made of runs of the same pixel, tens of pixels long: find them, then count runs rather than pixels
    maps = [ids.ravel() for ids in (truth, prediction, *(() if instances is None else (instances,)))]
    begins = np.ones(truth.size, np.bool_)
    begins[1:] = maps[0][1:] != maps[0][:-1]
    for ids in maps[1:]:
        begins[1:] |= ids[1:] != ids[:-1]
    starts = np.flatnonzero(begins)
    lengths = np.diff(starts, append=truth.size)
    maps = [ids[starts] for ids in maps]
    cells = maps[0].astype(np.int64) * IDS + maps[1]
    confusion = np.bincount(cells, lengths, IDS * IDS).reshape(IDS, IDS)  # float64, exact up to 2**53 pixels
    weighted = np.zeros((4, IDS)) if instances is None else _count_instances(maps[1], maps[2], lengths)
    return Counts(confusion.astype(np.int64), weighted)


def _count_instances(
    prediction: NDArray[np.integer], instances: NDArray[np.integer], lengths: NDArray[np.int64]
) -> NDArray[np.float64]:
    """`Counts.instances` of one image, from its runs: their predicted ids, instance ids and lengths, each (runs,)."""
    table = protocol()
    inside = instances > 1000  # as the script has it: 1000 itself would be the first instance of a class without any
    ids, guess, lengths = instances[inside].astype(np.int64), prediction[inside], lengths[inside]
    if ids.size and ids.max() >= 1000 * IDS:
        raise UserError(f"instance map has id {ids.max()}: instance ids are label id * 1000 + number, up to 33999")
    labels = ids // 1000
    sizes = np.bincount(ids, lengths)
    found = np.bincount(ids, lengths * (guess == labels))
    related = np.bincount(ids, lengths * (table.category[guess] == table.category[labels]))
    there = np.flatnonzero(sizes)
    there = there[table.evaluated[there // 1000]]
    classes, sizes, found, related = there // 1000, sizes[there], found[there], related[there]
    if not table.mean_size[classes].all():
        wrong = there[table.mean_size[classes] == 0][0]
        name = table.names[wrong // 1000]
        raise UserError(f"instance map has id {wrong}, an instance of {name}: this class has none in Cityscapes")
    weights = table.mean_size[classes] / sizes
    rows = [found, sizes - found, related, sizes - related]
    return np.stack([np.bincount(classes, pixels * weights, minlength=IDS) for pixels in rows])


@dataclass(frozen=True)
class CityscapesScores:
    """The benchmark's four tables and their means; NaN where there is nothing to divide by, as in its script.

    Attributes:
        classes: IoU by class name, ignored ones (NaN) included.
        instance_classes: iIoU by class name.
        categories: IoU by category name.
        instance_categories: iIoU by category name.
        confusion: (34, 34) int64, see `Counts`.
    """

    classes: dict[str, float]
    instance_classes: dict[str, float]
    categories: dict[str, float]
    instance_categories: dict[str, float]
    confusion: NDArray[np.int64]

    def averages(self) -> dict[str, float]:
        """The mean of each table over the entries that are numbers; NaN if none is."""
        return {
            name: _mean(getattr(self, name).values())
            for name in ("classes", "instance_classes", "categories", "instance_categories")
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `scores.json`: null for what is not a number."""
        table = protocol()
        shown = [name for name, evaluated in zip(table.names, table.evaluated, strict=True) if evaluated]
        return {
            "averages": {name: _null(value) for name, value in self.averages().items()},
            "classes": {
                name: {"iou": _null(self.classes[name]), "iiou": _null(self.instance_classes[name])} for name in shown
            },
            "categories": {
                name: {"iou": _null(self.categories[name]), "iiou": _null(self.instance_categories[name])}
                for name in table.categories
            },
            "confusion_matrix": self.confusion.tolist(),
        }


def scores(counts: Counts) -> CityscapesScores:
    """What was counted, in the benchmark's measures.

    Of a class: hits / (hits + false negatives + false positives), where false positives on ignored ground truth do not
    count. Its iIoU has the weighted pixels of instances for hits and false negatives. A category is the union of its
    classes that are not ignored, for false positives of its iIoU of all its classes.
    """
    table, confusion = protocol(), counts.confusion
    found, missed, related, unrelated = counts.instances
    classes, instance_classes = {}, {}
    for i, name in enumerate(table.names):
        hits, truth = int(confusion[i, i]), int(confusion[i].sum())
        false_positives = int(confusion[table.evaluated, i].sum()) - hits
        evaluated = bool(table.evaluated[i])
        classes[name] = _ratio(hits, truth + false_positives) if evaluated else float("nan")
        with_instances = evaluated and table.mean_size[i] > 0
        union = found[i] + missed[i] + false_positives
        instance_classes[name] = _ratio(found[i], union) if with_instances else float("nan")
    categories, instance_categories = {}, {}
    for number, name in enumerate(table.categories):
        everyone = table.category == number
        members = everyone & table.evaluated
        others = table.evaluated & ~everyone
        hits, truth = int(confusion[np.ix_(members, members)].sum()), int(confusion[members].sum())
        union = truth + int(confusion[np.ix_(others, members)].sum())
        categories[name] = _ratio(hits, union) if members.any() else float("nan")
        false_positives = int(confusion[np.ix_(others, everyone)].sum())
        hit, miss = float(related[everyone].sum()), float(unrelated[everyone].sum())
        instance_categories[name] = (
            _ratio(hit, hit + miss + false_positives) if table.instance_categories[number] else float("nan")
        )
    return CityscapesScores(classes, instance_classes, categories, instance_categories, confusion)


def class_scores(found: CityscapesScores) -> tuple[tuple[str, ...], Scores, NDArray[np.int64]]:
    """The evaluated classes' scores in the terms of any data set.

    Returns:
        Names of the 19 classes, their scores, and the confusion matrix (19, 19) among them. A pixel that is predicted
        as an ignored class is a miss of its own class in the scores, and not in the matrix.
    """
    evaluated = protocol().evaluated
    names = tuple(name for name, shown in zip(protocol().names, evaluated, strict=True) if shown)
    hits, truth = found.confusion.diagonal()[evaluated], found.confusion.sum(1)[evaluated]
    accuracy = [float(h) / float(t) if t else None for h, t in zip(hits, truth, strict=True)]
    known = [value for value in accuracy if value is not None]
    result = Scores(
        miou=_null(found.averages()["classes"]),
        pixel_accuracy=float(hits.sum()) / float(truth.sum()) if truth.any() else None,
        mean_accuracy=sum(known) / len(known) if known else None,
        iou=tuple(_null(found.classes[name]) for name in names),
        accuracy=tuple(accuracy),
        pixels=tuple(int(t) for t in truth),
    )
    return names, result, found.confusion[np.ix_(evaluated, evaluated)]


def evaluated_margins(confusion: NDArray[np.int64]) -> NDArray[np.int64]:
    """As `margins` among the 19 classes, (3, 19), from an image's confusion matrix (34, 34).

    Rows of ignored ground truth do not count; a pixel predicted as an ignored class is one of its truth.
    """
    evaluated = protocol().evaluated
    rows = confusion[evaluated]  # (19, 34)
    inside = rows[:, evaluated]
    return np.stack([inside.diagonal(), rows.sum(1), inside.sum(0)])


def _ratio(hits: float, union: float) -> float:
    return float(hits) / float(union) if union else float("nan")


def _mean(values: Iterable[float]) -> float:
    there = [value for value in values if value == value]
    return sum(there) / len(there) if there else float("nan")


def _null(value: float) -> float | None:
    return value if value == value else None


def _shape(ids: NDArray[np.integer]) -> str:
    return " x ".join(map(str, ids.shape))
