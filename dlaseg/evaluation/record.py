"""`scores.json`, and the same as a table for people."""

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlaseg.evaluation.bootstrap import Difference, ImageCounts, miou_interval
from dlaseg.evaluation.cityscapes import CityscapesScores
from dlaseg.evaluation.metrics import Scores


def scores_record(
    names: Sequence[str],
    scores: Scores,
    confusion_matrix: NDArray[np.int64],
    images: ImageCounts,
    protocol: dict[str, Any],
    benchmark: CityscapesScores | None,
) -> dict[str, Any]:
    """The content of `scores.json`.

    Args:
        names: of the C classes.
        scores: of the whole split.
        confusion_matrix: (C, C).
        images: the counts of each image; `dlaseg compare` draws from them.
        protocol: what was scored and how; versions are added.
        benchmark: the Cityscapes benchmark's own measures, if it is its data.

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


def images_table(images: ImageCounts, most: int = 5) -> str:
    """What chance has to do with the mIoU, and the worst images."""
    interval = miou_interval(images)
    rows = [(mean, name) for mean, name in zip(images.miou_per_image(), images.names, strict=True) if mean is not None]
    middle = "-" if interval is None else f"{interval[0] * 100:.2f} to {interval[1] * 100:.2f}"
    lines = [f"95 % interval of the mIoU over images: {middle}", "worst images, by their own mIoU:"]
    return "\n".join(lines + [f"{_percent(mean)}  {name}" for mean, name in sorted(rows)[:most]])


def boundary_table(content: Mapping[str, Any]) -> str:
    """Boundary IoU in per cent, from `BoundaryIoU.to_dict`."""
    rows = {**content["classes"], "mean": content["mean"]}
    width = max(len(name) for name in rows)
    lines = [f"Boundary IoU, contours {content['dilation_ratio']:.0%} of the diagonal wide:"]
    return "\n".join(lines + [f"{name:<{width}}  {_percent(value)}" for name, value in rows.items()])


def difference_table(rows: Sequence[Difference]) -> str:
    """IoU of two networks in per cent, the difference and its 95 % interval; who is better where that leaves out 0."""
    width = max(len(row.name) for row in rows)
    lines = [f"{'IoU':<{width}}  {'first':>6}  {'second':>6}  {'differ':>7}  95 % interval"]
    for row in rows:
        told = ""
        if row.first is not None and row.second is not None and row.interval is not None:
            low, high = (100 * end for end in row.interval)
            verdict = ("  second is better" if low > 0 else "  first is better") if row.beyond_chance else ""
            told = f"{100 * (row.second - row.first):>+7.2f}  {low:+.2f} to {high:+.2f}{verdict}"
        lines.append(f"{row.name:<{width}}  {_percent(row.first)}  {_percent(row.second)}  {told}".rstrip())
    beyond, compared = sum(row.beyond_chance for row in rows), sum(row.interval is not None for row in rows)
    return "\n".join(
        [*lines, "", f"{beyond} of {compared} differences are more than chance: their interval leaves out 0"]
    )


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
