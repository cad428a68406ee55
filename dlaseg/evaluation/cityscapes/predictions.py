"""Scores label maps of any program by the Cityscapes benchmark's protocol; does not import torch."""

import logging
import os
import re
from bisect import bisect_left
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dlaseg.data.sets.cityscapes import cityscapes_labels
from dlaseg.errors import UserError
from dlaseg.evaluation.cityscapes.scores import Counts, class_scores, count, evaluated_class_counts, scores
from dlaseg.evaluation.metrics.bootstrap import ImageCounts
from dlaseg.evaluation.metrics.boundary import BoundaryIoU
from dlaseg.evaluation.report.gallery import pack_image, select_images
from dlaseg.evaluation.report.report import write_report
from dlaseg.evaluation.results import build_results, check_measures
from dlaseg.files import write_json
from dlaseg.images import read_ids, read_image
from dlaseg.labels import LabelMap

logger = logging.getLogger(__name__)

_FRAME = re.compile(r"([^_]+_[^_]+_[^_]+)_.*")


def score_predictions(
    predictions: Path,
    root: Path,
    split: str,
    output: Path,
    workers: int | None = None,
    measures: Sequence[str] = (),
) -> dict[str, Any]:
    """Scores a folder of label id maps against the fine annotations of a split; writes `scores.json` and `report.html`.

    Of each image, only a few numbers stay in memory.

    Args:
        predictions: is searched recursively for one `CITY_SEQUENCE_FRAME*.png` of label ids per ground truth.
        root: folder with `gtFine/SPLIT/CITY/*_gtFine_labelIds.png` and `*_gtFine_instanceIds.png`. If it has
            `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png` as well, the report shows these images.
        split: such as val.
        output: folder of the two files.
        workers: threads that decode and count; None for one per core. The result does not depend on it.
        measures: optional ones, see `MEASURES`; calibration cannot be measured from label maps.

    Returns:
        The content of `scores.json`.

    Raises:
        UserError: an unknown measure, no ground truth, a missing or duplicate prediction, a broken file, sizes that
            differ, or an id that is not in the label table; names the file.
    """
    check_measures(measures)
    if "calibration" in measures:
        raise UserError(
            "measure 'calibration': label maps contain no probabilities: score weights, or leave the measure out"
        )
    truths = ground_truth(root, split)
    pairs = list(zip(truths, match(truths, predictions), strict=True))
    labels = cityscapes_labels()
    total, image_counts = Counts.zero(), []
    boundary = BoundaryIoU(labels.num_classes) if "boundary" in measures else None
    frames = [f"{truth.parent.name}/{truth.name.removesuffix('_gtFine_labelIds.png')}" for truth in truths]
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        try:
            # In order, so that sums of floats do not depend on which thread was first
            counted = pool.map(lambda pair: _count_pair(pair, labels if boundary is not None else None), pairs)
            for counts, contours in tqdm(counted, total=len(pairs), unit="img", leave=False, disable=None):
                total += counts
                image_counts.append(evaluated_class_counts(counts.confusion))
                if boundary is not None and contours is not None:
                    boundary += contours
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        benchmark = scores(total)
        names, classes, matrix = class_scores(benchmark)
        protocol = {"dataset": "cityscapes", "split": split, "images": len(pairs), "predictions": str(predictions)}
        images = ImageCounts.of(frames, image_counts)
        results = build_results(names, classes, matrix, images, protocol, benchmark, boundary)

        def pack(index: int) -> dict[str, Any]:
            return _pack(frames[index], pairs[index], root / "leftImg8bit" / split, labels)

        groups = select_images(results["images"]["miou"])
        gallery = {heading: list(pool.map(pack, indices)) for heading, indices in groups.items()}
    write_report(output / "report.html", results, labels.palette, gallery)
    write_json(output / "scores.json", results)
    return results


def ground_truth(root: Path, split: str) -> list[Path]:
    """The label id maps of a split, sorted.

    Raises:
        UserError: no such file.
    """
    folder = root / "gtFine" / split
    files = sorted(folder.glob("*/*_gtFine_labelIds.png"))
    if not files:
        raise UserError(f"{folder}: no CITY/*_gtFine_labelIds.png in it: use the folder that contains gtFine/ as root")
    return files


def match(truths: Sequence[Path], predictions: Path) -> list[Path]:
    """Finds the prediction of every ground truth: the file whose name starts with the same city, sequence and frame.

    Args:
        truths: files such as `aachen_000000_000019_gtFine_labelIds.png`.
        predictions: a folder, searched recursively.

    Raises:
        UserError: none or several predictions of a ground truth.
    """
    if not predictions.is_dir():
        raise UserError(f"{predictions}: no such folder: use the folder of the predicted label maps")
    files = sorted((path.name, path) for path in predictions.rglob("*.png") if path.is_file())
    names = [name for name, _ in files]
    matched = []
    for truth in truths:
        frame = _FRAME.fullmatch(truth.name)
        if frame is None:
            raise UserError(
                f"{truth}: the name is not CITY_SEQUENCE_FRAME_gtFine_labelIds.png: rename or remove the file"
            )
        first = bisect_left(names, frame[1])
        last = first
        while last < len(names) and names[last].startswith(frame[1]):
            last += 1
        if last == first:
            raise UserError(
                f"{predictions}: no {frame[1]}*.png for {truth.name}: every image needs a prediction: add it"
            )
        if last > first + 1:
            raise UserError(
                f"{files[first][1]} and {files[first + 1][1]}: {last - first} files match {frame[1]}*.png: keep one"
            )
        matched.append(files[first][1])
    return matched


def count_image(truth: Path, prediction: NDArray[np.integer]) -> Counts:
    """Counts a prediction against a ground truth file and the instance file beside it.

    Args:
        truth: `*_gtFine_labelIds.png`.
        prediction: (H, W) label ids.
    """
    ids, instances = read_ids(truth), read_ids(truth.with_name(truth.name.replace("labelIds", "instanceIds")))
    try:
        return count(ids, prediction, instances)
    except UserError as error:
        raise UserError(f"{truth}: {error}") from error


def _count_pair(pair: tuple[Path, Path], labels: LabelMap | None) -> tuple[Counts, BoundaryIoU | None]:
    """Counts a pair of ground truth and prediction; contours too if a label map is given."""
    truth, prediction = pair
    ids = read_ids(prediction)
    try:
        counts = count_image(truth, ids)
    except UserError as error:
        raise UserError(f"{prediction}: against {error}") from error
    if labels is None:
        return counts, None
    boundary = BoundaryIoU(labels.num_classes)
    boundary.update(labels.encode(read_ids(truth)), labels.encode(ids))
    return counts, boundary


def _pack(frame: str, pair: tuple[Path, Path], images: Path, labels: LabelMap) -> dict[str, Any]:
    """An image of the report; without its picture if the file is missing or broken."""
    target, prediction = (labels.encode(read_ids(path)) for path in pair)
    picture = images / f"{frame}_leftImg8bit.png"
    image = None
    if picture.exists():
        try:
            image = read_image(picture)
            if image.shape[:2] != target.shape:
                raise UserError(f"{picture}: not of the size of its label map")
        except UserError as error:  # the scores do not need the picture
            logger.warning("%s; the report does not show it", error)
            image = None
    return pack_image(frame, image, target, prediction)
