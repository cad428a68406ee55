"""The layout of a street, and the objects in it: houses, roadside, traffic. Nothing is painted here."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from dlaseg.synthetic.appearance import pick_colour
from dlaseg.synthetic.buildings import draw_building
from dlaseg.synthetic.canvas import FAR, Canvas
from dlaseg.synthetic.people import draw_bicycle, draw_person
from dlaseg.synthetic.roadside import (
    FENCE,
    GREENS,
    draw_clutter,
    draw_fence,
    draw_foliage,
    draw_lamp,
    draw_sign,
    draw_traffic_light,
    draw_tree,
)
from dlaseg.synthetic.vehicles import BUS, BUS_PAINTS, CAR_PAINTS, ESTATE, HATCHBACK, SALOON, draw_vehicle

LANE, BAY = 3.5, 2.2  # metres: width of a lane and of a parking bay


@dataclass(frozen=True)
class Roadside:
    """One side of the street. Distances are from the camera's path, in metres."""

    side: int  # -1 left, 1 right
    kerb: float
    verge: float  # where the grass strip ends and the pavement begins
    walk: float  # where the pavement ends and the front garden begins
    front: float  # where the houses stand
    parking: bool


@dataclass(frozen=True)
class Street:
    """The layout that all objects of a street share."""

    sides: tuple[Roadside, Roadside]  # left, right
    crossing: float  # metres from the camera to the traffic lights
    striped: bool  # whether there is a zebra crossing
    signal: int  # 0 red, 1 amber, 2 green
    storeys: tuple[int, int]  # of the houses: from the first number to one below the second


@dataclass(frozen=True)
class SceneObject:
    """An object to be painted."""

    depth: float  # metres; the farthest object is painted first
    draw: Callable[[], None]
    footprint: tuple[float, float, float, float]  # x0, x1, z0, z1 in metres
    height: float
    shadow_from: float = 0.0  # metres above the ground at which the part that casts a shadow begins
    shades_others: bool = False  # whether its shadow falls on objects too, not only on the ground
    contact_shadow: float = 0.0  # how dark the ground under it is, 0 to 1


def plan_street(rng: np.random.Generator) -> Street:
    """One side with houses directly at the pavement, and a green side with verge, front gardens and fences."""
    sides, green = [], rng.choice((-1, 1))
    for side in (-1, 1):
        parking = bool(rng.random() < (0.45 if side == green else 0.75))  # parked cars hide the gardens
        kerb = (1.5 * LANE if side < 0 else 0.5 * LANE) + 0.3 + BAY * parking
        verge = kerb + (rng.uniform(1.3, 2.4) if side == green or rng.random() < 0.3 else 0.0)
        walk = verge + rng.uniform(2.2, 3.4)
        front = walk + (rng.uniform(2.5, 4.5) if side == green else 0.0)
        sides.append(Roadside(side, kerb, verge, walk, front, parking))
    return Street(
        sides=(sides[0], sides[1]),
        crossing=rng.uniform(10, 17),
        striped=bool(rng.random() < 0.5),
        signal=int(rng.integers(3)),
        storeys=((2, 4), (3, 6), (4, 7))[int(rng.integers(3))],
    )


def plan_houses(
    canvas: Canvas, rng: np.random.Generator, road: Roadside, storeys: tuple[int, int]
) -> list[SceneObject]:
    """A row of houses with gaps."""
    objects: list[SceneObject] = []
    near, gap, previous_height = road.front / 0.75 - rng.uniform(4, 9), True, 0.0
    while near < FAR - 10:
        near = max(near, 1.2)
        far = near + rng.uniform(9, 17) * (1 if near < 55 else 2)
        height = 3.1 * rng.integers(*storeys) + rng.uniform(0.3, 1.0)
        inner, outer = sorted((road.side * road.front, road.side * (road.front + 9)))
        exposed = bool(gap or height > previous_height)
        draw = partial(draw_building, canvas, rng, road.side, road.front, near, far, height, exposed)
        objects.append(SceneObject(far, draw, (inner, outer, near, far), height, shades_others=True))
        gap, previous_height = bool(rng.random() < 0.3), height
        near = far + gap * rng.uniform(2.5, 6)
    return objects


def plan_roadside(canvas: Canvas, rng: np.random.Generator, road: Roadside, street: Street) -> list[SceneObject]:
    """Trees, lamps, signs, people, bicycles, bins, fences and bushes beside the road."""
    side, kerbside, pavement = road.side, road.side * (road.kerb + 0.45), road.side * (road.verge + 0.9)
    objects: list[SceneObject] = []
    species = GREENS[int(rng.integers(len(GREENS)))]

    def add(
        depth: float, draw: Callable[[], None], x: float, half: float, height: float, shadow_from: float = 0.0
    ) -> None:
        footprint = (x - half, x + half, depth - half, depth + half)
        objects.append(SceneObject(depth, draw, footprint, height, shadow_from, shades_others=shadow_from > 0))

    for z in np.arange(rng.uniform(9, 15), 75, rng.uniform(7, 11)).tolist():
        if road.verge > road.kerb or rng.random() < 0.25:
            height, x = rng.uniform(5, 8), side * ((road.verge + road.kerb) / 2 + 0.4)
            leaves = pick_colour(rng, (species,))
            add(z, partial(draw_tree, canvas, rng, x, z, height, leaves), x, 0.3 * height, height, 0.35 * height)
    for z in np.arange(rng.uniform(12, 22), 50, 24).tolist():
        add(z, partial(draw_lamp, canvas, kerbside, z), kerbside, 0.08, 7)
    z = street.crossing + rng.uniform(-0.4, 0.4) + (0 if side > 0 else 3.5)
    gantry = bool(side > 0 and rng.random() < 0.5)
    add(z, partial(draw_traffic_light, canvas, kerbside, z, street.signal, gantry), kerbside, 0.1, 3.3)
    for sign_z in (rng.uniform(9.5, 14), rng.uniform(15, 20), rng.uniform(22, 34))[: rng.integers(2, 4)]:
        if abs(sign_z - z) > 1.5:
            add(sign_z, partial(draw_sign, canvas, rng, kerbside, sign_z), kerbside, 0.05, 3)
    rack = abs(pavement) / 0.5 + rng.uniform(-1, 4)  # nearer, it would be outside the picture
    for _ in range(rng.integers(4, 9)):
        z, x = float(rng.triangular(8.5, 11.5, 22)), side * rng.uniform(road.verge + 0.5, road.walk - 0.4)
        if not rack - 0.5 < z < rack + 2.3:  # no people among the bicycles
            add(z, partial(draw_person, canvas, rng, x, z), x, 0.2, 1.7)
    for z in (rack, rack + 0.9, rack + 1.8, rack + rng.uniform(6, 16))[: rng.integers(2, 5)]:
        add(z, partial(draw_bicycle, canvas, rng, pavement, z), pavement, 0.4, 0.9)
    for is_bin in (True, False):
        z, x = rng.uniform(9, 24), side * (road.verge + 0.6 if is_bin else road.walk - 0.6)
        add(z, partial(draw_clutter, canvas, rng, x, z, is_bin), x, 0.3, 0.9)
    if road.front > road.walk:
        wood = pick_colour(rng, ((150, 110, 76), (222, 220, 212), (104, 84, 66), (172, 134, 92)))
        for z in np.arange(5, 65, 3.0).tolist():
            if rng.random() < 0.95:
                fence = partial(draw_fence, canvas, side, road.walk + 0.2, z, z + 3, wood)
                x0, x1 = sorted((side * (road.walk + 0.15), side * (road.walk + 0.25)))
                objects.append(SceneObject(z + 3, fence, (x0, x1, z, z + 3), FENCE))
    for z in np.arange(rng.uniform(6, 9), 80, rng.uniform(5, 8)).tolist():
        if road.front > road.walk and rng.random() < 0.75:
            x, width, height = side * (road.front - 1.3), rng.uniform(1.6, 2.8), rng.uniform(1.2, 2.4)
            leaves = pick_colour(rng, GREENS)
            add(z, partial(draw_foliage, canvas, rng, x, height / 2, z, width, height, leaves), x, width / 2, height)
    return objects


def plan_traffic(canvas: Canvas, rng: np.random.Generator, street: Street) -> list[SceneObject]:
    """Parked and moving cars, in four of five streets a bus, and people on the crossing."""
    objects: list[SceneObject] = []

    def add(x: float, z: float, away: bool, bus: bool) -> float:
        body = BUS if bus else (HATCHBACK, SALOON, ESTATE)[int(rng.integers(3))]
        paint = pick_colour(rng, BUS_PAINTS if bus else CAR_PAINTS)
        draw = partial(draw_vehicle, canvas, body, x, z, away, paint, canvas.new_instance("bus" if bus else "car"))
        footprint = (x - body.half_width, x + body.half_width, z, z + body.length)
        # Its near end is its depth: objects beside it are farther out, and so behind it in the picture
        objects.append(SceneObject(z + 0.4, draw, footprint, body.height, contact_shadow=0.8))
        return body.length

    crossing, striped = street.crossing, street.striped
    for road in street.sides:
        z = rng.uniform(4.5, 9)
        while road.parking and z < 45:
            blocked = striped and crossing - 6 < z < crossing + 3.5
            if not blocked and rng.random() < 0.7:
                z += add(road.side * (road.kerb - BAY / 2), z, road.side > 0, False)
            z += rng.uniform(0.8, 2.5)
    clear = crossing + 4.5 if striped else 9.0
    draw = rng.random()
    for x, away, bus in ((0.0, True, draw < 0.35), (-LANE, False, 0.35 <= draw < 0.8)):
        z = rng.uniform(clear, clear + 8) if away else rng.uniform(clear + 1, clear + 9)
        while z < 60:
            z += add(x + rng.uniform(-0.25, 0.25), z, away, bus) + rng.uniform(5, 20)
            bus = False
    if striped:
        for _ in range(rng.integers(1, 4)):
            x, z = rng.uniform(-4.5, 2.5), crossing + rng.uniform(1.0, 2.6)
            person = partial(draw_person, canvas, rng, x, z)
            objects.append(SceneObject(z, person, (x - 0.2, x + 0.2, z - 0.15, z + 0.15), 1.7))
    return objects
