"""Random textures."""

import cv2
import numpy as np
from numpy.typing import NDArray


def smooth_noise(rng: np.random.Generator, height: int, width: int, cell: float) -> NDArray[np.float32]:
    """Noise whose bumps are about `cell` pixels wide. Returns (height, width) float32, most of it in 0-1."""
    grid = rng.random((max(2, round(height / cell)), max(2, round(width / cell))), dtype=np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR)  # type: ignore[return-value]


def seamless_noise(rng: np.random.Generator, size: int, cell: float) -> NDArray[np.float32]:
    """Noise as of `smooth_noise`, (size, size) float32, that can be laid side by side with itself."""
    cells = max(2, round(size / cell))
    grid = np.pad(rng.random((cells, cells), dtype=np.float32), 1, mode="wrap")
    # pixel centres onto cell centres, one cell in from the wrapped rim
    start = 0.5 * cells / size + 0.5
    matrix = np.array([[cells / size, 0, start], [0, cells / size, start]])
    noise = cv2.warpAffine(grid, matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return noise.astype(np.float32, copy=False)
