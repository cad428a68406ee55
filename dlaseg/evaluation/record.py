"""`scores.json`, and the same as a table for people."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dlaseg.data.datasets import SegmentationDataset
from dlaseg.evaluation.metrics import ConfusionMatrix, Scores
from dlaseg.files import sha256
from dlaseg.version import __version__


def scores_record(
    confusion: ConfusionMatrix,
    dataset: SegmentationDataset,
    weights: Path,
    origin: Sequence[dict[str, str]],
    scales: Sequence[float],
    flip: bool,
) -> dict[str, Any]:
    """The content of `scores.json`: scores, confusion matrix and protocol.

    Args:
        confusion: of the whole split.
        dataset: what was scored.
        weights: the file that was scored.
        origin: what its training started from, see `dlaseg.models.weights.Origin`.
        scales: of the images.
        flip: whether mirror images were averaged in.

    Returns:
        Plain values; a class that occurs in neither ground truth nor prediction has null for its IoU.
    """
    scores = confusion.scores()
    names = dataset.label_map.names
    rows = zip(names, scores.iou, scores.accuracy, scores.pixels, strict=True)
    return {
        "miou": scores.miou,
        "pixel_accuracy": scores.pixel_accuracy,
        "mean_accuracy": scores.mean_accuracy,
        "classes": {name: {"iou": iou, "accuracy": acc, "pixels": pixels} for name, iou, acc, pixels in rows},
        "absent_classes": [name for name, iou in zip(names, scores.iou, strict=True) if iou is None],
        "confusion_matrix": confusion.matrix.tolist(),
        "protocol": {
            "dataset": dataset.name,
            "split": dataset.split,
            "images": len(dataset),
            "scales": list(scales),
            "flip": flip,
            "weights_sha256": sha256(weights),
            "weights_origin": list(origin),
            "versions": {"dlaseg": __version__, "torch": version("torch"), "numpy": version("numpy")},
        },
    }


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


def _percent(value: float | None) -> str:
    return f"{'-':>6}" if value is None else f"{value * 100:>6.2f}"
