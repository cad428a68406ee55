"""The stored values of label maps: whether they are such, what each means by a table, and where one is unknown."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dlaseg.errors import UserError


def check_stored(labels: NDArray[Any]) -> None:
    """Checks type and shape of stored labels: a cast would make others' values wrong ones in silence."""
    what = f"label map of shape {labels.shape}, {labels.dtype}"
    if labels.dtype.kind not in "iub":
        raise UserError(f"{what}: ids are integers: use an integer type, and resize label maps by nearest neighbours")
    if labels.ndim != 2 and (labels.ndim != 3 or labels.shape[2] != 3):
        raise UserError(f"{what}: use (H, W) ids or (H, W, 3) RGB colors")
    if labels.ndim == 3 and labels.dtype != np.uint8 and labels.size and not 0 <= labels.min() <= labels.max() <= 255:
        raise UserError(f"{what}: colors from {labels.min()} to {labels.max()}: use 0 to 255")


def map_values(values: NDArray[np.integer], table: Mapping[int, int]) -> NDArray[np.int16]:
    """Train ids of stored values, -1 for one that the table does not have."""
    is_uint8 = values.dtype == np.uint8 and values.size > 0
    keys, inverse = (np.arange(256), values) if is_uint8 else np.unique(values, return_inverse=True)
    lookup = np.array([table.get(int(key), -1) for key in keys], np.int16)
    # Indexing with NumPy would be five times as slow, since it converts the indices to 64 bits
    return np.asarray((cv2.LUT(values, lookup) if is_uint8 else lookup[inverse]).reshape(values.shape), np.int16)


def first_unknown(encoded: NDArray[np.int16]) -> tuple[int, int] | None:
    """Row and column of the first -1, if there is one."""
    if encoded.min(initial=0) >= 0:
        return None
    row, column = np.argwhere(encoded < 0)[0].tolist()
    return row, column


def pack_rgb(colors: NDArray[np.integer]) -> NDArray[np.int32]:
    """Packs colours (..., 3) into one integer each (...)."""
    return colors.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
