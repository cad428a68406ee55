"""Reads and writes images exactly: the decoded pixels are those in the file, or an error names the file."""

import io
import math
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import kornia_rs
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from dlaseg.errors import UserError
from dlaseg.files import write_bytes

# Our error message names the file; OpenCV's log would only repeat the error without it.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for name in ("avif", "bmp", "dib", "gif", "jp2", "jpe", "jpeg", "jpg", "pbm", "pgm", "png", "pnm", "ppm", "ras")
    + ("sr", "tif", "tiff", "webp")
)
"""Lower-case suffixes of the formats that OpenCV decodes to 8 or 16 bits."""

LOSSY_SUFFIXES = frozenset({".avif", ".jp2", ".jpe", ".jpeg", ".jpg", ".webp"})
"""Suffixes of formats with lossy compression, which label maps never use."""

# Pillow's modes that label maps may have, and the mode without alpha channel to read them in.
_LABEL_MODES = {"1": "1", "L": "L", "P": "P", "I;16": "I;16", "RGB": "RGB", "LA": "L", "PA": "P", "RGBA": "RGB"}

# Function and mode of the fast decoder, by the PNG's bit depth and colour type (PNG specification, 11.2.1).
_DECODERS = {
    (8, 0): (kornia_rs.io.decode_image_png_u8, "mono"),
    (16, 0): (kornia_rs.io.decode_image_png_u16, "mono"),
    (8, 2): (kornia_rs.io.decode_image_png_u8, "rgb"),
}

# Chunks (type, then start of the content) that may hold an orientation or an animation: the fast decoder ignores them.
_SPECIAL_CHUNKS = (b"eXIf", b"acTL", b"tEXtRaw profile", b"zTXtRaw profile", b"iTXtRaw profile", b"iTXtXML:com.adobe")


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Reads any image as 8-bit RGB.

    Grey becomes three equal channels, alpha is dropped, 16 bits are scaled by 255 / 65535, an EXIF orientation is
    applied.

    Args:
        path: a file in a format that OpenCV decodes.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        UserError: a missing, empty or truncated file, an unknown format, or floating-point pixels.
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
        raise UserError(f"{path}: broken or not an image; OpenCV cannot decode it: replace or remove the file")
    if image.dtype == np.uint16:
        image = ((image.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    if image.dtype != np.uint8:
        raise UserError(f"{path}: pixels of type {image.dtype}; images have 8 or 16 bits per channel: convert the file")
    return np.asarray(image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB), np.uint8)


def read_label_image(path: Path) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Reads a label map as stored: of a palette image, the indices rather than the colours.

    Alpha is dropped, an EXIF orientation is applied, and 1, 2 or 4 bits are not stretched to 8.

    Args:
        path: PNG, BMP, TIFF or another lossless format.

    Returns:
        (H, W) uint8 or uint16 ids, or (H, W, 3) uint8 RGB for labels that are stored as colours.

    Raises:
        UserError: a missing or broken file, or a format with lossy compression.
    """
    if path.suffix.lower() in LOSSY_SUFFIXES:
        raise UserError(f"{path}: lossy formats such as JPEG change label values: save label maps as PNG")
    content = _read_bytes(path)
    depth, color_type = content[24:26] if _is_png(content) and len(content) > 25 else (8, 0)
    if depth == 16 and color_type != 0:
        raise UserError(f"{path}: 16-bit colours; label maps hold 8- or 16-bit ids, or 8-bit colours: convert it")
    pixels = decode_png(content)
    if pixels is not None:
        return pixels
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # for missing data, Pillow only warns
        with _open_with_pillow(path, content) as picture:
            if picture.format in ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF"):
                raise UserError(f"{path}: {picture.format} changes label values: save label maps as PNG")
            picture = ImageOps.exif_transpose(picture)
            if picture.mode not in _LABEL_MODES:
                dtype = np.asarray(picture).dtype
                raise UserError(f"{path}: pixels of type {dtype}; labels are 8- or 16-bit ids, or RGB: convert it")
            mode = _LABEL_MODES[picture.mode]
            labels = np.asarray(picture if mode == picture.mode else picture.convert(mode))
    if depth in (2, 4) and color_type == 0:
        labels = labels // (255 // (2**depth - 1))  # Pillow stretches few bits to the whole range
    return labels.astype(np.uint8) if labels.dtype == np.bool_ else labels


def read_ids(path: Path) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Reads a PNG of ids with exactly the values that Pillow gives, as the reference scorer of Cityscapes does.

    Unlike `read_label_image`, it accepts one channel only, ignores an orientation, and stretches few bits as Pillow
    does.

    Args:
        path: a PNG with 8 or 16 bits, or a palette, whose indices are read.

    Returns:
        (H, W) ids.

    Raises:
        UserError: a missing or broken file, or more than one channel.
    """
    content = _read_bytes(path)
    ids = decode_png(content)
    if ids is not None and ids.ndim == 2:
        return ids
    with _open_with_pillow(path, content) as picture:
        ids = np.asarray(picture)
        if ids.ndim != 2 or ids.dtype == np.bool_:
            raise UserError(f"{path}: {picture.mode} pixels: label ids have one channel of 8 or 16 bits: convert it")
    return ids


def decode_png(content: bytes) -> NDArray[Any] | None:
    """Decodes the common kinds of PNG in half the time that OpenCV and Pillow take.

    Wrong checksums and missing data are detected, but not reported: None leaves the error message to another decoder.

    Args:
        content: of the file.

    Returns:
        (H, W) uint8 or uint16, or (H, W, 3) uint8 RGB, as stored. None for anything else: another format, a palette,
        alpha, fewer than 8 bits, an orientation, an animation, a broken file.
    """
    if not _is_png(content) or len(content) < 26:
        return None
    width, height, depth, color_type = struct.unpack_from(">IIBB", content, 16)
    # Deflate compresses at most 1032 to 1. A larger image lacks pixels, or an absurd size would make the decoder panic.
    if (depth, color_type) not in _DECODERS or height * width > 1032 * len(content):
        return None
    if any(content.startswith(_SPECIAL_CHUNKS, start + 4) for start, _ in _chunks(content)):
        return None
    decode, mode = _DECODERS[depth, color_type]
    try:
        pixels: NDArray[Any] = decode(content, (height, width), mode)
    except Exception:  # the decoder raises nothing more specific
        return None
    return pixels[:, :, 0] if mode == "mono" else pixels


def write_png(path: Path, image: NDArray[np.integer]) -> None:
    """Writes a PNG atomically.

    Args:
        path: the file; missing parent folders are created.
        image: (H, W) uint8 or uint16, or (H, W, 3) uint8 RGB.
    """
    _, content = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image)
    write_bytes(path, content.tobytes())


def _read_bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}: use a file that can be read") from error
    if not content:
        raise UserError(f"{path}: the file is empty: replace or remove it")
    return content


@contextmanager
def _open_with_pillow(path: Path, content: bytes) -> Iterator[Image.Image]:
    """Opens an image after a check of its checksums, which decoding alone skips; errors of Pillow name the file."""
    try:
        with Image.open(io.BytesIO(content)) as picture:
            picture.verify()
        with Image.open(io.BytesIO(content)) as picture:
            yield picture
    except UserError:
        raise
    except (OSError, SyntaxError, ValueError, Warning, Image.DecompressionBombError) as error:
        # Pillow's own message for an unknown format names our buffer, not the file
        reason = "unknown format" if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())
        raise UserError(f"{path}: broken or not an image ({reason}): replace or remove the file") from error


def _decode_avif(content: bytes) -> NDArray[np.uint8] | None:
    # Unlike Pillow, OpenCV ignores the orientation of an AVIF
    try:
        with Image.open(io.BytesIO(content)) as picture:
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except (OSError, SyntaxError, ValueError):
        return None


def _is_png(content: bytes) -> bool:
    return content[:8] == b"\x89PNG\r\n\x1a\n"


def _chunks(content: bytes) -> Iterator[tuple[int, int]]:
    """Start and end of each chunk of a PNG."""
    end = 8
    while end < len(content):
        start, end = end, end + 12 + int.from_bytes(content[end : end + 4], "big")
        yield start, end


def _is_truncated(content: bytes) -> bool:
    """Whether the end of a PNG or JPEG is missing.

    Of a truncated JPEG, some OpenCV releases decode the first part and fill the rest with grey. Of a broken PNG, they
    allocate the gigabytes that a chunk claims to hold, and libpng writes to standard error.
    """
    if _is_png(content):
        last = next((end for start, end in _chunks(content) if content[start + 4 : start + 8] == b"IEND"), math.inf)
        return last > len(content)
    if content[:2] != b"\xff\xd8":
        return False
    offset = 2
    while content[offset : offset + 1] == b"\xff":  # segments, up to the first scan
        if content[offset + 1 : offset + 2] == b"\xda":
            # A scan escapes 0xFF, so this is the end of the image, not that of a thumbnail
            return content.find(b"\xff\xd9", offset) < 0
        offset += 2 + int.from_bytes(content[offset + 2 : offset + 4], "big")
    return False
