"""`report.html`: one file that shows what a network gets right and wrong, in any browser, without server or network."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from dlaseg.evaluation.metrics.bootstrap import ImageCounts, class_intervals
from dlaseg.files import write_text
from dlaseg.labels import Color

MOST_CONFUSIONS = 8
"""Pairs of classes that are named."""

_CURVES = (("Validation mIoU", "miou", True), ("Training loss", "loss", False), ("Learning rate", "lr", False))
"""Title, field of the log, and whether it is a share."""


@dataclass(frozen=True)
class Confusion:
    """Pixels of one class that are taken for another.

    Attributes:
        truth: the class that they are.
        prediction: the class that they are taken for.
        pixels: how many.
        share: of the class's pixels, 0 to 1.
        cost: by how much the mIoU would be higher if these pixels were right and all others as they are.
    """

    truth: str
    prediction: str
    pixels: int
    share: float
    cost: float


def write_report(
    path: Path,
    record: Mapping[str, Any],
    palette: Sequence[Color],
    gallery: Mapping[str, Sequence[Mapping[str, Any]]],
    run: Path | None = None,
) -> None:
    """Writes the page.

    Args:
        path: of the HTML file; replaced as a whole.
        record: the content of `scores.json`, see `build_results`.
        palette: RGB colours of its classes.
        gallery: heading to images, each from `packed`; their names are among the record's.
        run: the run folder that the weights come from, for curves and provenance; None if it is not known.
    """
    counts = ImageCounts.from_dict(record["images"])
    intervals = dict(zip(record["classes"], class_intervals(counts), strict=True))
    iou = counts.iou()  # (n, C)
    place = {name: i for i, name in enumerate(counts.names)}
    colors = ["#{:02x}{:02x}{:02x}".format(*color) for color in palette]
    data = {
        "classes": [{"name": name, "color": color} for name, color in zip(record["classes"], colors, strict=True)],
        "matrix": record["confusion_matrix"],
        "images": [
            {
                **image,
                "miou": record["images"]["miou"][place[image["name"]]],
                "iou": [None if np.isnan(value) else float(value) for value in iou[place[image["name"]]]],
            }
            for images in gallery.values()
            for image in images
        ],
    }
    parts = files("dlaseg.evaluation.report") / "page"
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": _percent, "command": shlex.join}
    content = environment.from_string((parts / "page.html").read_text(encoding="utf-8")).render(
        record=record,
        rows=_class_rows(record, intervals, colors),
        confusions=confusions(record),
        gallery=gallery,
        listed=sorted(zip(record["images"]["miou"], counts.names, strict=True), key=lambda row: (row[0] is None, row)),
        learnt=None if run is None else learnt(run),
        reliability=_reliability(record.get("calibration")),
        data=data,
        style=Markup((parts / "page.css").read_text(encoding="utf-8")),
        script=Markup((parts / "page.js").read_text(encoding="utf-8")),
    )
    write_text(path, content)


def confusions(record: Mapping[str, Any], most: int = MOST_CONFUSIONS) -> list[Confusion]:
    """The pairs of classes that cost the most mIoU, dearest first.

    Args:
        record: the content of `scores.json`.
        most: pairs.
    """
    names = list(record["classes"])
    matrix = np.array(record["confusion_matrix"], np.int64)
    truth = np.array([row["pixels"] for row in record["classes"].values()], np.int64)
    hits, union = matrix.diagonal(), truth + matrix.sum(0) - matrix.diagonal()
    there = int((union > 0).sum())
    if not there:
        return []
    now = np.divide(hits, union, out=np.zeros(len(names)), where=union > 0)
    # Pixels moved from (t, p) to (t, t): t hits more of the same union, p's union loses them, p is gone with its last
    truths_gain = matrix / np.maximum(union, 1)[:, None]
    left = union[None, :] - matrix
    others_gain = np.divide(hits, left, out=np.zeros(matrix.shape), where=left > 0) - now
    cost = (now.sum() + truths_gain + others_gain) / np.maximum(
        there - (left == 0) * (union > 0), 1
    ) - now.sum() / there
    cost[(matrix == 0) | np.eye(len(names), dtype=bool)] = 0
    dearest = np.argsort(-cost, axis=None, kind="stable")[:most]
    pairs = [divmod(int(cell), len(names)) for cell in dearest if cost.flat[cell] > 0]
    return [
        Confusion(names[t], names[p], int(matrix[t, p]), float(matrix[t, p] / truth[t]), float(cost[t, p]))
        for t, p in pairs
    ]


def learnt(run: Path) -> dict[str, Any]:
    """What a run folder tells of how the weights came to be.

    Returns:
        `charts` of its log and the best epoch; `environment`, the content of environment.json; `problem` where the
        folder holds something else, to be said in the page.
    """
    from dlaseg.evaluation.report.charts import line_chart

    try:
        log = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
        charts = []
        for title, key, percent in _CURVES:
            epochs, values = [row["epoch"] for row in log if row[key] is not None], [row[key] for row in log]
            values = [value for value in values if value is not None]
            if values:
                svg = line_chart(title, "epoch", {title: (epochs, values)}, percent)
                charts.append({"svg": svg, "said": _said(title, epochs, values, percent)})
        kept = {
            key: environment[key] for key in ("command", "python", "platform", "packages", "git_commit", "cpus", "gpus")
        }
        return {"problem": None, "charts": charts, "environment": kept}
    except (OSError, ValueError, KeyError, TypeError) as error:
        return {"problem": f"{run}: no run folder of dlaseg train ({type(error).__name__}: {error})"}


def _said(title: str, x: Sequence[float], y: Sequence[float], percent: bool) -> str:
    """A curve in words."""
    told = [f"{100 * value:.2f} %" if percent else f"{value:.4g}" for value in (y[0], y[-1], min(y), max(y))]
    return f"{title}: {told[0]} at epoch {x[0]}, {told[1]} at epoch {x[-1]}; lowest {told[2]}, highest {told[3]}."


def _class_rows(
    record: Mapping[str, Any], intervals: Mapping[str, tuple[float, float] | None], colors: Sequence[str]
) -> list[dict[str, Any]]:
    """The table of classes, one dict each."""
    total = sum(row["pixels"] for row in record["classes"].values()) or 1
    return [
        {
            "name": name,
            "color": color,
            "iou": row["iou"],
            "interval": intervals[name],
            "accuracy": row["accuracy"],
            "iiou": record["cityscapes"]["classes"][name]["iiou"] if "cityscapes" in record else None,
            "boundary": record["boundary_iou"]["classes"][name] if "boundary_iou" in record else None,
            "share": row["pixels"] / total,
        }
        for (name, row), color in zip(record["classes"].items(), colors, strict=True)
    ]


def _reliability(calibration: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Accuracy against confidence as a chart, if it was measured."""
    if calibration is None:
        return None
    from dlaseg.evaluation.report.charts import line_chart

    bins = [(row["confidence"], row["accuracy"]) for row in calibration["bins"] if row["pixels"]]
    if not bins:
        return None
    sure, right = zip(*bins, strict=True)
    series = {"measured": (sure, right), "as sure as right": ((0.0, 1.0), (0.0, 1.0))}
    said = ", ".join(f"{100 * s:.0f} % sure: {100 * r:.0f} % right" for s, r in bins)
    return {"svg": line_chart("Right, by how sure", "probability of the predicted class", series, True), "said": said}


def _percent(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}"
