"""What chance has to do with a score: images drawn again and again, and two networks compared on the same draws.

The bootstrap (Efron, "Bootstrap Methods: Another Look at the Jackknife", The Annals of Statistics 7, 1979): a split of
n images is one draw from all the images there could have been; n images drawn from it with replacement are another. The
middle 95 % of the scores of many such draws are the interval (percentile method). It takes images for independent:
frames of one video are not, and their interval is narrower than it should be.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlaseg.errors import UserError

DRAWS = 2000
"""How many splits are drawn; the ends of an interval then move by about a hundredth of its width."""


def margins(matrix: NDArray[np.int64]) -> NDArray[np.int64]:
    """What a split keeps of an image's confusion matrix (C, C), rows = ground truth: hits, truth, predicted, (3, C)."""
    return np.stack([matrix.diagonal(), matrix.sum(1), matrix.sum(0)])


@dataclass(frozen=True, eq=False)
class ImageCounts:
    """Pixels of each image by class, of those whose ground truth is not ignored.

    Attributes:
        names: of the n images.
        hits: (n, C) int64, pixels of class c that were predicted so.
        truth: (n, C) int64, pixels of class c.
        predicted: (n, C) int64, pixels predicted as class c.
    """

    names: tuple[str, ...]
    hits: NDArray[np.int64]
    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]

    @classmethod
    def of(cls, names: Sequence[str], images: Sequence[NDArray[np.int64]]) -> "ImageCounts":
        """From `margins` of each image."""
        hits, truth, predicted = np.stack(images, axis=1)  # (3, n, C)
        return cls(tuple(names), hits, truth, predicted)

    def iou(self, times: NDArray[np.int64]) -> NDArray[np.float64]:
        """IoU of each class over splits in which image i stands `times[:, i]` times.

        Args:
            times: (splits, n).

        Returns:
            (splits, C), NaN for a class that occurs in neither ground truth nor prediction of a split.
        """
        hits, truth, predicted = (times @ part for part in (self.hits, self.truth, self.predicted))
        union = truth + predicted - hits
        return np.divide(hits, union, out=np.full(hits.shape, np.nan), where=union > 0)

    def miou_per_image(self) -> list[float | None]:
        """Each image's mean IoU over the classes that it shows or is said to show; None where nothing is counted."""
        means = mean_iou(self.iou(np.eye(len(self.names), dtype=np.int64)))
        return [None if np.isnan(mean) else float(mean) for mean in means]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for `scores.json`."""
        parts = {name: getattr(self, name).tolist() for name in ("hits", "truth", "predicted")}
        return {"names": list(self.names), "miou": self.miou_per_image(), **parts}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "ImageCounts":
        """The reverse of `to_dict`.

        Raises:
            ValueError, KeyError, TypeError: it is not what `to_dict` makes.
        """
        parts = [np.array(content[name], np.int64) for name in ("hits", "truth", "predicted")]
        shapes = {part.shape for part in parts}
        if len(shapes) != 1 or parts[0].ndim != 2 or len(parts[0]) != len(content["names"]):
            raise ValueError(f"counts of shapes {sorted(shapes)} for {len(content['names'])} images")
        return cls(tuple(map(str, content["names"])), *parts)


def mean_iou(iou: NDArray[np.float64]) -> NDArray[np.float64]:
    """(splits, C) to (splits,): the mean over the classes that occur, NaN where none does."""
    there = ~np.isnan(iou)
    sums = np.where(there, iou, 0).sum(1)
    return np.divide(sums, there.sum(1), out=np.full(len(iou), np.nan), where=there.any(1))


def draws(images: int, seed: int = 0) -> NDArray[np.int64]:
    """`DRAWS` splits: how often each image stands in each, (DRAWS, images); the same for the same arguments."""
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), DRAWS)


def miou_interval(counts: ImageCounts) -> tuple[float, float] | None:
    """The middle 95 % of the mIoU over drawn splits; None where no split has anything to score."""
    return _middle(mean_iou(counts.iou(draws(len(counts.names)))))


def class_intervals(counts: ImageCounts) -> list[tuple[float, float] | None]:
    """The middle 95 % of each class's IoU over the drawn splits that have the class; None where none has."""
    return [_middle(values) for values in counts.iou(draws(len(counts.names))).T]


@dataclass(frozen=True)
class Difference:
    """One measure of two networks on the same images.

    Attributes:
        name: a class, or `mean`.
        first, second: the measure of each, None where there is none.
        interval: the middle 95 % of second - first over drawn splits, both on the same draws; None where there is none.
    """

    name: str
    first: float | None
    second: float | None
    interval: tuple[float, float] | None

    @property
    def beyond_chance(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


def compare(classes: Sequence[str], first: ImageCounts, second: ImageCounts) -> list[Difference]:
    """Compares two networks class by class, and in the mean.

    Args:
        classes: names of the C classes.
        first: of one network.
        second: of the other, on the same images in any order.

    Raises:
        UserError: other images, or another ground truth.
    """
    if sorted(first.names) != sorted(second.names):
        only = sorted(set(first.names) ^ set(second.names)) or ["a name that is there twice"]
        raise UserError(f"scores of different images ({only[0]} on one side only): score both on the same split")
    order = [second.names.index(name) for name in first.names]
    second = ImageCounts(first.names, second.hits[order], second.truth[order], second.predicted[order])
    for name, a, b in zip(first.names, first.truth, second.truth, strict=True):
        if not np.array_equal(a, b):
            raise UserError(f"{name}: its ground truth differs between the two: score both on the same labels")
    times = draws(len(first.names))
    whole = np.ones((1, len(first.names)), np.int64)
    drawn, found = ([counts.iou(which) for counts in (first, second)] for which in (times, whole))
    rows = []
    for i, name in enumerate(classes):
        a, b = (float(iou[0, i]) for iou in found)
        rows.append(Difference(name, _number(a), _number(b), _middle(drawn[1][:, i] - drawn[0][:, i])))
    a, b = (float(mean_iou(iou)[0]) for iou in found)
    rows.append(Difference("mean", _number(a), _number(b), _middle(mean_iou(drawn[1]) - mean_iou(drawn[0]))))
    return rows


def _middle(values: NDArray[np.float64]) -> tuple[float, float] | None:
    values = values[~np.isnan(values)]
    if not values.size:
        return None
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value
