"""From a weights file to `scores.json` and `report.html`."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlaseg.data.datasets import SegmentationDataset
from dlaseg.device import memory_format, pick_device
from dlaseg.evaluation.cityscapes.predictions import count_image
from dlaseg.evaluation.cityscapes.scores import BENCHMARK, Counts
from dlaseg.evaluation.cityscapes.scores import scores as benchmark_scores
from dlaseg.evaluation.evaluator import ScoredImage, evaluate
from dlaseg.evaluation.metrics.bootstrap import ImageCounts
from dlaseg.evaluation.metrics.boundary import BoundaryIoU
from dlaseg.evaluation.metrics.calibration import Calibration
from dlaseg.evaluation.metrics.confusion import class_counts
from dlaseg.evaluation.report.gallery import pack_image, select_images
from dlaseg.evaluation.report.report import write_report
from dlaseg.evaluation.results import build_results, check_measures
from dlaseg.factory import load_model
from dlaseg.files import sha256, write_json
from dlaseg.run_folder import LOG


def score(
    weights: Path,
    dataset: SegmentationDataset,
    output: Path,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    workers: int = 1,
    device: str = "auto",
    measures: Sequence[str] = (),
) -> dict[str, Any]:
    """Scores weights on a split and writes `scores.json` and `report.html`.

    Memory does not grow with the images but for a few numbers of each; the dozen that the page shows is predicted
    again.

    Args:
        weights: a `.safetensors` file. Where a training log stands beside it, the page has its curves.
        dataset: the split, with the weights' classes.
        output: folder of the files.
        scales: see `evaluate`.
        flip: see `evaluate`.
        workers: processes that read images.
        device: see `pick_device`.
        measures: further ones, see `MEASURES`.

    Raises:
        UserError: an unknown measure, and as `evaluate`.

    Returns:
        The content of `scores.json`.
    """
    check_measures(measures)
    boundary = BoundaryIoU(dataset.label_map.num_classes) if "boundary" in measures else None
    calibration = Calibration() if "calibration" in measures else None
    counts = Counts.zero() if dataset.benchmark == BENCHMARK else None
    place = pick_device(device)
    model = load_model(weights, place).to(memory_format=memory_format(place))
    of_images: list[NDArray[np.int64]] = []

    def look(scored: ScoredImage) -> None:
        nonlocal counts
        of_images.append(class_counts(scored.confusion))
        if boundary is not None:
            boundary.update(scored.target, scored.prediction)
        if calibration is not None and scored.confidence is not None:
            calibration.update(scored.target, scored.prediction, scored.confidence)
        if counts is not None:
            label_ids = dataset.label_map.decode(scored.prediction)
            counts += count_image(dataset.label_file(scored.index), label_ids)

    confusion = evaluate(model, dataset, workers, scales, flip, on_image=look, confidence=calibration is not None)
    protocol = {
        "dataset": dataset.name,
        "split": dataset.split,
        "images": len(dataset),
        "scales": list(scales),
        "flip": flip,
        "model": dict(model.metadata.architecture),
        "weights_sha256": sha256(weights),
        "weights_origin": [asdict(origin) for origin in model.metadata.origin],
    }
    record = build_results(
        dataset.label_map.names,
        confusion.scores(),
        confusion.matrix,
        ImageCounts.of([pair.name for pair in dataset.pairs], of_images),
        protocol,
        None if counts is None else benchmark_scores(counts),
        boundary,
        calibration,
    )
    groups = select_images(record["images"]["miou"])
    gallery: dict[str, list[dict[str, Any]]] = {}
    for heading, indices in groups.items():
        pairs = tuple(dataset.pairs[i] for i in indices)
        images: list[dict[str, Any]] = []
        gallery[heading] = images

        def pack(scored: ScoredImage, pairs: Any = pairs, images: Any = images) -> None:
            images.append(pack_image(pairs[scored.index].name, scored.image, scored.target, scored.prediction))

        evaluate(model, replace(dataset, pairs=pairs), 0, scales, flip, on_image=pack)
    run = weights.parent if (weights.parent / LOG).exists() else None
    write_report(output / "report.html", record, dataset.label_map.palette, gallery, run)
    write_json(output / "scores.json", record)
    return record
