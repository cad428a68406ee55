"""PNG, the usual format: its chunks, a fast decoder, an encoder, and one that takes an image strip by strip."""

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import kornia_rs
import numpy as np
from numpy.typing import NDArray

# Function and mode of the fast decoder, by the PNG's bit depth and colour type (PNG specification, 11.2.1).
_DECODERS = {
    (8, 0): (kornia_rs.io.decode_image_png_u8, "mono"),
    (16, 0): (kornia_rs.io.decode_image_png_u16, "mono"),
    (8, 2): (kornia_rs.io.decode_image_png_u8, "rgb"),
}

_LONGEST = 1_000_000  # pixels of a side that OpenCV's libpng takes

# Chunks that hold an orientation or an animation: the fast decoder ignores them.
_SPECIAL_CHUNKS = (b"eXIf", b"acTL")


def is_png(content: bytes) -> bool:
    """Whether a file begins as a PNG does."""
    return content[:8] == b"\x89PNG\r\n\x1a\n"


def chunks(content: bytes) -> Iterator[tuple[int, int]]:
    """Start and end of each chunk of a PNG."""
    end = 8
    while end < len(content):
        start, end = end, end + 12 + int.from_bytes(content[end : end + 4], "big")
        yield start, end


def decode_png(content: bytes) -> NDArray[Any] | None:
    """Decodes the common kinds of PNG in half the time that OpenCV and Pillow take.

    Wrong checksums and missing data are detected, but not reported: None leaves the error message to another decoder.

    Args:
        content: of the file.

    Returns:
        (H, W) uint8 or uint16, or (H, W, 3) uint8 RGB, as stored. None for anything else: another format, a palette,
        alpha, fewer than 8 bits, an orientation, an animation, a broken file.
    """
    if not is_png(content) or len(content) < 26:
        return None
    width, height, depth, color_type = struct.unpack_from(">IIBB", content, 16)
    # Deflate compresses at most 1032 to 1. A larger image lacks pixels, or an absurd size would make the decoder panic.
    if (depth, color_type) not in _DECODERS or height * width > 1032 * len(content):
        return None
    if any(content.startswith(_SPECIAL_CHUNKS, start + 4) for start, _ in chunks(content)):
        return None
    decode, mode = _DECODERS[depth, color_type]
    try:
        pixels: NDArray[Any] = decode(content, (height, width), mode)
    except Exception:  # the decoder raises nothing more specific
        return None
    return pixels[:, :, 0] if mode == "mono" else pixels


def find_exif(part: bytes) -> bytes | None:
    """The EXIF of a PNG, if it lies in this part of the file; it may stand before the pixels or behind them."""
    for found in re.finditer(b"eXIf", part):
        start = found.start()
        end = start + 4 + int.from_bytes(part[max(0, start - 4) : start], "big")
        if part[end : end + 4] == zlib.crc32(part[start:end]).to_bytes(4, "big"):  # no pixels that look like it
            return part[start + 4 : end]
    return None


def read_end(path: Path) -> bytes:
    """The end of a file, where a PNG may have its EXIF."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 16)))
        return file.read()


def is_complete_and_plain(path: Path) -> bool:
    """Whether a PNG has all its chunks, is not interlaced, and has no orientation or animation.

    Reads the beginnings of the chunks alone.
    """
    size, end = path.stat().st_size, 8
    with path.open("rb") as file:
        while end < size:
            file.seek(end)
            begin = file.read(29)
            kind = begin[4:8]
            end += 12 + int.from_bytes(begin[:4], "big")
            if begin.startswith(_SPECIAL_CHUNKS, 4) or (kind == b"IHDR" and begin[20] != 0):
                return False
            if kind == b"IEND":
                return end <= size
    return False


def encode_png(image: NDArray[np.integer]) -> bytes:
    """The content of a PNG.

    Args:
        image: (H, W) uint8 or uint16, or (H, W, 3) uint8 RGB.
    """
    if max(image.shape[:2]) > _LONGEST:
        height, width = image.shape[:2]
        return PngEncoder(height, width, image.dtype, 1 if image.ndim == 2 else 3).encode(image)
    _, content = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image)
    return content.tobytes()


class PngEncoder:
    """Encodes a PNG strip by strip: the whole image is never in memory.

    Rows are stored as differences to the pixel on the left, which pictures of labels compress well by, in a few
    milliseconds per megapixel.

    Args:
        height: of the image, pixels.
        width: of the image, pixels.
        dtype: uint8 or uint16.
        channels: 1 for grey, 3 for RGB.
    """

    def __init__(self, height: int, width: int, dtype: np.dtype, channels: int):
        self._rows, self._shape = height, (width, channels)
        self._dtype = np.dtype(dtype)
        self._deflate = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
        header = struct.pack(">IIBBBBB", width, height, 8 * self._dtype.itemsize, {1: 0, 3: 2}[channels], 0, 0, 0)
        self._begin = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header)

    def encode(self, rows: NDArray[np.integer]) -> bytes:
        """The bytes that the next rows add to the file; the last rows complete it.

        Args:
            rows: (h, W) or (h, W, 3) of the encoder's dtype.
        """
        count, (width, channels) = len(rows), self._shape
        assert rows.shape[1:] == ((width,) if channels == 1 else (width, channels)), rows.shape
        assert rows.dtype == self._dtype, rows.dtype
        assert count <= self._rows, count
        step = channels * self._dtype.itemsize  # bytes of a pixel
        stored = np.ascontiguousarray(rows, self._dtype.newbyteorder(">")).view(np.uint8).reshape(count, width * step)
        filtered = np.empty((count, 1 + width * step), np.uint8)
        filtered[:, 0] = 1  # the filter Sub (PNG specification, 9.2)
        filtered[:, 1 : 1 + step] = stored[:, :step]
        np.subtract(stored[:, step:], stored[:, :-step], out=filtered[:, 1 + step :])
        self._rows -= count
        data = self._deflate.compress(filtered.data)
        if self._rows == 0:
            data += self._deflate.flush()
        begin, self._begin = self._begin, b""
        end = _chunk(b"IEND", b"") if self._rows == 0 else b""
        return begin + (_chunk(b"IDAT", data) if data else b"") + end


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
