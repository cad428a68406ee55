"""Expected calibration error (ECE) of the predicted class: how far confidence is from accuracy.

Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017
(https://arxiv.org/abs/1706.04599), eq. 3: pixels are sorted into bins of equal width by their confidence, the
probability of the predicted class. The error is the mean over pixels of |accuracy - mean confidence| of their bin.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlaseg.evaluation.metrics.confusion import none_if_nan, ratio
from dlaseg.labels import IGNORE_INDEX

BINS = 15
"""As in the paper."""


class Calibration:
    """Counts pixels by confidence.

    Attributes:
        pixels: (BINS,) int64, pixels in each bin.
        correct: (BINS,) int64, those of them that are predicted correctly.
        confidence: (BINS,) float64, sum of their confidences.
    """

    def __init__(self) -> None:
        self.pixels, self.correct = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
        self.confidence = np.zeros(BINS)

    def update(self, target: NDArray[np.uint8], prediction: NDArray[np.uint8], confidence: NDArray[np.float32]) -> None:
        """Adds an image.

        Args:
            target: (H, W) uint8 train ids, 255 ignored.
            prediction: (H, W) uint8 train ids.
            confidence: (H, W) float, probability of the predicted class, 0 to 1.
        """
        counted = target != IGNORE_INDEX
        confidence, correct = confidence[counted], (target == prediction)[counted]
        bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
        self.pixels += np.bincount(bins, minlength=BINS)
        self.correct += np.bincount(bins[correct], minlength=BINS)
        self.confidence += np.bincount(bins, confidence, BINS)

    def error(self) -> float | None:
        """The expected calibration error, 0 to 1; None if no pixel was counted."""
        return none_if_nan(ratio(np.abs(self.correct - self.confidence).sum(), self.pixels.sum()))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `scores.json`: the error, and each bin's pixels, accuracy and mean confidence."""
        columns = (self.pixels.tolist(), ratio(self.correct, self.pixels), ratio(self.confidence, self.pixels))
        bins = [
            {"pixels": pixels, "accuracy": none_if_nan(accuracy), "confidence": none_if_nan(confidence)}
            for pixels, accuracy, confidence in zip(*columns, strict=True)
        ]
        return {"expected_calibration_error": self.error(), "bins": bins}
