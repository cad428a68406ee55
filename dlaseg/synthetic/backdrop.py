"""The background: the sky, and the houses at the far end of the street."""

import math

import cv2
import numpy as np

from dlaseg.synthetic.appearance import pick_colour, smooth_noise
from dlaseg.synthetic.buildings import PLASTERS, paint_facade
from dlaseg.synthetic.canvas import FAR, Canvas, label_id
from dlaseg.synthetic.roadside import GREENS, draw_foliage


def paint_sky(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paints a gradient, clouds, and a glow around the sun."""
    light, (height, width) = canvas.light, canvas.codes.shape
    overcast = light.sunshine[0] < 0.2
    h, w = height // 4, width // 4
    horizon = canvas.vanishing_point[1] / height
    up = np.clip(1 - np.linspace(0, 1, h, dtype=np.float32) / horizon, 0, 1)[:, None]
    zenith = np.array((168, 174, 182) if overcast else (92, 142, 204), np.float32)
    sky = np.asarray(light.haze, np.float32) + (zenith - np.asarray(light.haze, np.float32)) * up[..., None] ** 0.7
    clouds = np.zeros((h, w // 3), np.float32)
    for octave in range(5):
        clouds += smooth_noise(rng, h, w // 3, h / 4 / 2**octave) / 2 ** (octave + 1)
    clouds = cv2.resize(clouds, (w, h), interpolation=cv2.INTER_CUBIC)
    cover = np.clip((clouds - (0.35 if overcast else rng.uniform(0.45, 0.62))) * 4, 0, 1) * np.clip(up * 4, 0, 1)
    white = np.array((222, 224, 228) if overcast else (246, 244, 240), np.float32)
    sky = sky + (white - sky) * (cover * (0.55 if overcast else 0.85))[..., None]
    if light.sun[2] > 0.1 and not overcast:
        x, y = canvas.vanishing_point + canvas.focal / light.sun[2] * np.array([light.sun[0], -light.sun[1]])
        far = np.hypot(np.arange(w)[None] * 4 - x, np.arange(h)[:, None] * 4 - y) / canvas.focal
        sky += (np.exp(-4 * far)[..., None] * (70, 60, 40)).astype(np.float32)
    canvas.image[:] = cv2.resize(np.clip(sky, 0, 255).astype(np.uint8), (width, height))
    canvas.codes[:] = label_id("sky")


def paint_end_of_street(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paints houses and trees across the far end, and an unlabeled spot where the road ends."""
    x, end = -40.0 - canvas.curvature * FAR**2, 40.0 - canvas.curvature * FAR**2
    while x < end:
        width, height = rng.uniform(9, 20), rng.uniform(7, 17)
        wall = paint_facade(rng, width, height, 4, pick_colour(rng, PLASTERS))
        front = [(x, height, FAR), (x + width, height, FAR), (x + width, 0, FAR), (x, 0, FAR)]
        canvas.texture(wall, front, (0, 0, -1), label_id("building"))
        if rng.random() < 0.6:
            draw_foliage(canvas, rng, x, 4, FAR - 4, 9, 8, pick_colour(rng, GREENS))
        x += width
    spot = canvas.project((rng.uniform(-1, 1), 1.0, FAR - 6))
    turn = np.linspace(0, 2 * math.pi, 9, endpoint=False)
    reach = 3.0 * canvas.focal / FAR * rng.uniform(0.7, 1.3, (9, 1))
    corners = spot + np.stack([np.cos(turn), 0.5 * np.sin(turn)], -1) * reach
    canvas.fill(corners, canvas.shade((70, 74, 70), (0, 0, -1), FAR), label_id("unlabeled"))
