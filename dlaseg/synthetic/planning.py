"""What stands where in a street, before any of it is painted."""

from collections.abc import Callable
from functools import partial

import numpy as np

from dlaseg.synthetic.buildings import draw_building
from dlaseg.synthetic.canvas import Canvas
from dlaseg.synthetic.foliage import GREENS, draw_foliage, draw_tree
from dlaseg.synthetic.furniture import FENCE, draw_clutter, draw_fence, draw_lamp, draw_sign, draw_traffic_light
from dlaseg.synthetic.palette import choose
from dlaseg.synthetic.people import draw_bicycle, draw_person
from dlaseg.synthetic.shadows import Thing
from dlaseg.synthetic.street import BAY, FAR, LANE, Roadside, Street
from dlaseg.synthetic.vehicles import BUS, BUS_PAINTS, ESTATE, HATCHBACK, PAINTS, SALOON, draw_vehicle


def plan_houses(canvas: Canvas, rng: np.random.Generator, road: Roadside, storeys: tuple[int, int]) -> list[Thing]:
    """A row of houses with gaps here and there."""
    things: list[Thing] = []
    near, gap, before = road.front / 0.75 - rng.uniform(4, 9), True, 0.0
    while near < FAR - 10:
        near = max(near, 1.2)
        far = near + rng.uniform(9, 17) * (1 if near < 55 else 2)
        height = 3.1 * rng.integers(*storeys) + rng.uniform(0.3, 1.0)
        inner, outer = sorted((road.side * road.front, road.side * (road.front + 9)))
        exposed = bool(gap or height > before)
        draw = partial(draw_building, canvas, rng, road.side, road.front, near, far, height, exposed)
        things.append(Thing(far, draw, (inner, outer, near, far), height, shades_others=True))
        gap, before = bool(rng.random() < 0.3), height
        near = far + gap * rng.uniform(2.5, 6)
    return things


def plan_roadside(canvas: Canvas, rng: np.random.Generator, road: Roadside, street: Street) -> list[Thing]:
    """What stands and walks beside the road."""
    side, kerbside, pavement = road.side, road.side * (road.kerb + 0.45), road.side * (road.verge + 0.9)
    things: list[Thing] = []
    species = GREENS[int(rng.integers(len(GREENS)))]

    def add(depth: float, draw: Callable[[], None], x: float, half: float, height: float, lift: float = 0.0) -> None:
        things.append(Thing(depth, draw, (x - half, x + half, depth - half, depth + half), height, lift, lift > 0))

    for z in np.arange(rng.uniform(9, 15), 75, rng.uniform(7, 11)).tolist():
        if road.verge > road.kerb or rng.random() < 0.25:
            tall, x = rng.uniform(5, 8), side * ((road.verge + road.kerb) / 2 + 0.4)
            leaves = choose(rng, (species,))
            add(z, partial(draw_tree, canvas, rng, x, z, tall, leaves), x, 0.3 * tall, tall, 0.35 * tall)
    for z in np.arange(rng.uniform(12, 22), 50, 24).tolist():
        add(z, partial(draw_lamp, canvas, kerbside, z), kerbside, 0.08, 7)
    z = street.crossing + rng.uniform(-0.4, 0.4) + (0 if side > 0 else 3.5)
    gantry = bool(side > 0 and rng.random() < 0.5)
    light = partial(draw_traffic_light, canvas, kerbside, z, street.signal, gantry)
    add(z, light, kerbside, 0.1, 3.3)
    signs = (rng.uniform(9.5, 14), rng.uniform(15, 20), rng.uniform(22, 34))[: rng.integers(2, 4)]
    for at in signs:
        if abs(at - z) > 1.5:
            add(at, partial(draw_sign, canvas, rng, kerbside, at), kerbside, 0.05, 3)
    rack = abs(pavement) / 0.5 + rng.uniform(-1, 4)  # nearer, it would stand beside the picture
    for _ in range(rng.integers(4, 9)):
        z, x = float(rng.triangular(8.5, 11.5, 22)), side * rng.uniform(road.verge + 0.5, road.walk - 0.4)
        if not rack - 0.5 < z < rack + 2.3:  # nobody stands among the bicycles
            add(z, partial(draw_person, canvas, rng, x, z), x, 0.2, 1.7)
    for z in (rack, rack + 0.9, rack + 1.8, rack + rng.uniform(6, 16))[: rng.integers(2, 5)]:
        add(z, partial(draw_bicycle, canvas, rng, pavement, z), pavement, 0.4, 0.9)
    for bin_only in (True, False):
        z, x = rng.uniform(9, 24), side * (road.verge + 0.6 if bin_only else road.walk - 0.6)
        add(z, partial(draw_clutter, canvas, rng, x, z, bin_only), x, 0.3, 0.9)
    if road.front > road.walk:
        wood = choose(rng, ((150, 110, 76), (222, 220, 212), (104, 84, 66), (172, 134, 92)))
        for z in np.arange(5, 65, 3.0).tolist():
            if rng.random() < 0.95:
                fence = partial(draw_fence, canvas, side, road.walk + 0.2, z, z + 3, wood)
                x0, x1 = sorted((side * (road.walk + 0.15), side * (road.walk + 0.25)))
                things.append(Thing(z + 3, fence, (x0, x1, z, z + 3), FENCE))
    for z in np.arange(rng.uniform(6, 9), 80, rng.uniform(5, 8)).tolist():
        if road.front > road.walk and rng.random() < 0.75:
            x, wide, high = side * (road.front - 1.3), rng.uniform(1.6, 2.8), rng.uniform(1.2, 2.4)
            leaves = choose(rng, GREENS)
            bush = partial(draw_foliage, canvas, rng, x, high / 2, z, wide, high, leaves)
            add(z, bush, x, wide / 2, high)
    return things


def plan_traffic(canvas: Canvas, rng: np.random.Generator, street: Street) -> list[Thing]:
    """Parked and moving vehicles, mostly one bus among them, and whoever crosses the road."""
    things: list[Thing] = []

    def add(x: float, z: float, away: bool, bus: bool) -> float:
        body = BUS if bus else (HATCHBACK, SALOON, ESTATE)[int(rng.integers(3))]
        paint = choose(rng, BUS_PAINTS if bus else PAINTS)
        draw = partial(draw_vehicle, canvas, body, x, z, away, paint, canvas.instance("bus" if bus else "car"))
        box = (x - body.half_width, x + body.half_width, z, z + body.length)
        # its near end counts as its depth: whatever stands beside it is farther out, and behind it in the picture
        things.append(Thing(z + 0.4, draw, box, body.height, grounded=0.8))
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
    lot = rng.random()
    # one street in five has no bus
    for x, away, bus in ((0.0, True, lot < 0.35), (-LANE, False, 0.35 <= lot < 0.8)):
        z = rng.uniform(clear, clear + 8) if away else rng.uniform(clear + 1, clear + 9)
        while z < 60:
            z += add(x + rng.uniform(-0.25, 0.25), z, away, bus) + rng.uniform(5, 20)
            bus = False
    if striped:
        for _ in range(rng.integers(1, 4)):
            x, z = rng.uniform(-4.5, 2.5), crossing + rng.uniform(1.0, 2.6)
            walker = partial(draw_person, canvas, rng, x, z)
            things.append(Thing(z, walker, (x - 0.2, x + 0.2, z - 0.15, z + 0.15), 1.7))
    return things
