"""From a weights file to `scores.json` and a contact sheet."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dlaseg.data.datasets import SegmentationDataset
from dlaseg.errors import UserError
from dlaseg.evaluation.bootstrap import ImageCounts
from dlaseg.evaluation.boundary import BoundaryIoU
from dlaseg.evaluation.calibration import Calibration
from dlaseg.evaluation.cityscapes import Counts
from dlaseg.evaluation.cityscapes import scores as benchmark_scores
from dlaseg.evaluation.evaluator import ScoredImage, evaluate
from dlaseg.evaluation.predictions import count_image
from dlaseg.evaluation.record import benchmark_table, boundary_table, images_table, score_table, scores_record
from dlaseg.evaluation.sheet import Row, contact_sheet
from dlaseg.files import sha256, write_json
from dlaseg.models.device import memory_format, pick_device
from dlaseg.models.factory import load_model

MEASURES = ("boundary", "calibration")
"""What `score` measures on demand."""

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
    measures: Sequence[str] = (),
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
        measures: further ones, which take time of their own: `boundary`
            and `calibration`, see the modules of these names.

    Raises:
        UserError: an unknown measure, and as `evaluate`.

    Returns:
        The table of the classes' scores, on Cityscapes followed by the benchmark's own.
    """
    for measure in measures:
        if measure not in MEASURES:
            raise UserError(f"measure {measure!r}: unknown; use one of {', '.join(MEASURES)}")
    boundary = BoundaryIoU(dataset.label_map.num_classes) if "boundary" in measures else None
    calibration = Calibration() if "calibration" in measures else None
    place = pick_device(device)
    model = load_model(weights, place).to(memory_format=memory_format(place))
    shown = set(np.linspace(0, len(dataset) - 1, SHEET_ROWS).round().astype(int).tolist())
    rows: list[Row] = []

    counts = Counts.none() if dataset.name == "cityscapes" else None

    matrices: list[NDArray[np.int64]] = []

    def look(scored: ScoredImage) -> None:
        nonlocal counts
        matrices.append(scored.confusion)
        if boundary is not None:
            boundary.update(scored.target, scored.prediction)
        if calibration is not None and scored.confidence is not None:
            calibration.update(scored.target, scored.prediction, scored.confidence)
        if scored.index in shown:
            rows.append((scored.image, scored.target, scored.prediction))
        if counts is not None:
            label_ids = dataset.label_map.decode(scored.prediction)
            counts += count_image(dataset.pairs[scored.index].label, label_ids)

    confusion = evaluate(model, dataset, workers, scales, flip, on_image=look, confidence=calibration is not None)
    benchmark = None if counts is None else benchmark_scores(counts)
    protocol = {
        "dataset": dataset.name,
        "split": dataset.split,
        "images": len(dataset),
        "scales": list(scales),
        "flip": flip,
        "weights_sha256": sha256(weights),
        "weights_origin": model.origin,
    }
    images = ImageCounts.of([pair.name for pair in dataset.pairs], matrices)
    names, scores = dataset.label_map.names, confusion.scores()
    record = scores_record(names, scores, confusion.matrix, images, protocol, benchmark)
    if boundary is not None:
        record["boundary_iou"] = boundary.to_dict(names)
    if calibration is not None:
        record["calibration"] = calibration.to_dict()
    miou = "-" if record["miou"] is None else f"{record['miou']:.4f}"
    contact_sheet(
        output / "sheet.png",
        rows,
        dataset.label_map,
        f"{dataset.name} {dataset.split}, {len(dataset)} images: mIoU {miou}",
    )
    write_json(output / "scores.json", record)
    table = f"{score_table(names, scores)}\n\n{images_table(images)}"
    if boundary is not None:
        table += f"\n\n{boundary_table(boundary.to_dict(names))}"
    if calibration is not None:
        error = calibration.error()
        table += f"\n\nexpected calibration error: {'-' if error is None else f'{error:.2%}'}"
    return table if benchmark is None else f"{table}\n\n{benchmark_table(benchmark)}"
