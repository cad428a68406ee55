"""Trees and bushes."""

import math

import cv2
import numpy as np

from dlaseg.synthetic.canvas import Canvas, code_of
from dlaseg.synthetic.noise import smooth_noise
from dlaseg.synthetic.palette import Colour, choose

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
    """A crown or a bush of leaves, centred at (x, y, z), `width` by `height` metres."""
    scale = canvas.focal / z
    columns, rows = max(3, round(width * scale)), max(3, round(height * scale))
    shrink = min(1.0, 440 / max(columns, rows))
    w, h = max(3, round(columns * shrink)), max(3, round(rows * shrink))
    # lumps: the field is positive inside any of them, and the nearest lump says where the surface turns to the sun
    angle, reach = rng.uniform(0, 2 * math.pi, 18), np.sqrt(rng.uniform(0, 1, 18)) * 0.62
    radius = rng.uniform(0.22, 0.42, 18).astype(np.float32)
    lump_x = (np.cos(angle) * reach).astype(np.float32)[:, None, None]
    lump_y = (np.sin(angle) * reach).astype(np.float32)[:, None, None]
    small_h, small_w = min(h, 36), min(w, 36)
    grid_y = np.linspace(-1.1, 1.1, small_h, dtype=np.float32)[:, None]
    grid_x = np.linspace(-1.1, 1.1, small_w, dtype=np.float32)[None]
    field = 1 - ((grid_x - lump_x) ** 2 + (grid_y - lump_y) ** 2) / radius[:, None, None] ** 2
    nearest = field.argmax(0)
    turn = (lump_y[nearest, 0, 0] - grid_y) + np.sign(canvas.light.sun[0]) * 0.7 * (grid_x - lump_x[nearest, 0, 0])
    shade = 0.72 + 0.5 * turn / radius[nearest] * 0.6 - 0.2 * grid_y
    coarse, fine = (
        smooth_noise(rng, h, w, max(2.0, 0.22 * scale * shrink)),
        smooth_noise(rng, h, w, max(1.2, 0.07 * scale * shrink)),
    )
    leaves = 0.5 * coarse + 0.5 * fine
    mask = cv2.resize(field.max(0), (w, h)) + 0.9 * (leaves - 0.5) > 0.08
    tone = cv2.resize(shade, (w, h)) * (0.55 + 0.9 * leaves)
    tone = np.clip(tone, 0.25, 1.5)
    haze = canvas.seen((0, 0, 0), (0, 1, 0), z)
    pixels = cv2.merge(
        [
            cv2.convertScaleAbs(tone, alpha=full - least, beta=least)
            for full, least in zip(canvas.seen(colour, (0, 1, 0), z), haze, strict=True)
        ]
    )
    sized = cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    chosen = cv2.resize(mask.astype(np.uint8), (columns, rows), interpolation=cv2.INTER_NEAREST).astype(np.uint8)
    left, top = canvas.project((x, y, z)) - (columns / 2, rows / 2)
    canvas.stamp(sized, chosen, round(top), round(left), code_of("vegetation"))


def draw_tree(canvas: Canvas, rng: np.random.Generator, x: float, z: float, height: float, colour: Colour) -> None:
    """A street tree; its trunk is vegetation too, as in Cityscapes."""
    bark, girth, code = choose(rng, ((96, 80, 64), (110, 98, 84))), 0.024 * height, code_of("vegetation")
    shaded = (0.1, 1.0) if canvas.light.sun[0] < 0 else (-1.0, -0.1)
    for (a, b), tint in (((-1.0, 1.0), 1.0), (shaded, 0.65)):
        foot, fork = (0.05, girth), (0.6 * height, 0.7 * girth)
        trunk = [(x + side * half, y, z) for side, (y, half) in ((a, foot), (a, fork), (b, fork), (b, foot))]
        canvas.face(trunk, bark * tint, (0, 0, -1), code)
    width = height * rng.uniform(0.6, 0.8)
    draw_foliage(canvas, rng, x, height * 0.66, z, width, height * 0.72, colour)
