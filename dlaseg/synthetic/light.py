"""Time of day and weather: what they do to the colour of a surface."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dlaseg.synthetic.palette import Colour


@dataclass(frozen=True)
class Light:
    """Time of day and weather. Gains are (3,) RGB factors on a surface's own colour."""

    sun: tuple[float, float, float]  # unit vector towards the sun
    sunshine: Colour
    ambient: Colour
    haze: Colour  # RGB in 0-255
    visibility: float  # metres after which 63 % of a colour has become haze

    def gain(self, normal: Sequence[float], sunlit: float = 1.0) -> tuple[float, float, float]:
        """The RGB factor for a surface with this unit normal."""
        direct = sunlit * max(0.0, normal[0] * self.sun[0] + normal[1] * self.sun[1] + normal[2] * self.sun[2])
        sky = 0.82 + 0.18 * normal[1]
        (a0, a1, a2), (s0, s1, s2) = self.ambient, self.sunshine
        return a0 * sky + s0 * direct, a1 * sky + s1 * direct, a2 * sky + s2 * direct

    def seen(
        self, colour: Colour, normal: Sequence[float], depth: float, sunlit: float = 1.0
    ) -> tuple[float, float, float]:
        """The colour, in 0-255, of a surface as it looks from `depth` metres away."""
        clear = math.exp(-depth / self.visibility)
        (g0, g1, g2), (h0, h1, h2), (c0, c1, c2) = self.gain(normal, sunlit), self.haze, map(float, colour)
        red, green, blue = (
            c0 * g0 * clear + h0 * (1 - clear),
            c1 * g1 * clear + h1 * (1 - clear),
            c2 * g2 * clear + h2 * (1 - clear),
        )
        return min(255.0, red), min(255.0, green), min(255.0, blue)


def make_light(rng: np.random.Generator) -> Light:
    """Sun, evening sun, or an overcast day."""
    weather = rng.choice(3, p=(0.5, 0.2, 0.3))
    elevation = math.radians(rng.uniform(*((38, 60), (22, 34), (50, 60))[weather]))
    azimuth = rng.uniform(0, 2 * math.pi)
    sun = (math.cos(elevation) * math.sin(azimuth), math.sin(elevation), math.cos(elevation) * math.cos(azimuth))
    if weather == 0:
        return Light(sun, (0.8, 0.76, 0.66), (0.66, 0.69, 0.75), (206, 220, 236), rng.uniform(180, 420))
    if weather == 1:
        return Light(sun, (0.95, 0.72, 0.46), (0.64, 0.64, 0.69), (240, 216, 186), rng.uniform(140, 280))
    return Light(sun, (0.06, 0.06, 0.06), (0.95, 0.97, 1.0), (212, 216, 220), rng.uniform(90, 240))
