"""Reading and writing pictures, exactly: what is decoded is what the file says, or an error that names the file."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from dlaseg.errors import UserError
from dlaseg.files import write_bytes

# Our own message names the file; OpenCV's log lines beside it would only say the same in other words.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for name in ("avif", "bmp", "dib", "gif", "jp2", "jpe", "jpeg", "jpg", "pbm", "pgm", "png", "pnm", "ppm", "ras")
    + ("sr", "tif", "tiff", "webp")
)
"""Lower-case file endings of the formats that OpenCV decodes to 8 or 16 bits."""

LOSSY_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jp2", ".avif"})


def read_image(path: Path) -> NDArray[np.uint8]:
    """Reads any picture as 8-bit RGB.

    Grey becomes three equal channels, alpha is dropped, 16 bits are scaled by 255 / 65535, an EXIF orientation is
    applied.

    Args:
        path: a file in a format that OpenCV decodes.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        UserError: the file is missing, empty, truncated, of a foreign format or of floating-point pixels.
    """
    content = _read_bytes(path)
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH)
    except cv2.error:  # raised for absurd sizes in a broken header
        image = None
    if image is None or _is_truncated_jpeg(content):
        raise UserError(f"{path}: broken or no image; OpenCV cannot decode it: replace or remove the file")
    if image.dtype == np.uint16:
        image = ((image.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    if image.dtype != np.uint8:
        raise UserError(f"{path}: pixels of type {image.dtype}; images have 8 or 16 bits a channel: convert the file")
    return np.asarray(image, np.uint8)


def read_label_image(path: Path) -> NDArray[np.uint8] | NDArray[np.int32]:
    """Reads a label map as its stored numbers: a palette picture gives its indices, not its colours.

    Args:
        path: PNG, BMP, TIFF or another lossless format.

    Returns:
        (H, W) uint8 or int32 ids, or (H, W, 3) uint8 RGB where the labels are stored as colours. Alpha is dropped.

    Raises:
        UserError: the file is missing, broken, or of a format that changes values when it compresses.
    """
    if path.suffix.lower() in LOSSY_SUFFIXES:
        raise UserError(f"{path}: a lossy format changes label values; label maps are lossless: save them as PNG")
    _read_bytes(path)
    try:
        with Image.open(path) as picture:
            picture = ImageOps.exif_transpose(picture)
            if picture.mode == "RGBA":
                picture = picture.convert("RGB")
            elif picture.mode == "LA":
                picture = picture.convert("L")
            elif picture.mode == "PA":
                picture = picture.convert("P")
            labels = np.asarray(picture)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: broken or no image ({error}): replace or remove the file") from error
    if labels.dtype == np.bool_:
        labels = labels.astype(np.uint8)
    elif labels.dtype in (np.dtype(np.uint16), np.dtype(">u2")):  # 16-bit PNG and TIFF
        labels = labels.astype(np.int32)
    if labels.dtype not in (np.uint8, np.int32) or (labels.ndim == 3 and labels.shape[2] != 3):
        raise UserError(f"{path}: label map of type {labels.dtype}, shape {labels.shape}: use 8- or 16-bit ids, or RGB")
    return labels


def write_png(path: Path, image: NDArray[np.integer]) -> None:
    """Writes a PNG whole.

    Args:
        path: where to; parents are made.
        image: (H, W) uint8 or uint16, or (H, W, 3) uint8 RGB.
    """
    _, content = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image)
    write_bytes(path, content.tobytes())


def _read_bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}: give a file that can be read") from error
    if not content:
        raise UserError(f"{path}: the file is empty: replace or remove it")
    return content


def _is_truncated_jpeg(content: bytes) -> bool:
    # Some OpenCV releases decode what is there and grey out the rest. Inside the scan 0xFF is always escaped, so
    # without an end marker after the last start of scan, the scan itself is cut.
    return content[:2] == b"\xff\xd8" and content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda")
