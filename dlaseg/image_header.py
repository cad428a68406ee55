"""What the header of an image file says, read before memory for the pixels is allocated: size, frames, type of pixels.

Pillow reads most headers; it does not look at pixels before they are asked for. Three are read here: PNG, because it is
the usual one; WebP, of which Pillow allocates the canvas; TIFF, of which Pillow refuses kinds that OpenCV decodes.
"""

import io
import math
import re
import struct
import zlib
from dataclasses import dataclass
from typing import Any

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    ImageOps,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    SunImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL.Image import DecompressionBombError, Exif, Image
from PIL.ImageFile import ImageFile

from dlaseg.png import chunks, find_exif

PILLOW_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, RuntimeError, IndexError, KeyError, TypeError),
    *(struct.error, zlib.error, DecompressionBombError),
)
"""What Pillow raises for a broken file, on purpose or not."""

# Beginning of the file -> Pillow's class. Image.open has a limit of its own, and more formats than a stranger's file
# should be tried as
_CLASSES: tuple[tuple[re.Pattern[bytes], str, type[ImageFile]], ...] = tuple(
    (re.compile(pattern, re.DOTALL), name, kind)
    for pattern, name, kind in (
        (rb"\x89PNG\r\n\x1a\n", "PNG", PngImagePlugin.PngImageFile),
        (rb"\xff\xd8", "JPEG", JpegImagePlugin.JpegImageFile),
        (rb"II[*+]\0|MM\0[*+]", "TIFF", TiffImagePlugin.TiffImageFile),
        (rb"RIFF....WEBP", "WebP", WebPImagePlugin.WebPImageFile),
        (rb"GIF8[79]a", "GIF", GifImagePlugin.GifImageFile),
        (rb"BM", "BMP", BmpImagePlugin.BmpImageFile),
        (rb"P[1-6]", "PNM", PpmImagePlugin.PpmImageFile),
        (rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000", Jpeg2KImagePlugin.Jpeg2KImageFile),
        (rb"....ftyp(avi[fs]|m[is]f1)", "AVIF", AvifImagePlugin.AvifImageFile),
        (rb"\x59\xa6\x6a\x95", "Sun raster", SunImagePlugin.SunImageFile),
    )
)

# Formats of floating-point pixels: PFM, Radiance HDR, OpenEXR
_FLOAT_FORMATS = re.compile(rb"P[Ff]\s|#\?R(ADIANCE|GBE)|v/1\x01")

# Type, width, height and largest value; comments may stand between them
_PNM = re.compile(rb"P[2356](?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+(\d+)")

_ORIENTATION = 0x0112  # EXIF's tag

OTHER_METADATA = ("xmp", "XML:com.adobe.xmp", "Raw profile type exif")
"""Where Pillow finds an orientation beside EXIF, in the `info` of an image."""

_TIFF_KINDS = {1: "uint", 2: "int", 3: "float", 4: "uint", 5: "complex_int", 6: "complex"}
_TIFF_FIELDS = {
    **{254: "subfile", 256: "width", 257: "height", 258: "bits", 262: "photometric", 274: "orientation"},
    **{277: "samples", 284: "planar", 338: "alpha", 339: "kind"},  # 338 is 1 or 2 if a further sample is alpha
}
_TIFF_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # numbers of the TIFF specification, and of BigTIFF


@dataclass(frozen=True)
class ImageHeader:
    """What an image file says about itself.

    Attributes:
        format: such as PNG.
        height: pixels, as stored: an orientation may exchange it with the width.
        width: pixels.
        frames: frames of an animation, or pages of a TIFF.
        pages: of a TIFF: the number of each page among the images of the file, its height and its width. Smaller copies
            and masks are no pages.
        dtype: of a pixel's values, as numpy calls it, where the format has several.
        orientation: of a TIFF, as EXIF counts: 1 is upright.
        has_palette: of a TIFF, whether its pixels are indices: a palette of grey pixels does not count.
        alpha_pages: of a TIFF: the numbers of the images of 8-bit RGB that have more than three channels.
        problem: why OpenCV gives other pixels than are meant; None for a file that it reads correctly.
        label_problem: of a TIFF, why it is no label map; None if it may be one.
    """

    format: str
    height: int
    width: int
    frames: int = 1
    pages: tuple[tuple[int, int, int], ...] = ()
    dtype: str = "uint8"
    orientation: int = 1
    has_palette: bool = False
    alpha_pages: tuple[int, ...] = ()
    problem: str | None = None
    label_problem: str | None = None

    @property
    def pixels(self) -> int:
        """Height times width."""
        return self.height * self.width


def read_header(content: bytes) -> ImageHeader | None:
    """Reads the header of a file.

    Args:
        content: of the file.

    Returns:
        The header; None for a format that is not read here, or a broken header.
    """
    if _FLOAT_FORMATS.match(content):
        return ImageHeader("floating-point image", 0, 0, dtype="float32")
    for pattern, name, _ in _CLASSES:
        if not pattern.match(content):
            continue
        try:
            if name in _OWN:
                return _OWN[name](content)
            picture = open_with_pillow(content)
            return ImageHeader(name, picture.height, picture.width, _count_frames(name, picture))
        except PILLOW_ERRORS:
            return _avif_header(content) if name == "AVIF" else None
    return None


def open_with_pillow(content: bytes) -> ImageFile:
    """Opens one of the formats that are read here; decodes nothing yet.

    Unlike `Image.open`, it has no limit of pixels and does not warn of one: check the header first.

    Raises:
        PILLOW_ERRORS: a broken file, or another format.
    """
    for pattern, _, kind in _CLASSES:
        if pattern.match(content):
            return kind(io.BytesIO(content), "")
    raise SyntaxError("unknown format")


def upright(picture: Image) -> Image:
    """Applies the orientation of EXIF alone, as OpenCV does, which decodes most images: Pillow knows others, too."""
    _keep_exif_alone(picture)  # loading a TIFF turns it
    picture.load()
    _keep_exif_alone(picture)  # of a PNG, there may be metadata behind the pixels
    return ImageOps.exif_transpose(picture)


def _keep_exif_alone(picture: Image) -> None:
    for other in OTHER_METADATA:
        picture.info.pop(other, None)


def exif_orientation(content: bytes, header: ImageHeader) -> int:
    """The EXIF orientation that `upright` applies: 1 is upright; from 5 on, height and width are exchanged.

    Args:
        content: of the file, or its beginning; of a PNG, its end, too.
        header: of the file.
    """
    try:
        if header.format == "PNG":  # Pillow would decode the pixels to find an orientation behind them
            exif = Exif()
            exif.load(b"Exif\0\0" + (find_exif(content) or b""))
            orientation = exif.get(_ORIENTATION)
        else:
            with open_with_pillow(content) as picture:
                _keep_exif_alone(picture)
                orientation = picture.getexif().get(_ORIENTATION)
    except PILLOW_ERRORS:
        orientation = None
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def upright_size(content: bytes, header: ImageHeader) -> tuple[int, int]:
    """Height and width after the EXIF orientation is applied; arguments as of `exif_orientation`."""
    exchanged = exif_orientation(content, header) > 4
    return (header.width, header.height) if exchanged else (header.height, header.width)


def _count_frames(name: str, picture: Any) -> int:
    try:
        return int(picture.n_frames) if name in ("GIF", "AVIF") else 1
    except PILLOW_ERRORS:  # the first frame may be sound
        return 1


def _png_header(content: bytes) -> ImageHeader:
    width, height = struct.unpack_from(">II", content, 16)
    # https://www.w3.org/TR/png-3/#apng-frame-based-animation: acTL, before the pixels, makes an animation; each of its
    # frames has an fcTL
    animated, frames = False, 0
    for start, _ in chunks(content):
        kind = content[start + 4 : start + 8]
        if kind == b"IDAT" and not animated:
            break
        animated |= kind == b"acTL"
        frames += kind == b"fcTL"
    return ImageHeader("PNG", height, width, max(1, frames))


def _webp_header(content: bytes) -> ImageHeader:
    # https://developers.google.com/speed/webp/docs/riff_container
    kind, frames = content[12:16], 1
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(content[start : start + 3], "little") for start in (24, 27))
        frames, start = 0, 12
        while start + 8 <= len(content):
            frames += content[start : start + 4] == b"ANMF"
            size = int.from_bytes(content[start + 4 : start + 8], "little")
            start += 8 + size + size % 2
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", content, 21)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (size & 0x3FFF for size in struct.unpack_from("<HH", content, 26))
    return ImageHeader("WebP", height, width, max(1, frames))


def _tiff_header(content: bytes) -> ImageHeader:
    # https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf, sec. 2, and the BigTIFF variant
    order, big = "<" if content[:2] == b"II" else ">", 43 in content[2:4]
    first, count, length, inline = (8, "Q", 20, 8) if big else (4, "H", 12, 4)
    number = "Q" if big else "I"

    def unpack(kind: str, start: int) -> int:
        value: int = struct.unpack_from(order + kind, content, start)[0]
        return value

    def fields(start: int) -> dict[str, int]:
        """The first value of each field of the directory that begins there."""
        values = {}
        for entry in range(start, start + length * unpack(count, start - struct.calcsize(f"={count}")), length):
            tag, kind = unpack("H", entry), unpack("H", entry + 2)
            if tag in _TIFF_FIELDS and kind in _TIFF_TYPES:
                value = entry + length - inline
                if unpack(number, entry + 4) * struct.calcsize(f"={_TIFF_TYPES[kind]}") > inline:
                    value = unpack(number, value)
                values[_TIFF_FIELDS[tag]] = unpack(_TIFF_TYPES[kind], value)
        return values

    directories: list[dict[str, int]] = []
    offset, seen = unpack(number, first), set[int]()
    try:
        while offset and offset not in seen:  # a stranger's directories may form a circle
            seen.add(offset)
            start = offset + struct.calcsize(f"={count}")
            directories.append(fields(start))
            offset = unpack(number, start + length * unpack(count, offset))
    except struct.error:
        if not directories:
            raise
    # Bits of the subfile type: 1 a smaller copy, 4 a mask
    pages = tuple(
        (number, page["height"], page["width"])
        for number, page in enumerate(directories)
        if number == 0 or ("height" in page and "width" in page and not page.get("subfile", 0) & 5)
    )
    first_page = directories[0]
    return ImageHeader(
        "TIFF",
        *pages[0][1:],
        frames=len(pages),
        pages=pages,
        dtype=_tiff_dtype(first_page),
        orientation=first_page.get("orientation", 1),
        has_palette=first_page.get("photometric") == 3,
        alpha_pages=tuple(
            number
            for number, page in enumerate(directories)
            if _tiff_dtype(page) == "uint8" and page.get("photometric") == 2 and page.get("samples", 1) > 3
        ),
        problem=next(filter(None, map(_tiff_problem, directories)), None),
        label_problem=_tiff_label_problem(first_page),
    )


def _tiff_dtype(directory: dict[str, int]) -> str:
    return f"{_TIFF_KINDS.get(directory.get('kind', 1), 'unknown')}{directory.get('bits', 1)}"


def _tiff_label_problem(directory: dict[str, int]) -> str | None:
    photometric, samples = directory.get("photometric"), directory.get("samples", 1)
    if photometric == 0:
        return "in which 0 is white; programs disagree on its values"
    if samples > (4 if photometric == 2 else 2 if directory.get("alpha") else 1):
        return f"of {samples} channels; label maps have one, or RGB"
    if directory.get("kind", 1) == 1 and directory.get("bits", 1) not in (1, 2, 4, 8, 12, 16):
        return f"with pixels of type {_tiff_dtype(directory)}; labels are 8- or 16-bit ids, or RGB"
    return None


def _tiff_problem(directory: dict[str, int]) -> str | None:
    bits, samples, photometric = directory.get("bits", 1), directory.get("samples", 1), directory.get("photometric", 1)
    is_grey = photometric < 2
    if bits == 8 and samples > 2 and is_grey:
        return f"8 bits and {samples} channels that are not marked as colours"
    # OpenCV multiplies alpha into grey; it does not decode a fourth channel that is no alpha
    has_alpha = bool(directory.get("alpha"))
    if bits == 8 and directory.get("planar") == 2 and ((is_grey and has_alpha) or (samples > 3 and not has_alpha)):
        return f"8 bits whose {samples} channels are stored one after the other"
    if directory.get("kind", 1) == 1 and bits < 16 and bits not in (1, 2, 4, 8):
        return f"pixels of {bits} bits"
    if bits == 16 and samples > 4:  # OpenCV takes the first three of four for red, green and blue
        return f"16 bits and {samples} channels"
    if bits == 16 and photometric == 0:
        return "16 bits in which 0 is white"
    if bits == 16 and photometric in (3, 5):
        return "16 bits that are " + ("indices of a palette" if photometric == 3 else "CMYK")
    if photometric in (8, 9, 10):
        return "CIELAB colours"
    if bits == 16 and directory.get("planar") == 2 and samples > 1:
        return "16 bits whose channels are stored one after the other"
    return None


def pnm_maximum(content: bytes) -> int:
    """The value that stands for white in a PNM of grey or colour; 255 for anything else."""
    match = _PNM.match(content)
    return 255 if match is None else int(match[1])


def _pnm_header(content: bytes) -> ImageHeader:
    picture, maximum = open_with_pillow(content), pnm_maximum(content)
    problem = None if maximum in (255, 65535) else f"white is {maximum}, not 255 or 65535"
    return ImageHeader("PNM", picture.height, picture.width, problem=problem)


def _avif_header(content: bytes) -> ImageHeader | None:
    """The largest size that an AVIF mentions, for one that Pillow refuses, perhaps because of its size."""
    # The box `ispe`: four bytes of version and flags, width, height
    boxes = re.findall(rb"ispe....(.{8})", content[: 1 << 16], re.DOTALL)
    width, height = max((struct.unpack(">II", box) for box in boxes), key=math.prod, default=(0, 0))
    return ImageHeader("AVIF", height, width) if boxes else None


_OWN: dict[str, Any] = {"PNG": _png_header, "WebP": _webp_header, "TIFF": _tiff_header, "PNM": _pnm_header}
