"""The content of `scores.json`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlaseg.errors import UserError
from dlaseg.evaluation.cityscapes.scores import BENCHMARK, CityscapesScores
from dlaseg.evaluation.metrics.bootstrap import ImageCounts, miou_interval
from dlaseg.evaluation.metrics.boundary import BoundaryIoU
from dlaseg.evaluation.metrics.calibration import Calibration
from dlaseg.evaluation.metrics.confusion import Scores
from dlaseg.version import package_version

MEASURES = ("boundary", "calibration")
"""Optional measures, which take extra time; see the modules of these names."""


def check_measures(measures: Sequence[str]) -> None:
    """Raises a UserError for an unknown measure."""
    for measure in (measures,) if isinstance(measures, str) else measures:
        if measure not in MEASURES:
            raise UserError(f"measure {measure!r}: unknown; use one of {', '.join(MEASURES)}")


def build_results(
    names: Sequence[str],
    scores: Scores,
    confusion_matrix: NDArray[np.int64],
    images: ImageCounts,
    protocol: dict[str, Any],
    cityscapes: CityscapesScores | None = None,
    boundary: BoundaryIoU | None = None,
    calibration: Calibration | None = None,
) -> dict[str, Any]:
    """Builds the content of `scores.json`.

    Args:
        names: of the C classes.
        scores: of the whole split.
        confusion_matrix: (C, C).
        images: the counts of each image, which `dlaseg compare` resamples.
        protocol: what was scored and how; versions are added.
        cityscapes: scores of the Cityscapes benchmark, for its data.
        boundary: if measured.
        calibration: if measured.

    Returns:
        Plain values; the IoU of a class that occurs in neither ground truth nor prediction is None.
    """
    rows = zip(names, scores.iou, scores.accuracy, scores.pixels, strict=True)
    results = {
        "miou": scores.miou,
        "miou_interval": miou_interval(images),
        "pixel_accuracy": scores.pixel_accuracy,
        "mean_accuracy": scores.mean_accuracy,
        "classes": {name: {"iou": iou, "accuracy": acc, "pixels": pixels} for name, iou, acc, pixels in rows},
        "absent_classes": [name for name, iou in zip(names, scores.iou, strict=True) if iou is None],
        "confusion_matrix": confusion_matrix.tolist(),
        "images": images.to_dict(),
        "protocol": {**protocol, "versions": {name: package_version(name) for name in ("dlaseg", "torch", "numpy")}},
    }
    if cityscapes is not None:
        results[BENCHMARK] = cityscapes.to_dict()
    if boundary is not None:
        results["boundary_iou"] = boundary.to_dict(names)
    if calibration is not None:
        results["calibration"] = calibration.to_dict()
    return results
