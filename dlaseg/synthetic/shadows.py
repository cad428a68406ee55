"""Things that wait to be painted, and the shadows they cast on the ground and on each other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from dlaseg.synthetic.light import Light
from dlaseg.synthetic.street import FAR

MAP_RESOLUTION = 6  # shadow map texels per metre
MAP_HALF_WIDTH = 32  # metres


@dataclass(frozen=True)
class Thing:
    """An object that waits to be painted."""

    depth: float  # metres; the farthest is painted first
    draw: Callable[[], None]
    footprint: tuple[float, float, float, float]  # x0, x1, z0, z1 in metres
    height: float = 0.0
    lift: float = 0.0  # metres above the ground at which it begins to cast a shadow
    shades_others: bool = False
    grounded: float = 0.0  # how dark the ground under it is


class ShadowMap:
    """The street from above: where the sun does not reach, and where things stand close to the ground."""

    def __init__(self, light: Light) -> None:
        rows, columns = int(FAR) * MAP_RESOLUTION, 2 * MAP_HALF_WIDTH * MAP_RESOLUTION
        self.light = light
        self.shadow = np.zeros((rows, columns), np.uint8)
        self.contact = np.zeros((rows, columns), np.uint8)

    def cast(self, thing: Thing) -> None:
        """Adds the shadow that a box above the footprint throws."""
        x0, x1, z0, z1 = thing.footprint
        corners = np.array([(x0, z0), (x1, z0), (x1, z1), (x0, z1)]) + np.array([MAP_HALF_WIDTH, 0])
        away = -np.array([self.light.sun[0], self.light.sun[2]]) / self.light.sun[1]
        swept = np.concatenate([corners + thing.lift * away, corners + thing.height * away]) * MAP_RESOLUTION
        cv2.fillConvexPoly(self.shadow, cv2.convexHull(np.rint(swept).astype(np.int32)), 255)
        if thing.grounded:
            cv2.fillConvexPoly(
                self.contact, np.rint(corners * MAP_RESOLUTION).astype(np.int32), round(255 * thing.grounded)
            )

    def sunlit(self, x: float, z: float) -> float:
        """1 where the sun reaches, 0 where it does not."""
        row, column = round(z * MAP_RESOLUTION), round((x + MAP_HALF_WIDTH) * MAP_RESOLUTION)
        inside = 0 <= row < self.shadow.shape[0] and 0 <= column < self.shadow.shape[1]
        return 1 - float(self.shadow[row, column]) / 255 if inside else 1.0


def cast_shadows(things: Sequence[Thing], light: Light) -> tuple[ShadowMap, list[float]]:
    """The shadows of all things, and for each thing whether it stands in the sun itself (1) or in a shadow (0)."""
    shadows = ShadowMap(light)
    for thing in things:
        if thing.shades_others:
            shadows.cast(thing)
    sunlit = [1.0 if t.shades_others else shadows.sunlit(sum(t.footprint[:2]) / 2, t.depth) for t in things]
    # only now those that shade the ground alone: nothing shall stand in its own shadow
    for thing in things:
        if not thing.shades_others:
            shadows.cast(thing)
    return shadows, sunlit
