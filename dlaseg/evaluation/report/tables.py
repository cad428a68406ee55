"""Scores as tables for people, in per cent; - where there is nothing to divide by."""

from collections.abc import Mapping, Sequence
from typing import Any

from dlaseg.evaluation.metrics.bootstrap import Difference

WORST = 5
"""Images that are named."""


def scores_table(record: Mapping[str, Any]) -> str:
    """What `scores.json` says, but for the confusion matrix.

    Args:
        record: from `build_results`.

    Returns:
        A line for each class, the means below; on Cityscapes the categories, too; then the worst images.
    """
    classes, benchmark, boundary = record["classes"], record.get("cityscapes"), record.get("boundary_iou")
    total = sum(row["pixels"] for row in classes.values()) or 1
    columns: dict[str, tuple[list[float | None], float | None]] = {
        "IoU": ([row["iou"] for row in classes.values()], record["miou"])
    }
    if benchmark is not None:
        columns["iIoU"] = (
            [row["iiou"] for row in benchmark["classes"].values()],
            benchmark["averages"]["instance_classes"],
        )
    if boundary is not None:
        columns["bound."] = (list(boundary["classes"].values()), boundary["mean"])
    columns["acc."] = ([row["accuracy"] for row in classes.values()], record["mean_accuracy"])
    shares = [f"{row['pixels'] / total:>7.2%}" for row in classes.values()]
    blocks = [_rows("class", list(classes), columns, ["pixels", *shares, ""])]
    blocks.append([f"pixel accuracy {_percent(record['pixel_accuracy']).strip()}"])
    if (calibration := record.get("calibration")) is not None:
        blocks[-1].append(f"expected calibration error {_percent(calibration['expected_calibration_error']).strip()}")
    interval = record["miou_interval"]
    middle = "-" if interval is None else f"{interval[0] * 100:.2f} to {interval[1] * 100:.2f}"
    blocks[-1].append(f"95 % interval of the mIoU over images {middle}")
    if boundary is not None:
        blocks[-1].append(f"bound.: Boundary IoU, contours {boundary['dilation_ratio']:.0%} of the diagonal wide")
    if benchmark is not None:
        rows = {name: row for name, row in benchmark["categories"].items() if name != "void" or row["iou"] is not None}
        pair = {
            "IoU": ([row["iou"] for row in rows.values()], benchmark["averages"]["categories"]),
            "iIoU": ([row["iiou"] for row in rows.values()], benchmark["averages"]["instance_categories"]),
        }
        blocks.append(_rows("category", list(rows), pair))
    images = zip(record["images"]["miou"], record["images"]["names"], strict=True)
    worst = sorted((miou, name) for miou, name in images if miou is not None)[:WORST]
    blocks.append(["worst images, by their own mIoU", *(f"{_percent(miou)}  {name}" for miou, name in worst)])
    return "\n\n".join("\n".join(block) for block in blocks)


def difference_table(rows: Sequence[Difference]) -> str:
    """IoU of two networks, the difference and its 95 % interval; who is better where that leaves out 0."""
    width = max(len(row.name) for row in rows)
    lines = [f"{'IoU':<{width}}  {'first':>6}  {'second':>6}  {'differ':>7}  95 % interval"]
    for row in rows:
        told = ""
        if row.first is not None and row.second is not None and row.interval is not None:
            low, high = (100 * end for end in row.interval)
            verdict = ("  second is better" if low > 0 else "  first is better") if row.significant else ""
            told = f"{100 * (row.second - row.first):>+7.2f}  {low:+.2f} to {high:+.2f}{verdict}"
        lines.append(f"{row.name:<{width}}  {_percent(row.first)}  {_percent(row.second)}  {told}".rstrip())
    beyond, compared = sum(row.significant for row in rows), sum(row.interval is not None for row in rows)
    return "\n".join(
        [*lines, "", f"{beyond} of {compared} differences are more than chance: their interval leaves out 0"]
    )


def _rows(
    title: str,
    names: Sequence[str],
    columns: Mapping[str, tuple[Sequence[float | None], float | None]],
    last: Sequence[str] | None = None,
) -> list[str]:
    """Lines of a table: the heads, a line for each name, the mean; `last` is a column of words for all of these."""
    width = max(len(name) for name in (title, "mean", *names))
    lines = [f"{title:<{width}}" + "".join(f"  {name:>6}" for name in columns)]
    for i, name in enumerate(names):
        lines.append(f"{name:<{width}}" + "".join(f"  {_percent(values[i])}" for values, _ in columns.values()))
    lines.append(f"{'mean':<{width}}" + "".join(f"  {_percent(value)}" for _, value in columns.values()))
    if last is not None:
        lines = [f"{line}  {word:>7}".rstrip() for line, word in zip(lines, last, strict=True)]
    return lines


def _percent(value: float | None) -> str:
    return f"{'-':>6}" if value is None else f"{value * 100:>6.2f}"
