"""The road, the pavements, the grass, and the shadows on them."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from dlaseg.synthetic.appearance import Colour, Light, pick_colour, seamless_noise
from dlaseg.synthetic.canvas import FAR, SUPERSAMPLING, Canvas, label_id
from dlaseg.synthetic.planning import BAY, LANE, SceneObject, Street

MAP_RESOLUTION = 6  # shadow map pixels per metre
MAP_HALF_WIDTH = 32  # metres


class ShadowMap:
    """The street from above: where objects block the sun, and where they stand close to the ground."""

    def __init__(self, light: Light) -> None:
        shape = (int(FAR) * MAP_RESOLUTION, 2 * MAP_HALF_WIDTH * MAP_RESOLUTION)
        self.light = light
        self.shadow = np.zeros(shape, np.uint8)
        self.contact = np.zeros(shape, np.uint8)

    def cast(self, item: SceneObject) -> None:
        """Adds the shadow of a box above the object's footprint."""
        x0, x1, z0, z1 = item.footprint
        corners = np.array([(x0, z0), (x1, z0), (x1, z1), (x0, z1)]) + np.array([MAP_HALF_WIDTH, 0])
        away = -np.array([self.light.sun[0], self.light.sun[2]]) / self.light.sun[1]
        swept = np.concatenate([corners + item.shadow_from * away, corners + item.height * away]) * MAP_RESOLUTION
        cv2.fillConvexPoly(self.shadow, cv2.convexHull(np.rint(swept).astype(np.int32)), 255)
        if item.contact_shadow:
            below = np.rint(corners * MAP_RESOLUTION).astype(np.int32)
            cv2.fillConvexPoly(self.contact, below, round(255 * item.contact_shadow))

    def sunlit(self, x: float, z: float) -> float:
        """1 in the sun, 0 in shadow."""
        row, column = round(z * MAP_RESOLUTION), round((x + MAP_HALF_WIDTH) * MAP_RESOLUTION)
        inside = 0 <= row < self.shadow.shape[0] and 0 <= column < self.shadow.shape[1]
        return 1 - float(self.shadow[row, column]) / 255 if inside else 1.0


def cast_shadows(objects: Sequence[SceneObject], light: Light) -> tuple[ShadowMap, list[float]]:
    """The shadows of all objects, and for each object whether it is in the sun (1) or in a shadow (0) itself."""
    shadows = ShadowMap(light)
    for item in objects:
        if item.shades_others:
            shadows.cast(item)
    sunlit = [1.0 if o.shades_others else shadows.sunlit(sum(o.footprint[:2]) / 2, o.depth) for o in objects]
    # The others afterwards, so that no object is in its own shadow
    for item in objects:
        if not item.shades_others:
            shadows.cast(item)
    return shadows, sunlit


def paint_ground(canvas: Canvas, rng: np.random.Generator, street: Street) -> None:
    """Paints the grass, on it pavements, kerbs and the road, and the road markings."""
    all_depths, raised = np.geomspace(0.6, 3000, 40), (0.12, 0.12)
    gain = canvas.light.gain((0, 1, 0))

    def strip(
        x0: float,
        x1: float,
        colour: Colour,
        name: str | None = None,
        z: NDArray[np.float64] = all_depths,
        heights: tuple[float, float] = (0, 0),
    ) -> None:
        ends = ((x0, heights[0]), (x1, heights[1]))
        edges = [np.stack([np.full_like(z, x), np.full_like(z, y), z], -1) for x, y in ends]
        corners = canvas.project(np.concatenate([edges[0], edges[1][::-1]]))
        canvas.fill(corners, np.minimum(np.multiply(colour, gain), 255), None if name is None else label_id(name))

    grass = pick_colour(rng, ((92, 112, 62), (104, 116, 66), (84, 100, 56)))
    paving = pick_colour(rng, ((150, 146, 140), (162, 154, 144), (140, 140, 142)))
    asphalt = pick_colour(rng, ((92, 92, 94), (104, 102, 100), (80, 82, 86)))
    white = (196, 196, 190)
    (left, right), crossing = street.sides, street.crossing
    strip(-2000, 2000, grass, "terrain")
    for road in street.sides:
        kerb, stone, verge, walk = (road.side * x for x in (road.kerb, road.kerb + 0.15, road.verge, road.walk))
        strip(verge, walk, paving, "sidewalk", heights=raised)
        strip(stone, verge, grass, "terrain", heights=raised)
        strip(kerb, stone, paving * 1.12, "sidewalk", heights=raised)
    strip(-left.kerb, right.kerb, asphalt, "road")
    for _ in range(rng.integers(1, 5)):  # mended patches
        x, z = rng.uniform(-left.kerb + 0.5, right.kerb - 1.5), rng.uniform(5, 30)
        ends = np.array([z, z + rng.uniform(1, 6)])
        strip(x, x + rng.uniform(0.6, 1.6), asphalt * rng.uniform(0.8, 1.12), z=ends)
    for road in street.sides:
        kerb, bay = road.side * road.kerb, road.side * (road.kerb - BAY)
        strip(kerb, kerb, paving * 0.8, "sidewalk", heights=(0, 0.12))
        if road.parking:
            strip(bay, kerb, asphalt * 0.9, "road" if street.striped or rng.random() < 0.5 else "parking")
            strip(bay, bay - road.side * 0.12, white)
    for z in np.arange(rng.uniform(1, 8), 120, 7.5).tolist():
        if not (street.striped and crossing - 3.5 < z < crossing + 4):
            strip(-LANE / 2 - 0.07, -LANE / 2 + 0.07, white, z=np.linspace(z, z + 3, 3))
    if street.striped:
        for x in np.arange(-left.kerb + 0.4, right.kerb - 0.5, 1.0).tolist():
            strip(x, x + 0.5, white, z=np.linspace(crossing, crossing + 3.2, 3))
        stop_line = np.array([crossing - 1.6, crossing - 1.2])
        strip(-LANE / 2, right.kerb - BAY * right.parking, white, z=stop_line)


def shade_ground(canvas: Canvas, rng: np.random.Generator, shadows: ShadowMap) -> None:
    """Adds grain, paving slabs, shadows and haze to the ground, which must be all that is painted below the horizon."""
    step, light = SUPERSAMPLING, canvas.light
    top = math.ceil(canvas.vanishing_point[1] / step) + 1
    codes = canvas.codes[top * step :: step, ::step]
    rows, columns = codes.shape
    below = np.arange(top, top + rows, dtype=np.float32) * step - np.float32(canvas.vanishing_point[1])
    z = canvas.camera_height * canvas.focal / below
    across = (np.arange(columns, dtype=np.float32) * step - canvas.vanishing_point[0]) / canvas.focal
    x = across * z[:, None] - (canvas.curvature * z * z)[:, None]
    depth = np.repeat(z[:, None], columns, 1)

    texel = 32 if canvas.focal < 1200 else 64  # texture pixels per metre; tiles are 8 m wide, 128 keeps the colour
    size = 8 * texel
    grain = 110 + 18 * seamless_noise(rng, size, 1.3) + 18 * seamless_noise(rng, size, 60)
    slabs = np.repeat(np.repeat(rng.uniform(119, 136, (16, 16)), texel // 2, 0), texel // 2, 1).astype(np.float32)
    slabs[:: texel // 2] = slabs[:, :: texel // 2] = 100
    slabs += 12 * seamless_noise(rng, size, 2) - 6
    blades = 79 + 46 * seamless_noise(rng, size, 2.5) + 51 * seamless_noise(rng, size, 40)
    tiles = cv2.merge([grain, slabs, blades]).astype(np.uint8)
    textures = cv2.remap(tiles, x * texel, depth * texel, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    gain = np.full((rows, columns), 128, np.uint8)
    for channel, name in enumerate(("road", "sidewalk", "terrain")):
        cv2.copyTo(np.ascontiguousarray(textures[..., channel]), (codes == label_id(name)).astype(np.uint8), gain)
    # Texture pixels smaller than a picture's pixel would flicker: the texture fades where a pixel covers much ground
    visible = np.clip(1.4 - z * z / (canvas.camera_height * canvas.focal / step) * 6, 0, 1)[:, None]

    where = (x + MAP_HALF_WIDTH) * MAP_RESOLUTION, depth * MAP_RESOLUTION
    maps = cv2.merge([cv2.GaussianBlur(shadows.shadow, (0, 0), 1.1), cv2.GaussianBlur(shadows.contact, (0, 0), 2.0)])
    shade, contact = cv2.split(cv2.remap(maps, *where, cv2.INTER_LINEAR, borderValue=(0, 0)))
    up = (0.0, 1.0, 0.0)
    clear = np.exp(-z / light.visibility)[:, None]
    base = (128 + (gain - np.float32(128)) * visible) * clear * (1 - contact * np.float32(1 / 255))
    lost = 1 - np.divide(light.gain(up, 0), light.gain(up, 1))
    covered = shade * np.float32(1 / 255)
    factor = cv2.merge([cv2.convertScaleAbs(base * (1 - covered * np.float32(share))) for share in lost])
    haze = (1 - clear[..., None]) * np.asarray(light.haze, np.float32)
    part = canvas.image[top * step :]
    whole = (part.shape[1], part.shape[0])
    lit = cv2.multiply(part, cv2.resize(factor, whole), scale=1 / 128)
    part[:] = cv2.add(lit, cv2.resize(np.repeat(haze.astype(np.uint8), columns, 1), whole))
