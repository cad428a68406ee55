"""From a weights file to `scores.json` and a contact sheet."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dlaseg.data.datasets import SegmentationDataset
from dlaseg.evaluation.evaluator import evaluate
from dlaseg.evaluation.record import score_table, scores_record
from dlaseg.evaluation.sheet import Row, contact_sheet
from dlaseg.files import write_json
from dlaseg.models.device import memory_format, pick_device
from dlaseg.models.factory import load_model

SHEET_ROWS = 6
"""Images on the contact sheet, spread evenly over the split."""


def score(
    weights: Path,
    dataset: SegmentationDataset,
    output: Path,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    workers: int = 1,
    device: str = "auto",
) -> str:
    """Scores weights on a split and writes `scores.json` and `sheet.png`.

    Args:
        weights: a `.safetensors` file.
        dataset: the split, with the weights' classes.
        output: folder of the two files.
        scales: see `evaluate`.
        flip: see `evaluate`.
        workers: processes that read images.
        device: see `pick_device`.

    Returns:
        The table of the classes' scores.
    """
    place = pick_device(device)
    model = load_model(weights, place).to(memory_format=memory_format(place))
    shown = set(np.linspace(0, len(dataset) - 1, SHEET_ROWS).round().astype(int).tolist())
    rows: list[Row] = []

    def keep(index: int, *row: np.ndarray) -> None:
        if index in shown:
            rows.append(row)  # type: ignore[arg-type]

    confusion = evaluate(model, dataset, workers, scales, flip, on_image=keep)
    record = scores_record(confusion, dataset, weights, model.origin, scales, flip)
    miou = "-" if record["miou"] is None else f"{record['miou']:.4f}"
    contact_sheet(
        output / "sheet.png",
        rows,
        dataset.label_map,
        f"{dataset.name} {dataset.split}, {len(dataset)} images: mIoU {miou}",
    )
    write_json(output / "scores.json", record)
    return score_table(dataset.label_map.names, confusion.scores())
