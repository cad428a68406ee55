"""Is a network as sure as it is right? The expected calibration error of the winning class.

Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017
(https://arxiv.org/abs/1706.04599), eq. 3: pixels are sorted by the probability of their winning class into bins of
equal width; the error is the mean over pixels of how far a bin's accuracy is from its mean probability.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlaseg.labels import IGNORE_INDEX

BINS = 15
"""As in the paper."""


class Calibration:
    """Counts pixels by how sure the network was.

    Attributes:
        pixels: (BINS,) int64, of each bin.
        hits: (BINS,) int64, of them right.
        confidence: (BINS,) float64, sum of their probabilities.
    """

    def __init__(self) -> None:
        self.pixels, self.hits = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
        self.confidence = np.zeros(BINS)

    def update(self, target: NDArray[np.uint8], prediction: NDArray[np.uint8], confidence: NDArray[np.float32]) -> None:
        """Adds an image.

        Args:
            target: (H, W) uint8 train ids, 255 ignored.
            prediction: (H, W) uint8 train ids.
            confidence: (H, W) float, the predicted class's probability, 0 to 1.
        """
        counted = target != IGNORE_INDEX
        sure, right = confidence[counted], (target == prediction)[counted]
        bins = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
        self.pixels += np.bincount(bins, minlength=BINS)
        self.hits += np.bincount(bins[right], minlength=BINS)
        self.confidence += np.bincount(bins, sure, BINS)

    def error(self) -> float | None:
        """The expected calibration error, 0 to 1; None if nothing was counted."""
        total = int(self.pixels.sum())
        return float(np.abs(self.hits - self.confidence).sum()) / total if total else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for `scores.json`: the error, and each bin's pixels, accuracy and mean probability."""
        rows = zip(self.pixels.tolist(), self.hits.tolist(), self.confidence.tolist(), strict=True)
        bins = [
            {"pixels": n, "accuracy": hits / n if n else None, "confidence": sure / n if n else None}
            for n, hits, sure in rows
        ]
        return {"expected_calibration_error": self.error(), "bins": bins}
