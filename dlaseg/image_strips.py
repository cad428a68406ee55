"""Reads large images some rows at a time; the pixels are those that `read_image` gives.

PNG and TIFF are read by rasterio, the extra `[large]`. JPEG is not: its decoder there rounds in other ways.
"""

import mmap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlaseg.bit_depth import to_eight_bits
from dlaseg.errors import UnreadableFileError, UserError
from dlaseg.image_header import PILLOW_ERRORS, ImageHeader, read_header
from dlaseg.images import MOST_PIXELS
from dlaseg.memory import MAX_PIXELS
from dlaseg.png import is_complete_and_plain

LEAST_COMPRESSED = 100
"""Pixels per byte of a file, at most, for an image of more than MAX_PIXELS without a limit that the user gave.
Photographs have fewer than 20; files that are made to fill memory or time have a thousand."""

_COLORS = ({"gray"}, {"gray", "alpha"}, {"palette"}, {"red", "green", "blue"}, {"red", "green", "blue", "alpha"})

# Of TIFFs, as rasterio calls them: those that read_image knows, without lossy ones
_COMPRESSIONS = {None, "lzw", "deflate", "packbits"}

_DRIVERS = {"PNG": "PNG", "TIFF": "GTiff"}

# Scanlines in order; a cache for the blocks of some rows, MB; no file beside (.aux.xml) that changes the colours
_OPTIONS = {
    "GDAL_CACHEMAX": 64,
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": False,
    "GDAL_NUM_THREADS": 1,
    "GDAL_PAM_ENABLED": False,
}


@dataclass(frozen=True)
class StripImage:
    """An image file whose rows can be read in order, a few at a time.

    Attributes:
        path: of the file.
        height: pixels.
        width: pixels.
        driver: the format, as rasterio calls it.
    """

    path: Path
    height: int
    width: int
    driver: str

    @contextmanager
    def open(self) -> Iterator["RowReader"]:
        """Opens the file for reading."""
        with _open(self.path, self.driver) as dataset:
            yield RowReader(self.path, dataset)


class RowReader:
    """Reads rows of an open file; from one thread at a time."""

    def __init__(self, path: Path, dataset: Any):
        self._path, self._dataset = path, dataset
        self._palette = _palette(dataset) if dataset.colorinterp[0].name == "palette" else None
        self._bands = list(range(1, 4)) if dataset.count >= 3 else [1]

    def read(self, top: int, bottom: int) -> NDArray[np.uint8]:
        """Reads the rows from `top` up to `bottom`; fast if they follow those that were read last.

        Returns:
            (bottom - top, W, 3) uint8, RGB.

        Raises:
            UnreadableFileError: a broken file.
        """
        with _errors(self._path):
            # (bands, h, W)
            bands = self._dataset.read(self._bands, window=((top, bottom), (0, self._dataset.width)))
        if self._palette is not None:
            return self._palette[bands[0]]
        rows = np.empty((*bands.shape[1:], 3), np.uint8)
        for channel in range(3):
            rows[..., channel] = to_eight_bits(bands[channel % len(bands)])
        return rows


def open_strips(path: Path, least: int, max_pixels: int | None) -> StripImage | None:
    """Finds out whether an image can be read in strips; decodes nothing.

    Args:
        path: of any file.
        least: fewer pixels are not worth it.
        max_pixels: more are not read; None for MAX_PIXELS, or the most that there are if the file has as many bytes as
            a real image.

    Returns:
        None for a small image, another format, one that cannot be read in strips, or too many pixels; `open_image` says
        what is wrong.

    Raises:
        UserError: more than MAX_PIXELS without a limit that the user gave, and rasterio is not installed.
    """
    header = _peek(path)
    if header is None or header.problem is not None or header.pixels <= least or header.frames > 1:
        return None
    limited = max_pixels is not None
    if max_pixels is None:
        is_real = header.pixels <= LEAST_COMPRESSED * path.stat().st_size
        max_pixels = MOST_PIXELS if is_real else MAX_PIXELS
    if header.pixels > max_pixels or header.dtype not in ("uint8", "uint16") or header.orientation != 1:
        return None
    try:
        if header.format == "PNG" and not is_complete_and_plain(path):
            return None
        driver = _DRIVERS[header.format]
        with _open(path, driver) as dataset:
            known = _is_known(dataset, header)
    except ImportError as error:
        if header.pixels > MAX_PIXELS and not limited:
            raise UserError(
                f"{path}: {header.height} x {header.width} pixels: read some rows at a time with rasterio: pip install "
                "'dlaseg[large]', or as a whole with --max-pixels"
            ) from error
        return None
    except (ValueError, OSError):
        return None
    return StripImage(path, header.height, header.width, driver) if known else None


def _is_known(dataset: Any, header: ImageHeader) -> bool:
    """Whether rasterio gives the values that `read_image` gives."""
    colors = {color.name for color in dataset.colorinterp}
    bits = dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", "8")  # fewer bits are not scaled up
    if colors not in _COLORS or dataset.count != len(colors) or (bits not in ("8", "16") and colors != {"palette"}):
        return False
    if dataset.driver == "PNG":
        return True
    # The alpha of a TIFF is multiplied into the colours by OpenCV
    compression = dataset.compression.name if dataset.compression else None
    if colors == {"palette"} and not header.has_palette:
        return False
    return "alpha" not in colors and dataset.photometric is None and compression in _COMPRESSIONS


def _palette(dataset: Any) -> NDArray[np.uint8]:
    colors = np.zeros((256, 3), np.uint8)
    for index, color in dataset.colormap(1).items():
        colors[index] = color[:3]
    return colors


def _peek(path: Path) -> ImageHeader | None:
    """The header of a PNG or TIFF of any size, read without the pixels; None for all else."""
    try:
        with path.open("rb") as file:
            begin = file.read(4)
            if begin not in (b"\x89PNG", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
                return None
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return read_header(content)  # type: ignore[arg-type]  # of it, only slices are used
    except (OSError, *PILLOW_ERRORS):
        return None


@contextmanager
def _open(path: Path, driver: str) -> Iterator[Any]:
    import rasterio

    # Most images have no place on the earth. `catch_warnings` does not work in threads
    warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
    with _errors(path), rasterio.Env(**_OPTIONS), rasterio.open(path, driver=driver) as dataset:
        yield dataset


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Makes an error of rasterio one that names the file."""
    from rasterio.errors import RasterioError

    try:
        yield
    except RasterioError as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise UnreadableFileError(f"{path}: broken ({reason}): replace or remove the file") from error
