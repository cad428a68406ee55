"""Colours that several kinds of objects share, and variation within them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Colour = Sequence[float] | Floats

TYRE, GLASS, MIRRORED, STEEL = (28, 28, 30), (44, 54, 66), (96, 112, 130), (112, 116, 120)
CLOTHES = (
    (40, 46, 66),
    (150, 40, 44),
    (70, 92, 130),
    (196, 190, 178),
    (58, 58, 60),
    (92, 104, 70),
    (204, 160, 60),
    (120, 84, 120),
    (226, 226, 228),
    (38, 96, 104),
)


def choose(rng: np.random.Generator, options: Sequence[Colour]) -> Floats:
    """One of the colours, a little varied. Returns (3,) float64 RGB in 0-255."""
    base = np.asarray(options[int(rng.integers(len(options)))], np.float64)
    return np.minimum(base * rng.uniform(0.9, 1.08) + rng.uniform(-3, 3, 3), 250)
