"""Pedestrians and parked bicycles."""

import math

import numpy as np

from dlaseg.synthetic.appearance import CLOTHES, TYRE, Floats, pick_colour
from dlaseg.synthetic.canvas import Canvas

SKINS = ((236, 196, 168), (214, 164, 130), (160, 112, 80), (104, 72, 54))


def draw_person(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A pedestrian, 1.6 to 1.85 m tall, standing or in mid-step."""
    code, size = canvas.new_instance("person"), rng.uniform(1.6, 1.85) / 1.75
    scale = size * canvas.focal / z
    origin = canvas.project((x, 0.0 if abs(x) < 5 else 0.1, z))
    coat, trousers = pick_colour(rng, CLOTHES), pick_colour(rng, CLOTHES) * 0.75
    skin, hair = pick_colour(rng, SKINS), pick_colour(rng, ((40, 30, 26), (110, 80, 50), (170, 150, 120), (60, 44, 34)))
    stride, facing = rng.uniform(0.06, 0.26), float(rng.choice((-1, 1)))

    def at(*points: tuple[float, float]) -> Floats:
        return origin + np.array(points) * (scale, -scale)

    def tone(colour: Floats, factor: float = 1.0) -> tuple[float, float, float]:
        return canvas.shade(colour * factor, (0, 0, -1), z)

    for foot, factor in ((-stride, 0.8), (stride, 1.0)):
        knee = (0.5 * foot + facing * 0.04, 0.5)
        canvas.stroke(
            at((math.copysign(0.06, foot), 0.88), knee, (foot, 0.08)), 0.15 * scale, tone(trousers, factor), code
        )
        canvas.stroke(
            at((foot, 0.05), (foot + facing * 0.11, 0.04)), 0.09 * scale, tone(np.array((36.0, 32.0, 32.0))), code
        )
    hem, swing, dark = float(rng.choice((0.82, 0.82, 0.62))), 0.5 * stride, -math.copysign(1, canvas.light.sun[0])
    half_torso = ((0.17, hem), (0.16, 1.05), (0.22, 1.36), (0.12, 1.46))
    arm = ((0.2, 1.37), (0.25 + 0.6 * swing, 1.1), (0.2 + swing, 0.86))
    canvas.stroke(at(*arm), 0.1 * scale, tone(coat, 0.8), code)
    canvas.fill(at(*half_torso, *((-x, y) for x, y in reversed(half_torso))), tone(coat), code)
    canvas.fill(
        at(*((dark * x, y) for x, y in half_torso), (dark * 0.04, 1.45), (dark * 0.03, hem)), tone(coat, 0.72), code
    )
    canvas.stroke(at(*((-x, y) for x, y in arm)), 0.1 * scale, tone(coat, 0.9), code)
    for hand in (0.2 + swing, -0.2 - swing):
        canvas.stroke(at((hand, 0.84), (hand, 0.82)), 0.09 * scale, tone(skin), code)
    canvas.stroke(at((0, 1.46), (0, 1.54)), 0.1 * scale, tone(skin, 0.8), code)
    canvas.stroke(at((0, 1.6), (0, 1.66)), 0.19 * scale, tone(hair), code)
    if rng.random() < 0.6:
        canvas.stroke(at((facing * 0.025, 1.58), (facing * 0.025, 1.61)), 0.15 * scale, tone(skin), code)
    if rng.random() < 0.4:
        bag = at(*((facing * x, y) for x, y in ((0.2, 0.62), (0.2, 0.92), (0.42, 0.92), (0.42, 0.62))))
        canvas.fill(bag, tone(pick_colour(rng, CLOTHES)), code)


def draw_bicycle(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A parked bicycle; its wheels are labelled as full discs, as in Cityscapes."""
    code, turned = canvas.new_instance("bicycle"), rng.uniform(-0.5, 0.5) + (math.pi if rng.random() < 0.5 else 0)
    scale = canvas.focal / z
    frame = canvas.shade(pick_colour(rng, CLOTHES) * 1.1, (0, 0, -1), z)
    tyre = canvas.shade(TYRE, (0, 0, -1), z)

    def at(*points: tuple[float, float]) -> Floats:
        along, up = np.array(points).T
        return canvas.project(np.stack([x + along * math.cos(turned), 0.1 + up, z + along * math.sin(turned)], -1))

    turn = np.linspace(0, 2 * math.pi, 24, endpoint=False)
    for hub in (-0.52, 0.52):
        rim = at(*zip((hub + 0.34 * np.cos(turn)).tolist(), (0.34 + 0.34 * np.sin(turn)).tolist(), strict=True))
        canvas.fill_transparent(rim, (96, 98, 100), 0.45, code)
        canvas.stroke(rim, 0.05 * scale, tyre, code, closed=True)
    for line in (
        ((-0.52, 0.34), (-0.12, 0.3), (0.36, 0.76), (-0.2, 0.78), (-0.52, 0.34)),
        ((-0.12, 0.3), (-0.22, 0.9)),
        ((0.52, 0.34), (0.36, 0.76), (0.33, 0.96)),
    ):
        canvas.stroke(at(*line), 0.045 * scale, frame, code)
    canvas.stroke(at((-0.34, 0.92), (-0.12, 0.93)), 0.08 * scale, tyre, code)
    canvas.stroke(at((0.33, 0.96), (0.45, 1.0)), 0.05 * scale, tyre, code)
