"""Images of noise, and files of them."""

import numpy as np
from PIL import Image


def noise(height=20, width=30, seed=0):
    """(height, width, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save(path, image=None, **options):
    """Writes an image, by default of noise; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise() if image is None else image).save(path, **options)
    return path
