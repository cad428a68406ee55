"""Effects of the camera and of the car that carries it."""

import cv2
import numpy as np

from dlaseg.synthetic.appearance import pick_colour
from dlaseg.synthetic.canvas import SUPERSAMPLING, Canvas, Pixels, label_id


def paint_bonnet(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paints the bonnet of the camera's car, which reflects the sky."""
    height, width = canvas.codes.shape
    paint = pick_colour(rng, ((40, 42, 46), (30, 36, 50), (58, 60, 64)))
    t = np.linspace(-1, 1, 41)
    middle, half = width * rng.uniform(0.48, 0.52), width * rng.uniform(0.3, 0.36)
    rise = height * rng.uniform(0.075, 0.11)
    # A dark rim, then the reflection of the sky, which fades towards the windscreen
    for layer, mix in enumerate([0.0, *np.linspace(0.5, 0.06, 28)]):
        inset = 1 - layer * 0.032
        arch = np.stack([middle + t * half * (0.75 + 0.25 * inset), height - rise * inset * (1 - np.abs(t) ** 3.2)], -1)
        corners = np.concatenate([arch, [(middle + half, height + 4), (middle - half, height + 4)]])
        colour = paint * canvas.light.gain((0, 1, 0))[1] * (1 - mix) + np.asarray(canvas.light.haze) * mix
        canvas.fill(corners, np.minimum(colour if layer else paint * 0.3, 255), label_id("ego vehicle"))


def paint_edges(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paints the strips that calibration leaves at the edges: rectification border, out of region of interest."""
    height, width = canvas.codes.shape
    thin = SUPERSAMPLING * max(1, round(width / SUPERSAMPLING / 300))
    canvas.codes[height - SUPERSAMPLING * max(1, round(height / SUPERSAMPLING / 200)) :] = label_id("out of roi")
    for columns, rows in (
        (slice(0, thin), slice(None)),
        (slice(width - thin, None), slice(None)),
        (slice(None), slice(0, thin)),
    ):
        canvas.codes[rows, columns] = label_id("rectification border")
        canvas.image[rows, columns] = rng.integers(4, 12)


def take_photo(canvas: Canvas, rng: np.random.Generator) -> Pixels:
    """Returns the picture, (H, W, 3) uint8: blur, exposure, white balance, contrast, vignetting, sensor noise."""
    height, width = canvas.codes.shape[0] // SUPERSAMPLING, canvas.codes.shape[1] // SUPERSAMPLING
    image = cv2.resize(canvas.image, (width, height), interpolation=cv2.INTER_AREA)
    image = cv2.GaussianBlur(image, (0, 0), 0.3 + 0.2 * width / 1024)
    # Automatic exposure: brings dark streets about half way to a common brightness
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
