"""How much memory the network may take, and the tiles that keep it within.

Where memory is overcommitted, as on Linux, an allocation succeeds and the process is killed when it writes to it. So
what the network needs is estimated before it runs.
"""

import math
from collections.abc import Sequence
from copy import copy
from fractions import Fraction
from numbers import Integral
from pathlib import Path

from dlaseg.errors import UserError
from dlaseg.inference.backends.base import SMALL, UNKNOWN_PER_PIXEL, Backend, unknown_per_pixel
from dlaseg.inference.grid import FADE, MARGIN, Axis, Grid, round_up
from dlaseg.memory import available_memory, is_out_of_memory, used_memory

FACTOR = 1.4
"""Factor on the tensors of a forward pass for the libraries' own buffers: processes were measured to take 1.12 to 1.18
times the tensors in float32, 1.11 to 1.36 times in bfloat16 (six networks, 3 million pixels, torch 2.14)."""

ENOUGH_PER_PIXEL = 4096
"""Bytes per pixel, eight times what the largest variant needs (491, with 19 classes at stride 2). Measuring takes over
a second, mostly for imports by torch, so it waits for an image that might not fit."""

SIDES = range(512, 4096 + 1, 256)
"""Sizes of tiles in pixels. Larger ones would gain little: at 4096, the overlap is 15 % of the work."""

STRIP_PER_PIXEL = 20
"""Bytes per pixel of a row of tiles: the image, the rows before and after it, labels."""

MOST_STREAMS = 4
"""Most images that are computed at a time. More were not measured."""

LARGE = 1 << 25
"""Most pixels of an image that waits with others: a hundred megabytes of RGB."""

IN_FLIGHT_PER_PIXEL = 96
"""Bytes of four images that wait to be computed and four that are written, per pixel of one."""

_SIDE = 256  # of an image that is not worth a measurement, pixels

_LARGEST_MULTIPLE = 256  # pixels; SIDES are multiples of it

_LARGEST_MARGIN = 512  # pixels; more only where the image is made smaller than a quarter


class MemoryBudget:
    """Decides whether an image is computed as a whole or in tiles, and in which.

    What the network needs is asked of the backend as soon as a large image comes.

    Args:
        backend: runs the network.
        max_memory: bytes that the whole process may hold; on a GPU, that all tensors may. None for what it holds now
            and half of what is free now.
        scales: see `Predictor`.
        flip: see `Predictor`.

    Attributes:
        max_memory: the limit; None if none was given and it is not known how much memory is free. Then, every image is
            computed as a whole.
        tiled: whether there was an image that is computed in tiles.

    Raises:
        UserError: less memory than the process holds already.
    """

    def __init__(self, backend: Backend, max_memory: int | None, scales: Sequence[float], flip: bool):
        self._backend, self._flip = backend, flip
        self._averages = flip or tuple(scales) != (1.0,)
        self._largest = max(1.0, *scales) ** 2
        self._margin = min(_LARGEST_MARGIN, round(MARGIN / min(1.0, *scales, *(backend.scales or ()))))
        # A tile begins at a multiple of this in the image at every scale, so that the network sees the same pixels
        denominators = (Fraction(scale).limit_denominator(16).denominator for scale in scales)
        multiple = backend.multiple * math.lcm(*denominators)
        self._multiple = multiple if multiple <= _LARGEST_MULTIPLE else backend.multiple
        self._factor = 1
        self.tiled = False
        self._measured: tuple[float, int] | None = None
        used = _used(backend.device)
        if max_memory is not None:
            if not isinstance(max_memory, Integral):
                raise UserError(f"max_memory {max_memory!r}: use a number of bytes, such as 4 * 2**30")
            self.max_memory: int | None = int(max_memory)
            self._budget: float | None = max_memory - used
            if max_memory <= used:
                raise UserError(
                    f"max_memory {size_text(max_memory)}: the process holds {size_text(used)} without any image: use "
                    "more"
                )
        else:
            free = _free(backend.device)
            self._budget = None if free is None else free // 2
            self.max_memory = None if free is None else used + free // 2

    def reduced(self, factor: int) -> "MemoryBudget":
        """The budget for images that are reduced by a factor before the network, see `ReducedBackend`."""
        budget = copy(self)
        budget._factor, budget.tiled = factor, False
        return budget

    def pixels(self, height: int, width: int) -> int:
        """Pixels that the network computes for an image: it is padded, which makes a thin one many times as large."""
        multiple = self._backend.multiple
        return round_up(-(-height // self._factor), multiple) * round_up(-(-width // self._factor), multiple)

    def needed(self, height: int, width: int, score_bytes: int = 0) -> float:
        """Bytes that the network needs for an image, with a margin.

        Args:
            height: of the image, pixels.
            width: of the image, pixels.
            score_bytes: per pixel, of scores at the image's size.
        """
        if self._measured is None:
            self._measured = self._backend.memory_needed()
        per_pixel, fixed = self._measured
        if self._averages:  # logits at the scaled size and at the image's, probabilities, sums
            score_bytes += 4 * self._num_classes * round(self._largest + 4)
        score_bytes *= self._factor**2
        return (FACTOR * per_pixel * self._largest + score_bytes) * self.pixels(height, width) + fixed

    def grid(
        self, height: int, width: int, whole_bytes: float = 0, tiled_bytes: float = 0, score_bytes: int = 0
    ) -> Grid | None:
        """The tiles of an image; None for an image that is computed as a whole.

        Args:
            height: of the image, pixels.
            width: of the image, pixels.
            whole_bytes: what the caller will hold beside if the image is computed as a whole.
            tiled_bytes: what the caller will hold beside if it is computed in tiles.
            score_bytes: see `needed`.

        Raises:
            UserError: too little memory even for the smallest tiles.
        """
        pixels = self.pixels(height, width)
        if self._budget is None or (pixels * self._factor**2 <= _SIDE**2 and whole_bytes <= self._budget):
            return None
        enough = ENOUGH_PER_PIXEL * unknown_per_pixel(self._backend) / UNKNOWN_PER_PIXEL
        if (enough * self._largest + score_bytes * self._factor**2) * pixels + whole_bytes <= self._budget:
            return None
        if self.needed(height, width, score_bytes) + whole_bytes <= self._budget:
            return None
        # Rounded to where tiles may begin, what two tiles share is larger
        shared = 2 * round_up(self._margin, self._multiple) + round_up(FADE, self._multiple)
        smallest = max(3 * self._margin + FADE, shared + 1)
        sides = [round_up(side, self._multiple) for side in SIDES]
        for side in reversed([side * self._factor for side in sides if side >= smallest]):
            needed = self._tiled(side, height, width, score_bytes) + tiled_bytes
            if needed <= self._budget:
                self.tiled = True
                return self._split(side, height, width)
        remedy = "" if self._factor == 1 else ", compute it at its own size (--max-short-side 0)"
        raise UserError(
            f"{height} x {width} pixels: not enough memory; in the smallest tiles, it needs about {size_text(needed)}, "
            f"{size_text(self._budget)} are left for it: allow more (--max-memory){remedy}, or make it smaller"
        )

    @property
    def large(self) -> int:
        """Pixels of an image that is not decoded before its turn, and written before the next one."""
        return LARGE if self._budget is None else min(LARGE, int(self._budget / 4 / IN_FLIGHT_PER_PIXEL))

    @property
    def streams(self) -> int:
        """Small images (`SMALL`) for which there is room at a time."""
        if self._budget is None:
            return 1
        per_pixel = unknown_per_pixel(self._backend)
        each = FACTOR * per_pixel * self._largest * SMALL  # several are computed by engines of their own alone
        return max(1, min(MOST_STREAMS, int(self._budget / each)))

    def _tiled(self, side: int, height: int, width: int, score_bytes: int) -> float:
        """Bytes that an image needs in tiles of a size."""
        mirrored = -(-width // self._factor) % self._multiple * self._factor if self._flip else 0
        rows, columns = min(side, height), min(side + mirrored, width)
        stride = 1 if self._averages else self._backend.stride * self._factor
        fade = round_up(FADE, self._multiple) * self._factor
        seams = 4 * self._num_classes * (fade // stride + 2) * (width // stride)
        # Blending copies the scores of a tile
        tile = self.needed(rows, columns, score_bytes + 8 * self._num_classes // stride**2)
        return tile + seams + STRIP_PER_PIXEL * rows * width

    def _split(self, side: int, height: int, width: int) -> Grid:
        """Tiles of an image, of up to `side` pixels; those of the reduced image, enlarged."""
        factor, multiple = self._factor, self._multiple
        rows = Axis.split(-(-height // factor), side // factor, multiple, self._margin)
        columns = Axis.split(-(-width // factor), side // factor, multiple, self._margin, mirrored=self._flip)
        return Grid(rows.enlarged(factor, height), columns.enlarged(factor, width))

    @property
    def _num_classes(self) -> int:
        return self._backend.metadata.labels.num_classes


def memory_message(error: Exception, path: Path, height: int, width: int) -> str:
    """One line: an image did not fit into memory; raises any other error."""
    if not is_out_of_memory(error):
        raise error
    remedy = "allow less with --max-memory, so that it is computed in smaller parts, or make it smaller"
    return f"{path}: {height} x {width} pixels: not enough memory: {remedy}"


def size_text(number: float) -> str:
    """Bytes in a unit that people read."""
    return f"{float(f'{number / 1e9:.3g}'):g} GB" if number >= 1e8 else f"{number / 1e6:.1f} MB"


def _used(device: str) -> int:
    """Bytes that the process holds, rounded up: the same run, started again, shall have the same tiles."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.memory_allocated(device))
    return round_up(used_memory(), 1 << 28)


def _free(device: str) -> int | None:
    """Bytes that can still be allocated; None where that is not known."""
    if device.startswith("cuda"):
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    return available_memory() if device == "cpu" else None
