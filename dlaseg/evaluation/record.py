"""`scores.json`, and the same as a table for people."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlaseg.evaluation.cityscapes import CityscapesScores
from dlaseg.evaluation.metrics import Scores


def scores_record(
    names: Sequence[str],
    scores: Scores,
    confusion_matrix: NDArray[np.int64],
    protocol: dict[str, Any],
    benchmark: CityscapesScores | None,
) -> dict[str, Any]:
    """The content of `scores.json`.

    Args:
        names: of the C classes.
        scores: of the whole split.
        confusion_matrix: (C, C).
        protocol: what was scored and how; versions are added.
        benchmark: the Cityscapes benchmark's own measures, if it is its data.

    Returns:
        Plain values; a class that occurs in neither ground truth nor prediction has null for its IoU.
    """
    rows = zip(names, scores.iou, scores.accuracy, scores.pixels, strict=True)
    record = {
        "miou": scores.miou,
        "pixel_accuracy": scores.pixel_accuracy,
        "mean_accuracy": scores.mean_accuracy,
        "classes": {name: {"iou": iou, "accuracy": acc, "pixels": pixels} for name, iou, acc, pixels in rows},
        "absent_classes": [name for name, iou in zip(names, scores.iou, strict=True) if iou is None],
        "confusion_matrix": confusion_matrix.tolist(),
        "protocol": {**protocol, "versions": {name: _version(name) for name in ("dlaseg", "torch", "numpy")}},
    }
    return record if benchmark is None else {**record, "cityscapes": benchmark.to_dict()}


def score_table(names: Sequence[str], scores: Scores) -> str:
    """IoU and accuracy of every class in per cent, the means below; - where a class does not occur."""
    width = max(len(name) for name in (*names, "pixel accuracy"))
    total = sum(scores.pixels) or 1
    lines = [f"{'class':<{width}}  {'IoU':>6}  {'acc.':>6}  {'pixels':>7}"]
    for name, iou, accuracy, pixels in zip(names, scores.iou, scores.accuracy, scores.pixels, strict=True):
        lines.append(f"{name:<{width}}  {_percent(iou)}  {_percent(accuracy)}  {pixels / total:>7.2%}")
    lines += [
        "",
        f"{'mean':<{width}}  {_percent(scores.miou)}  {_percent(scores.mean_accuracy)}",
        f"{'pixel accuracy':<{width}}  {'':>6}  {_percent(scores.pixel_accuracy)}",
    ]
    return "\n".join(lines)


def benchmark_table(benchmark: CityscapesScores) -> str:
    """The Cityscapes benchmark's measures in per cent: classes, categories, and their means."""
    content = benchmark.to_dict()
    width = max(len(name) for name in (*content["classes"], "mean of categories"))
    lines = [f"{'Cityscapes':<{width}}  {'IoU':>6}  {'iIoU':>6}"]
    for kind in ("classes", "categories"):
        for name, row in content[kind].items():
            if kind == "categories" and row["iou"] is None and name == "void":
                continue
            lines.append(f"{name:<{width}}  {_percent(row['iou'])}  {_percent(row['iiou'])}")
        means = content["averages"]
        both = f"{_percent(means[kind])}  {_percent(means[f'instance_{kind}'])}"
        lines += [f"{f'mean of {kind}':<{width}}  {both}", ""]
    return "\n".join(lines[:-1])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # predictions are scored without torch
        return None


def _percent(value: float | None) -> str:
    return f"{'-':>6}" if value is None else f"{value * 100:>6.2f}"
