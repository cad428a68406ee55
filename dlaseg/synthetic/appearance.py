"""How surfaces look: colours, noise textures, and light."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Colour = Sequence[float] | Floats
"""RGB in 0-255, or factors of these."""

TYRE, GLASS, MIRRORED, STEEL = (28, 28, 30), (44, 54, 66), (96, 112, 130), (112, 116, 120)
CLOTHES = ((40, 46, 66), (150, 40, 44), (70, 92, 130), (196, 190, 178), (58, 58, 60), (92, 104, 70), (204, 160, 60),
           (120, 84, 120), (226, 226, 228), (38, 96, 104))  # fmt: skip


def pick_colour(rng: np.random.Generator, options: Sequence[Colour]) -> Floats:
    """Picks one of the colours and varies it a little. Returns (3,) float64 RGB in 0-255."""
    base = np.asarray(options[int(rng.integers(len(options)))], np.float64)
    return np.minimum(base * rng.uniform(0.9, 1.08) + rng.uniform(-3, 3, 3), 250)


def smooth_noise(rng: np.random.Generator, height: int, width: int, cell: float) -> NDArray[np.float32]:
    """Noise with bumps about `cell` pixels wide. Returns (height, width) float32, mostly in 0-1."""
    grid = rng.random((max(2, round(height / cell)), max(2, round(width / cell))), dtype=np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR)  # type: ignore[return-value]


def seamless_noise(rng: np.random.Generator, size: int, cell: float) -> NDArray[np.float32]:
    """Like `smooth_noise`, (size, size) float32, but its opposite edges fit together."""
    cells = max(2, round(size / cell))
    grid = np.pad(rng.random((cells, cells), dtype=np.float32), 1, mode="wrap")
    # Maps pixel centres to cell centres; the padding shifts these by one cell
    start = 0.5 * cells / size + 0.5
    matrix = np.array([[cells / size, 0, start], [0, cells / size, start]])
    noise = cv2.warpAffine(grid, matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return noise.astype(np.float32, copy=False)


@dataclass(frozen=True)
class Light:
    """Time of day and weather."""

    sun: tuple[float, float, float]  # unit vector towards the sun
    sunshine: Colour  # RGB factors of direct light
    ambient: Colour  # RGB factors of light from the sky
    haze: Colour  # RGB in 0-255
    visibility: float  # metres after which haze makes up 63 % of a colour

    def gain(self, normal: Sequence[float], sunlit: float = 1.0) -> tuple[float, float, float]:
        """RGB factors for a surface with this unit normal. `sunlit` is 1 in the sun, 0 in shadow."""
        direct = sunlit * max(0.0, normal[0] * self.sun[0] + normal[1] * self.sun[1] + normal[2] * self.sun[2])
        sky = 0.82 + 0.18 * normal[1]
        (a0, a1, a2), (s0, s1, s2) = self.ambient, self.sunshine
        return a0 * sky + s0 * direct, a1 * sky + s1 * direct, a2 * sky + s2 * direct

    def shade(
        self, colour: Colour, normal: Sequence[float], depth: float, sunlit: float = 1.0
    ) -> tuple[float, float, float]:
        """The colour, in 0-255, of a surface under this light, seen from `depth` metres away."""
        clear = math.exp(-depth / self.visibility)
        (g0, g1, g2), (h0, h1, h2), (c0, c1, c2) = self.gain(normal, sunlit), self.haze, map(float, colour)
        return (
            min(255.0, c0 * g0 * clear + h0 * (1 - clear)),
            min(255.0, c1 * g1 * clear + h1 * (1 - clear)),
            min(255.0, c2 * g2 * clear + h2 * (1 - clear)),
        )


def random_light(rng: np.random.Generator) -> Light:
    """Noon sun, evening sun, or an overcast day."""
    weather = rng.choice(3, p=(0.5, 0.2, 0.3))
    elevation = math.radians(rng.uniform(*((38, 60), (22, 34), (50, 60))[weather]))
    azimuth = rng.uniform(0, 2 * math.pi)
    sun = (math.cos(elevation) * math.sin(azimuth), math.sin(elevation), math.cos(elevation) * math.cos(azimuth))
    if weather == 0:
        return Light(sun, (0.8, 0.76, 0.66), (0.66, 0.69, 0.75), (206, 220, 236), rng.uniform(180, 420))
    if weather == 1:
        return Light(sun, (0.95, 0.72, 0.46), (0.64, 0.64, 0.69), (240, 216, 186), rng.uniform(140, 280))
    return Light(sun, (0.06, 0.06, 0.06), (0.95, 0.97, 1.0), (212, 216, 220), rng.uniform(90, 240))
