"""Reads label maps exactly as stored: ids, palette indices or colours."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dlaseg.errors import UserError
from dlaseg.image_header import pnm_maximum, read_header, upright
from dlaseg.image_suffixes import LOSSY_SUFFIXES
from dlaseg.images import open_verified, read_checked_bytes
from dlaseg.memory import MAX_PIXELS
from dlaseg.png import decode_png, is_png

# Pillow's modes that label maps may have, and the mode without alpha channel to read them in.
_LABEL_MODES = {
    **{"1": "1", "L": "L", "P": "P", "I;16": "I;16", "I;16B": "I;16B", "RGB": "RGB"},
    **{"LA": "L", "PA": "P", "RGBA": "RGB"},
}

_LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF")
_LOSSY_IN_TIFF = ("jpeg", "tiff_jpeg", "webp", "tiff_sgilog", "tiff_sgilog24")
"""Pillow's names of formats, and of compressions in a TIFF, that change values."""

LOSSLESS = "save label maps as PNG from the source, or round values to those of the classes first (0 and 255 at 128)"
"""The remedy for label maps whose values were changed; a PNG that is made of a JPEG has the wrong ones."""


@dataclass(frozen=True)
class LabelImage:
    """A label map as stored.

    Attributes:
        pixels: (H, W) uint8 or uint16 ids, or (H, W, 3) uint8 RGB for labels that are stored as colours; of a palette
            image, the indices.
        palette: (N, 3) uint8 RGB, the colour of each index; None for a file without a palette.
    """

    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    palette: NDArray[np.uint8] | None = None


def read_label_image(path: Path, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Reads the pixels of a label map, as `read_label_file` gives them."""
    return read_label_file(path, max_pixels).pixels


def read_label_file(path: Path, max_pixels: int = MAX_PIXELS) -> LabelImage:
    """Reads a label map as stored: of a palette image, the indices beside the colours.

    Alpha is dropped, an EXIF orientation is applied, and 1, 2 or 4 bits are not stretched to 8.

    Args:
        path: PNG, BMP, TIFF or another lossless format.
        max_pixels: larger label maps are refused before memory is allocated for them.

    Raises:
        UserError: a missing or broken file, or a format with lossy compression.
    """
    if path.suffix.lower() in LOSSY_SUFFIXES:
        raise UserError(f"{path}: lossy formats such as JPEG change label values: {LOSSLESS}")
    content = read_checked_bytes(path, max_pixels)
    if is_png(content) and content[24:25] == b"\x10" and content[25:26] != b"\0":
        raise UserError(f"{path}: 16-bit colours; label maps hold 8- or 16-bit ids, or 8-bit colours: convert it")
    pixels = decode_png(content)
    if pixels is not None:
        return LabelImage(pixels)
    header = read_header(content)
    if header is not None and header.label_problem is not None:
        raise UserError(f"{path}: a {header.format} {header.label_problem}: save label maps as PNG")
    with open_verified(path, content) as picture:
        _check_exact(path, picture, content)
        picture = upright(picture)
        if picture.mode not in _LABEL_MODES:
            dtype = np.asarray(picture).dtype
            raise UserError(f"{path}: pixels of type {dtype}; labels are 8- or 16-bit ids, or RGB: convert it")
        palette = picture.getpalette("RGB") if picture.mode in ("P", "PA") else None
        mode = _LABEL_MODES[picture.mode]
        labels = np.asarray(picture if mode == picture.mode else picture.convert(mode))
    if mode == "L" and (bits := _bits(content)) < 8:
        labels = labels // (255 // (2**bits - 1))  # Pillow stretches few bits to the whole range
    elif mode == "1":
        labels = labels.astype(np.uint8)
    return LabelImage(
        labels.astype(labels.dtype.newbyteorder("="), copy=False),
        None if palette is None else np.array(palette, np.uint8).reshape(-1, 3),
    )


def _check_exact(path: Path, picture: Image.Image, content: bytes) -> None:
    """Refuses a file from which Pillow reads other values than were saved."""
    compression = picture.info.get("compression") if picture.format == "TIFF" else None
    if picture.format in _LOSSY or compression in _LOSSY_IN_TIFF:
        kind = f"{picture.format} with {compression} compression" if compression else picture.format
        raise UserError(f"{path}: {kind} changes label values: {LOSSLESS}")
    if (maximum := pnm_maximum(content)) != 255:
        raise UserError(
            f"{path}: a PNM whose largest value is {maximum}; programs stretch others than 255: save label maps as PNG"
        )


def _bits(content: bytes) -> int:
    """The bits of a grey pixel."""
    if is_png(content):
        return content[24]
    header = read_header(content)
    return 8 if header is None else int(re.sub(r"\D", "", header.dtype))


def read_ids(path: Path, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Reads a PNG of ids with exactly the values that Pillow gives, as the reference scorer of Cityscapes does.

    Unlike `read_label_image`, it accepts one channel only, ignores an orientation, and stretches few bits as Pillow
    does.

    Args:
        path: a PNG with 8 or 16 bits, or a palette, whose indices are read.
        max_pixels: larger ones are refused before memory is allocated for them.

    Returns:
        (H, W) ids.

    Raises:
        UserError: a missing or broken file, or more than one channel.
    """
    content = read_checked_bytes(path, max_pixels)
    ids = decode_png(content)
    if ids is not None and ids.ndim == 2:
        return ids
    with open_verified(path, content) as picture:
        ids = np.asarray(picture)
        if ids.ndim != 2 or ids.dtype == np.bool_:
            raise UserError(
                f"{path}: pixels of mode {picture.mode}: label ids have one channel of 8 or 16 bits: convert it"
            )
    return ids
