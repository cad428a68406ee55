"""From a weights file to `scores.json` and `report.html`."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlaseg.config.checks import check_workers
from dlaseg.data.datasets import SegmentationDataset
from dlaseg.data.label_check import OnMissingClass, check_labels, check_on_missing_class, has_own_classes
from dlaseg.data.names import escape_name
from dlaseg.data.statistics import statistics
from dlaseg.device import own_defaults
from dlaseg.errors import UserError
from dlaseg.evaluation.cityscapes.predictions import count_image, has_instances
from dlaseg.evaluation.cityscapes.scores import BENCHMARK, Counts
from dlaseg.evaluation.cityscapes.scores import scores as benchmark_scores
from dlaseg.evaluation.earlier_scores import check_earlier_scores
from dlaseg.evaluation.evaluator import ScoredImage, evaluate_predictor
from dlaseg.evaluation.metrics.bootstrap import ImageCounts
from dlaseg.evaluation.metrics.boundary import BoundaryIoU
from dlaseg.evaluation.metrics.calibration import Calibration
from dlaseg.evaluation.metrics.confusion import class_counts
from dlaseg.evaluation.report.gallery import pack_image, select_images
from dlaseg.evaluation.report.report import write_report
from dlaseg.evaluation.results import build_results, check_measures
from dlaseg.evaluation.trained_on import images_of_training
from dlaseg.files import check_folder, write_json
from dlaseg.inference.backends.exported import exported_sha256
from dlaseg.inference.network import open_network, stretch
from dlaseg.inference.predictor import Predictor
from dlaseg.run_folder import LOG
from dlaseg.weights.download import resolve

logger = logging.getLogger(__name__)


@own_defaults()
def evaluate(
    weights: str | Path,
    dataset: SegmentationDataset,
    output: str | Path,
    scales: Sequence[float] | None = None,
    flip: bool = False,
    workers: int = 1,
    device: str = "auto",
    measures: Sequence[str] = (),
    precision: str = "float32",
    on_missing_class: OnMissingClass | None = None,
    backend: str | None = None,
    padding: str = "mirror",
    max_memory: int | None = None,
    max_short_side: int | None = None,
    keep_others: bool = False,
) -> dict[str, Any]:
    """Scores weights on a split and writes `scores.json` and `report.html`.

    Of each image, only a few numbers stay in memory; the dozen images that the report shows are predicted again.

    Args:
        weights: a file, a folder or a hub name. If the file is in a run folder, the report has its training curves.
        dataset: the split, with the weights' classes.
        output: folder of the files.
        scales: see `Predictor`.
        flip: see `Predictor`.
        workers: processes that read images.
        device: see `Predictor`.
        measures: optional ones, see `MEASURES`.
        precision: see `Predictor`; with others than float32 the scores change in the last digits.
        on_missing_class: what follows if label maps of the user's own classes look misread, see `check_labels`; None if
            they have been checked.
        backend: see `Predictor`.
        padding: to sizes that the network's strides need: `mirror`, or `stretch` to multiples of 128, see `stretch`.
        max_memory: see `Predictor`; scores of images in tiles may differ.
        max_short_side: see `Predictor`.
        keep_others: whether scores of something else in `output` are an error, see `check_earlier_scores`; otherwise
            they are replaced.

    Returns:
        The content of `scores.json`.

    Raises:
        UserError: a wrong value, no images, an output that cannot be written to, instance maps of some images only,
            and as `Predictor`, `check_earlier_scores`, `check_labels` and `evaluate_predictor`.
    """
    check_measures(measures)
    check_workers("workers", workers)
    check_on_missing_class(on_missing_class)
    if not isinstance(dataset, SegmentationDataset):
        raise UserError(f"dataset of type {type(dataset).__name__}: use what dlaseg.open_dataset returns")
    if not dataset.pairs:
        raise UserError(f"{dataset.name} {dataset.split}: no images: use a split that has some")
    if padding not in ("mirror", "stretch"):
        raise UserError(f"padding {padding!r}: unknown: use mirror or stretch")
    output = Path(output)
    check_folder(output)
    boundary = BoundaryIoU(dataset.label_map.num_classes) if "boundary" in measures else None
    calibration = Calibration() if "calibration" in measures else None
    counts, with_instances = None, False
    if dataset.benchmark == BENCHMARK:
        dataset.require_labels()
        with_instances = has_instances([dataset.label_file(index) for index in range(len(dataset))])
        counts = Counts.zero()
    file = resolve(weights)
    network = stretch(open_network(file)) if padding == "stretch" else file
    predictor = Predictor(
        network, backend, device, precision, scales, flip, max_memory=max_memory, max_short_side=max_short_side
    )
    if calibration is not None:
        predictor.check_gives_logits("calibration needs")
    protocol = {
        "dataset": dataset.name,
        "split": dataset.split,
        "images": len(dataset),
        "scales": list(predictor.scales),
        "flip": flip,
        "backend": predictor.backend.name,
        "precision": predictor.backend.precision,
        "model": dict(predictor.metadata.architecture),
        "weights_sha256": exported_sha256(file),
        **({"padding": padding} if padding != "mirror" else {}),
        **({} if predictor.max_short_side is None else {"max_short_side": predictor.max_short_side}),
    }
    names = [escape_name(pair.name) for pair in dataset.pairs]
    if keep_others:  # not before: only the predictor knows what `auto` becomes
        path = output / "scores.json"
        check_earlier_scores(path, protocol, names, dataset.label_map, lambda: dataset.read(0)[1], file)
    image_counts: list[NDArray[np.int64]] = []
    # The ids of built-in data sets are fixed, and the scores name classes that do not occur: no need to read all twice
    if on_missing_class is not None and has_own_classes(dataset):
        check_labels(dataset, statistics(dataset), False, on_missing_class, "--on-missing-class")

    def on_image(scored: ScoredImage) -> None:
        nonlocal counts
        image_counts.append(class_counts(scored.confusion))
        if boundary is not None:
            boundary.update(scored.target, scored.prediction)
        if calibration is not None and scored.confidence is not None:
            calibration.update(scored.target, scored.prediction, scored.confidence)
        if counts is not None:
            label_ids = dataset.label_map.decode(scored.prediction)
            counts += count_image(dataset.label_file(scored.index), label_ids, with_instances, dataset.max_pixels)

    trained_on = images_of_training(file, dataset)
    if trained_on is not None:
        split = f"{dataset.name} {dataset.split}"
        logger.warning(
            "%s: %s %s: the scores are too high: score a split that was held out", weights, split, trained_on
        )
    confusion = evaluate_predictor(predictor, dataset, workers, on_image=on_image, confidence=calibration is not None)
    protocol |= {
        **({"tiled": True} if predictor.tiled else {}),
        **({"trained_on": True} if trained_on is not None else {}),
        "weights_origin": [asdict(origin) for origin in predictor.metadata.origin],
    }
    results = build_results(
        dataset.label_map.names,
        confusion.scores(),
        confusion.matrix,
        ImageCounts.of(names, image_counts),
        protocol,
        None if counts is None else benchmark_scores(counts, with_instances),
        boundary,
        calibration,
    )
    groups = select_images(results["images"]["miou"])
    gallery: dict[str, list[dict[str, Any]]] = {}
    for heading, indices in groups.items():
        pairs = tuple(dataset.pairs[i] for i in indices)
        images: list[dict[str, Any]] = []
        gallery[heading] = images

        def pack(scored: ScoredImage, pairs: Any = pairs, images: Any = images) -> None:
            name = escape_name(pairs[scored.index].name)
            images.append(pack_image(name, scored.image, scored.target, scored.prediction))

        evaluate_predictor(predictor, replace(dataset, pairs=pairs), on_image=pack)
    run = file.parent if (file.parent / LOG).exists() else None
    write_report(output / "report.html", results, dataset.label_map.palette, gallery, run)
    write_json(output / "scores.json", results)
    return results
