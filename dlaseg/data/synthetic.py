"""Street scenes drawn by code, in the Cityscapes layout: a data set that needs no download.

A scene is one street in one-point perspective: a camera above a ground plane, objects placed in metres and painted from
far to near, so that what stands in front hides what stands behind, in the picture and in the labels alike.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from cityscapesscripts.helpers.labels import id2label
from numpy.typing import NDArray
from tqdm import tqdm

from dlaseg.data import scenery
from dlaseg.data.scenery import SUPERSAMPLING, Canvas, Light, Pixels, code_of
from dlaseg.errors import UserError
from dlaseg.images import write_png

SMALLEST, LARGEST = (64, 64), (1024, 2048)
GREENS = ((70, 104, 50), (86, 116, 56), (60, 92, 54), (104, 122, 58), (140, 118, 50))
BUS_PAINTS = ((196, 60, 50), (226, 190, 70), (60, 120, 170), (220, 222, 220))
CITIES = {
    "train": ("synthburg", "renderstadt", "polygonia"),
    "val": ("mockhausen", "pixelfurt"),
    "test": ("fauxheim",),
}
"""Places that do not exist, by split. The order of the splits is part of every scene's seed."""

_LANE, _BAY = 3.5, 2.2  # metres: the width of a lane, of a parking bay
_FAR = 125.0  # metres; there the street ends at a row of houses
_MAP_RESOLUTION = 6  # shadow map texels per metre
_MAP_HALF_WIDTH = 32  # metres


@dataclass(frozen=True)
class Scene:
    """One picture with its labels."""

    image: Pixels  # (H, W, 3) RGB
    label_ids: Pixels  # (H, W) Cityscapes label ids
    instance_ids: NDArray[np.uint16]  # (H, W) label id, or id * 1000 + k for the k-th object of a counted class


@dataclass(frozen=True)
class _Roadside:
    """How one side of the street is divided: distances from the camera's path, metres."""

    side: int  # -1 left, 1 right
    kerb: float
    verge: float  # where the grass strip ends and the pavement begins
    walk: float  # where the pavement ends and the front garden begins
    front: float  # where the houses stand
    parking: bool


@dataclass(frozen=True)
class _Street:
    """What all that stands in one street has to agree on."""

    sides: tuple[_Roadside, _Roadside]  # left, right
    crossing: float  # where the traffic lights stand, metres ahead
    striped: bool  # a zebra crossing lies there
    signal: int  # 0 red, 1 amber, 2 green
    storeys: tuple[int, int]  # of the houses: at least the first, less than the second


@dataclass(frozen=True)
class _Thing:
    """An object that waits to be painted."""

    depth: float  # metres; the farthest is painted first
    draw: Callable[[], None]
    footprint: tuple[float, float, float, float]  # x0, x1, z0, z1 in metres
    height: float = 0.0
    lift: float = 0.0  # metres above the ground at which it begins to cast a shadow
    shades_others: bool = False
    grounded: float = 0.0  # how dark the ground under it is


class _ShadowMap:
    """The street from above: where the sun does not reach, and where things stand close to the ground."""

    def __init__(self, light: Light) -> None:
        rows, columns = int(_FAR) * _MAP_RESOLUTION, 2 * _MAP_HALF_WIDTH * _MAP_RESOLUTION
        self.light = light
        self.shadow = np.zeros((rows, columns), np.uint8)
        self.contact = np.zeros((rows, columns), np.uint8)

    def cast(self, thing: _Thing) -> None:
        """Adds the shadow that a box above the footprint throws."""
        x0, x1, z0, z1 = thing.footprint
        corners = np.array([(x0, z0), (x1, z0), (x1, z1), (x0, z1)]) + np.array([_MAP_HALF_WIDTH, 0])
        away = -np.array([self.light.sun[0], self.light.sun[2]]) / self.light.sun[1]
        swept = np.concatenate([corners + thing.lift * away, corners + thing.height * away]) * _MAP_RESOLUTION
        cv2.fillConvexPoly(self.shadow, cv2.convexHull(np.rint(swept).astype(np.int32)), 255)
        if thing.grounded:
            cv2.fillConvexPoly(
                self.contact, np.rint(corners * _MAP_RESOLUTION).astype(np.int32), round(255 * thing.grounded)
            )

    def sunlit(self, x: float, z: float) -> float:
        """1 where the sun reaches, 0 where it does not."""
        row, column = round(z * _MAP_RESOLUTION), round((x + _MAP_HALF_WIDTH) * _MAP_RESOLUTION)
        inside = 0 <= row < self.shadow.shape[0] and 0 <= column < self.shadow.shape[1]
        return 1 - float(self.shadow[row, column]) / 255 if inside else 1.0


def _cast_shadows(things: Sequence[_Thing], light: Light) -> tuple[_ShadowMap, list[float]]:
    """The shadows of all things, and for each thing whether it stands in the sun itself (1) or in a shadow (0)."""
    shadows = _ShadowMap(light)
    for thing in things:
        if thing.shades_others:
            shadows.cast(thing)
    sunlit = [1.0 if t.shades_others else shadows.sunlit(sum(t.footprint[:2]) / 2, t.depth) for t in things]
    # only now those that shade the ground alone: nothing shall stand in its own shadow
    for thing in things:
        if not thing.shades_others:
            shadows.cast(thing)
    return shadows, sunlit


def _make_light(rng: np.random.Generator) -> Light:
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


def _plan_street(rng: np.random.Generator) -> _Street:
    """A town side whose houses stand at the pavement, and a green side with verge, front gardens and fences."""
    sides, green = [], rng.choice((-1, 1))
    for side in (-1, 1):
        parking = bool(rng.random() < 0.75)
        kerb = (1.5 * _LANE if side < 0 else 0.5 * _LANE) + 0.3 + _BAY * parking
        verge = kerb + (rng.uniform(1.3, 2.4) if side == green or rng.random() < 0.3 else 0.0)
        walk = verge + rng.uniform(2.2, 3.4)
        front = walk + (rng.uniform(2.5, 4.5) if side == green else 0.0)
        sides.append(_Roadside(side, kerb, verge, walk, front, parking))
    return _Street(
        sides=(sides[0], sides[1]),
        crossing=rng.uniform(10, 17),
        striped=bool(rng.random() < 0.5),
        signal=int(rng.integers(3)),
        storeys=((2, 4), (3, 6), (4, 7))[int(rng.integers(3))],
    )


def _plan_houses(canvas: Canvas, rng: np.random.Generator, road: _Roadside, storeys: tuple[int, int]) -> list[_Thing]:
    """A row of houses with gaps here and there."""
    things: list[_Thing] = []
    near, gap, before = road.front / 0.75 - rng.uniform(4, 9), True, 0.0
    while near < _FAR - 10:
        near = max(near, 1.2)
        far = near + rng.uniform(9, 17) * (1 if near < 55 else 2)
        height = 3.1 * rng.integers(*storeys) + rng.uniform(0.3, 1.0)
        inner, outer = sorted((road.side * road.front, road.side * (road.front + 9)))
        exposed = bool(gap or height > before)
        draw = partial(scenery.draw_building, canvas, rng, road.side, road.front, near, far, height, exposed)
        things.append(_Thing(far, draw, (inner, outer, near, far), height, shades_others=True))
        gap, before = bool(rng.random() < 0.3), height
        near = far + gap * rng.uniform(2.5, 6)
    return things


def _plan_roadside(canvas: Canvas, rng: np.random.Generator, road: _Roadside, street: _Street) -> list[_Thing]:
    """What stands and walks beside the road."""
    side, kerbside, pavement = road.side, road.side * (road.kerb + 0.45), road.side * (road.verge + 0.9)
    things: list[_Thing] = []
    species = GREENS[int(rng.integers(len(GREENS)))]

    def add(depth: float, draw: Callable[[], None], x: float, half: float, height: float, lift: float = 0.0) -> None:
        things.append(_Thing(depth, draw, (x - half, x + half, depth - half, depth + half), height, lift, lift > 0))

    for z in np.arange(rng.uniform(9, 15), 75, rng.uniform(7, 11)).tolist():
        if road.verge > road.kerb or rng.random() < 0.25:
            tall, x = rng.uniform(5, 8), side * ((road.verge + road.kerb) / 2 + 0.4)
            leaves = scenery.choose(rng, (species,))
            add(z, partial(scenery.draw_tree, canvas, rng, x, z, tall, leaves), x, 0.3 * tall, tall, 0.35 * tall)
    for z in np.arange(rng.uniform(12, 22), 80, 24).tolist():
        add(z, partial(scenery.draw_lamp, canvas, kerbside, z), kerbside, 0.08, 7)
    z = street.crossing + rng.uniform(-0.4, 0.4) + (0 if side > 0 else 3.5)
    gantry = bool(side > 0 and rng.random() < 0.5)
    light = partial(scenery.draw_traffic_light, canvas, kerbside, z, street.signal, gantry)
    add(z, light, kerbside, 0.1, 3.3)
    signs = (rng.uniform(9.5, 14), rng.uniform(15, 20), rng.uniform(22, 34))[: rng.integers(2, 4)]
    for at in signs:
        if abs(at - z) > 1.5:
            add(at, partial(scenery.draw_sign, canvas, rng, kerbside, at), kerbside, 0.05, 3)
    for _ in range(rng.integers(2, 6)):
        z, x = float(rng.triangular(7, 10, 34)), side * rng.uniform(road.verge + 0.5, road.walk - 0.4)
        add(z, partial(scenery.draw_person, canvas, rng, x, z), x, 0.2, 1.7)
    rack = abs(pavement) / 0.5 + rng.uniform(-1, 4)  # nearer, it would stand beside the picture
    for z in (rack, rack + 0.9, rack + 1.8, rack + rng.uniform(6, 16))[: rng.integers(2, 5)]:
        add(z, partial(scenery.draw_bicycle, canvas, rng, pavement, z), pavement, 0.4, 0.9)
    for bin_only in (True, False):
        z, x = rng.uniform(9, 24), side * (road.verge + 0.6 if bin_only else road.walk - 0.6)
        add(z, partial(scenery.draw_clutter, canvas, rng, x, z, bin_only), x, 0.3, 0.9)
    if road.front > road.walk:
        wood = scenery.choose(rng, ((150, 110, 76), (222, 220, 212), (104, 84, 66), (110, 130, 120)))
        for z in np.arange(5, 65, 3.0).tolist():
            if rng.random() < 0.9:
                fence = partial(scenery.draw_fence, canvas, side, road.walk + 0.2, z, z + 3, wood)
                x0, x1 = sorted((side * (road.walk + 0.15), side * (road.walk + 0.25)))
                things.append(_Thing(z + 3, fence, (x0, x1, z, z + 3), 1.15))
    for z in np.arange(rng.uniform(6, 9), 80, rng.uniform(5, 8)).tolist():
        if road.front > road.walk and rng.random() < 0.75:
            x, wide, high = side * (road.front - 1.3), rng.uniform(1.6, 2.8), rng.uniform(1.2, 2.4)
            leaves = scenery.choose(rng, GREENS)
            bush = partial(scenery.draw_foliage, canvas, rng, x, high / 2, z, wide, high, leaves)
            add(z, bush, x, wide / 2, high)
    return things


def _plan_traffic(canvas: Canvas, rng: np.random.Generator, street: _Street) -> list[_Thing]:
    """Parked and moving vehicles, one bus among them, and whoever crosses the road."""
    things: list[_Thing] = []

    def add(x: float, z: float, away: bool, bus: bool) -> float:
        body = scenery.BUS if bus else (scenery.HATCHBACK, scenery.SALOON, scenery.ESTATE)[int(rng.integers(3))]
        length, height = np.max(body.profile, axis=0).tolist()
        paint = scenery.choose(rng, BUS_PAINTS if bus else scenery.PAINTS)
        draw = partial(scenery.draw_vehicle, canvas, body, x, z, away, paint, canvas.instance("bus" if bus else "car"))
        box = (x - body.half_width, x + body.half_width, z, z + length)
        # its near end counts as its depth: whatever stands beside it is farther out, and behind it in the picture
        things.append(_Thing(z + 0.4, draw, box, height, grounded=0.8))
        return float(length)

    crossing, striped = street.crossing, street.striped
    for road in street.sides:
        z = rng.uniform(4.5, 9)
        while road.parking and z < 45:
            blocked = striped and crossing - 6 < z < crossing + 3.5
            if not blocked and rng.random() < 0.7:
                z += add(road.side * (road.kerb - _BAY / 2), z, road.side > 0, False)
            z += rng.uniform(0.8, 2.5)
    clear = crossing + 4.5 if striped else 9.0
    bus_ahead = bool(rng.random() < 0.4)
    for x, away in ((0.0, True), (-_LANE, False)):
        z = rng.uniform(clear, clear + 8) if away else rng.uniform(clear + 1, clear + 9)
        bus = bus_ahead == away
        while z < 60:
            z += add(x + rng.uniform(-0.25, 0.25), z, away, bus) + rng.uniform(5, 20)
            bus = False
    if striped:
        for _ in range(rng.integers(1, 4)):
            x, z = rng.uniform(-4.5, 2.5), crossing + rng.uniform(1.0, 2.6)
            walker = partial(scenery.draw_person, canvas, rng, x, z)
            things.append(_Thing(z, walker, (x - 0.2, x + 0.2, z - 0.15, z + 0.15), 1.7))
    return things


def _paint_sky(canvas: Canvas, rng: np.random.Generator) -> None:
    """Gradient, clouds, and the glow around the sun where it is in view."""
    light, (height, width) = canvas.light, canvas.codes.shape
    overcast = light.sunshine[0] < 0.2
    h, w = max(8, height // 4), max(8, width // 4)
    horizon = canvas.vanishing[1] / height
    up = np.clip(1 - np.linspace(0, 1, h, dtype=np.float32) / max(horizon, 0.05), 0, 1)[:, None]
    zenith = np.array((168, 174, 182) if overcast else (92, 142, 204), np.float32)
    sky = np.asarray(light.haze, np.float32) + (zenith - np.asarray(light.haze, np.float32)) * up[..., None] ** 0.7
    clouds = np.zeros((h, w // 3), np.float32)
    for octave in range(5):
        clouds += scenery.smooth_noise(rng, h, w // 3, h / 4 / 2**octave) / 2 ** (octave + 1)
    clouds = cv2.resize(clouds, (w, h), interpolation=cv2.INTER_CUBIC)
    cover = np.clip((clouds - (0.35 if overcast else rng.uniform(0.45, 0.62))) * 4, 0, 1) * np.clip(up * 4, 0, 1)
    white = np.array((222, 224, 228) if overcast else (246, 244, 240), np.float32)
    sky = sky + (white - sky) * (cover * (0.55 if overcast else 0.85))[..., None]
    if light.sun[2] > 0.1 and not overcast:
        x, y = canvas.vanishing + canvas.focal / light.sun[2] * np.array([light.sun[0], -light.sun[1]])
        far = np.hypot(np.arange(w)[None] * 4 - x, np.arange(h)[:, None] * 4 - y) / canvas.focal
        sky += (np.exp(-4 * far)[..., None] * (70, 60, 40)).astype(np.float32)
    canvas.image[:] = cv2.resize(np.clip(sky, 0, 255).astype(np.uint8), (width, height))
    canvas.codes[:] = code_of("sky")


def _paint_ground(canvas: Canvas, rng: np.random.Generator, street: _Street) -> None:
    """Grass everywhere, pavements and the road on it, kerbs, and the paint on the road."""
    all_depths, raised = np.geomspace(0.6, 3000, 40), (0.12, 0.12)
    gain = canvas.light.gain((0, 1, 0))

    def strip(
        x0: float,
        x1: float,
        colour: scenery.Colour,
        name: str | None = None,
        z: NDArray[np.float64] = all_depths,
        heights: tuple[float, float] = (0, 0),
    ) -> None:
        edges = [
            np.stack([np.full_like(z, x), np.full_like(z, y), z], -1) for x, y in zip((x0, x1), heights, strict=True)
        ]
        corners = canvas.project(np.concatenate([edges[0], edges[1][::-1]]))
        canvas.fill(corners, np.minimum(np.multiply(colour, gain), 255), None if name is None else code_of(name))

    grass = scenery.choose(rng, ((92, 112, 62), (104, 116, 66), (84, 100, 56)))
    paving = scenery.choose(rng, ((150, 146, 140), (162, 154, 144), (140, 140, 142)))
    asphalt = scenery.choose(rng, ((92, 92, 94), (104, 102, 100), (80, 82, 86)))
    white = (196, 196, 190)
    (left, right), crossing = street.sides, street.crossing
    strip(-2000, 2000, grass, "terrain")
    for road in street.sides:
        kerb, stone, verge, walk = (road.side * x for x in (road.kerb, road.kerb + 0.15, road.verge, road.walk))
        strip(verge, walk, paving, "sidewalk", heights=raised)
        strip(stone, verge, grass, "terrain", heights=raised)
        strip(kerb, stone, paving * 1.12, "sidewalk", heights=raised)
    strip(-left.kerb, right.kerb, asphalt, "road")
    for _ in range(rng.integers(1, 5)):
        x, z = rng.uniform(-left.kerb + 0.5, right.kerb - 1.5), rng.uniform(5, 30)
        mended = np.array([z, z + rng.uniform(1, 6)])
        strip(x, x + rng.uniform(0.6, 1.6), asphalt * rng.uniform(0.8, 1.12), z=mended)
    for road in street.sides:
        kerb, bay = road.side * road.kerb, road.side * (road.kerb - _BAY)
        strip(kerb, kerb, paving * 0.8, "sidewalk", heights=(0, 0.12))
        if road.parking:
            strip(bay, kerb, asphalt * 0.9, "road" if street.striped or rng.random() < 0.5 else "parking")
            strip(bay, bay - road.side * 0.12, white)
    for z in np.arange(rng.uniform(1, 8), 120, 7.5).tolist():
        if not (street.striped and crossing - 3.5 < z < crossing + 4):
            strip(-_LANE / 2 - 0.07, -_LANE / 2 + 0.07, white, z=np.linspace(z, z + 3, 3))
    if street.striped:
        for x in np.arange(-left.kerb + 0.4, right.kerb - 0.5, 1.0).tolist():
            strip(x, x + 0.5, white, z=np.linspace(crossing, crossing + 3.2, 3))
        stop_line = np.array([crossing - 1.6, crossing - 1.2])
        strip(-_LANE / 2, right.kerb - _BAY * right.parking, white, z=stop_line)


def _seamless_noise(rng: np.random.Generator, size: int, cell: float) -> NDArray[np.float32]:
    """Noise as of `smooth_noise`, (size, size) float32, that can be laid side by side with itself."""
    cells = max(2, round(size / cell))
    grid = np.pad(rng.random((cells, cells), dtype=np.float32), 1, mode="wrap")
    # pixel centres onto cell centres, one cell in from the wrapped rim
    start = 0.5 * cells / size + 0.5
    matrix = np.array([[cells / size, 0, start], [0, cells / size, start]])
    noise = cv2.warpAffine(grid, matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return noise.astype(np.float32, copy=False)


def _weather_ground(canvas: Canvas, rng: np.random.Generator, shadows: _ShadowMap) -> None:
    """Lays grain, slabs, shadows and haze over the ground that is painted so far."""
    step, light = SUPERSAMPLING, canvas.light
    top = max(0, math.ceil(canvas.vanishing[1] / step) + 1)
    codes = canvas.codes[top * step :: step, ::step]
    rows, columns = codes.shape
    if not rows:
        return
    below = np.arange(top, top + rows, dtype=np.float32) * step - np.float32(canvas.vanishing[1])
    z = canvas.camera_height * canvas.focal / below
    across = (np.arange(columns, dtype=np.float32) * step - canvas.vanishing[0]) / canvas.focal
    x = across * z[:, None] - (canvas.bend * z * z)[:, None]
    depth = np.repeat(z[:, None], columns, 1)

    texel = 32 if canvas.focal < 1200 else 64  # a metre; the tiles are 8 m wide, and 128 leaves the colour as it is
    size = 8 * texel
    grain = 110 + 18 * _seamless_noise(rng, size, 1.3) + 18 * _seamless_noise(rng, size, 60)
    slabs = np.repeat(np.repeat(rng.uniform(119, 136, (16, 16)), texel // 2, 0), texel // 2, 1).astype(np.float32)
    slabs[:: texel // 2] = slabs[:, :: texel // 2] = 100
    slabs += 12 * _seamless_noise(rng, size, 2) - 6
    blades = 79 + 46 * _seamless_noise(rng, size, 2.5) + 51 * _seamless_noise(rng, size, 40)
    tiles = cv2.merge([grain, slabs, blades]).astype(np.uint8)
    laid = cv2.remap(tiles, x * texel, depth * texel, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    gain = np.full((rows, columns), 128, np.uint8)
    for channel, name in enumerate(("road", "sidewalk", "terrain")):
        cv2.copyTo(np.ascontiguousarray(laid[..., channel]), (codes == code_of(name)).astype(np.uint8), gain)
    # a texel that is finer than a pixel would flicker: the texture fades where a pixel covers much of the ground
    visible = np.clip(1.4 - z * z / (canvas.camera_height * canvas.focal / step) * 6, 0, 1)[:, None]

    where = (x + _MAP_HALF_WIDTH) * _MAP_RESOLUTION, depth * _MAP_RESOLUTION
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


def _paint_end_of_street(canvas: Canvas, rng: np.random.Generator) -> None:
    """Houses and trees across the far end, and the spot where nobody could say what is there."""
    x, end = -40.0 - canvas.bend * _FAR**2, 40.0 - canvas.bend * _FAR**2
    while x < end:
        width, height = rng.uniform(9, 20), rng.uniform(7, 17)
        wall = scenery.paint_facade(rng, width, height, 4, scenery.choose(rng, scenery.PLASTERS))
        front = [(x, height, _FAR), (x + width, height, _FAR), (x + width, 0, _FAR), (x, 0, _FAR)]
        canvas.texture(wall, front, (0, 0, -1), code_of("building"))
        if rng.random() < 0.6:
            scenery.draw_foliage(canvas, rng, x, 4, _FAR - 4, 9, 8, scenery.choose(rng, GREENS))
        x += width
    spot = canvas.project((rng.uniform(-1, 1), 1.0, _FAR - 6))
    turn = np.linspace(0, 2 * math.pi, 9, endpoint=False)
    reach = 3.0 * canvas.focal / _FAR * rng.uniform(0.7, 1.3, (9, 1))
    corners = spot + np.stack([np.cos(turn), 0.5 * np.sin(turn)], -1) * reach
    canvas.fill(corners, canvas.seen((70, 74, 70), (0, 0, -1), _FAR), code_of("unlabeled"))


def _paint_bonnet(canvas: Canvas, rng: np.random.Generator) -> None:
    """The bonnet of the car that carries the camera: it reflects the sky."""
    height, width = canvas.codes.shape
    paint = scenery.choose(rng, ((40, 42, 46), (30, 36, 50), (58, 60, 64)))
    t = np.linspace(-1, 1, 41)
    middle, half = width * rng.uniform(0.48, 0.52), width * rng.uniform(0.3, 0.36)
    rise = height * rng.uniform(0.075, 0.11)
    # a dark rim, then the sky's reflection, that fades towards the windscreen
    for layer, mix in enumerate([0.0, *np.linspace(0.5, 0.06, 28)]):
        inset = 1 - layer * 0.032
        arch = np.stack([middle + t * half * (0.75 + 0.25 * inset), height - rise * inset * (1 - np.abs(t) ** 3.2)], -1)
        corners = np.concatenate([arch, [(middle + half, height + 4), (middle - half, height + 4)]])
        colour = paint * canvas.light.gain((0, 1, 0))[1] * (1 - mix) + np.asarray(canvas.light.haze) * mix
        canvas.fill(corners, np.minimum(colour if layer else paint * 0.3, 255), code_of("ego vehicle"))


def _frame(canvas: Canvas, rng: np.random.Generator) -> None:
    """The strips at the edge that calibrated cameras leave: cut by rectification, or outside the region of interest."""
    height, width = canvas.codes.shape
    thin = SUPERSAMPLING * max(1, round(width / SUPERSAMPLING / 300))
    canvas.codes[height - SUPERSAMPLING * max(1, round(height / SUPERSAMPLING / 200)) :] = code_of("out of roi")
    for columns, rows in ((slice(0, thin), slice(None)), (slice(width - thin, None), slice(None)),
                          (slice(None), slice(0, thin))):  # fmt: skip
        canvas.codes[rows, columns] = code_of("rectification border")
        canvas.image[rows, columns] = rng.integers(4, 12)


def _develop(canvas: Canvas, rng: np.random.Generator) -> Pixels:
    """Canvas -> (H, W, 3) uint8 photograph: lens blur, vignetting, white balance, contrast and sensor noise."""
    height, width = canvas.codes.shape[0] // SUPERSAMPLING, canvas.codes.shape[1] // SUPERSAMPLING
    image = cv2.resize(canvas.image, (width, height), interpolation=cv2.INTER_AREA)
    image = cv2.GaussianBlur(image, (0, 0), 0.3 + 0.2 * width / 1024)
    # the camera's own exposure: it brings dark streets half the way to a common brightness
    exposure = (112 / max(20.0, float(image[::4, ::4].mean()))) ** 0.6 * rng.uniform(0.94, 1.06)
    balance = 1 + rng.uniform(-0.035, 0.035) * np.array([1, 0, -1])
    levels = np.clip(np.arange(256)[:, None] / 255 * balance * exposure, 0, 1)
    levels += rng.uniform(0.1, 0.35) * levels * (1 - levels) * (2 * levels - 1)
    image = cv2.LUT(image, np.rint(255 * levels).astype(np.uint8)[None])
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)
    vignette = 255 * (1 - rng.uniform(0.08, 0.2) * (x * x + y * y) / 2)
    image = cv2.multiply(image, cv2.merge([vignette.astype(np.uint8)] * 3), scale=1 / 255)
    noise = rng.standard_normal((height, width), dtype=np.float32) * np.float32(rng.uniform(1.2, 3.0))
    return cv2.add(image, cv2.merge([noise] * 3), dtype=cv2.CV_8U).astype(np.uint8, copy=False)


def draw_scene(seed: int | Sequence[int], height: int = 512, width: int = 1024) -> Scene:
    """Draws one street.

    Args:
        seed: any number or numbers from 0 upwards; the same ones give the same pixels.
        height: pixels, 64 to 1024.
        width: pixels, 64 to 2048.

    Returns:
        The picture and its labels.

    Raises:
        UserError: a size or a seed is out of range.

    Example:
        >>> scene = draw_scene(seed=0, height=64, width=128)
        >>> scene.image.shape, scene.label_ids.shape, scene.instance_ids.dtype
        ((64, 128, 3), (64, 128), dtype('uint16'))
    """
    _check_size(height, width)
    if (np.atleast_1d(seed) < 0).any():
        raise UserError(f"seed {seed}: seeds are whole numbers from 0 upwards: use one of these")
    rng = np.random.default_rng(seed)
    # the view of a 2 : 1 picture is that of Cityscapes, a little wider; other shapes keep its area
    focal = SUPERSAMPLING * 0.9 * math.sqrt(2 * height * width)
    shape = (SUPERSAMPLING * height, SUPERSAMPLING * width)
    canvas = Canvas(
        image=np.zeros((*shape, 3), np.uint8),
        codes=np.zeros(shape, np.uint16),
        focal=focal,
        vanishing=(shape[1] * rng.uniform(0.42, 0.58), shape[0] * rng.uniform(0.42, 0.5)),
        camera_height=rng.uniform(1.25, 1.6),
        bend=rng.uniform(-1, 1) ** 3 * 1.2e-3,
        light=_make_light(rng),
        smallest=3 / 512 * focal / 0.9,
    )
    street = _plan_street(rng)
    things = _plan_traffic(canvas, rng, street)
    for road in street.sides:
        things += _plan_houses(canvas, rng, road, street.storeys) + _plan_roadside(canvas, rng, road, street)
    shadows, sunlit = _cast_shadows(things, canvas.light)
    _paint_sky(canvas, rng)
    _paint_ground(canvas, rng, street)
    _weather_ground(canvas, rng, shadows)
    _paint_end_of_street(canvas, rng)
    for i in sorted(range(len(things)), key=lambda i: -things[i].depth):
        left, right, _, far = things[i].footprint
        # the margin leaves room for crowns and arms
        if canvas.shows(left - 3.5, right + 3.5, far):
            canvas.sunlit = sunlit[i]
            things[i].draw()
    _paint_bonnet(canvas, rng)
    _frame(canvas, rng)
    codes = np.ascontiguousarray(canvas.codes[1::SUPERSAMPLING, 1::SUPERSAMPLING])
    label_ids = np.where(codes >= 1000, codes // 1000, codes).astype(np.uint8)
    return Scene(_develop(canvas, rng), label_ids, codes)


def synthesize(
    root: Path,
    counts: Mapping[str, int] | None = None,
    height: int = 512,
    width: int = 1024,
    seed: int = 0,
    progress: bool = True,
) -> None:
    """Writes a data set in the Cityscapes layout.

    Args:
        root: the folder that gets `leftImg8bit` and `gtFine`; parents are made.
        counts: scenes per split (train, val, test). By default 48 to train and 12 to validate.
        height: pixels, 64 to 1024.
        width: pixels, 64 to 2048.
        seed: a number from 0 upwards. A scene depends on (seed, split, index) alone, not on the counts.
        progress: shows a bar on standard error, if that is a terminal.

    Raises:
        UserError: a size, a count, a split or the seed is wrong, or the folder holds a data set already.
    """
    counts = {"train": 48, "val": 12} if counts is None else dict(counts)
    _check_size(height, width)
    if seed < 0:
        raise UserError(f"seed {seed}: seeds are whole numbers from 0 upwards: use one of these")
    for split, count in counts.items():
        if split not in CITIES:
            raise UserError(f"split {split!r}: Cityscapes has {', '.join(CITIES)}: use one of these")
        if count < 0:
            raise UserError(f"{split}: {count} scenes; a count is 0 or more: use such a number")
    for name in ("leftImg8bit", "gtFine"):
        if any(path.is_file() for path in (root / name).rglob("*")):
            raise UserError(
                f"{root / name}: holds files already, and none is overwritten: choose another folder or remove it"
            )

    palette = np.zeros((256, 3), np.uint8)
    for label, entry in id2label.items():
        if label >= 0:
            palette[label] = entry.color
    jobs = [(split, index) for split, count in counts.items() for index in range(count)]
    for split, index in tqdm(jobs, desc="synthesize", unit="scene", disable=None if progress else True):
        scene = draw_scene((seed, list(CITIES).index(split), index), height, width)
        city = CITIES[split][index % len(CITIES[split])]
        stem = f"{city}_{index // len(CITIES[split]):06d}_000019"
        labels = root / "gtFine" / split / city
        write_png(labels / f"{stem}_gtFine_labelIds.png", scene.label_ids)
        write_png(labels / f"{stem}_gtFine_instanceIds.png", scene.instance_ids)
        write_png(labels / f"{stem}_gtFine_color.png", palette[scene.label_ids])
        write_png(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", scene.image)


def _check_size(height: int, width: int) -> None:
    if not (SMALLEST[0] <= height <= LARGEST[0] and SMALLEST[1] <= width <= LARGEST[1]):
        raise UserError(
            f"size {height} x {width}: a scene is {SMALLEST[0]} to {LARGEST[0]} pixels high and {SMALLEST[1]} to "
            f"{LARGEST[1]} wide: choose a size within"
        )
