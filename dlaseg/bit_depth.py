"""Images of 16 bits per channel, computed in 8."""

import logging
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

DARK = 32
"""Images without a value from here upwards, of 255, are nearly black."""

_told: list[Path] = []


def to_eight_bits(image: NDArray[Any]) -> NDArray[Any]:
    """Scales 16 bits by 255 / 65535, rounded; other types stay as they are."""
    if image.dtype != np.uint16:
        return image
    return ((image.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def tell_if_dark(path: Path, image: NDArray[Any]) -> None:
    """Warns of the first file of 16 bits that holds fewer, in the process that the user started.

    Cameras and scanners of 12 bits write such files; in 8 bits, 16 grey values are left of them. `camvid` has 85.4 mIoU
    instead of 89.8 then, of 10 bits 35.0 (on half of the images of CamVid's val, which it was trained on).

    Args:
        path: of the file.
        image: as it was decoded.
    """
    if image.dtype != np.uint16 or _told or parent_process() is not None:
        return
    largest = int(to_eight_bits(image.max(keepdims=True)).item())
    if 0 < largest < DARK:
        _told.append(path)
        logger.warning(
            "%s: nearly black, no value above %d of 255, as of 12 bits in a 16-bit file: scale the values of all such "
            "files to the whole range, for training as for use", path, largest,
        )  # fmt: skip
