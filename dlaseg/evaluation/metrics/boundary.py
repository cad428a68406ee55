"""Boundary IoU: how well predicted contours fit. mIoU mostly measures the inside of large segments.

Cheng, Girshick, Dollár, Berg, Kirillov, "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR
2021 (https://arxiv.org/abs/2103.16562): the IoU of those pixels of two masks that lie within d pixels of their own
contour.
"""

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dlaseg.evaluation.metrics.confusion import iou, mean_over_present, none_if_nan
from dlaseg.labels import IGNORE_INDEX

DILATION_RATIO = 0.02
"""d as a share of the image's diagonal: the paper's value for photographs of common size."""


class BoundaryIoU:
    """Counts contour pixels of every class over a whole data set.

    The mask of a class is all its pixels in one image. As in the authors' code, the image's border belongs to the
    contour; so does the border to ignored pixels. Ignored pixels themselves do not count.

    Args:
        num_classes: C.

    Attributes:
        true_positives: (C,) int64, contour pixels of both ground truth and prediction.
        support: (C,) int64, contour pixels of the ground truth.
        predicted: (C,) int64, contour pixels of the prediction.
    """

    def __init__(self, num_classes: int):
        self.true_positives, self.support, self.predicted = (np.zeros(num_classes, np.int64) for _ in range(3))

    def __iadd__(self, other: "BoundaryIoU") -> "BoundaryIoU":
        """Adds the counts of other images."""
        self.true_positives += other.true_positives
        self.support += other.support
        self.predicted += other.predicted
        return self

    def update(self, target: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> None:
        """Adds an image.

        Args:
            target: (H, W) uint8 train ids, 255 ignored.
            prediction: (H, W) uint8 train ids; 255 is no class, which files of other programs may hold.
        """
        classes = len(self.support)
        width = contour_width(*target.shape)
        counted = target != IGNORE_INDEX
        in_target = contour(target, width) & counted
        in_prediction = contour(prediction, width) & counted & (prediction != IGNORE_INDEX)
        in_both = in_target & in_prediction & (target == prediction)
        self.true_positives += np.bincount(target[in_both], minlength=classes)
        self.support += np.bincount(target[in_target], minlength=classes)
        self.predicted += np.bincount(prediction[in_prediction], minlength=classes)

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Plain values, for `scores.json`."""
        values, mean = self.scores()
        return {"dilation_ratio": DILATION_RATIO, "mean": mean, "classes": dict(zip(names, values, strict=True))}

    def scores(self) -> tuple[tuple[float | None, ...], float | None]:
        """Boundary IoU of each class, None for a class without contour pixels, and the mean over the other classes."""
        values = iou(self.true_positives, self.support - self.true_positives, self.predicted - self.true_positives)
        return tuple(map(none_if_nan, values)), none_if_nan(mean_over_present(values))


def contour_width(height: int, width: int) -> int:
    """The distance d in pixels, at least 1."""
    return max(1, round(DILATION_RATIO * math.hypot(height, width)))


def contour(labels: NDArray[np.uint8], width: int) -> NDArray[np.bool_]:
    """Contour pixels of all classes at once: those with another class or the image's border within `width` pixels.

    A window holds a single class where its smallest and largest label are equal.

    Args:
        labels: (H, W) uint8.
        width: d; the window has 2 d + 1 pixels a side, which equals d erosions by 3 x 3.

    Returns:
        (H, W) bool.

    Examples:
        >>> contour(np.array([[1, 1, 1, 1, 2]] * 3, np.uint8), 1).astype(int).tolist()
        [[1, 1, 1, 1, 1], [1, 0, 0, 1, 1], [1, 1, 1, 1, 1]]
    """
    window = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    mask = cv2.erode(labels, window) != cv2.dilate(labels, window)
    mask[:width] = mask[-width:] = True
    mask[:, :width] = mask[:, -width:] = True
    return mask
