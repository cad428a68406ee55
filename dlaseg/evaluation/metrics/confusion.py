"""One confusion matrix for the whole data set, and the scores that come from it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dlaseg.errors import UserError
from dlaseg.labels import IGNORE_INDEX

if TYPE_CHECKING:  # tensors are taken as what NumPy makes of them
    import torch


class ConfusionMatrix:
    """Counts pixels by ground truth (rows) and prediction (columns).

    Args:
        num_classes: C.

    Attributes:
        matrix: (C, C) int64.

    Example:
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
            target: ground truth train ids 0 to C - 1, or 255 for pixels that do not count; any integer type.
            prediction: train ids 0 to C - 1, of the same shape. What it says where the target is 255 is not looked at.

        Returns:
            What was added, (C, C).

        Raises:
            UserError: shapes that differ, or an id out of range. Nothing is added then.
        """
        truth, guess = np.asarray(target), np.asarray(prediction)
        if truth.shape != guess.shape:
            raise UserError(f"target {truth.shape} and prediction {guess.shape}: both have the same shape")
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
        """IoU, accuracies and their means over what was counted so far."""
        hits = self.matrix.diagonal()
        truth, guess = self.matrix.sum(axis=1), self.matrix.sum(axis=0)
        union = truth + guess - hits
        iou = [float(h) / float(u) if u else None for h, u in zip(hits, union, strict=True)]
        accuracy = [float(h) / float(t) if t else None for h, t in zip(hits, truth, strict=True)]
        total = int(self.matrix.sum())
        return Scores(
            miou=_mean(iou),
            pixel_accuracy=float(hits.sum()) / total if total else None,
            mean_accuracy=_mean(accuracy),
            iou=tuple(iou),
            accuracy=tuple(accuracy),
            pixels=tuple(int(t) for t in truth),
        )


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix is worth. All ratios are 0 to 1; None where there is nothing to divide by.

    Attributes:
        miou: mean IoU over the classes that occur in ground truth or prediction.
        pixel_accuracy: share of the counted pixels that are right.
        mean_accuracy: mean accuracy over the classes that occur in the ground truth.
        iou: per class, hits / (ground truth + prediction - hits); None for a class that occurs in neither.
        accuracy: per class, hits / ground truth; None for a class that the ground truth lacks.
        pixels: per class, pixels of ground truth.
    """

    miou: float | None
    pixel_accuracy: float | None
    mean_accuracy: float | None
    iou: tuple[float | None, ...]
    accuracy: tuple[float | None, ...]
    pixels: tuple[int, ...]


def _mean(values: list[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None
