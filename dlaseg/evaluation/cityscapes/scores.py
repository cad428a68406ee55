"""The scores of the Cityscapes benchmark: IoU and instance-weighted iIoU of classes and categories, from label ids.

Protocol: Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016, sec. 4.1
(https://arxiv.org/abs/1604.01685), as the benchmark's script `evalPixelLevelSemanticLabeling.py` in cityscapesscripts
computes it. This module imports no torch, so label maps of any program can be scored without it.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlaseg.errors import UserError
from dlaseg.evaluation.metrics.confusion import Scores, iou, mean_over_present, none_if_nan

BENCHMARK = "cityscapes"
"""Name of the benchmark in the table of data sets, and key of its scores in `scores.json`."""

IIOU_MISSING = "not computed: the ground truth has no *_instanceIds.png"
"""Why there is no iIoU."""

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
class LabelTable:
    """The benchmark's labels in the form that scoring needs.

    Attributes:
        names: (34) of the label ids.
        evaluated: (34,) bool, false for ids that are ignored in the ground truth.
        mean_size: (34,) float64, mean size of an instance in pixels; 0 for classes without instances.
        categories: names of the categories, in the benchmark's order.
        category: (34,) int64, the category of each id.
        instance_categories: (categories,) bool, true where every class has instances.
    """

    names: tuple[str, ...]
    evaluated: NDArray[np.bool_]
    mean_size: NDArray[np.float64]
    categories: tuple[str, ...]
    category: NDArray[np.int64]
    instance_categories: NDArray[np.bool_]

    @property
    def membership(self) -> NDArray[np.bool_]:
        """The ids of each category, (categories, 34)."""
        return np.arange(len(self.categories))[:, None] == self.category


@cache
def label_table() -> LabelTable:
    """From the labels in cityscapesscripts."""
    from cityscapesscripts.helpers.labels import labels

    table = sorted((label for label in labels if label.id >= 0), key=lambda label: label.id)
    assert [label.id for label in table] == list(range(IDS))
    categories = tuple(dict.fromkeys(label.category for label in labels))
    return LabelTable(
        names=tuple(label.name for label in table),
        evaluated=np.array([not label.ignoreInEval for label in table]),
        mean_size=np.array([_MEAN_SIZE[label.name] if label.hasInstances else 0.0 for label in table]),
        categories=categories,
        category=np.array([categories.index(label.category) for label in table]),
        instance_categories=np.array(
            [all(label.hasInstances for label in table if label.category == name) for name in categories]
        ),
    )


@dataclass(frozen=True)
class Counts:
    """Pixels of one image, or of many.

    Attributes:
        confusion: (34, 34) int64, pixels by ground truth id (rows) and predicted id (columns).
        instances: (4, 34) float64, weighted pixels of each class's instances: true positives and false negatives of
            the class, then true positives and false negatives of its category.
    """

    confusion: NDArray[np.int64]
    instances: NDArray[np.float64]

    @classmethod
    def zero(cls) -> "Counts":
        """The counts of no image."""
        return cls(np.zeros((IDS, IDS), np.int64), np.zeros((4, IDS)))

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.confusion + other.confusion, self.instances + other.instances)


def count(
    truth: NDArray[np.integer], prediction: NDArray[np.integer], instances: NDArray[np.integer] | None = None
) -> Counts:
    """Counts one image.

    Args:
        truth: (H, W) label ids.
        prediction: (H, W) label ids, ignored ones included.
        instances: (H, W) instance ids: `label id * 1000 + number` for pixels of an instance, below 1000 for all other
            pixels; None to count no instances.

    Raises:
        UserError: shapes that differ, or an id out of range.
    """
    for what, ids in (("prediction", prediction), ("instance map", instances)):
        if ids is not None and ids.shape != truth.shape:
            raise UserError(
                f"{what} {_shape(ids)}, ground truth {_shape(truth)}: both must have the same height and width"
            )
    for what, ids in (("ground truth", truth), ("prediction", prediction)):
        if ids.size and not 0 <= ids.min() <= ids.max() < IDS:
            wrong = ids[(ids < 0) | (ids >= IDS)][0]
            raise UserError(f"{what} has id {wrong}: label ids are 0 to {IDS - 1} (labelIds, not trainIds or colours)")
    # Label maps consist of runs of equal pixels, tens of pixels long: counting runs is faster than counting pixels
    maps = [ids.ravel() for ids in (truth, prediction, *(() if instances is None else (instances,)))]
    is_start = np.ones(truth.size, np.bool_)
    is_start[1:] = maps[0][1:] != maps[0][:-1]
    for ids in maps[1:]:
        is_start[1:] |= ids[1:] != ids[:-1]
    starts = np.flatnonzero(is_start)
    lengths = np.diff(starts, append=truth.size)
    maps = [ids[starts] for ids in maps]
    cells = maps[0].astype(np.int64) * IDS + maps[1]
    confusion = np.bincount(cells, lengths, IDS * IDS).reshape(IDS, IDS)  # float64, exact up to 2**53 pixels
    weighted = np.zeros((4, IDS)) if instances is None else _count_instances(maps[1], maps[2], lengths)
    return Counts(confusion.astype(np.int64), weighted)


def _count_instances(
    prediction: NDArray[np.integer], instances: NDArray[np.integer], lengths: NDArray[np.int64]
) -> NDArray[np.float64]:
    """`Counts.instances` of one image, from its runs: their predicted ids, instance ids and lengths, each (runs,).

    A pixel weighs mean size of its class's instances / size of its own instance.
    """
    table = label_table()
    inside = instances > 1000  # as in the script; 1000 would be an instance of label id 1, which has no instances
    ids, predicted, lengths = instances[inside].astype(np.int64), prediction[inside], lengths[inside]
    if ids.size and ids.max() >= 1000 * IDS:
        raise UserError(f"instance map has id {ids.max()}: instance ids are label id * 1000 + number, up to 33999")
    labels = ids // 1000
    sizes = np.bincount(ids, lengths)
    true_positives = np.bincount(ids, lengths * (predicted == labels))
    in_category = np.bincount(ids, lengths * (table.category[predicted] == table.category[labels]))
    evaluated = np.flatnonzero(sizes)
    evaluated = evaluated[table.evaluated[evaluated // 1000]]
    classes = evaluated // 1000
    if not table.mean_size[classes].all():
        wrong = evaluated[table.mean_size[classes] == 0][0]
        name = table.names[wrong // 1000]
        raise UserError(f"instance map has id {wrong}, an instance of {name}: this class has none in Cityscapes")
    sizes, true_positives, in_category = sizes[evaluated], true_positives[evaluated], in_category[evaluated]
    weights = table.mean_size[classes] / sizes
    rows = [true_positives, sizes - true_positives, in_category, sizes - in_category]
    return np.stack([np.bincount(classes, pixels * weights, minlength=IDS) for pixels in rows])


@dataclass(frozen=True)
class CityscapesScores:
    """The benchmark's four tables; NaN where the denominator is 0, as in its script.

    Attributes:
        classes: IoU by class name, NaN for ignored classes.
        instance_classes: iIoU by class name.
        categories: IoU by category name.
        instance_categories: iIoU by category name.
        confusion: (34, 34) int64, see `Counts`.
        with_instances: false if the ground truth has no instance maps: no iIoU is computed then.
    """

    classes: dict[str, float]
    instance_classes: dict[str, float]
    categories: dict[str, float]
    instance_categories: dict[str, float]
    confusion: NDArray[np.int64]
    with_instances: bool = True

    def averages(self) -> dict[str, float]:
        """The mean of each table over its numbers; NaN if it has none."""
        return {
            name: float(mean_over_present(np.array(list(getattr(self, name).values()))))
            for name in ("classes", "instance_classes", "categories", "instance_categories")
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `scores.json`: null in place of NaN. Without instance maps, `iiou_missing` says so."""

        def rows(iou: dict[str, float], iiou: dict[str, float], names: tuple[str, ...]) -> dict[str, Any]:
            return {name: {"iou": none_if_nan(iou[name]), "iiou": none_if_nan(iiou[name])} for name in names}

        return {
            "averages": {name: none_if_nan(value) for name, value in self.averages().items()},
            "classes": rows(self.classes, self.instance_classes, _evaluated_names()),
            "categories": rows(self.categories, self.instance_categories, label_table().categories),
            "confusion_matrix": self.confusion.tolist(),
            **({} if self.with_instances else {"iiou_missing": IIOU_MISSING}),
        }


def scores(counts: Counts, with_instances: bool = True) -> CityscapesScores:
    """Computes the benchmark's scores.

    False positives on ignored ground truth do not count. The iIoU of a class uses the weighted pixels of its instances
    for true positives and false negatives. A category is the union of its classes that are not ignored; only the false
    positives of its iIoU are those of all its classes.

    Args:
        counts: of all images.
        with_instances: whether instances were counted.
    """
    table = label_table()
    evaluated, membership = table.evaluated, table.membership  # (34,), (categories, 34)
    predicted = counts.confusion[evaluated].sum(0)  # (34,)
    true_positives = counts.confusion.diagonal()
    class_iou = iou(true_positives, counts.confusion.sum(1) - true_positives, predicted - true_positives)
    class_iiou = iou(counts.instances[0], counts.instances[1], predicted - true_positives)
    members = membership & evaluated
    rows = members @ counts.confusion  # (categories, 34), pixels of each category by predicted id
    true_positives = (rows * members).sum(1)
    category_iou = iou(true_positives, rows.sum(1) - true_positives, members @ predicted - true_positives)
    true_positives, false_negatives = (
        np.array([pixels[ids].sum() for ids in membership]) for pixels in counts.instances[2:]
    )
    category_iiou = iou(true_positives, false_negatives, membership @ predicted - (rows * membership).sum(1))
    return CityscapesScores(
        _named(table.names, class_iou, evaluated),
        _named(table.names, class_iiou, evaluated & (table.mean_size > 0) & with_instances),
        dict(zip(table.categories, category_iou.tolist(), strict=True)),  # NaN for void, which has no evaluated class
        _named(table.categories, category_iiou, table.instance_categories & with_instances),
        counts.confusion,
        with_instances,
    )


def class_scores(benchmark: CityscapesScores) -> tuple[tuple[str, ...], Scores, NDArray[np.int64]]:
    """The scores of the evaluated classes in the form that every data set has.

    Returns:
        Names of the 19 classes, their scores, and the confusion matrix (19, 19) among them. A pixel that is predicted
        as an ignored class is a false negative in the scores; the matrix does not hold it.
    """
    evaluated, names = label_table().evaluated, _evaluated_names()
    class_iou = np.array([benchmark.classes[name] for name in names])
    true_positives, support = benchmark.confusion.diagonal()[evaluated], benchmark.confusion.sum(1)[evaluated]
    matrix = benchmark.confusion[np.ix_(evaluated, evaluated)]
    return names, Scores.from_counts(true_positives, support, class_iou), matrix


def evaluated_class_counts(confusion: NDArray[np.int64]) -> NDArray[np.int64]:
    """`class_counts` of the 19 evaluated classes, (3, 19), from an image's confusion matrix (34, 34).

    Ignored ground truth does not count; a pixel predicted as an ignored class is a false negative.
    """
    evaluated = label_table().evaluated
    rows = confusion[evaluated]  # (19, 34)
    inside = rows[:, evaluated]
    return np.stack([inside.diagonal(), rows.sum(1), inside.sum(0)])


def _evaluated_names() -> tuple[str, ...]:
    table = label_table()
    return tuple(name for name, evaluated in zip(table.names, table.evaluated, strict=True) if evaluated)


def _named(names: tuple[str, ...], values: NDArray[np.float64], defined: NDArray[np.bool_]) -> dict[str, float]:
    """Values by name, NaN where the benchmark defines none."""
    return dict(zip(names, np.where(defined, values, np.nan).tolist(), strict=True))


def _shape(ids: NDArray[np.integer]) -> str:
    return " x ".join(map(str, ids.shape))
