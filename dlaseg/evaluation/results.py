"""The content of `scores.json`."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlaseg.errors import UserError
from dlaseg.evaluation.cityscapes.scores import BENCHMARK, CityscapesScores
from dlaseg.evaluation.metrics.bootstrap import ImageCounts, miou_interval
from dlaseg.evaluation.metrics.boundary import BoundaryIoU
from dlaseg.evaluation.metrics.calibration import Calibration
from dlaseg.evaluation.metrics.confusion import Scores

MEASURES = ("boundary", "calibration")
"""What is measured on demand, since it takes time of its own: see the modules of these names."""


def check_measures(measures: Sequence[str]) -> None:
    """Raises a UserError for one that there is not."""
    for measure in measures:
        if measure not in MEASURES:
            raise UserError(f"measure {measure!r}: unknown; use one of {', '.join(MEASURES)}")


def build_results(
    names: Sequence[str],
    scores: Scores,
    confusion_matrix: NDArray[np.int64],
    images: ImageCounts,
    protocol: dict[str, Any],
    benchmark: CityscapesScores | None = None,
    boundary: BoundaryIoU | None = None,
    calibration: Calibration | None = None,
) -> dict[str, Any]:
    """Puts together what `scores.json` holds.

    Args:
        names: of the C classes.
        scores: of the whole split.
        confusion_matrix: (C, C).
        images: the counts of each image; `dlaseg compare` draws from them.
        protocol: what was scored and how; versions are added.
        benchmark: the Cityscapes benchmark's own measures, if it is its data.
        boundary: if measured.
        calibration: if measured.

    Returns:
        Plain values; a class that occurs in neither ground truth nor prediction has null for its IoU.
    """
    rows = zip(names, scores.iou, scores.accuracy, scores.pixels, strict=True)
    record = {
        "miou": scores.miou,
        "miou_interval": miou_interval(images),
        "pixel_accuracy": scores.pixel_accuracy,
        "mean_accuracy": scores.mean_accuracy,
        "classes": {name: {"iou": iou, "accuracy": acc, "pixels": pixels} for name, iou, acc, pixels in rows},
        "absent_classes": [name for name, iou in zip(names, scores.iou, strict=True) if iou is None],
        "confusion_matrix": confusion_matrix.tolist(),
        "images": images.to_dict(),
        "protocol": {**protocol, "versions": {name: _version(name) for name in ("dlaseg", "torch", "numpy")}},
    }
    if benchmark is not None:
        record[BENCHMARK] = benchmark.to_dict()
    if boundary is not None:
        record["boundary_iou"] = boundary.to_dict(names)
    if calibration is not None:
        record["calibration"] = calibration.to_dict()
    return record


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # predictions are scored without torch
        return None
