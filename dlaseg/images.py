"""Reading and writing pictures, exactly: what is decoded is what the file says, or an error that names the file."""

import io
import math
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import kornia_rs
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

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

LOSSY_SUFFIXES = frozenset({".avif", ".jp2", ".jpe", ".jpeg", ".jpg", ".webp"})
"""Endings of formats that change values when they compress: never label maps."""

# How Pillow's modes are read as labels: as they are, or without their alpha channel.
_LABEL_MODES = {"1": "1", "L": "L", "P": "P", "I;16": "I;16", "RGB": "RGB", "LA": "L", "PA": "P", "RGBA": "RGB"}

# How the fast decoder is asked for a PNG's pixels, by bit depth and colour type (PNG specification, 11.2.1).
_DECODERS = {
    (8, 0): (kornia_rs.io.decode_image_png_u8, "mono"),
    (16, 0): (kornia_rs.io.decode_image_png_u16, "mono"),
    (8, 2): (kornia_rs.io.decode_image_png_u8, "rgb"),
}

# What may say how a PNG is to be turned, or that it is animated: beginnings of a chunk's name and content.
_MORE_THAN_PIXELS = (b"eXIf", b"acTL", b"tEXtRaw profile", b"zTXtRaw profile", b"iTXtRaw profile", b"iTXtXML:com.adobe")


def read_image(path: str | Path) -> NDArray[np.uint8]:
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
    path = Path(path)
    content = _read_bytes(path)
    if _is_truncated(content):
        raise UserError(f"{path}: the end of the file is missing: replace or remove it")
    image: NDArray[Any] | None = decode_png(content)
    if image is None:
        try:
            image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH)
        except cv2.error:  # raised for absurd sizes in a broken header
            image = None
    if content[4:12] == b"ftypavif":
        image = _decode_avif(content)
    if image is None:
        raise UserError(f"{path}: broken or no image; OpenCV cannot decode it: replace or remove the file")
    if image.dtype == np.uint16:
        image = ((image.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    if image.dtype != np.uint8:
        raise UserError(f"{path}: pixels of type {image.dtype}; images have 8 or 16 bits a channel: convert the file")
    return np.asarray(image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB), np.uint8)


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
    content = _read_bytes(path)
    depth, color_type = content[24:26] if _is_png(content) and len(content) > 25 else (8, 0)
    if depth == 16 and color_type != 0:
        raise UserError(f"{path}: 16-bit colours; label maps hold 8- or 16-bit ids, or 8-bit colours: convert it")
    pixels = decode_png(content)
    if pixels is not None:
        return pixels.astype(np.int32) if pixels.dtype == np.uint16 else pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow only warns of missing data
            with Image.open(io.BytesIO(content)) as picture:
                picture.verify()  # checksums, which decoding alone passes over
            with Image.open(io.BytesIO(content)) as picture:
                if picture.format in ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF"):
                    raise UserError(f"{path}: {picture.format} changes label values: save label maps as PNG")
                picture = ImageOps.exif_transpose(picture)
                if picture.mode not in _LABEL_MODES:
                    kind = np.asarray(picture).dtype
                    raise UserError(f"{path}: pixels of type {kind}; labels are 8- or 16-bit ids, or RGB: convert it")
                mode = _LABEL_MODES[picture.mode]
                labels = np.asarray(picture if mode == picture.mode else picture.convert(mode))
    except UserError:
        raise
    except (OSError, SyntaxError, ValueError, Warning, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: broken or no image ({_one_line(error)}): replace or remove the file") from error
    if depth in (2, 4) and color_type == 0:
        labels = labels // (255 // (2**depth - 1))  # Pillow stretches few bits to the whole range
    return labels.astype(np.int32 if labels.dtype.itemsize == 2 else np.uint8, copy=False)


def decode_png(content: bytes) -> NDArray[Any] | None:
    """Decodes the usual PNGs in half the time that OpenCV and Pillow take.

    Wrong checksums and missing data are found here; to say what is wrong is left to the other decoders.

    Args:
        content: a file's.

    Returns:
        (H, W) uint8 or uint16, or (H, W, 3) uint8 RGB, as stored. None for anything else: another format, a palette,
        alpha, few bits, an orientation, an animation, a broken file.
    """
    if not _is_png(content) or len(content) < 26:
        return None
    width, height, depth, color_type = struct.unpack_from(">IIBB", content, 16)
    # Deflate shrinks to a 1032nd at best: of a larger picture pixels are missing, or the size is absurd, which panics
    if (depth, color_type) not in _DECODERS or height * width > 1032 * len(content):
        return None
    if any(content.startswith(_MORE_THAN_PIXELS, start + 4) for start, _ in _chunks(content)):
        return None
    decode, mode = _DECODERS[depth, color_type]
    try:
        pixels: NDArray[Any] = decode(content, (height, width), mode)
    except Exception:  # all that it raises
        return None
    return pixels[:, :, 0] if mode == "mono" else pixels


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


def _decode_avif(content: bytes) -> NDArray[np.uint8] | None:
    # OpenCV passes over an AVIF's orientation, Pillow does not
    try:
        with Image.open(io.BytesIO(content)) as picture:
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except (OSError, SyntaxError, ValueError):
        return None


def _is_png(content: bytes) -> bool:
    return content[:8] == b"\x89PNG\r\n\x1a\n"


def _chunks(content: bytes) -> Iterator[tuple[int, int]]:
    """Where each chunk of a PNG starts and ends."""
    end = 8
    while end < len(content):
        start, end = end, end + 12 + int.from_bytes(content[end : end + 4], "big")
        yield start, end


def _is_truncated(content: bytes) -> bool:
    """Whether a PNG or JPEG lacks its end.

    Some OpenCV releases decode what is there of a JPEG and grey out the rest, or ask for the gigabytes that a broken
    PNG's chunk claims to have, and libpng writes to standard error.
    """
    if _is_png(content):
        last = next((end for start, end in _chunks(content) if content[start + 4 : start + 8] == b"IEND"), math.inf)
        return last > len(content)
    if content[:2] != b"\xff\xd8":
        return False
    place = 2
    while content[place : place + 1] == b"\xff":  # segments, up to the first scan
        if content[place + 1 : place + 2] == b"\xda":
            # Inside a scan 0xFF is escaped, so this finds its end, not a thumbnail's
            return content.find(b"\xff\xd9", place) < 0
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return False


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
