"""Reads PNGs of ids, as fast as they can be unpacked: decoding is most of what scoring costs."""

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from zlib_ng import zlib_ng

from dlaseg.errors import UserError

_BYTES = {"L": 1, "I;16": 2}
"""Of a pixel, by Pillow's mode, where OpenCV reads what is stored."""

_SUB = 1


def read_ids(path: Path) -> NDArray[np.integer]:
    """Reads a PNG of ids, 8 or 16 bits, as stored: of a palette the indices.

    Returns:
        (H, W) integers.

    Raises:
        UserError: broken, or more than one channel.
    """
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as picture:
            picture.verify()  # checksums, which decoding alone passes over
        ids: NDArray[Any] | None = None
        if picture.format == "PNG" and picture.mode in _BYTES and not picture.info.get("interlace"):
            width, height = picture.size
            ids = _unpacked(content, height, width, _BYTES[picture.mode])
            if ids is None:
                ids = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        if ids is None:
            with Image.open(io.BytesIO(content)) as picture:
                ids = np.asarray(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: broken or no image ({' '.join(str(error).split())}): write it again") from error
    if ids.ndim != 2 or ids.dtype == np.bool_:
        raise UserError(f"{path}: {picture.mode} pixels: predictions are label ids, one channel of 8 or 16 bits")
    return ids


def _unpacked(content: bytes, height: int, width: int, depth: int) -> NDArray[np.integer] | None:
    """Reads a PNG as OpenCV writes it, which others may, too: every row filtered by Sub (PNG specification, 9.2).

    Three times as fast as a decoder that takes one byte after the other: zlib-ng unpacks, and all rows' running sums
    are taken at once, by doubling steps.

    Args:
        content: a PNG of one channel, not interlaced, whose chunks are sound.
        height: H.
        width: W.
        depth: bytes of a pixel, 1 or 2.

    Returns:
        (H, W) uint8 or uint16, or None for any other PNG.
    """
    packed, at = [], 8
    while at < len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        if content[at + 4 : at + 8] == b"IDAT":
            packed.append(content[at + 8 : at + 8 + length])
        at += 12 + length
    size = height * (1 + width * depth)
    inflate = zlib_ng.decompressobj()
    try:
        rows = np.frombuffer(inflate.decompress(b"".join(packed), size), np.uint8)  # no more, whatever a file claims
    except zlib_ng.error:  # type: ignore[misc]  # its stub calls it a plain object
        return None
    if rows.size != size or (not inflate.eof and inflate.decompress(inflate.unconsumed_tail, 1)):
        return None
    rows = rows.reshape(height, -1)
    if (rows[:, 0] != _SUB).any():
        return None
    planes = [_running_sums(rows[:, 1 + i :: depth]) for i in range(depth)]
    # PNG has the high byte first
    return planes[0] if depth == 1 else planes[0].astype(np.uint16) << np.uint16(8) | planes[1]


def _running_sums(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Along each row, modulo 256; (H, W) to (H, W)."""
    # Columns as rows: each step then adds two long pieces of memory
    sums = cv2.transpose(np.ascontiguousarray(rows))
    spare = np.empty_like(sums)
    step = 1
    while step < len(sums):
        spare[:step] = sums[:step]
        np.add(sums[step:], sums[:-step], out=spare[step:])
        sums, spare = spare, sums
        step *= 2
    return np.asarray(cv2.transpose(sums), np.uint8)
