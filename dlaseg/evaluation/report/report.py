"""`report.html`: one file that shows what a network gets right and wrong, in any browser, without server or network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from dlaseg.errors import UserError
from dlaseg.evaluation.metrics.bootstrap import FEWEST_IMAGES, ImageCounts, class_intervals
from dlaseg.evaluation.metrics.confusion import iou, none_if_nan, ratio
from dlaseg.evaluation.report.charts import line_chart
from dlaseg.evaluation.report.templates import page_file, page_template
from dlaseg.files import write_text
from dlaseg.labels import Color
from dlaseg.run_folder import RunFolder

MOST_CONFUSIONS = 8
"""Pairs of classes in the list of confusions."""

MOST_PRINTED_CLASSES = 40
"""A confusion matrix of more is left out on paper, where it would make all text tiny."""

_CURVES = (("Validation mIoU", "miou", True), ("Training loss", "loss", False), ("Learning rate", "lr", False))
"""Title, field of the log, and whether it is a share."""


@dataclass(frozen=True)
class Confusion:
    """Pixels of one class that are predicted as another class.

    Attributes:
        truth: their class in the ground truth.
        prediction: the predicted class.
        pixels: their number.
        share: of all pixels of the ground truth class, 0 to 1.
        cost: by how much the mIoU would rise if these pixels were predicted correctly and all others as they are.
    """

    truth: str
    prediction: str
    pixels: int
    share: float
    cost: float


def write_report(
    path: Path,
    results: Mapping[str, Any],
    palette: Sequence[Color],
    gallery: Mapping[str, Sequence[Mapping[str, Any]]],
    run: Path | None = None,
) -> None:
    """Writes the page.

    Args:
        path: of the HTML file; replaced as a whole.
        results: content of `scores.json`, see `build_results`.
        palette: RGB colours of its classes.
        gallery: heading to images, each from `pack_image`; the results hold images of these names.
        run: run folder of the weights, for training curves and provenance; None if unknown.
    """
    counts = ImageCounts.from_dict(results["images"])
    miou = dict(zip(counts.names, results["images"]["miou"], strict=True))
    class_iou = dict(zip(counts.names, counts.iou(), strict=True))
    colors = ["#{:02x}{:02x}{:02x}".format(*color) for color in palette]
    data = {
        "classes": [
            {"name": name, "color": color, "pixels": row["pixels"]}
            for (name, row), color in zip(results["classes"].items(), colors, strict=True)
        ],
        "matrix": results["confusion_matrix"],
        "images": [
            {**image, "miou": miou[image["name"]], "iou": [none_if_nan(value) for value in class_iou[image["name"]]]}
            for images in gallery.values()
            for image in images
        ],
    }
    content = page_template("page.html").render(
        results=results,
        colors=colors,
        intervals=class_intervals(counts),
        fewest_images=FEWEST_IMAGES,
        confusions=confusions(results),
        most_printed_classes=MOST_PRINTED_CLASSES,
        gallery=gallery,
        images_worst_first=sorted(
            zip(results["images"]["miou"], counts.names, strict=True), key=lambda row: (row[0] is None, row)
        ),
        training=None if run is None else training_section(run),
        reliability=_reliability(results.get("calibration")),
        data=data,
        style=Markup(page_file("page.css")),
        script=Markup(page_file("page.js")),
    )
    write_text(path, content)


def confusions(results: Mapping[str, Any], limit: int = MOST_CONFUSIONS) -> list[Confusion]:
    """The pairs of classes that cost the most mIoU, highest cost first.

    Args:
        results: content of `scores.json`.
        limit: number of pairs.
    """
    names = list(results["classes"])
    matrix = np.array(results["confusion_matrix"], np.int64)
    support = np.array([row["pixels"] for row in results["classes"].values()], np.int64)
    true_positives, predicted = matrix.diagonal(), matrix.sum(0)
    union = support + predicted - true_positives
    present = int((union > 0).sum())
    if not present:
        return []
    class_iou = np.nan_to_num(iou(true_positives, support - true_positives, predicted - true_positives))
    # Correcting the pixels of cell (t, p) adds true positives to t, whose union stays, and shrinks the union of p. A
    # class p that loses its last pixels is no longer present.
    gain_of_truth = matrix / np.maximum(union, 1)[:, None]
    new_union = union[None, :] - matrix
    gain_of_prediction = np.nan_to_num(ratio(true_positives, new_union)) - class_iou
    new_present = np.maximum(present - (new_union == 0) * (union > 0), 1)
    cost = (class_iou.sum() + gain_of_truth + gain_of_prediction) / new_present - class_iou.sum() / present
    cost[(matrix == 0) | np.eye(len(names), dtype=bool)] = 0
    highest = np.argsort(-cost, axis=None, kind="stable")[:limit]
    pairs = [divmod(int(cell), len(names)) for cell in highest if cost.flat[cell] > 0]
    return [
        Confusion(names[t], names[p], int(matrix[t, p]), float(matrix[t, p] / support[t]), float(cost[t, p]))
        for t, p in pairs
    ]


def training_section(path: Path) -> dict[str, Any]:
    """What the page shows of a run folder.

    Returns:
        `charts` of its log, each an `svg` and its `description`, and `environment`, the content of environment.json;
        or the `problem` that prevents them, a message for the page.
    """
    try:
        run = RunFolder.read(path)
    except UserError as error:
        return {"problem": str(error)}
    charts = []
    for title, key, percent in _CURVES:
        epochs, values = run.curve(key)
        if values:
            svg = line_chart(title, "epoch", {title: (epochs, values)}, "y" if percent else "")
            charts.append({"svg": svg, "description": _describe(title, epochs, values, percent)})
    return {"problem": None, "charts": charts, "environment": run.environment}


def _describe(title: str, epochs: Sequence[int], values: Sequence[float], percent: bool) -> str:
    """A curve in words."""
    first, last, lowest, highest = (
        f"{100 * value:.2f} %" if percent else f"{value:.4g}"
        for value in (values[0], values[-1], min(values), max(values))
    )
    return f"{title}: {first} at epoch {epochs[0]}, {last} at epoch {epochs[-1]}; lowest {lowest}, highest {highest}."


def _reliability(calibration: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The reliability diagram, accuracy by confidence, and its description; None if calibration was not measured."""
    bins = [row for row in calibration["bins"] if row["pixels"]] if calibration else []
    if not bins:
        return None
    points = [row["confidence"] for row in bins], [row["accuracy"] for row in bins]
    series = {"this model": points, "perfect calibration": ((0.0, 1.0), (0.0, 1.0))}
    svg = line_chart("Accuracy by confidence", "confidence", series, percent="xy")
    description = ", ".join(
        f"confidence {100 * c:.0f} %: accuracy {100 * a:.0f} %" for c, a in zip(*points, strict=True)
    )
    return {"svg": svg, "description": f"Accuracy by confidence. {description}."}
