"""Scores label maps that any program wrote, by the Cityscapes benchmark's protocol; needs no torch."""

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
    """Scores a folder of label id maps against the fine annotations of a split: `scores.json` and `report.html`.

    Memory does not grow with the images but for a few numbers of each.

    Args:
        predictions: walked recursively; holds one `CITY_SEQUENCE_FRAME*.png` of label ids for every ground truth.
        root: holds `gtFine/SPLIT/CITY/*_gtFine_labelIds.png` and `*_gtFine_instanceIds.png`; where it holds
            `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png`, too, the page shows these images.
        split: such as val.
        output: folder of the two files.
        workers: threads that decode and count; None for one a core. Changes the speed, never the result.
        measures: further ones, see `MEASURES`; label maps do not tell their calibration.

    Returns:
        The content of `scores.json`.

    Raises:
        UserError: an unknown measure, no ground truth, a prediction that is missing or there twice, a broken file,
            sizes that differ, or an id that the table does not have; names the file.
    """
    check_measures(measures)
    if "calibration" in measures:
        raise UserError(
            "measure 'calibration': label maps do not tell how sure a program was: score weights, or leave it"
        )
    truths = ground_truth(root, split)
    pairs = list(zip(truths, match(truths, predictions), strict=True))
    labels = cityscapes_labels()
    total, of_images = Counts.zero(), []
    boundary = BoundaryIoU(labels.num_classes) if "boundary" in measures else None
    frames = [f"{truth.parent.name}/{truth.name.removesuffix('_gtFine_labelIds.png')}" for truth in truths]
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        try:
            # In order, so that sums of floats do not depend on who was first
            done = pool.map(lambda pair: _count_pair(pair, labels if boundary is not None else None), pairs)
            for counts, contours in tqdm(done, total=len(pairs), unit="img", leave=False, disable=None):
                total += counts
                of_images.append(evaluated_class_counts(counts.confusion))
                if boundary is not None and contours is not None:
                    boundary += contours
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        found = scores(total)
        names, classes, matrix = class_scores(found)
        protocol = {"dataset": "cityscapes", "split": split, "images": len(pairs), "predictions": str(predictions)}
        images = ImageCounts.of(frames, of_images)
        record = build_results(names, classes, matrix, images, protocol, found, boundary)

        def pack(index: int) -> dict[str, Any]:
            return _packed(frames[index], pairs[index], root / "leftImg8bit" / split, labels)

        groups = select_images(record["images"]["miou"])
        gallery = {heading: list(pool.map(pack, indices)) for heading, indices in groups.items()}
    write_report(output / "report.html", record, labels.palette, gallery)
    write_json(output / "scores.json", record)
    return record


def ground_truth(root: Path, split: str) -> list[Path]:
    """The label id maps of a split, sorted.

    Raises:
        UserError: there are none.
    """
    folder = root / "gtFine" / split
    found = sorted(folder.glob("*/*_gtFine_labelIds.png"))
    if not found:
        raise UserError(f"{folder}: holds no CITY/*_gtFine_labelIds.png: give the folder with gtFine/ in it as root")
    return found


def match(truths: Sequence[Path], predictions: Path) -> list[Path]:
    """For every ground truth the one prediction whose name starts with its city, sequence and frame.

    Args:
        truths: files such as `aachen_000000_000019_gtFine_labelIds.png`.
        predictions: a folder, walked recursively.

    Raises:
        UserError: none or several for a ground truth.
    """
    if not predictions.is_dir():
        raise UserError(f"{predictions}: no such folder: give the one with the predicted label maps")
    files = sorted((path.name, path) for path in predictions.rglob("*.png") if path.is_file())
    names = [name for name, _ in files]
    matched = []
    for truth in truths:
        frame = _FRAME.fullmatch(truth.name)
        if frame is None:
            raise UserError(f"{truth}: not named CITY_SEQUENCE_FRAME_gtFine_labelIds.png")
        first = bisect_left(names, frame[1])
        last = first
        while last < len(names) and names[last].startswith(frame[1]):
            last += 1
        if last == first:
            raise UserError(f"{predictions}: no {frame[1]}*.png for {truth.name}: every image is scored: add it")
        if last > first + 1:
            raise UserError(
                f"{files[first][1]} and {files[first + 1][1]}: both match {frame[1]}*.png ({last - first} do): keep one"
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
    """With contours where the label map is given."""
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


def _packed(frame: str, pair: tuple[Path, Path], images: Path, labels: LabelMap) -> dict[str, Any]:
    """An image for the page, without its picture where that is not there."""
    target, prediction = (labels.encode(read_ids(path)) for path in pair)
    picture = images / f"{frame}_leftImg8bit.png"
    image = None
    if picture.exists():
        try:
            image = read_image(picture)
            if image.shape[:2] != target.shape:
                raise UserError(f"{picture}: not of its label map's size")
        except UserError as error:  # the scores need no picture
            logger.warning("%s; the page goes without it", error)
            image = None
    return pack_image(frame, image, target, prediction)
