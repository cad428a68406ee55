"""One confusion matrix for the whole data set, and the scores that follow from it.

IoU and its mean over classes are defined here alone; every other module of the package calls these functions.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, SupportsFloat

import numpy as np
from numpy.typing import NDArray

from dlaseg.errors import UserError
from dlaseg.labels import IGNORE_INDEX

if TYPE_CHECKING:  # NumPy converts tensors, so torch is not imported
    import torch


Pixels = NDArray[np.int64] | NDArray[np.float64]
"""Numbers of pixels; float64 where pixels have weights."""


def ratio(numerator: Any, denominator: Any) -> NDArray[np.float64]:
    """Divides numbers or arrays; NaN where the denominator is 0."""
    shape = np.broadcast(numerator, denominator).shape
    return np.divide(numerator, denominator, out=np.full(shape, np.nan), where=np.greater(denominator, 0))


def iou(true_positives: Pixels, false_negatives: Pixels, false_positives: Pixels) -> NDArray[np.float64]:
    """Intersection over union, TP / (TP + FN + FP).

    Args:
        true_positives: pixels of a class that are predicted as this class; any shape.
        false_negatives: its other pixels; the same shape.
        false_positives: pixels of other classes that are predicted as this class; the same shape.

    Returns:
        0 to 1; NaN for a class that occurs in neither ground truth nor prediction.

    Examples:
        >>> iou(np.array([3, 0]), np.array([1, 0]), np.array([2, 0]))
        array([0.5, nan])
    """
    return ratio(true_positives, true_positives + false_negatives + false_positives)


def mean_over_present(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the classes that have a value.

    Args:
        values: (..., C), NaN for a class without a value.

    Returns:
        (...), NaN where no class has a value.
    """
    present = ~np.isnan(values)
    kept = np.where(present, values, 0)
    # NumPy adds pairwise, Python in order. Both are kept: the last digit of a published score must not change.
    return ratio(kept.sum(-1) if values.ndim > 1 else sum(kept.tolist()), present.sum(-1))


def none_if_nan(value: SupportsFloat) -> float | None:
    """A float as JSON has it: None in place of NaN."""
    number = float(value)
    return None if math.isnan(number) else number


class ConfusionMatrix:
    """Counts pixels by ground truth (rows) and prediction (columns).

    Args:
        num_classes: C.

    Attributes:
        matrix: (C, C) int64.

    Examples:
        >>> matrix = ConfusionMatrix(2)
        >>> matrix.update(np.array([[0, 1, 255]], np.uint8), np.array([[0, 0, 1]], np.uint8)).tolist()
        [[1, 0], [1, 0]]
        >>> matrix.scores().miou
        0.25
    """

    def __init__(self, num_classes: int):
        if not 1 <= num_classes <= IGNORE_INDEX:
            raise UserError(f"num_classes {num_classes}: use 1 to {IGNORE_INDEX}")
        self.num_classes = num_classes
        self.matrix: NDArray[np.int64] = np.zeros((num_classes, num_classes), np.int64)

    def update(
        self, target: "NDArray[np.integer] | torch.Tensor", prediction: "NDArray[np.integer] | torch.Tensor"
    ) -> NDArray[np.int64]:
        """Adds the pixels of one or more images.

        Args:
            target: ground truth train ids 0 to C - 1, or 255 for ignored pixels; any integer type and shape.
            prediction: train ids 0 to C - 1, of the same shape. Its values at ignored pixels are not used.

        Returns:
            The added counts, (C, C) int64.

        Raises:
            UserError: shapes that differ, another type, or an id out of range. The matrix stays as it was.
        """
        truth, guess = np.asarray(target), np.asarray(prediction)
        if truth.shape != guess.shape:
            raise UserError(f"target {truth.shape} and prediction {guess.shape}: both must have the same shape")
        for name, ids in (("target", truth), ("prediction", guess)):
            if ids.dtype.kind not in "iub":
                raise UserError(f"{name} of type {ids.dtype}: train ids are integers: use an integer type")
        counted = truth != IGNORE_INDEX
        truth, guess = truth[counted], guess[counted]
        for name, ids in (("target", truth), ("prediction", guess)):
            if ids.size and not (ids.min() >= 0 and ids.max() < self.num_classes):
                wrong = ids[(ids < 0) | (ids >= self.num_classes)][0]
                raise UserError(f"{name} id {wrong}: ids are 0 to {self.num_classes - 1} (target: or 255)")
        cells = truth.astype(np.int64) * self.num_classes + guess.astype(np.int64)
        counts = np.bincount(cells, minlength=self.num_classes**2).reshape(self.num_classes, self.num_classes)
        self.matrix += counts
        return counts

    def scores(self) -> "Scores":
        """IoU, accuracies and their means over all images so far."""
        true_positives, support, predicted = class_counts(self.matrix)
        return Scores.from_counts(
            true_positives, support, iou(true_positives, support - true_positives, predicted - true_positives)
        )


def class_counts(matrix: NDArray[np.int64]) -> NDArray[np.int64]:
    """True positives, support and predicted pixels of each class, (3, C), from a confusion matrix (C, C)."""
    return np.stack([matrix.diagonal(), matrix.sum(1), matrix.sum(0)])


@dataclass(frozen=True)
class Scores:
    """The scores of a confusion matrix, 0 to 1; None where the denominator is 0.

    Attributes:
        miou: mean IoU over the classes that occur in ground truth or prediction.
        pixel_accuracy: share of the counted pixels that are predicted correctly.
        mean_accuracy: mean accuracy over the classes that occur in the ground truth.
        iou: per class; None for a class that occurs in neither ground truth nor prediction.
        accuracy: per class, true positives / support; None for a class that the ground truth lacks.
        pixels: per class, its support: pixels of ground truth.
    """

    miou: float | None
    pixel_accuracy: float | None
    mean_accuracy: float | None
    iou: tuple[float | None, ...]
    accuracy: tuple[float | None, ...]
    pixels: tuple[int, ...]

    @classmethod
    def from_counts(
        cls, true_positives: NDArray[np.int64], support: NDArray[np.int64], iou: NDArray[np.float64]
    ) -> "Scores":
        """From each class's counts and IoU, all of shape (C,)."""
        accuracy = ratio(true_positives, support)
        return cls(
            miou=none_if_nan(mean_over_present(iou)),
            pixel_accuracy=none_if_nan(ratio(true_positives.sum(), support.sum())),
            mean_accuracy=none_if_nan(mean_over_present(accuracy)),
            iou=tuple(map(none_if_nan, iou)),
            accuracy=tuple(map(none_if_nan, accuracy)),
            pixels=tuple(support.tolist()),
        )
