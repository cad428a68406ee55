"""How a street is laid out across: lanes, parking bays, verges, pavements, front gardens."""

from dataclasses import dataclass

import numpy as np

LANE, BAY = 3.5, 2.2  # metres: the width of a lane, of a parking bay
FAR = 125.0  # metres; there the street ends at a row of houses


@dataclass(frozen=True)
class Roadside:
    """How one side of the street is divided: distances from the camera's path, metres."""

    side: int  # -1 left, 1 right
    kerb: float
    verge: float  # where the grass strip ends and the pavement begins
    walk: float  # where the pavement ends and the front garden begins
    front: float  # where the houses stand
    parking: bool


@dataclass(frozen=True)
class Street:
    """What all that stands in one street has to agree on."""

    sides: tuple[Roadside, Roadside]  # left, right
    crossing: float  # where the traffic lights stand, metres ahead
    striped: bool  # a zebra crossing lies there
    signal: int  # 0 red, 1 amber, 2 green
    storeys: tuple[int, int]  # of the houses: at least the first, less than the second


def plan_street(rng: np.random.Generator) -> Street:
    """A town side whose houses stand at the pavement, and a green side with verge, front gardens and fences."""
    sides, green = [], rng.choice((-1, 1))
    for side in (-1, 1):
        parking = bool(rng.random() < (0.45 if side == green else 0.75))  # or no garden would be seen
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
