"""Sampling error of scores: bootstrap intervals, and a paired comparison of two networks.

The bootstrap (Efron, "Bootstrap Methods: Another Look at the Jackknife", The Annals of Statistics 7, 1979) regards the
n images of a split as a sample. It draws n images from them with replacement, many times, and scores every resample;
the central 95 % of these scores are the interval (percentile method). It assumes independent images: the frames of one
video are not, so their interval is too narrow.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlaseg.errors import UserError
from dlaseg.evaluation.metrics.confusion import Pixels, iou, mean_over_present, none_if_nan

RESAMPLES = 2000
"""Number of resamples; the ends of an interval then vary by about a hundredth of its width."""


FEWEST_IMAGES = 6
"""A class that occurs in fewer images has no interval: even if one network were better on all of 5, a sign test would
have p = 2 / 2^5 > 5 %, while their bootstrap interval would exclude 0."""


@dataclass(frozen=True, eq=False)
class ImageCounts:
    """Pixels of each image by class; ignored pixels do not count.

    Attributes:
        names: of the n images.
        true_positives: (n, C) int64, pixels of a class that are predicted as this class.
        support: (n, C) int64, pixels of a class.
        predicted: (n, C) int64, pixels that are predicted as a class.
    """

    names: tuple[str, ...]
    true_positives: NDArray[np.int64]
    support: NDArray[np.int64]
    predicted: NDArray[np.int64]

    @classmethod
    def of(cls, names: Sequence[str], counts: Sequence[NDArray[np.int64]]) -> "ImageCounts":
        """From the `class_counts` of each image."""
        return cls(tuple(names), *np.stack(counts, axis=1))  # (3, n, C)

    def iou(self, repeats: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """IoU of each class in every image, or in every resample.

        Args:
            repeats: (resamples, n), how often each image occurs in each resample; None for every image on its own.

        Returns:
            (n or resamples, C), NaN for a class that occurs in neither ground truth nor prediction.
        """
        counts: Sequence[Pixels] = (self.true_positives, self.support, self.predicted)
        if repeats is not None:  # floats are exact up to 2**53 pixels, and NumPy multiplies integers 20 times as slowly
            times = repeats.astype(np.float64)
            counts = [times @ part.astype(np.float64) for part in counts]
        true_positives, support, predicted = counts
        return iou(true_positives, support - true_positives, predicted - true_positives)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `scores.json`, with each image's mIoU: over the classes that occur in it, null if none."""
        miou = [none_if_nan(mean) for mean in mean_over_present(self.iou())]
        counts = {key: getattr(self, field).tolist() for key, field in _KEYS.items()}
        return {"names": list(self.names), "miou": miou, **counts}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "ImageCounts":
        """Reverses `to_dict`.

        Raises:
            ValueError: `to_dict` did not write this content; says why.
        """
        if not isinstance(content, Mapping):
            raise ValueError("'images' is not a mapping")
        if missing := [key for key in ("names", *_KEYS) if not isinstance(content.get(key), list)]:
            raise ValueError(f"no list {missing[0]!r} in 'images'")
        names = content["names"]
        if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            raise ValueError("the names of the images are not one text each, all different")
        hits, truth, predicted = (_integers(key, content[key]) for key in _KEYS)
        if not hits.shape == truth.shape == predicted.shape or len(hits) != len(names):
            raise ValueError(f"counts of shapes {hits.shape}, {truth.shape}, {predicted.shape} for {len(names)} images")
        for key, counts in (("truth", truth), ("predicted", predicted)):
            if (hits > counts).any():
                image, label = np.argwhere(hits > counts)[0]
                raise ValueError(
                    f"class {label} of image {names[image][:80]!r} has {hits[image, label]} hits and {key} "
                    f"{counts[image, label]}"
                )
        return cls(tuple(names), hits, truth, predicted)


def _integers(key: str, rows: Any) -> NDArray[np.int64]:
    """A list of lists of equal length as an array (n, C) of counts."""
    if not all(isinstance(row, list) and row and len(row) == len(rows[0]) for row in rows):
        raise ValueError(f"{key!r} is not a list of as many numbers for each image")
    for row in rows:
        for value in row:
            if type(value) is not int or not 0 <= value <= _MOST_PIXELS:
                raise ValueError(f"{value!r:.80} in {key!r}, which is not a number of pixels")
    return np.array(rows, np.int64)


_KEYS = {"hits": "true_positives", "truth": "support", "predicted": "predicted"}
"""Keys in `scores.json`, and the fields they hold."""

_MOST_PIXELS = 1 << 40
"""Of an image; sums over a million images then fit 64 bits."""


def miou_interval(counts: ImageCounts) -> tuple[float, float] | None:
    """95 % interval of the mIoU; None for too few images in which a class occurs."""
    return _interval(mean_over_present(_resampled_iou(counts)), _images_with_each(counts)[-1])


def class_intervals(counts: ImageCounts) -> list[tuple[float, float] | None]:
    """95 % interval of each class's IoU, over the resamples in which the class occurs.

    None for a class that occurs in too few images.
    """
    images = _images_with_each(counts)
    return [_interval(values, n) for values, n in zip(_resampled_iou(counts).T, images[:-1], strict=True)]


def _images_with_each(*networks: ImageCounts) -> list[int]:
    """In how many images each class occurs, in ground truth or prediction; the last number is of any class."""
    occurs = np.any([(counts.support > 0) | (counts.predicted > 0) for counts in networks], axis=0)  # (n, C)
    return [*occurs.sum(0).tolist(), int(occurs.any(1).sum())]


def _resampled_iou(counts: ImageCounts) -> NDArray[np.float64]:
    """(RESAMPLES, C) IoU of each class in every resample."""
    return np.concatenate([counts.iou(repeats) for repeats in resamples(len(counts.names))])


def resamples(images: int, seed: int = 0) -> Iterator[NDArray[np.int64]]:
    """How often each image occurs in each resample, (rows, images), `RESAMPLES` rows in blocks of at most 16 MB."""
    rng, share = np.random.default_rng(seed), np.full(images, 1 / images)
    rows = max(1, (1 << 21) // images)
    for start in range(0, RESAMPLES, rows):
        yield rng.multinomial(images, share, min(rows, RESAMPLES - start))


@dataclass(frozen=True)
class Difference:
    """The scores of two networks on the same images.

    Attributes:
        name: a class, or `mean`.
        first: IoU of the first network; None for a class that occurs in neither ground truth nor prediction.
        second: IoU of the second network; the same.
        interval: 95 % interval of second - first over resamples that both networks share; None as above, and for a
            class that occurs in too few images.
    """

    name: str
    first: float | None
    second: float | None
    interval: tuple[float, float] | None

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


def compare(classes: Sequence[str], first: ImageCounts, second: ImageCounts) -> list[Difference]:
    """Compares two networks class by class, and by mIoU.

    Args:
        classes: names of the C classes.
        first: counts of one network.
        second: counts of the other network, on the same images in any order.

    Returns:
        One row per class, then one for the mean.

    Raises:
        UserError: the images or their ground truth differ.
    """
    if sorted(first.names) != sorted(second.names):
        only = sorted(set(first.names) ^ set(second.names)) or ["a name that occurs twice"]
        raise UserError(f"scores of different images ({only[0]} on one side only): score both on the same split")
    position = {name: index for index, name in enumerate(second.names)}
    order = [position[name] for name in first.names]
    second = ImageCounts(first.names, second.true_positives[order], second.support[order], second.predicted[order])
    for name, a, b in zip(first.names, first.support, second.support, strict=True):
        if not np.array_equal(a, b):
            raise UserError(f"{name}: its ground truth differs between the two: score both on the same labels")

    def with_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack([values, mean_over_present(values)])  # (n, C) -> (n, C + 1)

    whole = np.ones((1, len(first.names)), np.int64)
    differences = with_mean(_resampled_iou(second)) - with_mean(_resampled_iou(first))
    rows = zip(
        (*classes, "mean"),
        with_mean(first.iou(whole))[0],
        with_mean(second.iou(whole))[0],
        differences.T,
        _images_with_each(first, second),
        strict=True,
    )
    return [
        Difference(name, none_if_nan(a), none_if_nan(b), _interval(values, images))
        for name, a, b, values, images in rows
    ]


def _interval(values: NDArray[np.float64], images: int) -> tuple[float, float] | None:
    """The central 95 % of the values that are not NaN; None if there are none, or too few images."""
    values = values[~np.isnan(values)]
    if not values.size or images < FEWEST_IMAGES:
        return None
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)
