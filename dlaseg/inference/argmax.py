"""The predicted class of every pixel from coarse logits, by NumPy or by torch; does not import torch."""

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from dlaseg.inference.backends.base import Images

_AT_A_TIME = 1 << 20
"""Logits that are interpolated at a time, so that they stay in the processor's cache."""


def namespace(array: Any) -> Any:
    """The module whose functions take an array: numpy, or torch for a tensor. For names that both have."""
    return np if isinstance(array, np.ndarray) else sys.modules["torch"]


def argmax_logits(coarse: "Images", stride: int, height: int, width: int) -> "Images":
    """The argmax of `upsample_logits`, computed where that needs it.

    Between four neighbours in the grid of logits, every class is interpolated with the same weights, so a class that is
    the largest at all four is the largest between them. Logits are interpolated where the four differ, 5 to 10 % of a
    photograph.

    Args:
        coarse: array or tensor (N, C, h, w) float, with h * stride >= height and w * stride >= width; faster if its
            memory is in the order (N, h, w, C).
        stride: the factor.
        height: of the result, pixels.
        width: of the result, pixels.

    Returns:
        Of the same kind, (N, height, width) uint8 train ids. Where two logits differ by rounding alone, either class.
    """
    xp, device = namespace(coarse), coarse.device
    count, classes, h, w = coarse.shape
    logits = xp.moveaxis(coarse, 1, -1).reshape(-1, classes)
    best = xp.asarray(xp.argmax(logits, -1), dtype=xp.uint8, device=device).reshape(count, h, w)
    if stride == 1:
        return xp.asarray(best[:, :height, :width], copy=True, device=device)
    # Cell i is the pixels between the centres of the logits i - 1 and i; beyond the first and last logit, they repeat
    rows = xp.clip(xp.arange(-1, (height - 1 + stride // 2) // stride + 1, device=device), 0, h - 1)
    columns = xp.clip(xp.arange(-1, (width - 1 + stride // 2) // stride + 1, device=device), 0, w - 1)
    best = xp.concatenate([best[:, :1], best, best[:, -1:]], 1)[:, : len(rows)]
    best = xp.concatenate([best[..., :1], best, best[..., -1:]], 2)[..., : len(columns)]
    first = best[:, :-1, :-1]
    labels = xp.empty((count, len(rows) - 1, stride, len(columns) - 1, stride), dtype=xp.uint8, device=device)
    labels[:] = first[:, :, None, :, None]
    cells = xp.where((first != best[:, :-1, 1:]) | (first != best[:, 1:, :-1]) | (first != best[:, 1:, 1:]))

    # How far each pixel of a cell is from its first logit to its second one
    second = ((xp.arange(stride, dtype=xp.float32, device=device) + (0.5 - stride // 2)) / stride + 0.5)[:, None, None]
    step = max(1, _AT_A_TIME // (stride**2 * classes))
    for start in range(0, len(cells[0]), step):
        n, i, j = (index[start : start + step] for index in cells)
        above, below = (n * h + rows[i]) * w, (n * h + rows[i + 1]) * w
        left, right = (
            (1 - second) * logits[above + column] + second * logits[below + column]  # (stride, cells, C)
            for column in (columns[j], columns[j + 1])
        )
        # Not a product of matrices: NumPy's threads for it would wait busily, in the way of the next image's
        between = (1 - second[:, None]) * left + second[:, None] * right  # (stride, stride, cells, C), columns first
        found = xp.asarray(xp.argmax(between, -1), dtype=xp.uint8, device=device)
        labels[n, i, :, j] = xp.moveaxis(found, (2, 1, 0), (0, 1, 2))
    skip = stride // 2
    whole = labels.reshape(count, -1, (len(columns) - 1) * stride)
    return xp.asarray(whole[:, skip : skip + height, skip : skip + width], copy=True, device=device)
