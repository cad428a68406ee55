"""Reads and writes images exactly: the decoded pixels are those in the file, or an error names the file."""

import math
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dlaseg.bit_depth import tell_if_dark, to_eight_bits
from dlaseg.errors import UnreadableFileError, UserError
from dlaseg.files import write_bytes
from dlaseg.image_header import PILLOW_ERRORS, ImageHeader, open_with_pillow, read_header, upright, upright_size
from dlaseg.memory import MAX_PIXELS
from dlaseg.png import chunks, decode_png, encode_png, is_png, read_end

# Our error message names the file; OpenCV's log would only repeat the error without it.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

_HEADER_BYTES = 1 << 16
"""Beginning of a PNG or JPEG in which the header is looked for first."""

MOST_PIXELS = 2**30
"""OpenCV decodes no more."""

EIGHT_BIT_MODES = ("1", "L", "P", "RGB", "LA", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")
"""Pillow's modes with 8 bits per channel; its conversion to RGB would clip wider ones."""


@dataclass(frozen=True)
class ImageFile:
    """An image file that is in memory as it is stored: its size is known, its pixels are not decoded yet.

    Attributes:
        path: of the file.
        header: of the file.
        content: of the file.
        max_pixels: that a page may have.
    """

    path: Path
    header: ImageHeader
    content: bytes
    max_pixels: int = MAX_PIXELS

    def read(self) -> NDArray[np.uint8]:
        """Decodes the image, of several frames the first.

        Returns:
            (H, W, 3) uint8, RGB.

        Raises:
            UserError: a truncated or broken file, pixels of another type, or too little memory.
        """
        if _is_truncated(self.content):
            raise UnreadableFileError(f"{self.path}: the end of the file is missing: replace or remove it")
        image: NDArray[Any] | None
        if self.header.format == "AVIF":  # unlike Pillow, OpenCV ignores the orientation of an AVIF
            image = next(self._pillow_frames(1), None)
        else:
            image = decode_png(self.content)
            if image is None:
                image = self._decode_with_opencv(0)
        return self._as_rgb(image)

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """Decodes one frame after the other, each as `read` does: of an animation, the whole picture at that time.

        Raises:
            UserError: as `read`, and for a page that has too many pixels.
        """
        yield self.read()
        for number, height, width in self.header.pages[1:]:
            _check_pixels(self.path, height, width, self.max_pixels)
            yield self._as_rgb(self._decode_with_opencv(number))
        if not self.header.pages:
            frames = self._pillow_frames(self.header.frames)
            next(frames)
            for frame in range(1, self.header.frames):
                if (image := next(frames, None)) is None:
                    raise UnreadableFileError(f"{self.path}: frame {frame} is broken: replace or remove the file")
                yield image

    def _decode_with_opencv(self, page: int) -> NDArray[Any] | None:
        is_tiff = self.header.format == "TIFF"
        if page in self.header.alpha_pages:  # OpenCV would multiply it into the colours
            return self._decode_tiff_with_pillow(page)
        # As RGB, OpenCV leaves the pixels of a 16-bit TIFF in colour undefined
        flags = (cv2.IMREAD_COLOR_BGR if is_tiff else cv2.IMREAD_COLOR_RGB) | cv2.IMREAD_ANYDEPTH
        image = self._decode_bytes(page, flags)
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if is_tiff and image is not None else image

    def _decode_tiff_with_pillow(self, page: int) -> NDArray[np.uint8] | None:
        try:
            with open_with_pillow(self.content) as picture:
                picture.seek(page)
                return np.asarray(upright(picture).convert("RGB"))
        except PILLOW_ERRORS:
            return None

    def _decode_bytes(self, page: int, flags: int) -> NDArray[Any] | None:
        buffer = np.frombuffer(self.content, np.uint8)
        try:
            if page == 0:
                return cv2.imdecode(buffer, flags)
            _, pages = cv2.imdecodemulti(buffer, flags, range=(page, page + 1))
            return pages[0] if pages else None
        except cv2.error as error:
            if error.code != cv2.Error.StsNoMem:
                return None
            size = f"{self.header.height} x {self.header.width} pixels"
            raise UserError(f"{self.path}: {size}: not enough memory to decode it: close other programs") from error

    def _pillow_frames(self, frames: int) -> Iterator[NDArray[np.uint8]]:
        """Decodes the first frames; ends early at one that is broken."""
        try:
            with open_with_pillow(self.content) as picture:
                # A PNG may have an image that only programs without animations show
                first = int(getattr(picture, "default_image", False))
                for frame in range(first, first + frames):
                    picture.seek(frame)
                    frame_image = upright(picture)
                    if frame_image.mode not in EIGHT_BIT_MODES:
                        raise UserError(f"{self.path}: frames with 16 bits per channel: convert the file to 8 bits")
                    yield np.asarray(frame_image.convert("RGB"))
        except UserError:
            raise
        except PILLOW_ERRORS:
            return

    def _as_rgb(self, image: NDArray[Any] | None) -> NDArray[np.uint8]:
        if image is None:
            if self.header.format == "TIFF":  # of whose kinds OpenCV reads some
                raise UnreadableFileError(
                    f"{self.path}: broken, or a TIFF that OpenCV does not decode, such as one compressed by Zstandard: "
                    "convert it to PNG or replace it"
                )
            raise UnreadableFileError(
                f"{self.path}: broken or not an image; it cannot be decoded: replace or remove the file"
            )
        tell_if_dark(self.path, image)
        image = to_eight_bits(image)
        if image.dtype != np.uint8:
            raise _wrong_dtype(self.path, str(image.dtype))
        return np.asarray(image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB), np.uint8)


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Reads any image as 8-bit RGB.

    Grey becomes three equal channels, alpha is dropped, 16 bits are scaled by 255 / 65535, an EXIF orientation is
    applied. Of a file with several frames or pages, the first one is read.

    Args:
        path: a file in a format that OpenCV decodes.
        max_pixels: larger images are refused before memory is allocated for them.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        UnreadableFileError: a missing, empty or truncated file, or an unknown format.
        UserError: an image with too many pixels, or with pixels of more than 16 bits or floating-point ones.
    """
    return open_image(path, max_pixels).read()


def open_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> ImageFile:
    """Reads a file and its header, and decodes nothing yet.

    Args:
        path: a file in a format that OpenCV decodes.
        max_pixels: larger images are refused.

    Raises:
        UserError: as `read_image`.
    """
    path = Path(path)
    return image_from_bytes(path, _read_bytes(path, max_pixels), max_pixels)


def image_from_bytes(path: Path, content: bytes, max_pixels: int = MAX_PIXELS) -> ImageFile:
    """As `open_image`, of a file whose content was read elsewhere.

    Args:
        path: of the file, for messages.
        content: of the file.
        max_pixels: larger images are refused.

    Raises:
        UserError: as `read_image`.
    """
    if not content:
        raise UnreadableFileError(f"{path}: the file is empty: replace or remove it")
    return ImageFile(path, _check_header(path, read_header(content), max_pixels), content, max_pixels)


def read_size(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Height and width of the image that `read_image` gives, an EXIF orientation applied; decodes nothing.

    Args:
        path: a file in a format that OpenCV decodes.
        max_pixels: larger images are refused.

    Raises:
        UserError: as `read_image`; what is broken behind the header is not found.
    """
    content = _read_bytes(path, max_pixels, _HEADER_BYTES)
    # Of other formats, and of a PNG with much text before its pixels, size or orientation may lie behind these bytes
    is_enough = b"IDAT" in content if is_png(content) else content[:2] == b"\xff\xd8"
    header = read_header(content) if is_enough else None
    if header is None:
        content = _read_bytes(path, max_pixels)
        header = read_header(content)
    header = _check_header(path, header, max_pixels)
    return upright_size(content + read_end(path) if is_png(content) else content, header)


def _check_header(path: Path, header: ImageHeader | None, max_pixels: int) -> ImageHeader:
    if header is None:
        raise UnreadableFileError(f"{path}: broken or not an image: replace or remove the file")
    if header.problem is not None:
        remedy = "it would be read wrongly: convert it to grey or RGB of 8 or 16 bits, channels interleaved"
        raise UserError(f"{path}: {header.format} with {header.problem}: {remedy}")
    # Bits are 1 to 16 where the format has several types
    if header.dtype not in {f"uint{bits}" for bits in range(1, 17)}:
        raise _wrong_dtype(path, header.dtype)
    _check_pixels(path, header.height, header.width, max_pixels)
    return header


def check_max_pixels(max_pixels: int) -> None:
    """Raises a UserError for a limit that is out of range."""
    if not 1 <= max_pixels <= MOST_PIXELS:
        raise UserError(f"--max-pixels {max_pixels}: use 1 to {MOST_PIXELS}, the largest image that OpenCV decodes")


def check_file_size(path: Path, size: int, max_pixels: int) -> None:
    """Raises a UserError for a file of more bytes than an image of `max_pixels` pixels has."""
    if size > 8 * max_pixels + (1 << 26):  # four channels of 16 bits, and what stands beside the pixels
        raise UserError(
            f"{path}: a file of {size / 1e9:.1f} GB: larger than an image of {max_pixels:,} pixels, the limit: split "
            "it, or raise the limit (--max-pixels of infer and eval)"
        )


def read_checked_bytes(path: Path, max_pixels: int) -> bytes:
    """The content of an image file whose header, if it can be read, says no more than `max_pixels` pixels.

    Raises:
        UserError: a missing or empty file, or a larger one.
    """
    content = _read_bytes(path, max_pixels)
    header = read_header(content)
    if header is not None:  # what is not an image is for the decoder to say
        _check_pixels(path, header.height, header.width, max_pixels)
    return content


@contextmanager
def open_verified(path: Path, content: bytes) -> Iterator[Image.Image]:
    """Opens an image after a check of its checksums, which decoding alone skips; errors of Pillow name the file."""
    try:
        with open_with_pillow(content) as picture:
            picture.verify()
        with open_with_pillow(content) as picture:
            yield picture
    except UserError:
        raise
    except (*PILLOW_ERRORS, Warning) as error:
        reason = " ".join(str(error).split())
        raise UnreadableFileError(f"{path}: broken or not an image ({reason}): replace or remove the file") from error


def write_png(path: Path, image: NDArray[np.integer]) -> None:
    """Writes a PNG atomically.

    Args:
        path: the file; missing parent folders are created.
        image: see `encode_png`.
    """
    write_bytes(path, encode_png(image))


def _read_bytes(path: Path, max_pixels: int, most: int = -1) -> bytes:
    """The content of a file, or the first `most` bytes."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UnreadableFileError(f"{path}: a folder: name a file in it")
        if not stat.S_ISREG(status.st_mode):  # a device or a pipe may never end
            raise UnreadableFileError(f"{path}: not a regular file: replace or remove it")
        check_file_size(path, status.st_size, max_pixels)
        with path.open("rb") as file:
            content = file.read(most)
    except OSError as error:
        raise UnreadableFileError(f"{path}: {error.strerror or error}: use a file that can be read") from error
    if not content:
        raise UnreadableFileError(f"{path}: the file is empty: replace or remove it")
    return content


def _check_pixels(path: Path, height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise UserError(
            f"{path}: {height} x {width} = {height * width:,} pixels, the limit is {max_pixels:,}: make it smaller, "
            "or raise the limit (--max-pixels of infer and eval)"
        )


def _wrong_dtype(path: Path, dtype: str) -> UserError:
    return UserError(
        f"{path}: pixels of type {dtype}; images have 8 or 16 bits per channel: convert the file to one of these"
    )


def _is_truncated(content: bytes) -> bool:
    """Whether the end of a PNG or JPEG is missing.

    Of a truncated JPEG, some OpenCV releases decode the first part and fill the rest with grey. Of a broken PNG, they
    allocate the gigabytes that a chunk claims to hold, and libpng writes to standard error.
    """
    if is_png(content):
        last = next((end for start, end in chunks(content) if content[start + 4 : start + 8] == b"IEND"), math.inf)
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
