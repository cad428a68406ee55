"""The header of every format, and what is not read here."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dlaseg.image_header import ImageHeader, open_with_pillow, read_header

FORMATS = {
    "png": "PNG",
    "jpeg": "JPEG",
    "tiff": "TIFF",
    "webp": "WebP",
    "gif": "GIF",
    "bmp": "BMP",
    "ppm": "PNM",
    "jpeg2000": "JPEG 2000",
    "avif": "AVIF",
}
ANIMATED = ["png", "webp", "gif", "avif", "tiff"]


def frame(height=20, width=33, value=0):
    pixels = np.full((height, width, 3), value, np.uint8)
    pixels[: height // 2] = 255 - value
    return Image.fromarray(pixels)


def encode(kind, picture=None, **options):
    buffer = io.BytesIO()
    (frame() if picture is None else picture).save(buffer, kind, **options)
    return buffer.getvalue()


def animation(kind, frames=3, **options):
    return encode(kind, save_all=True, append_images=[frame(value=40 * i) for i in range(1, frames)], **options)


@pytest.mark.parametrize(("kind", "name"), FORMATS.items())
def test_the_size_is_read_from_every_format(kind, name):
    header = read_header(encode(kind))
    assert (header.format, header.height, header.width, header.frames) == (name, 20, 33, 1)
    assert header.dtype == "uint8"


@pytest.mark.parametrize("options", [{"lossless": True}, {}, {"lossless": True, "exif": b"Exif\0\0MM\0*"}])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_every_kind_of_webp(options, mode):
    assert read_header(encode("webp", frame().convert(mode), **options)) == ImageHeader("WebP", 20, 33)
    assert read_header(encode("webp", frame(16000, 3).convert(mode), **options)) == ImageHeader("WebP", 16000, 3)


@pytest.mark.parametrize("kind", ANIMATED)
def test_frames_are_counted(kind):
    assert read_header(animation(kind)).frames == 3
    assert read_header(animation(kind, icc_profile=b"odd")).frames == 3


def test_the_image_of_a_png_that_is_not_part_of_the_animation_is_no_frame():
    assert read_header(animation("png", default_image=True)).frames == 2


def test_the_frames_that_a_png_claims_are_not_believed():
    content = animation("png")
    start = content.index(b"acTL") + 4
    claim = struct.pack(">II", 2**32 - 1, 0)
    checksum = struct.pack(">I", zlib.crc32(b"acTL" + claim))
    assert read_header(content[:start] + claim + checksum + content[start + 12 :]).frames == 3


def tiff(*directories, order="<", big=False):
    """A TIFF of directories without pixels: field -> (type, value)."""
    magic = {"<": b"II", ">": b"MM"}[order]
    pack = lambda kind, *values: struct.pack(order + kind, *values)  # noqa: E731 - short for one function
    content = magic + (pack("HHH", 43, 8, 0) + pack("Q", 16) if big else pack("HI", 42, 8))
    for index, fields in enumerate(directories):
        entries = b""
        for tag, (kind, value) in sorted(fields.items()):
            code = {"H": 3, "I": 4}[kind]
            entries += pack("HHQ" if big else "HHI", tag, code, 1) + pack(kind, value).ljust(8 if big else 4, b"\0")
        end = len(content) + (8 if big else 2) + len(entries) + (8 if big else 4)
        following = end if index < len(directories) - 1 else 0
        content += pack("Q" if big else "H", len(fields)) + entries + pack("Q" if big else "I", following)
    return content


PAGE = {256: ("H", 33), 257: ("I", 20), 258: ("H", 8)}


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("big", [False, True])
def test_pages_of_a_tiff_are_not_its_smaller_copies_and_masks(order, big):
    smaller, mask = ({**PAGE, 254: ("I", subfile)} for subfile in (1, 4))
    header = read_header(tiff(PAGE, smaller, {**PAGE, 254: ("I", 2)}, mask, order=order, big=big))
    assert header == ImageHeader("TIFF", 20, 33, 2, ((0, 20, 33), (2, 20, 33)))
    assert read_header(tiff(smaller, PAGE, order=order, big=big)).pages == ((0, 20, 33), (1, 20, 33))


def test_directories_that_form_a_circle_come_to_an_end():
    content = tiff(PAGE, PAGE)
    assert read_header(content[:-4] + struct.pack("<I", 8)).frames == 2


def test_a_second_page_that_is_cut_off_does_not_count():
    assert read_header(tiff(PAGE, PAGE)[:-10]).frames == 1


def test_white_of_a_pnm_is_the_largest_value_of_its_bytes():
    assert [read_header(b"P5 1 1 %d\n\0\0" % white).problem is None for white in (255, 65535, 254)] == [1, 1, 0]


def test_jpeg_2000_is_known_without_its_container():
    assert read_header(encode("jpeg2000", no_jp2=True)) == ImageHeader("JPEG 2000", 20, 33)


def test_a_page_that_is_read_wrongly_is_a_problem_of_the_file():
    assert read_header(tiff(PAGE, {**PAGE, 258: ("H", 12)})).problem == "pixels of 12 bits"


@pytest.mark.parametrize(
    ("bits", "kind", "dtype"),
    [
        (32, 3, "float32"),
        (64, 3, "float64"),
        (16, 2, "int16"),
        (32, 1, "uint32"),
        (16, 1, "uint16"),
        (64, 6, "complex64"),
    ],
)
def test_the_type_of_a_tiffs_pixels(bits, kind, dtype):
    assert read_header(tiff({**PAGE, 258: ("H", bits), 339: ("H", kind)})).dtype == dtype


def test_types_of_pixels_as_pillow_writes_them():
    for dtype in (np.uint8, np.uint16, np.int32, np.float32):
        assert read_header(encode("tiff", Image.fromarray(np.ones((4, 5), dtype)))).dtype == np.dtype(dtype).name
    assert read_header(encode("tiff", Image.fromarray(np.ones((4, 5), bool)))).dtype == "uint1"


@pytest.mark.parametrize("beginning", [b"PF\n", b"Pf\n", b"#?RADIANCE\n", b"#?RGBE\n", b"v/1\x01"])
def test_formats_of_floating_point_pixels_are_known(beginning):
    assert read_header(beginning + bytes(50)).dtype == "float32"


@pytest.mark.parametrize("content", [b"", b"hello", b"%PDF-1.4", b"8BPS\0\1", bytes(100), b"<svg></svg>"])
def test_other_files_have_no_header(content):
    assert read_header(content) is None
    with pytest.raises(SyntaxError):
        open_with_pillow(content)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_cut_or_changed_file_raises_nothing(kind):
    content = animation(kind) if kind in ANIMATED else encode(kind)
    rng = np.random.default_rng(0)
    for length in range(min(len(content), 400)):
        read_header(content[:length])
    for _ in range(300):
        changed = bytearray(content)
        for _ in range(3):
            changed[rng.integers(0, min(len(content), 500))] = rng.integers(0, 256)
        read_header(bytes(changed))


def test_an_avif_that_is_too_large_for_pillow_still_has_a_size():
    content = encode("avif")
    start = re.search(b"ispe", content).end() + 4
    assert read_header(content[:start] + struct.pack(">II", 40000, 30000) + content[start + 8 :]) == ImageHeader(
        "AVIF", 30000, 40000
    )
