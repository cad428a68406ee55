"""Selects the images that the page shows, and packs them into it."""

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

IMAGES_PER_GROUP = 4

_SIDES = (2048, 1448, 1024, 724, 512, 256, 128)
"""Longest sides of packed label maps; the first one that fits into `_MOST_BYTES` is used."""

_IMAGE_SIDE = 1600
"""Longest side of a packed image."""

_MOST_BYTES = 1_000_000
"""Of an image with its label maps; keeps every page below 15 MB."""


def select_images(miou: Sequence[float | None]) -> dict[str, list[int]]:
    """Selects the worst, median and best images by mIoU.

    Args:
        miou: of each image; None for an image without scored pixels, which is never selected.

    Returns:
        Indices under the headings `worst`, `median` and `best`, in ascending order of mIoU; a small split has all its
        images under the heading `all`. No image occurs twice.

    Examples:
        >>> select_images([0.5, None, 0.2])
        {'all': [2, 0]}
    """
    ranked = [i for _, i in sorted((value, i) for i, value in enumerate(miou) if value is not None)]
    if len(ranked) <= 3 * IMAGES_PER_GROUP:
        return {"all": ranked}
    n = IMAGES_PER_GROUP
    middle = (len(ranked) - n) // 2
    return {"worst": ranked[:n], "median": ranked[middle : middle + n], "best": ranked[-n:]}


def pack_image(
    name: str, image: NDArray[np.uint8] | None, target: NDArray[np.uint8], prediction: NDArray[np.uint8]
) -> dict[str, Any]:
    """Packs an image and its label maps into plain values, at most a megabyte in all.

    Args:
        name: of the image.
        image: (H, W, 3) RGB, or None if there is no image file.
        target: (H, W) train ids, 255 ignored.
        prediction: (H, W) train ids; 255 is no class.

    Returns:
        `name`; `size`, the native height and width; `packed_size`, height and width of the packed label maps, smaller
        only where they would be too large; `target` and `prediction`, train ids row by row, deflated, in base64;
        `image`, a JPEG as a data URL or None.
    """
    size = target.shape
    for side in _SIDES:
        scale = min(1.0, side / max(size))
        rows, columns = (max(1, round(length * scale)) for length in size)
        content = {
            "name": name,
            "size": list(size),
            "packed_size": [rows, columns],
            "target": _deflate(_nearest(target, rows, columns)),
            "prediction": _deflate(_nearest(prediction, rows, columns)),
            "image": None if image is None else jpeg(image, min(side, _IMAGE_SIDE)),
        }
        if sum(len(content[key] or "") for key in ("target", "prediction", "image")) <= _MOST_BYTES:
            break
    return content


def _nearest(labels: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    """The label at the centre of each pixel of a smaller map."""
    height, width = labels.shape
    if (height, width) == (rows, columns):
        return labels
    row_indices = ((np.arange(rows) + 0.5) * height / rows).astype(int)
    column_indices = ((np.arange(columns) + 0.5) * width / columns).astype(int)
    return labels[row_indices[:, None], column_indices]


def _deflate(labels: NDArray[np.uint8]) -> str:
    # Not a PNG: some browsers change the pixel values that a page reads back. Label maps consist of runs, so run-length
    # matching packs them as well as a full search, in a quarter of the time.
    deflate = zlib.compressobj(strategy=zlib.Z_RLE)
    return base64.b64encode(deflate.compress(labels.tobytes()) + deflate.flush()).decode()


def jpeg(image: NDArray[np.uint8], side: int) -> str:
    """An image, (H, W, 3) RGB, as a data URL, at most `side` pixels high and wide."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    encoded, content = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 82])
    assert encoded
    return "data:image/jpeg;base64," + base64.b64encode(content.tobytes()).decode()
