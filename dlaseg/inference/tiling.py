"""The blending of what a network computes of overlapping tiles, see `grid`; by NumPy or by torch, without importing it.

Scores are logits at the network's output stride, or class probabilities of every pixel. Only one tile and the seams
are in memory, never the scores of the whole image.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlaseg.inference.argmax import namespace
from dlaseg.inference.grid import Axis, Grid

_SIGMA = 0.4  # of the Gaussians, as a share of FADE: they meet the ends of the seam with weights of 4 and 96 %

Array = Any
"""A NumPy array, or a tensor; what a function gives is of the kind that it is given."""

Result = tuple[Array, ...]
"""(N, ..., h, w) each: labels, or labels and their probabilities, or probabilities."""

Finish = Callable[[Array, int, int], Result]
"""Makes a result of a height and a width in pixels from scores (N, C, h, w) that cover at least these."""


def blend_tiles(
    grid: Grid,
    stride: int,
    read: Callable[[int, int], Array],
    scores: Callable[[Array], Array],
    finish: Finish,
) -> Iterator[tuple[int, Result]]:
    """Computes an image tile by tile, from top to bottom.

    Args:
        grid: the tiles.
        stride: pixels per score, a power of 2 that divides the starts of all tiles.
        read: gives the rows of the image from a first one up to another one, (N, 3, h, W) uint8. The next rows begin
            within these.
        scores: computes the scores of a tile: (N, 3, h, w) -> (N, C, at least h / stride, at least w / stride).
        finish: makes the result from blended scores.

    Yields:
        Number of the first row, and the result of rows that is finished, (N, ..., h, W) each.
    """
    downwards = [_Blend(grid.rows, stride, -2) for _ in grid.columns.spans]
    for top, bottom in grid.rows.spans:
        image = read(top, bottom)
        rightwards = _Blend(grid.columns, stride, -1)
        results = []
        for (left, right), down in zip(grid.columns.spans, downwards, strict=True):
            block, columns = rightwards.add(scores(image[..., left:right]))
            block, rows = down.add(block)
            result = finish(block, rows.stop - rows.origin, columns.stop - columns.origin)
            results.append(
                tuple(part[..., rows.start - rows.origin :, columns.start - columns.origin :] for part in result)
            )
        yield rows.start, tuple(namespace(parts[0]).concatenate(parts, -1) for parts in zip(*results, strict=True))


@dataclass(frozen=True)
class _Finished:
    """Which pixels a block of finished scores is for.

    Attributes:
        origin: first pixel of the block.
        start: first pixel of the result.
        stop: end of the result. Of both sides, the block has a neighbour more, for the interpolation.
    """

    origin: int
    start: int
    stop: int


class _Blend:
    """Blends the scores of successive tiles along one axis.

    Args:
        axis: the tiles.
        stride: pixels per score.
        dim: -2 for tiles below each other, -1 for those beside each other.
    """

    def __init__(self, axis: Axis, stride: int, dim: int):
        self._axis, self._stride, self._dim = axis, stride, dim
        self._seams = axis.seams()
        self._neighbors = 1 if stride > 1 else 0  # that the upsampling of a score needs at either side
        self._tile = 0
        self._waiting: Array | None = None  # scores that the next tile has a part in, and their neighbours

    def add(self, scores: Array) -> tuple[Array, _Finished]:
        """Takes the scores of the next tile; returns those that no later tile changes.

        Args:
            scores: (N, C, h, w). Along the axis, more than the tile's pixels need are dropped, but for the last tile.
        """
        number, stride, dim, neighbors = self._tile, self._stride, self._dim, self._neighbors
        self._tile += 1
        origin, stop = self._axis.spans[number]
        is_last = number == len(self._seams)
        start = 0
        if not is_last:
            scores = _part(scores, dim, 0, -(-(stop - origin) // stride))
        if self._waiting is not None:
            first, last = self._seams[number - 1]
            start = first - neighbors * stride
            waiting, known = self._waiting.shape[dim], 2 * neighbors
            begin = (first - origin) // stride - known
            xp = namespace(scores)
            weights = np.concatenate([np.zeros(known), _fade_in(waiting - known)]).reshape(-1, *[1] * (-1 - dim))
            weights = xp.asarray(weights, dtype=scores.dtype, device=scores.device)
            # Equal scores stay exactly what they are; weighted sums would round
            seam = self._waiting + weights * (_part(scores, dim, begin, begin + waiting) - self._waiting)
            scores = xp.concatenate([seam, _part(scores, dim, (last - origin) // stride, None)], dim)
            origin += begin * stride
        if is_last:
            return scores, _Finished(origin, start, self._axis.length)
        first, last = ((pixel - origin) // stride for pixel in self._seams[number])
        waiting = first - 2 * neighbors
        # Not a view, which keeps the whole
        self._waiting = namespace(scores).asarray(_part(scores, dim, waiting, last), copy=True)
        finished = _Finished(origin, start, origin + (first - neighbors) * stride)
        return _part(scores, dim, 0, first), finished


def _part(scores: Array, dim: int, start: int, stop: int | None) -> Array:
    """Scores from a first one up to another one, along the last axis (-1) or the one before (-2)."""
    return scores[..., start:stop] if dim == -1 else scores[..., start:stop, :]


def _fade_in(length: int) -> NDArray[np.float64]:
    """Weights of the next tile: its Gaussian's share in the sum of both tiles', which stand at the seam's ends."""
    position = (np.arange(length) + 0.5) / length
    return 1 / (1 + np.exp((1 - 2 * position) / (2 * _SIGMA**2)))
