"""Padding, cropping and pooling for any height and width, such that `torch.export` gets one trace for all of them.

In a trace with dynamic sizes, an ordinary pad or slice would fix whether there is something to pad or to crop. There,
and only there, rows and columns are selected by index, which gives the same values for every size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def round_up(size: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is not below `size`."""
    if _is_zero(size % multiple):
        return size
    return multiple * ((size - 1) // multiple + 1)


def pad(x: Tensor, height: int, width: int) -> Tensor:
    """Pads at the bottom and the right by repeating the border.

    Args:
        x: (N, C, H, W) float.
        height: of the result, at least H.
        width: of the result, at least W.

    Returns:
        (N, C, height, width); `x` itself if it has this size already.
    """
    bottom, right = height - x.shape[-2], width - x.shape[-1]
    if _is_zero(bottom) and _is_zero(right):
        return x
    if _is_dynamic(bottom, right):
        rows, columns = (torch.arange(size, device=x.device) for size in (height, width))
        x = x.index_select(-2, rows.clamp(max=x.shape[-2] - 1))
        return x.index_select(-1, columns.clamp(max=x.shape[-1] - 1))
    return F.pad(x, (0, right, 0, bottom), mode="replicate")


def mirror(x: Tensor, height: int, width: int) -> Tensor:
    """Pads at the bottom and the right by mirroring the image at its last row and column.

    Where the image is too small to be mirrored so far, its first row or column is repeated.

    Args:
        x: (N, C, H, W) float.
        height: of the result, at least H.
        width: of the result, at least W.

    Returns:
        (N, C, height, width); `x` itself if it has this size already.
    """
    bottom, right = height - x.shape[-2], width - x.shape[-1]
    if _is_zero(bottom) and _is_zero(right):
        return x
    if not _is_dynamic(bottom, right) and bottom < x.shape[-2] and right < x.shape[-1]:
        return F.pad(x, (0, right, 0, bottom), mode="reflect")
    for dim, size in ((-2, height), (-1, width)):
        indices = torch.arange(size, device=x.device)
        x = x.index_select(dim, torch.minimum(indices, 2 * (x.shape[dim] - 1) - indices).clamp(min=0))
    return x


def crop(x: Tensor, height: int, width: int) -> Tensor:
    """The top left `height` x `width` of (..., H, W)."""
    if _is_dynamic(height, width):
        rows, columns = (torch.arange(size, device=x.device) for size in (height, width))
        return x.index_select(-2, rows).index_select(-1, columns)
    return x[..., :height, :width]


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear interpolation (align_corners=False, no antialiasing); `x` itself if it has the size already.

    Args:
        x: (N, C, H, W) float.
        size: height and width of the result.
    """
    if not _is_dynamic(*x.shape[-2:], *size) and tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, tuple(size), mode="bilinear")


def max_pool(x: Tensor, stride: int) -> Tensor:
    """Max pooling over squares of `stride` pixels; those at the bottom and the right may be incomplete.

    Args:
        x: (N, C, H, W) float.
        stride: side of a square.

    Returns:
        (N, C, ceil(H / stride), ceil(W / stride)), the size that a 3x3 convolution of this stride and padding 1 gives.
    """
    height, width = x.shape[-2:]
    if _is_dynamic(height, width):
        x = pad(x, round_up(height, stride), round_up(width, stride))
    return F.max_pool2d(x, stride, stride, ceil_mode=True)


def _is_dynamic(*sizes: int) -> bool:
    return any(isinstance(size, torch.SymInt) for size in sizes)


def _is_zero(size: int) -> bool:
    """Whether a size is known to be 0, in a trace with dynamic sizes for all of them."""
    if not isinstance(size, torch.SymInt):
        return size == 0
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # imports sympy

    return statically_known_true(size == 0)
