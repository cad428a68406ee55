"""Trees and bushes, poles, lamps, signs, traffic lights, bins, and the fences behind the pavement."""

import math

import cv2
import numpy as np

from dlaseg.synthetic.appearance import STEEL, Colour, Floats, pick_colour, smooth_noise
from dlaseg.synthetic.canvas import Canvas, label_id, wall_corners

FENCE = 1.8  # metres high
GREENS = ((70, 104, 50), (86, 116, 56), (60, 92, 54), (104, 122, 58), (140, 118, 50))


def draw_foliage(
    canvas: Canvas,
    rng: np.random.Generator,
    x: float,
    y: float,
    z: float,
    width: float,
    height: float,
    colour: Colour,
) -> None:
    """A tree's crown or a bush, centred at (x, y, z), `width` by `height` metres."""
    scale = canvas.focal / z
    columns, rows = max(3, round(width * scale)), max(3, round(height * scale))
    shrink = min(1.0, 440 / max(columns, rows))  # large foliage is drawn smaller and enlarged
    w, h = max(3, round(columns * shrink)), max(3, round(rows * shrink))
    # The crown is a union of 18 discs. The field is positive inside; the nearest disc gives the surface's direction
    angle, reach = rng.uniform(0, 2 * math.pi, 18), np.sqrt(rng.uniform(0, 1, 18)) * 0.62
    radius = rng.uniform(0.22, 0.42, 18).astype(np.float32)
    disc_x = (np.cos(angle) * reach).astype(np.float32)[:, None, None]
    disc_y = (np.sin(angle) * reach).astype(np.float32)[:, None, None]
    grid_y = np.linspace(-1.1, 1.1, min(h, 36), dtype=np.float32)[:, None]
    grid_x = np.linspace(-1.1, 1.1, min(w, 36), dtype=np.float32)[None]
    field = 1 - ((grid_x - disc_x) ** 2 + (grid_y - disc_y) ** 2) / radius[:, None, None] ** 2
    nearest = field.argmax(0)
    turn = (disc_y[nearest, 0, 0] - grid_y) + np.sign(canvas.light.sun[0]) * 0.7 * (grid_x - disc_x[nearest, 0, 0])
    shade = 0.72 + 0.5 * turn / radius[nearest] * 0.6 - 0.2 * grid_y
    coarse = smooth_noise(rng, h, w, max(2.0, 0.22 * scale * shrink))
    leaves = 0.5 * coarse + 0.5 * smooth_noise(rng, h, w, max(1.2, 0.07 * scale * shrink))
    mask = cv2.resize(field.max(0), (w, h)) + 0.9 * (leaves - 0.5) > 0.08
    tone = np.clip(cv2.resize(shade, (w, h)) * (0.55 + 0.9 * leaves), 0.25, 1.5)
    black, full = (canvas.shade(c, (0, 1, 0), z) for c in ((0, 0, 0), colour))
    pixels = cv2.merge([cv2.convertScaleAbs(tone, alpha=f - b, beta=b) for f, b in zip(full, black, strict=True)])
    enlarged = cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    mask = cv2.resize(mask.astype(np.uint8), (columns, rows), interpolation=cv2.INTER_NEAREST).astype(np.uint8)
    left, top = canvas.project((x, y, z)) - (columns / 2, rows / 2)
    canvas.paste(enlarged, mask, round(top), round(left), label_id("vegetation"))


def draw_tree(canvas: Canvas, rng: np.random.Generator, x: float, z: float, height: float, colour: Colour) -> None:
    """A street tree; its trunk is vegetation too, as in Cityscapes."""
    bark, girth, code = pick_colour(rng, ((96, 80, 64), (110, 98, 84))), 0.024 * height, label_id("vegetation")
    shaded = (0.1, 1.0) if canvas.light.sun[0] < 0 else (-1.0, -0.1)
    for (a, b), tint in (((-1.0, 1.0), 1.0), (shaded, 0.65)):
        foot, fork = (0.05, girth), (0.6 * height, 0.7 * girth)
        trunk = [(x + side * half, y, z) for side, (y, half) in ((a, foot), (a, fork), (b, fork), (b, foot))]
        canvas.face(trunk, bark * tint, (0, 0, -1), code)
    width = height * rng.uniform(0.6, 0.8)
    draw_foliage(canvas, rng, x, height * 0.66, z, width, height * 0.72, colour)


def draw_post(canvas: Canvas, x: float, z: float, height: float, width: float, reach: float = 0.0) -> None:
    """A pole, and an arm from its top that reaches `reach` metres sideways."""
    code, thick = label_id("pole"), max(canvas.min_pole_width, width * canvas.focal / z)
    (left, top), (_, foot) = canvas.project([(x, height, z), (x, 0.05, z)])
    for a, b, tint in ((-0.5, 0.5, 1.0), (0.0, 0.5, 0.72) if canvas.light.sun[0] < 0 else (-0.5, 0.0, 0.72)):
        x0, x1 = left + a * thick, left + b * thick
        shaft = np.array([(x0, foot), (x0, top), (x1, top), (x1, foot)])
        canvas.fill(shaft, canvas.shade(np.multiply(STEEL, tint), (0, 0, -1), z), code)
    if reach:
        arm = canvas.project([(x, height - 0.1, z), (x + 0.35 * reach, height + 0.3, z), (x + reach, height + 0.4, z)])
        canvas.stroke(arm, 0.8 * thick, canvas.shade(STEEL, (0, 0, -1), z), code)


def draw_lamp(canvas: Canvas, x: float, z: float) -> None:
    """A street lamp with an arm over the road."""
    reach = -math.copysign(1.6, x)
    draw_post(canvas, x, z, 7.0, 0.16, reach)
    head = canvas.project([(x + reach * 0.8, 7.42, z), (x + reach * 1.4, 7.42, z)])
    canvas.stroke(head, 0.2 * canvas.focal / z, canvas.shade((206, 206, 200), (0, 0, -1), z), label_id("pole"))


def _polygon(corners: int, radius: float, turn: float = 0.0, up: float = 0.0) -> Floats:
    """A regular polygon, (corners, 2) metres x, y (down) from the middle of a sign."""
    angle = 2 * math.pi * np.arange(corners) / corners + turn
    points: Floats = np.stack([np.sin(angle), -np.cos(angle)], -1) * radius - (0, up)
    return points


def _bar(width: float, height: float) -> Floats:
    return np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (width / 2, height / 2)


_RED, _BLUE, _WHITE, _YELLOW = (
    np.multiply(c, 0.96) for c in ((190, 28, 34), (30, 84, 170), (238, 238, 236), (240, 190, 30))
)
_BLACK = (40, 40, 42)
_SIGNS: tuple[tuple[tuple[Floats, Colour], ...], ...] = (
    ((_polygon(32, 0.42), _RED), (_polygon(32, 0.31), _WHITE), (_bar(0.2, 0.26), _BLACK)),
    ((_polygon(3, 0.56), _RED), (_polygon(3, 0.36), _WHITE), (_bar(0.07, 0.22), _BLACK)),
    ((_polygon(8, 0.46, math.pi / 8), _WHITE), (_polygon(8, 0.42, math.pi / 8), _RED)),
    (
        (_polygon(4, 0.58, math.pi / 4), _WHITE),
        (_polygon(4, 0.53, math.pi / 4), _BLUE),
        (_polygon(3, 0.3, 0, 0.03), _WHITE),
        (_bar(0.07, 0.24), _BLACK),
    ),
    ((_polygon(32, 0.42), _BLUE), (_bar(0.12, 0.44), (238, 238, 236)), (_polygon(3, 0.2, 0, 0.16), _WHITE)),
    ((_polygon(4, 0.56), _WHITE), (_polygon(4, 0.44), _YELLOW)),
)
_STOP = 2


def draw_sign(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A traffic sign of one of six kinds on its post."""
    draw_post(canvas, x, z, 3.1, 0.09)
    scale, middle, kind = canvas.focal / z, canvas.project((x, 2.75, z)), int(rng.integers(len(_SIGNS)))
    for points, colour in _SIGNS[kind]:
        canvas.fill(middle + points * scale, canvas.shade(colour, (0, 0, -1), z), label_id("traffic sign"))
    if kind == _STOP:
        left, base = (middle + np.array([-0.31, 0.1]) * scale).tolist()
        ink, thick = canvas.shade((238, 238, 236), (0, 0, -1), z), max(1, round(0.02 * scale))
        place = (round(left), round(base))
        cv2.putText(canvas.image, "STOP", place, cv2.FONT_HERSHEY_SIMPLEX, 0.00825 * scale, ink, thick)


def draw_traffic_light(canvas: Canvas, x: float, z: float, lit: int, gantry: bool) -> None:
    """Traffic lights on a post at the roadside, and over the road too if there is a gantry.

    Args:
        canvas: to paint on.
        x: of the post, metres.
        z: of the post, metres.
        lit: 0 red, 1 amber, 2 green.
        gantry: whether an arm holds a second light over the road.
    """
    reach = -math.copysign(3.4, x) if gantry else 0.0
    draw_post(canvas, x, z, 4.4 if gantry else 3.3, 0.15, reach)
    code, scale = label_id("traffic light"), canvas.focal / z
    for light_x, y in ((x, 2.8), (x + reach, 4.2))[: 2 if gantry else 1]:
        middle = canvas.project((light_x, y, z))
        for w, h, tint in ((0.25, 0.6, (226, 226, 220)), (0.21, 0.56, (30, 34, 34))):
            board = middle + np.array([(-w, -h), (w, -h), (w, h), (-w, h)]) * scale
            canvas.fill(board, canvas.shade(tint, (0, 0, -1), z), code)
        turn = np.linspace(0, 2 * math.pi, 16, endpoint=False)
        for lens, bright in enumerate(((255, 60, 40), (255, 190, 40), (60, 240, 150))):
            centre = middle + np.array([0, (lens - 1) * 0.35 * scale])
            colour = bright if lens == lit else tuple(np.multiply(bright, 0.28))
            canvas.fill(centre + np.stack([np.cos(turn), np.sin(turn)], -1) * 0.14 * scale, colour, code)


def draw_clutter(canvas: Canvas, rng: np.random.Generator, x: float, z: float, is_bin: bool) -> None:
    """A litter bin, `static` in Cityscapes, or a heap of boxes, which is unlabeled."""
    colours = ((60, 84, 60), (90, 92, 96), (170, 90, 40)) if is_bin else ((164, 130, 92), (142, 112, 80))
    container = ((-0.22, 0.22, 0.1, 0.95, 1.0), (0.08, 0.22, 0.1, 0.95, 0.75), (-0.25, 0.25, 0.95, 1.05, 0.6))
    heap = ((-0.45, 0.1, 0.1, 0.6, 1.0), (0.1, 0.5, 0.1, 0.45, 0.8), (-0.3, 0.15, 0.6, 0.95, 0.9))
    colour, code = pick_colour(rng, colours), label_id("static" if is_bin else "unlabeled")
    for x0, x1, low, high, tint in container if is_bin else heap:
        canvas.face(wall_corners((x + x0, z), (x + x1, z), low, high), colour * tint, (0, 0, -1), code)


def draw_fence(canvas: Canvas, side: int, front: float, near: float, far: float, colour: Colour) -> None:
    """A panel of a picket fence along the street."""
    density = float(np.clip(1.5 * canvas.focal / near, 8, 64))  # texture pixels per metre
    rows, columns = round(FENCE * density), round((far - near) * density)
    picket = np.mod(np.arange(columns) / density, 0.16) < 0.11
    panel = np.repeat(np.where(picket[:, None], colour, np.multiply(colour, 0.4)).astype(np.uint8)[None], rows, 0)
    for y in (0.22, FENCE - 0.34):
        panel[round(y * density) : round((y + 0.09) * density)] = np.multiply(colour, 0.86)
    corners = wall_corners((side * front, far), (side * front, near), 0.08, 0.08 + FENCE, side)
    canvas.texture(panel, corners, (-side, 0, 0), label_id("fence"))
