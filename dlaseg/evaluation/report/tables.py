"""Scores as plain text tables, in per cent; - where there is no value."""

from collections.abc import Mapping, Sequence
from typing import Any

from dlaseg.evaluation.cityscapes.scores import BENCHMARK
from dlaseg.evaluation.metrics.bootstrap import FEWEST_IMAGES, Difference
from dlaseg.text import escaped, padded, percent, width

WORST = 5
"""Number of images that the table lists."""


def scores_table(results: Mapping[str, Any]) -> str:
    """The content of `scores.json` without the confusion matrix.

    Args:
        results: from `build_results`.

    Returns:
        A line per class and the means; on Cityscapes also the categories; then the images with the lowest mIoU.
    """
    classes, cityscapes, boundary = results["classes"], results.get(BENCHMARK), results.get("boundary_iou")
    total = sum(row["pixels"] for row in classes.values()) or 1
    columns: dict[str, tuple[list[float | None], float | None]] = {
        "IoU": ([row["iou"] for row in classes.values()], results["miou"])
    }
    iiou_missing = None if cityscapes is None else cityscapes.get("iiou_missing")
    if cityscapes is not None and iiou_missing is None:
        columns["iIoU"] = (
            [row["iiou"] for row in cityscapes["classes"].values()],
            cityscapes["averages"]["instance_classes"],
        )
    if boundary is not None:
        columns["bound."] = (list(boundary["classes"].values()), boundary["mean"])
    columns["acc."] = ([row["accuracy"] for row in classes.values()], results["mean_accuracy"])
    shares = [f"{row['pixels'] / total:>7.2%}" for row in classes.values()]
    blocks = [_table("class", list(classes), columns, ["pixels", *shares, ""])]
    blocks.append([f"pixel accuracy {percent(results['pixel_accuracy'])}"])
    if (calibration := results.get("calibration")) is not None:
        blocks[-1].append(f"expected calibration error {percent(calibration['expected_calibration_error'])}")
    interval = results["miou_interval"]
    if interval is not None:
        blocks[-1].append(f"95 % bootstrap interval of the mIoU {interval[0] * 100:.2f} to {interval[1] * 100:.2f}")
    else:
        blocks[-1].append(f"no interval of the mIoU: it takes {FEWEST_IMAGES} images with scored pixels")
    if boundary is not None:
        blocks[-1].append(f"bound.: Boundary IoU, contour width {boundary['dilation_ratio']:.0%} of the image diagonal")
    if iiou_missing is not None:
        blocks[-1].append(f"iIoU {iiou_missing}")
    if cityscapes is not None:
        rows = {name: row for name, row in cityscapes["categories"].items() if name != "void" or row["iou"] is not None}
        averages = cityscapes["averages"]
        category_columns = {
            "IoU": ([row["iou"] for row in rows.values()], averages["categories"]),
        }
        if iiou_missing is None:
            values = [row["iiou"] for row in rows.values()]
            category_columns["iIoU"] = (values, averages["instance_categories"])
        blocks.append(_table("category", list(rows), category_columns))
    images = zip(results["images"]["miou"], results["images"]["names"], strict=True)
    worst = sorted((miou, name) for miou, name in images if miou is not None)[:WORST]
    blocks.append(["images with the lowest mIoU", *(f"{percent(miou):>6}  {escaped(name)}" for miou, name in worst)])
    return "\n\n".join("\n".join(block) for block in blocks)


def difference_table(rows: Sequence[Difference]) -> str:
    """IoU of two networks, the difference, its 95 % interval, and the better network where it is significant."""
    names = [escaped(row.name) for row in rows]
    columns = max(map(width, names))
    lines = [f"{'IoU':<{columns}}  {'first':>6}  {'second':>6}  {'diff.':>7}  95 % interval"]
    for name, row in zip((padded(name, columns) for name in names), rows, strict=True):
        difference = ""
        if row.first is not None and row.second is not None:
            difference = f"{100 * (row.second - row.first):>+7.2f}"
            if row.interval is not None:
                low, high = (100 * end for end in row.interval)
                verdict = ("  second is better" if low > 0 else "  first is better") if row.significant else ""
                difference += f"  {low:+.2f} to {high:+.2f}{verdict}"
        lines.append(f"{name}  {percent(row.first):>6}  {percent(row.second):>6}  {difference}".rstrip())
    significant, compared = sum(row.significant for row in rows), sum(row.interval is not None for row in rows)
    few = sum(row.interval is None and row.first is not None and row.second is not None for row in rows)
    conclusion = (
        f"{significant} of {compared} differences are statistically significant (95 % bootstrap interval excludes 0)"
        if compared
        else f"no test of statistical significance: it takes {FEWEST_IMAGES} images with scored pixels"
    )
    if few and compared:
        conclusion += f"; {few} are not tested: their classes occur in fewer than {FEWEST_IMAGES} images"
    return "\n".join([*lines, "", conclusion])


def _table(
    title: str,
    names: Sequence[str],
    columns: Mapping[str, tuple[Sequence[float | None], float | None]],
    last_column: Sequence[str] | None = None,
) -> list[str]:
    """Lines of a table: header, one line per name, mean; `last_column` holds text for each of these lines."""
    names = list(map(escaped, names))
    widest = max(map(width, (title, "mean", *names)))
    lines = [f"{title:<{widest}}" + "".join(f"  {name:>6}" for name in columns)]
    for i, name in enumerate(names):
        lines.append(padded(name, widest) + "".join(f"  {percent(values[i]):>6}" for values, _ in columns.values()))
    lines.append(f"{'mean':<{widest}}" + "".join(f"  {percent(mean):>6}" for _, mean in columns.values()))
    if last_column is not None:
        lines = [f"{line}  {text:>7}".rstrip() for line, text in zip(lines, last_column, strict=True)]
    return lines
