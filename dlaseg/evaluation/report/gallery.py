"""The images that the page shows: which ones, and how they are packed into it."""

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

EACH = 4
"""Images of each kind."""

_SIDES = (2048, 1448, 1024, 724, 512, 256, 128)
"""Longest sides of packed label maps; the first one whose result is small enough is taken."""

_PICTURE_SIDE = 1600
"""Longest side of a packed picture."""

_MOST_BYTES = 1_000_000
"""Of a packed image in all, so that the whole page stays below 15 MB whatever it shows."""


def chosen(miou: Sequence[float | None]) -> dict[str, list[int]]:
    """The worst, median and best images by their own mIoU.

    Args:
        miou: of each image; None where nothing is scored, such an image is not chosen.

    Returns:
        Positions under the headings `worst`, `median` and `best`, each from worse to better; all of them under `all`
        where there are no more than would be shown anyway. No image stands twice.

    Example:
        >>> chosen([0.5, None, 0.2])
        {'all': [2, 0]}
    """
    ranked = [i for _, i in sorted((value, i) for i, value in enumerate(miou) if value is not None)]
    if len(ranked) <= 3 * EACH:
        return {"all": ranked}
    middle = (len(ranked) - EACH) // 2
    return {"worst": ranked[:EACH], "median": ranked[middle : middle + EACH], "best": ranked[-EACH:]}


def packed(
    name: str, image: NDArray[np.uint8] | None, target: NDArray[np.uint8], prediction: NDArray[np.uint8]
) -> dict[str, Any]:
    """An image with truth and prediction as plain values, at most a megabyte in all.

    Args:
        name: of the image.
        image: (H, W, 3) RGB, or None if there is none.
        target: (H, W) train ids, 255 not scored.
        prediction: (H, W) train ids; 255 is no class.

    Returns:
        `name`; `size`, the native height and width; `packed_size`, that of the label maps here, smaller only where they
        would be too large; `truth` and `prediction`, their train ids row by row, deflated, in base64; `picture`, a JPEG
        as a data URL or None.
    """
    size = target.shape
    for side in _SIDES:
        scale = min(1.0, side / max(size))
        rows, columns = (max(1, round(length * scale)) for length in size)
        content = {
            "name": name,
            "size": list(size),
            "packed_size": [rows, columns],
            "truth": _deflated(_nearest(target, rows, columns)),
            "prediction": _deflated(_nearest(prediction, rows, columns)),
            "picture": None if image is None else _jpeg(image, min(side, _PICTURE_SIDE)),
        }
        if sum(len(content[part] or "") for part in ("truth", "prediction", "picture")) <= _MOST_BYTES:
            break
    return content


def _nearest(labels: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    """The label at the centre of each pixel of a smaller map."""
    height, width = labels.shape
    if (height, width) == (rows, columns):
        return labels
    down = ((np.arange(rows) + 0.5) * height / rows).astype(int)
    across = ((np.arange(columns) + 0.5) * width / columns).astype(int)
    return labels[down[:, None], across]


def _deflated(labels: NDArray[np.uint8]) -> str:
    # Not a PNG: some browsers change what pages read back from pictures. Label maps are runs: as small as by a full
    # search for repetitions, in a quarter of the time.
    deflate = zlib.compressobj(strategy=zlib.Z_RLE)
    return base64.b64encode(deflate.compress(labels.tobytes()) + deflate.flush()).decode()


def _jpeg(image: NDArray[np.uint8], side: int) -> str:
    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    done, content = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 82])
    assert done
    return "data:image/jpeg;base64," + base64.b64encode(content.tobytes()).decode()
