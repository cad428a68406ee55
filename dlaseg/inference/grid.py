"""Overlapping tiles of an image.

Near the border of a tile, a network sees zeros where the image goes on, so its scores there differ from those of the
whole image. Neighbouring tiles overlap. The outer part of the overlap, the margin, is dropped; over the inner part, the
scores of one tile fade into those of the next one. A network whose receptive field reaches no further than the margin
to either side gives exactly the scores of the whole image.
"""

from dataclasses import dataclass
from itertools import pairwise

MARGIN = 128
"""Pixels at a tile's inner borders whose scores are dropped."""

FADE = 64
"""Pixels over which the scores of a tile fade into those of the next one."""


def round_up(size: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is not below `size`."""
    return -(-size // multiple) * multiple


@dataclass(frozen=True)
class Axis:
    """Tiles along the height or the width of an image; pixels.

    Attributes:
        length: of the image.
        spans: start and stop of each tile. The first tile starts with the image, the last one stops with it; all
            starts are multiples of what the network's strides need.
        margin: at each inner border of a tile, what is dropped.
    """

    length: int
    spans: tuple[tuple[int, int], ...]
    margin: int

    @classmethod
    def split(cls, length: int, side: int, multiple: int, margin: int = MARGIN, mirrored: bool = False) -> "Axis":
        """Splits a length into tiles of equal size, of which the last may be smaller.

        Args:
            length: of the image.
            side: largest size of a tile, a multiple of `multiple`; above twice the margin and FADE, both rounded up.
            multiple: what all starts are multiples of.
            margin: see `Axis`; rounded up to the multiple.
            mirrored: whether tiles are mirrored, too. Then, as far as from the start of the image, all starts are
                multiples from its end as well, by tiles that are up to a multiple larger.
        """
        margin, fade = round_up(margin, multiple), round_up(FADE, multiple)
        overlap = 2 * margin + fade
        if length <= side:
            return cls(length, ((0, length),), margin)
        count = -(-(length - overlap) // (side - overlap))
        side = round_up(-(-(length + (count - 1) * overlap) // count), multiple)
        more = length % multiple if mirrored else 0
        spans = [(0, side + more)]
        while spans[-1][1] < length:
            start = spans[-1][0] + side - overlap
            spans.append((start, min(start + side + more, length)))
        return cls(length, tuple(spans), margin)

    def enlarged(self, factor: int, length: int) -> "Axis":
        """The tiles of an image that is `factor` times as large, and `length` pixels long."""
        spans = tuple((start * factor, min(stop * factor, length)) for start, stop in self.spans)
        return Axis(length, spans, self.margin * factor)

    def seams(self) -> list[tuple[int, int]]:
        """Start and stop of the pixels over which each tile fades into the next one."""
        return [(start + self.margin, stop - self.margin) for (_, stop), (start, _) in pairwise(self.spans)]


@dataclass(frozen=True)
class Grid:
    """Tiles of an image: every span of the rows with every span of the columns."""

    rows: Axis
    columns: Axis
