"""What a city puts up along its streets: poles, lamps, signs, signals, bins, and the fences behind the pavement."""

import math

import cv2
import numpy as np

from dlaseg.synthetic.canvas import Canvas, code_of, upright
from dlaseg.synthetic.palette import STEEL, Colour, choose

FENCE = 1.8  # metres high


def draw_post(canvas: Canvas, x: float, z: float, height: float, width: float, reach: float = 0.0) -> None:
    """A pole, and an arm that reaches `reach` metres sideways from its top."""
    code, thick = code_of("pole"), max(canvas.smallest, width * canvas.focal / z)
    (left, top), (_, foot) = canvas.project([(x, height, z), (x, 0.05, z)])
    for a, b, tint in ((-0.5, 0.5, 1.0), (0.0, 0.5, 0.72) if canvas.light.sun[0] < 0 else (-0.5, 0.0, 0.72)):
        x0, x1 = left + a * thick, left + b * thick
        shaft = np.array([(x0, foot), (x0, top), (x1, top), (x1, foot)])
        canvas.fill(shaft, canvas.seen(np.multiply(STEEL, tint), (0, 0, -1), z), code)
    if reach:
        arm = canvas.project([(x, height - 0.1, z), (x + 0.35 * reach, height + 0.3, z), (x + reach, height + 0.4, z)])
        canvas.stroke(arm, 0.8 * thick, canvas.seen(STEEL, (0, 0, -1), z), code)


def draw_lamp(canvas: Canvas, x: float, z: float) -> None:
    """A street lamp whose arm reaches over the road."""
    reach = -math.copysign(1.6, x)
    draw_post(canvas, x, z, 7.0, 0.16, reach)
    head = canvas.project([(x + reach * 0.8, 7.42, z), (x + reach * 1.4, 7.42, z)])
    canvas.stroke(head, 0.2 * canvas.focal / z, canvas.seen((206, 206, 200), (0, 0, -1), z), code_of("pole"))


def draw_sign(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A traffic sign of one of six kinds on its post."""
    draw_post(canvas, x, z, 3.1, 0.09)
    code, scale = code_of("traffic sign"), canvas.focal / z
    middle = canvas.project((x, 2.75, z))
    white, red, blue = (238, 238, 236), (190, 28, 34), (30, 84, 170)

    def shape(corners: int, radius: float, turned: float, colour: Colour, up: float = 0.0) -> None:
        turn = 2 * math.pi * np.arange(corners) / corners + turned
        points = middle + np.stack([np.sin(turn), -np.cos(turn)], -1) * radius * scale - (0, up * scale)
        canvas.fill(points, canvas.seen(np.multiply(colour, 0.96), (0, 0, -1), z), code)

    def bar(width: float, height: float, colour: Colour) -> None:
        points = middle + np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (width * scale / 2, height * scale / 2)
        canvas.fill(points, canvas.seen(colour, (0, 0, -1), z), code)

    kind = int(rng.integers(6))
    if kind == 0:
        shape(32, 0.42, 0, red)
        shape(32, 0.31, 0, white)
        bar(0.2, 0.26, (40, 40, 42))
    elif kind == 1:
        shape(3, 0.56, 0, red)
        shape(3, 0.36, 0, white)
        bar(0.07, 0.22, (40, 40, 42))
    elif kind == 2:
        shape(8, 0.46, math.pi / 8, white)
        shape(8, 0.42, math.pi / 8, red)
        left, base = (middle + np.array([-0.31, 0.1]) * scale).tolist()
        font, ink, thick = cv2.FONT_HERSHEY_SIMPLEX, canvas.seen(white, (0, 0, -1), z), max(1, round(0.02 * scale))
        cv2.putText(canvas.image, "STOP", (round(left), round(base)), font, 0.00825 * scale, ink, thick)
    elif kind == 3:
        shape(4, 0.58, math.pi / 4, white)
        shape(4, 0.53, math.pi / 4, blue)
        shape(3, 0.3, 0, white, 0.03)
        bar(0.07, 0.24, (40, 40, 42))
    elif kind == 4:
        shape(32, 0.42, 0, blue)
        bar(0.12, 0.44, white)
        shape(3, 0.2, 0, white, 0.16)
    else:
        shape(4, 0.56, 0, white)
        shape(4, 0.44, 0, (240, 190, 30))


def draw_traffic_light(canvas: Canvas, x: float, z: float, lit: int, gantry: bool) -> None:
    """Signal heads on a post at the roadside, and over the road too if there is a gantry. `lit` 0 red to 2 green."""
    reach = -math.copysign(3.4, x) if gantry else 0.0
    draw_post(canvas, x, z, 4.4 if gantry else 3.3, 0.15, reach)
    code, scale = code_of("traffic light"), canvas.focal / z
    for at, up in ((x, 2.8), (x + reach, 4.2))[: 2 if gantry else 1]:
        middle = canvas.project((at, up, z))
        for w, h, tint in ((0.25, 0.6, (226, 226, 220)), (0.21, 0.56, (30, 34, 34))):
            board = middle + np.array([(-w, -h), (w, -h), (w, h), (-w, h)]) * scale
            canvas.fill(board, canvas.seen(tint, (0, 0, -1), z), code)
        turn = np.linspace(0, 2 * math.pi, 16, endpoint=False)
        for lens, bright in enumerate(((255, 60, 40), (255, 190, 40), (60, 240, 150))):
            centre = middle + np.array([0, (lens - 1) * 0.35 * scale])
            colour = bright if lens == lit else tuple(np.multiply(bright, 0.28))
            canvas.fill(centre + np.stack([np.cos(turn), np.sin(turn)], -1) * 0.14 * scale, colour, code)


def draw_clutter(canvas: Canvas, rng: np.random.Generator, x: float, z: float, bin_only: bool) -> None:
    """A litter bin, which Cityscapes calls static, or a heap of boxes, which nobody would label."""
    paints = ((60, 84, 60), (90, 92, 96), (170, 90, 40)) if bin_only else ((164, 130, 92), (142, 112, 80))
    container = ((-0.22, 0.22, 0.1, 0.95, 1.0), (0.08, 0.22, 0.1, 0.95, 0.75), (-0.25, 0.25, 0.95, 1.05, 0.6))
    heap = ((-0.45, 0.1, 0.1, 0.6, 1.0), (0.1, 0.5, 0.1, 0.45, 0.8), (-0.3, 0.15, 0.6, 0.95, 0.9))
    colour, code = choose(rng, paints), code_of("static" if bin_only else "unlabeled")
    for x0, x1, low, high, tint in container if bin_only else heap:
        canvas.face(upright((x + x0, z), (x + x1, z), low, high), colour * tint, (0, 0, -1), code)


def draw_fence(canvas: Canvas, side: int, front: float, near: float, far: float, colour: Colour) -> None:
    """A panel of a picket fence along the street."""
    density = float(np.clip(1.5 * canvas.focal / near, 8, 64))
    rows, columns = round(FENCE * density), max(4, round((far - near) * density))
    picket = np.mod(np.arange(columns) / density, 0.16) < 0.11
    panel = np.repeat(np.where(picket[:, None], colour, np.multiply(colour, 0.4)).astype(np.uint8)[None], rows, 0)
    for y in (0.22, FENCE - 0.34):
        panel[round(y * density) : round((y + 0.09) * density)] = np.multiply(colour, 0.86)
    corners = upright((side * front, far), (side * front, near), 0.08, 0.08 + FENCE, side)
    canvas.texture(panel, corners, (-side, 0, 0), code_of("fence"))
