"""Training and validation images: a pool that is divided into both, and the check that they have no image in common."""

import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from filecmp import cmp
from pathlib import Path

from dlaseg.data.names import abbreviated
from dlaseg.data.pairs import SegmentationDataset
from dlaseg.errors import UserError

logger = logging.getLogger(__name__)

MOST_COPIES = 0.1
"""Share of the validation images from which on copies of training images are an error."""


def divide(
    pool: SegmentationDataset, val_share: float, seed: int, val_names: Collection[str] | None = None
) -> tuple[SegmentationDataset, SegmentationDataset]:
    """Divides a pool into a training and a validation split.

    The order that decides is that of the hashes of seed and name, so it depends on nothing else, and most images stay
    in their split when others are added.

    Args:
        pool: all images.
        val_share: share of the validation split, between 0 and 1; rounded to whole images, at least 1 in each split.
        seed: another seed gives another division.
        val_names: the names of the validation images, if they have been drawn before; all others are for training.

    Raises:
        UserError: fewer than two images, or nothing left for one of the splits.
    """
    names = [pair.name for pair in pool.pairs]
    if len(names) < 2:
        raise UserError(f"data.val_share {val_share}: there is only {len(names)} image to divide: add images")
    if val_names is None:
        count = min(max(1, round(val_share * len(names))), len(names) - 1)
        val_names = sorted(names, key=lambda name: _digest(seed, name))[:count]
    chosen = set(val_names)
    training = tuple(pair for pair in pool.pairs if pair.name not in chosen)
    validation = tuple(pair for pair in pool.pairs if pair.name in chosen)
    remedy = "or start a new run in another --output"
    if not validation:
        raise UserError(
            f"none of the {len(chosen)} validation images ({abbreviated(chosen)}) exists any more: restore them, "
            f"{remedy}"
        )
    if not training:
        raise UserError(
            f"no training image exists any more: all {len(validation)} images ({abbreviated(chosen & set(names))}) are "
            f"validation images: restore the others, {remedy}"
        )
    return (
        replace(pool, pairs=training, split=f"{pool.split}-train"),
        replace(pool, pairs=validation, split=f"{pool.split}-val"),
    )


def _digest(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest()


def check_no_common_image(training: SegmentationDataset, validation: SegmentationDataset) -> None:
    """Checks that no file is in both splits, also not by another path of symbolic links.

    Raises:
        UserError: names the first images that are.
    """
    trained_on = {os.path.realpath(pair.image) for pair in training.pairs}
    common = [pair for pair in validation.pairs if os.path.realpath(pair.image) in trained_on]
    if common:
        raise UserError(
            f"{common[0].image}: in the training and in the validation split ({len(common)} in all: "
            f"{abbreviated([pair.name for pair in common])}): a score on images that were trained on is too high: "
            "divide the images by data.val_share 0.1 or by lists, data.train_list and data.val_list"
        )


def check_no_copies(training: SegmentationDataset, validation: SegmentationDataset) -> None:
    """Looks for validation images whose files equal a training image's, byte by byte; logs a warning of a few.

    Raises:
        UserError: more than a tenth of the validation images are copies.
    """
    by_size: dict[int, list[Path]] = defaultdict(list)
    for pair in training.pairs:
        with suppress(OSError):  # reading the file will say what is wrong with it
            by_size[pair.image.stat().st_size].append(pair.image)
    beginnings: dict[int, dict[bytes, list[Path]]] = {}
    copies: dict[Path, Path] = {}
    for image in (pair.image for pair in validation.pairs):
        with suppress(OSError):
            size = image.stat().st_size
            if size not in by_size:
                continue
            if size not in beginnings:  # of files without compression, all have one size
                beginnings[size] = _by_beginning(by_size[size])
            candidates = beginnings[size].get(_beginning(image), ())
            if (same := next((path for path in candidates if cmp(image, path, shallow=False)), None)) is not None:
                copies[image] = same
    if not copies:
        return
    count, (image, first) = len(copies), next(iter(copies.items()))
    message = (
        f"{image}: a copy of the training image {first} ({count} of {len(validation)} validation images are "
        "copies: a score on images that were trained on is too high): remove them from one split, `dlaseg data check` "
        "lists them"
    )
    if count > MOST_COPIES * len(validation):
        raise UserError(message)
    logger.warning("%s", message)


def _by_beginning(paths: Collection[Path]) -> dict[bytes, list[Path]]:
    found: dict[bytes, list[Path]] = defaultdict(list)
    for path in paths:
        with suppress(OSError):
            found[_beginning(path)].append(path)
    return found


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)
