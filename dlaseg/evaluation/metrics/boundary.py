"""Boundary IoU: how well the outlines fit, where mIoU sees the insides alone.

Cheng, Girshick, Dollár, Berg, Kirillov, "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR
2021 (https://arxiv.org/abs/2103.16562): the IoU of the two masks' pixels that lie within d pixels of their own contour.
"""

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dlaseg.labels import IGNORE_INDEX

DILATION_RATIO = 0.02
"""d as a share of the image's diagonal, as in the paper for images of everyday size."""


class BoundaryIoU:
    """Counts contour pixels of every class over a whole data set.

    A class's mask in one image is all its pixels there. The image's border is contour, as in the authors' code, and so
    is the border to ignored pixels; ignored pixels themselves do not count.

    Args:
        num_classes: C.

    Attributes:
        hits, truth, predicted: (C,) int64, contour pixels in both, in the ground truth, in the prediction.
    """

    def __init__(self, num_classes: int):
        self.hits, self.truth, self.predicted = (np.zeros(num_classes, np.int64) for _ in range(3))

    def __iadd__(self, other: "BoundaryIoU") -> "BoundaryIoU":
        """Adds what another one counted."""
        self.hits += other.hits
        self.truth += other.truth
        self.predicted += other.predicted
        return self

    def update(self, target: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> None:
        """Adds an image.

        Args:
            target: (H, W) uint8 train ids, 255 ignored.
            prediction: (H, W) uint8 train ids; 255 is no class, as other programs may predict.
        """
        classes = len(self.hits)
        width = contour_width(*target.shape)
        counted = target != IGNORE_INDEX
        truth, guess = contour(target, width) & counted, contour(prediction, width) & counted
        guess &= prediction != IGNORE_INDEX
        both = truth & guess & (target == prediction)
        for total, ids in ((self.hits, target[both]), (self.truth, target[truth]), (self.predicted, prediction[guess])):
            total += np.bincount(ids, minlength=classes)

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Plain values, for `scores.json`."""
        iou, mean = self.scores()
        return {"dilation_ratio": DILATION_RATIO, "mean": mean, "classes": dict(zip(names, iou, strict=True))}

    def scores(self) -> tuple[tuple[float | None, ...], float | None]:
        """Boundary IoU of each class, None for one without contour pixels, and the mean of those that have some."""
        union = self.truth + self.predicted - self.hits
        iou = tuple(float(h) / float(u) if u else None for h, u in zip(self.hits, union, strict=True))
        there = [value for value in iou if value is not None]
        return iou, sum(there) / len(there) if there else None


def contour_width(height: int, width: int) -> int:
    """D in pixels, at least 1."""
    return max(1, round(DILATION_RATIO * math.hypot(height, width)))


def contour(labels: NDArray[np.uint8], width: int) -> NDArray[np.bool_]:
    """Which pixels have a pixel of another class, or one outside the image, within a square of `width` around them.

    For every class at once: where a window's smallest and largest label are the same, it holds one class.

    Args:
        labels: (H, W) uint8.
        width: d; the window has 2 d + 1 pixels a side, which is what d erosions by 3 x 3 come to.

    Returns:
        (H, W) bool.

    Example:
        >>> contour(np.array([[1, 1, 1, 1, 2]] * 3, np.uint8), 1).astype(int).tolist()
        [[1, 1, 1, 1, 1], [1, 0, 0, 1, 1], [1, 1, 1, 1, 1]]
    """
    window = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    found = cv2.erode(labels, window) != cv2.dilate(labels, window)
    found[:width] = found[-width:] = True
    found[:, :width] = found[:, -width:] = True
    return found
