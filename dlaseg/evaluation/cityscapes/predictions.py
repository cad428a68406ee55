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

from dlaseg.data.names import escape_name
from dlaseg.data.sets.cityscapes import annotation_of, cityscapes_labels
from dlaseg.errors import UserError
from dlaseg.evaluation.cityscapes.scores import Counts, class_scores, count, evaluated_class_counts, scores
from dlaseg.evaluation.earlier_scores import check_earlier_scores
from dlaseg.evaluation.metrics.bootstrap import ImageCounts
from dlaseg.evaluation.metrics.boundary import BoundaryIoU
from dlaseg.evaluation.report.gallery import pack_image, select_images
from dlaseg.evaluation.report.report import write_report
from dlaseg.evaluation.results import build_results, check_measures
from dlaseg.files import check_folder, write_json
from dlaseg.images import check_max_pixels, read_image
from dlaseg.label_images import read_ids
from dlaseg.labels import LabelMap
from dlaseg.memory import MAX_PIXELS

logger = logging.getLogger(__name__)

_FRAME = re.compile(r"([^_]+_[^_]+_[^_]+)_.*")


def score_predictions(
    predictions: Path,
    root: Path,
    split: str,
    output: Path,
    workers: int | None = None,
    measures: Sequence[str] = (),
    max_pixels: int = MAX_PIXELS,
    keep_others: bool = False,
) -> dict[str, Any]:
    """Scores a folder of label id maps against the annotations of a split; writes `scores.json` and `report.html`.

    Of each image, only a few numbers stay in memory.

    Args:
        predictions: is searched recursively for one `CITY_SEQUENCE_FRAME*.png` of label ids per ground truth.
        root: folder with `gtFine/SPLIT/CITY/*_gtFine_labelIds.png` and `*_gtFine_instanceIds.png`; without the latter,
            no iIoU is computed. If it has `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png` as well, the report shows these
            images. The coarse annotations of train_extra are in `gtCoarse`.
        split: such as val; train+val is both together.
        output: folder of the two files.
        workers: threads that decode and count; None for one per core. The result does not depend on it.
        measures: optional ones, see `MEASURES`; calibration cannot be measured from label maps.
        max_pixels: larger label maps are refused, see `read_ids`.
        keep_others: see `dlaseg.evaluate`.

    Returns:
        The content of `scores.json`.

    Raises:
        UserError: an unknown measure, an output that cannot be written to, no ground truth, instance maps of some
            images only, a missing or duplicate prediction, a broken file, sizes that differ, or an id that is not in
            the label table; names the file. As `check_earlier_scores`.
    """
    check_measures(measures)
    check_max_pixels(max_pixels)
    check_folder(output)
    if "calibration" in measures:
        raise UserError(
            "measure 'calibration': label maps contain no probabilities: score weights, or leave the measure out"
        )
    truths = ground_truth(root, split)
    pairs = list(zip(truths, match(truths, predictions), strict=True))
    with_instances = has_instances(truths)
    labels = cityscapes_labels()
    total, image_counts = Counts.zero(), []
    boundary = BoundaryIoU(labels.num_classes) if "boundary" in measures else None
    frames = [escape_name(f"{truth.parent.name}/{truth.name.rpartition('_gt')[0]}") for truth in truths]
    protocol = {"dataset": "cityscapes", "split": split, "images": len(pairs), "predictions": str(predictions)}
    if keep_others:
        check_earlier_scores(
            output / "scores.json", protocol, frames, labels, lambda: labels.encode(read_ids(truths[0], max_pixels))
        )
    contoured = labels if boundary is not None else None
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        try:
            # In order, so that sums of floats do not depend on which thread was first
            counted = pool.map(lambda pair: _count_pair(pair, contoured, with_instances, max_pixels), pairs)
            for counts, contours in tqdm(counted, total=len(pairs), unit="img", leave=False, disable=None):
                total += counts
                image_counts.append(evaluated_class_counts(counts.confusion))
                if boundary is not None and contours is not None:
                    boundary += contours
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        _warn_of_train_ids(predictions, total.confusion.sum(0))
        benchmark = scores(total, with_instances)
        names, classes, matrix = class_scores(benchmark)
        images = ImageCounts.of(frames, image_counts)
        results = build_results(names, classes, matrix, images, protocol, benchmark, boundary)

        def pack(index: int) -> dict[str, Any]:
            return _pack(frames[index], pairs[index], root / "leftImg8bit", labels, max_pixels)

        groups = select_images(results["images"]["miou"])
        gallery = {heading: list(pool.map(pack, indices)) for heading, indices in groups.items()}
    write_report(output / "report.html", results, labels.palette, gallery)
    write_json(output / "scores.json", results)
    return results


def _warn_of_train_ids(predictions: Path, pixels: NDArray[np.int64]) -> None:
    """Warns if predictions have the ids of a network's output; label ids from 0 to 6 are of no class that is scored.

    Args:
        predictions: their folder.
        pixels: (34,), predicted pixels of each id.
    """
    ids = np.flatnonzero(pixels)
    if ids.size and ids.min() < 7 and ids.max() < 19:
        logger.warning(
            "%s: ids %d to %d alone, which look like train ids: label ids of classes are 7 to 33: map the predictions "
            "to label ids if so", predictions, ids.min(), ids.max(),
        )  # fmt: skip


def ground_truth(root: Path, split: str) -> list[Path]:
    """The label id maps of a split, or of several that are joined by +, sorted by city and name.

    Raises:
        UserError: no such file in a split, or two of the same name.
    """
    files: dict[tuple[str, str], Path] = {}
    for part in split.split("+"):
        annotation = annotation_of(part)
        folder = root / annotation / part
        found = sorted(folder.glob(f"*/*_{annotation}_labelIds.png"))
        if not found:
            raise UserError(
                f"{folder}: no CITY/*_{annotation}_labelIds.png in it: use the folder that contains {annotation}/ as "
                "root"
            )
        for file in found:
            other = files.setdefault((file.parent.name, file.name), file)
            if other is not file:
                raise UserError(f"{file}: a second file of this name in {split}: use each image once")
    return [files[name] for name in sorted(files)]


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


def has_instances(truths: Sequence[Path]) -> bool:
    """Whether there is an instance map beside every ground truth; without any, IoU can be scored, but not iIoU.

    Args:
        truths: files such as `aachen_000000_000019_gtFine_labelIds.png`.

    Raises:
        UserError: some have one, others have not.
    """
    missing = [file for file in map(instance_file, truths) if not file.exists()]
    if missing and len(missing) < len(truths):
        raise UserError(
            f"{missing[0]}: missing, like {len(missing)} of {len(truths)} instance maps: add them, or remove all "
            "*_instanceIds.png to score without iIoU"
        )
    return not missing


def count_image(
    truth: Path, prediction: NDArray[np.integer], with_instances: bool = True, max_pixels: int = MAX_PIXELS
) -> Counts:
    """Counts a prediction against a ground truth file and the instance file beside it.

    Args:
        truth: `*_gtFine_labelIds.png`.
        prediction: (H, W) label ids.
        with_instances: whether the instance file is read.
        max_pixels: larger files are refused, see `read_ids`.
    """
    return _count(truth, prediction, *_read_truth(truth, with_instances, max_pixels))


def instance_file(truth: Path) -> Path:
    """The instance map beside a ground truth, which need not exist."""
    return truth.with_name(truth.name.replace("labelIds", "instanceIds"))


def _read_truth(
    truth: Path, with_instances: bool, max_pixels: int
) -> tuple[NDArray[np.integer], NDArray[np.integer] | None]:
    """Label ids, and instance ids if wanted."""
    return read_ids(truth, max_pixels), read_ids(instance_file(truth), max_pixels) if with_instances else None


def _count(
    truth: Path, prediction: NDArray[np.integer], ids: NDArray[np.integer], instances: NDArray[np.integer] | None
) -> Counts:
    try:
        return count(ids, prediction, instances)
    except UserError as error:
        raise UserError(f"{truth}: {error}") from error


def _count_pair(
    pair: tuple[Path, Path], labels: LabelMap | None, with_instances: bool, max_pixels: int
) -> tuple[Counts, BoundaryIoU | None]:
    """Counts a pair of ground truth and prediction; contours too if a label map is given."""
    truth, prediction = pair
    ids = read_ids(prediction, max_pixels)
    true_ids, instances = _read_truth(truth, with_instances, max_pixels)
    try:
        counts = _count(truth, ids, true_ids, instances)
    except UserError as error:
        raise UserError(f"{prediction}: against {error}") from error
    if labels is None:
        return counts, None
    boundary = BoundaryIoU(labels.num_classes)
    boundary.update(labels.encode(true_ids), labels.encode(ids))
    return counts, boundary


def _pack(frame: str, pair: tuple[Path, Path], images: Path, labels: LabelMap, max_pixels: int) -> dict[str, Any]:
    """An image of the report; without its picture if the file is missing or broken."""
    target, prediction = (labels.encode(read_ids(path, max_pixels)) for path in pair)
    city = pair[0].parent
    picture = images / city.parent.name / city.name / f"{pair[0].name.rpartition('_gt')[0]}_leftImg8bit.png"
    image = None
    if picture.exists():
        try:
            image = read_image(picture, max_pixels)
            if image.shape[:2] != target.shape:
                raise UserError(f"{picture}: not of the size of its label map")
        except UserError as error:  # the scores do not need the picture
            logger.warning("%s; the report does not show it", error)
            image = None
    return pack_image(frame, image, target, prediction)
