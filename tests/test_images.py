import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from dlaseg import UserError
from dlaseg.errors import UnreadableFileError
from dlaseg.images import open_image, read_image, read_size, write_png
from dlaseg.label_images import read_label_image
from dlaseg.png import decode_png

# Each format, with the options that make it lossless where it can be
FORMATS = {
    "png": {},
    "jpg": {"quality": 95},
    "bmp": {},
    "ppm": {},
    "gif": {},
    "tif": {"compression": "raw"},
    "tiff": {"compression": "tiff_lzw"},
    "webp": {"lossless": True},
    "jp2": {},
    "avif": {"quality": 100},
}
LABEL_FORMATS = ["png", "bmp", "gif", "tif", "tiff"]


def scene(height=40, width=56):
    """A smooth picture, (height, width, 3) uint8, whose corners and channels all differ."""
    row, column = np.mgrid[:height, :width]
    channels = [row * 200 // height, column * 200 // width, 255 - row * 100 // height - column * 100 // width]
    return np.stack(channels, axis=-1).astype(np.uint8)


def ids(height=40, width=56):
    """Label ids 0 to 11 in blobs, (height, width) uint8."""
    return np.random.default_rng(0).integers(0, 12, (height, width)).astype(np.uint8)


def save(path, picture, **options):
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(path, **options)
    return path


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(rows, width, height, bits, color_type, between=b"", filters=None, piece=1 << 20):
    """A PNG of any depth and colour type, from its rows' filtered bytes."""
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    filters = [0] * len(rows) if filters is None else filters
    pixels = zlib.compress(b"".join(bytes([kind]) + row for kind, row in zip(filters, rows, strict=True)))
    pieces = [chunk(b"IDAT", pixels[start : start + piece]) for start in range(0, len(pixels), piece)]
    return b"".join([b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), between, *pieces, chunk(b"IEND", b"")])


def refusal(read, path):
    with pytest.raises(UserError) as error:
        read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_picture_is_read_as_pil_reads_it(tmp_path, suffix):
    path = save(tmp_path / f"a.{suffix}", scene(), **FORMATS[suffix])
    with Image.open(path) as picture:
        theirs = np.asarray(picture.convert("RGB"))
    ours = read_image(path)
    assert ours.dtype == np.uint8
    assert ours.shape == theirs.shape
    # Decoders of lossy formats may round apart
    assert np.abs(ours.astype(int) - theirs).max() <= (2 if suffix in ("jpg", "avif") else 0)


def test_a_path_may_be_a_string(tmp_path):
    path = save(tmp_path / "a.png", scene())
    assert (read_image(str(path)) == read_image(path)).all()


def test_channels_are_red_green_blue(tmp_path):
    path = save(tmp_path / "a.png", np.full((2, 3, 3), (10, 20, 30), np.uint8))
    assert (read_image(path) == (10, 20, 30)).all()


def test_the_suffix_may_be_in_capitals(tmp_path):
    path = tmp_path / "A.PNG"
    save(path, scene(), format="png")
    assert np.array_equal(read_image(path), scene())


def test_grey_becomes_three_equal_channels(tmp_path):
    image = read_image(save(tmp_path / "a.png", ids()))
    assert np.array_equal(image, np.stack([ids()] * 3, axis=-1))


def test_alpha_is_dropped(tmp_path):
    alpha = np.arange(40 * 56, dtype=np.uint8).reshape(40, 56, 1)
    path = save(tmp_path / "a.png", np.concatenate([scene(), alpha], axis=-1))
    assert np.array_equal(read_image(path), scene())


def test_a_palette_is_looked_up(tmp_path):
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    picture.putpalette([10, 20, 30, 200, 100, 50, 1, 2, 3])
    path = save(tmp_path / "a.png", picture)
    assert read_image(path).tolist() == [[[10, 20, 30], [200, 100, 50], [1, 2, 3]]]


def test_16_bits_of_a_repeated_byte_become_the_byte(tmp_path):
    values = np.arange(256, dtype=np.uint16).reshape(16, 16)
    path = tmp_path / "a.png"
    write_png(path, values * 257)
    assert np.array_equal(read_image(path)[:, :, 0], values)


def test_16_bits_are_rounded_to_the_nearest_byte(tmp_path):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    path = tmp_path / "a.png"
    write_png(path, values)
    assert np.array_equal(read_image(path)[:, :, 0], np.rint(values * (255 / 65535)))


@pytest.mark.parametrize(("largest", "dtype", "told"), [(4095, "u2", True), (8200, "u2", False), (15, "u1", False)])
def test_the_first_file_of_16_bits_that_holds_12_is_told(largest, dtype, told, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("dlaseg.bit_depth._told", [])
    for name in ("a.png", "b.png"):
        write_png(tmp_path / name, np.array([[0, 100, largest]], dtype))
        read_image(tmp_path / name)
    message = "a.png: nearly black, no value above 16 of 255, as of 12 bits in a 16-bit file: scale the values"
    assert [message in record.getMessage() for record in caplog.records] == [True] * told


def test_black_files_of_16_bits_are_read_silently(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("dlaseg.bit_depth._told", [])
    write_png(tmp_path / "a.png", np.zeros((2, 2), np.uint16))
    assert not read_image(tmp_path / "a.png").any()
    assert not caplog.records


def test_16_bit_colors_keep_their_order(tmp_path):
    path = tmp_path / "a.png"
    row = np.array([10, 20, 30] * 2, ">u2") * 257
    path.write_bytes(png([row.astype(">u2").tobytes()], 2, 1, 16, 2))
    assert read_image(path).tolist() == [[[10, 20, 30]] * 2]


def test_a_cmyk_jpeg_becomes_rgb(tmp_path):
    path = save(tmp_path / "a.jpg", Image.fromarray(scene()).convert("CMYK"), quality=95)
    with Image.open(path) as picture:
        assert picture.mode == "CMYK"
        theirs = np.asarray(picture.convert("RGB")).astype(int)
    assert np.abs(read_image(path) - theirs).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "avif"])
def test_an_exif_orientation_is_applied(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    path = save(tmp_path / f"a.{suffix}", scene(), exif=exif, **FORMATS[suffix])
    with Image.open(path) as picture:
        theirs = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    ours = read_image(path)
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(int) - theirs).max() <= 3


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "avif", "bmp", "gif", "jp2", "ppm"])
@pytest.mark.parametrize("orientation", [None, 4, 5, 9])
@pytest.mark.parametrize("large", [False, True])
def test_the_size_is_that_of_the_image_that_is_read(tmp_path, suffix, orientation, large):
    path, exif = tmp_path / f"a.{suffix}", Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    if large:
        exif[0x010E] = "x" * 60_000
    profile = {"icc_profile": bytes(70_000)} if large and suffix == "jpg" else {}  # before the size
    Image.fromarray(scene()).save(path, exif=exif.tobytes(), **profile)
    assert read_size(path) == read_image(path).shape[:2]


def test_floating_point_pixels_are_refused(tmp_path):
    path = tmp_path / "a.pfm"
    path.write_bytes(b"PF\n4 3\n-1\n" + np.ones((3, 4, 3), "<f4").tobytes())
    assert "float32" in refusal(read_image, path)
    assert "float32" in refusal(read_label_image, save(tmp_path / "a.tif", np.ones((3, 4), np.float32)))


def test_what_stands_behind_a_jpeg_does_not_matter(tmp_path):
    # Telephones append videos there, in which any two bytes occur
    path = save(tmp_path / "a.jpg", scene())
    expected = read_image(path)
    path.write_bytes(path.read_bytes() + b"...\xff\xda...")
    assert np.array_equal(read_image(path), expected)


def test_a_truncated_jpeg_is_refused_even_where_opencv_fills_the_rest(tmp_path, monkeypatch):
    path = save(tmp_path / "a.jpg", scene(), exif=b"Exif\0\0 a thumbnail ends \xff\xd9")
    monkeypatch.setattr(cv2, "imdecode", lambda *_: scene())
    assert read_image(path).shape == scene().shape
    path.write_bytes(path.read_bytes()[:-20])
    refusal(read_image, path)


@pytest.mark.parametrize("read", [read_image, read_label_image])
@pytest.mark.parametrize(("width", "height"), [(2**30, 1), (2**30, 2**30), (40000, 40000)])
def test_an_absurd_size_in_the_header_is_refused(tmp_path, read, width, height):
    path = tmp_path / "a.png"
    path.write_bytes(png([b"\0\0\0"], width, height, 8, 2))
    refusal(read, path)


@pytest.mark.parametrize("read", [read_image, read_label_image])
def test_an_empty_file_is_called_empty(tmp_path, read):
    path = tmp_path / "a.png"
    path.touch()
    assert "the file is empty" in refusal(read, path)


def lengths(content):
    """Lengths to cut a file to: inside its header, its body and its end."""
    size = len(content)
    return sorted({1, 3, 8, 20, 40, *(size * tenth // 10 for tenth in range(1, 10)), size - 30, size - 9, size - 1})


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_truncated_picture_is_refused(tmp_path, suffix):
    path = save(tmp_path / f"a.{suffix}", scene(), **FORMATS[suffix])
    content = path.read_bytes()
    for length in lengths(content):
        path.write_bytes(content[:length])
        refusal(read_image, path)


@pytest.mark.parametrize("suffix", LABEL_FORMATS)
def test_a_truncated_label_map_is_refused_unless_all_its_labels_are_there(tmp_path, suffix):
    path = save(tmp_path / f"a.{suffix}", ids(), **FORMATS[suffix])
    content = path.read_bytes()
    for length in lengths(content):
        path.write_bytes(content[:length])
        try:
            labels = read_label_image(path)
        except UserError as error:
            assert str(path) in str(error)  # noqa: PT017 - both outcomes are right
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert length >= len(content) - 9
            assert np.array_equal(labels, ids())


def test_a_label_map_with_a_changed_byte_is_refused_or_read_as_it_was(tmp_path):
    path = save(tmp_path / "a.png", ids(5, 6))
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        try:
            labels = read_label_image(path)
        except UserError:
            continue
        assert np.array_equal(labels, ids(5, 6)), place


def test_a_picture_with_a_changed_byte_is_refused_or_read_as_it_was(tmp_path):
    path = save(tmp_path / "a.png", scene(5, 6))
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        try:
            image = read_image(path)
        except UserError:
            continue
        assert np.array_equal(image, scene(5, 6)), place


def test_a_chunk_that_claims_gigabytes_is_not_believed(tmp_path, monkeypatch):
    content = save(tmp_path / "a.png", scene()).read_bytes()
    place = content.index(b"IDAT") - 4
    (tmp_path / "a.png").write_bytes(content[:place] + b"\xff" + content[place + 1 :])
    monkeypatch.setattr(cv2, "imdecode", None)  # OpenCV 5 would fill as much with zeros
    assert "end of the file is missing" in refusal(read_image, tmp_path / "a.png")


@pytest.mark.parametrize("behind", [b"junk", bytes(1000)])
def test_what_stands_behind_a_png_does_not_matter(tmp_path, behind):
    path = save(tmp_path / "a.png", scene())
    path.write_bytes(path.read_bytes() + behind)
    assert np.array_equal(read_image(path), scene())


@pytest.mark.parametrize("length", [30, 60, -1])
def test_a_broken_picture_is_reported_by_our_message_alone(tmp_path, capfd, length):
    path = save(tmp_path / "a.png", scene())
    path.write_bytes(path.read_bytes()[:length])
    refusal(read_image, path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("read", [read_image, read_label_image])
@pytest.mark.parametrize("content", [b"", b"hello\n", b"<html></html>\n", bytes(1000), b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_refused(tmp_path, read, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    refusal(read, path)


@pytest.mark.parametrize("read", [read_image, read_label_image])
def test_a_missing_file_and_a_folder_are_refused(tmp_path, read):
    refusal(read, tmp_path / "missing.png")
    refusal(read, tmp_path)


def test_a_palette_label_map_gives_its_indices(tmp_path):
    picture = Image.fromarray(ids()).convert("P")
    picture.putpalette(list(range(255, -1, -1)) * 3)
    assert np.array_equal(read_label_image(save(tmp_path / "a.png", picture)), ids())


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_indices_of_any_depth_are_read_as_stored(tmp_path, bits):
    stored = ids() & (2**bits - 1)
    picture = Image.fromarray(stored).convert("P")
    picture.putpalette(list(range(255, -1, -1)) * 3)
    assert np.array_equal(read_label_image(save(tmp_path / "a.png", picture, bits=bits)), stored)


def test_transparent_palette_entries_stay_indices(tmp_path):
    picture = Image.fromarray(ids()).convert("P")
    picture.putpalette(list(range(255, -1, -1)) * 3)
    assert np.array_equal(read_label_image(save(tmp_path / "a.png", picture, transparency=0)), ids())


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_labels_of_few_bits_are_read_as_stored(tmp_path, bits):
    stored = np.arange(16, dtype=np.uint8).reshape(2, 8) & (2**bits - 1)
    rows = [np.packbits(np.unpackbits(row[:, None], axis=1)[:, -bits:]).tobytes() for row in stored]
    path = tmp_path / "a.png"
    path.write_bytes(png(rows, 8, 2, bits, 0))
    assert read_label_image(path).tolist() == stored.tolist()


@pytest.mark.parametrize("suffix", LABEL_FORMATS)
def test_8_bit_labels_are_read_as_stored(tmp_path, suffix):
    labels = read_label_image(save(tmp_path / f"a.{suffix}", ids(), **FORMATS[suffix]))
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, ids())


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_labels_are_read_as_stored(tmp_path, suffix):
    stored = np.array([[0, 255, 256], [7000, 32768, 65535]], np.uint16)
    labels = read_label_image(save(tmp_path / f"a.{suffix}", stored))
    assert labels.dtype == np.uint16
    assert labels.tolist() == stored.tolist()


def test_a_palette_with_alpha_gives_its_indices(tmp_path):
    picture = Image.fromarray(ids()).convert("P").convert("PA")
    assert np.array_equal(read_label_image(save(tmp_path / "a.tif", picture)), ids())


def test_labels_with_alpha_lose_it(tmp_path):
    picture = Image.merge("LA", [Image.fromarray(ids()), Image.fromarray(255 - ids())])
    assert np.array_equal(read_label_image(save(tmp_path / "a.png", picture)), ids())


@pytest.mark.parametrize(("color_type", "channels"), [(2, 3), (4, 2)])
def test_16_bit_labels_are_never_cut_to_8(tmp_path, color_type, channels):
    stored = np.full((1, 2, channels), 300, ">u2")
    path = tmp_path / "a.png"
    path.write_bytes(png([stored.tobytes()], 2, 1, 16, color_type))
    try:
        labels = read_label_image(path)
    except UserError:
        return
    assert (labels == 300).all()


def test_labels_stored_as_colors_are_read_as_rgb(tmp_path):
    assert np.array_equal(read_label_image(save(tmp_path / "a.png", scene())), scene())


def test_labels_stored_as_colors_lose_their_alpha(tmp_path):
    alpha = np.arange(40 * 56, dtype=np.uint8).reshape(40, 56, 1)
    path = save(tmp_path / "a.png", np.concatenate([scene(), alpha], axis=-1))
    assert np.array_equal(read_label_image(path), scene())


@pytest.mark.parametrize("pixels", [ids(), scene()], ids=["ids", "colors"])
def test_a_tiff_with_lossy_compression_is_refused_for_labels(tmp_path, pixels):
    path = save(tmp_path / "a.tif", pixels, compression="jpeg")
    with pytest.raises(UserError, match=r"TIFF with jpeg compression changes label values: save label maps as PNG "):
        read_label_image(path)


@pytest.mark.parametrize(("largest", "dtype"), [(3, ">u1"), (300, ">u2"), (65535, ">u2")])
def test_a_pnm_that_programs_stretch_is_refused_for_labels(tmp_path, largest, dtype):
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 # of ids\n2 2 %d\n" % largest + np.arange(4, dtype=dtype).tobytes())
    with pytest.raises(UserError, match=rf"a PNM whose largest value is {largest}; .*: save label maps as PNG$"):
        read_label_image(path)
    path.write_bytes(b"P5 # of ids\n2 2 255\n" + bytes(range(4)))
    assert np.array_equal(read_label_image(path), [[0, 1], [2, 3]])


def tiff(path, pixels, tags):
    """A TIFF of packed pixels with these tags, by number."""
    tags = {259: 1, 277: 1, 278: tags[257], **tags, 273: 8, 279: len(pixels)}
    directory = struct.pack("<H", len(tags)) + b"".join(
        struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags)
    )
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + directory + bytes(4))
    return path


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_of_a_grey_tiff_are_not_stretched(tmp_path, bits):
    values = np.arange(64).reshape(4, 16) % 2**bits
    digits = "".join(f"{value:0{bits}b}" for value in values.ravel())
    packed = bytes(int(digits[start : start + 8], 2) for start in range(0, len(digits), 8))
    path = tiff(tmp_path / "a.tif", packed, {256: 16, 257: 4, 258: bits, 262: 1})
    assert np.array_equal(read_label_image(path), values)


def test_a_tiff_of_a_compression_that_opencv_lacks_is_to_be_converted(tmp_path):
    zstandard = {256: 8, 257: 6, 258: 8, 259: 50000, 262: 1}
    with pytest.raises(UnreadableFileError, match=r"a TIFF that OpenCV does not decode, .*: convert it to PNG"):
        read_image(tiff(tmp_path / "a.tif", bytes(48), zstandard))


@pytest.mark.parametrize(
    ("tags", "problem"),
    [
        ({258: 12, 262: 1}, "pixels of 12 bits"),
        ({258: 16, 262: 1, 277: 5}, "16 bits and 5 channels"),
        ({258: 16, 262: 2, 277: 8}, "16 bits and 8 channels"),
        ({258: 16, 262: 0}, "16 bits in which 0 is white"),
        ({258: 16, 262: 2, 277: 3, 284: 2}, "16 bits whose channels are stored one after the other"),
        ({258: 8, 262: 1, 277: 3}, "8 bits and 3 channels that are not marked as colours"),
        ({258: 8, 262: 1, 277: 4}, "8 bits and 4 channels that are not marked as colours"),
        ({258: 8, 262: 1, 277: 2, 284: 2, 338: 2}, "8 bits whose 2 channels are stored one after the other"),
        ({258: 8, 262: 2, 277: 4, 284: 2}, "8 bits whose 4 channels are stored one after the other"),
        ({258: 16, 262: 3}, "16 bits that are indices of a palette"),
        ({258: 16, 262: 5, 277: 4}, "16 bits that are CMYK"),
        ({258: 8, 262: 8, 277: 3}, "CIELAB colours"),
        ({258: 16, 262: 8, 277: 3}, "CIELAB colours"),
    ],
)
def test_a_tiff_that_opencv_reads_wrongly_is_refused(tmp_path, tags, problem):
    path = tiff(tmp_path / "a.tif", bytes(6 * 8 * 6), {256: 8, 257: 6, **tags})
    with pytest.raises(UserError, match=rf"TIFF with {problem}: it would be read wrongly: convert it to grey or RGB"):
        read_image(path)


@pytest.mark.parametrize(
    ("tags", "problem"),
    [
        ({258: 1, 262: 0}, "in which 0 is white; programs disagree on its values"),  # tifffile stores bool so
        ({258: 8, 262: 0}, "in which 0 is white; programs disagree on its values"),
        ({258: 8, 262: 1, 277: 5}, "of 5 channels; label maps have one, or RGB"),
        ({258: 8, 262: 1, 277: 2}, "of 2 channels; label maps have one, or RGB"),
        ({258: 8, 262: 2, 277: 5}, "of 5 channels; label maps have one, or RGB"),
        ({258: 3, 262: 1}, "with pixels of type uint3; labels are 8- or 16-bit ids, or RGB"),
    ],
)
def test_a_tiff_that_is_no_label_map_is_refused(tmp_path, tags, problem):
    path = tiff(tmp_path / "a.tif", bytes(6 * 8 * 6), {256: 8, 257: 6, **tags})
    with pytest.raises(UserError, match=rf"a\.tif: a TIFF {problem}: save label maps as PNG$") as caught:
        read_label_image(path)
    assert not isinstance(caught.value, UnreadableFileError)  # or it could be skipped as broken


@pytest.mark.parametrize("kind", ["P5", "P6"])
@pytest.mark.parametrize("white", [100, 1023])
def test_a_pnm_of_another_white_is_refused(tmp_path, kind, white):
    path = tmp_path / "a.pnm"
    path.write_bytes(f"{kind} 2 2 {white}\n".encode() + bytes(24))
    with pytest.raises(UserError, match=rf"PNM with white is {white}, not 255 or 65535: it would be read wrongly"):
        read_image(path)


def test_the_alpha_of_a_tiff_is_dropped(tmp_path):
    alpha = np.arange(40 * 56, dtype=np.uint8).reshape(40, 56, 1)
    transparent = Image.fromarray(np.concatenate([scene(), alpha], axis=-1))
    path = tmp_path / "a.tif"
    transparent.save(path, save_all=True, append_images=[transparent.transpose(Image.Transpose.FLIP_LEFT_RIGHT)])
    assert np.array_equal(read_image(path), scene())
    first, second = open_image(path).frames()
    assert np.array_equal(first, scene())
    assert np.array_equal(second, scene()[:, ::-1])
    deep = Image.fromarray(scene()[..., 0].astype(np.uint16) * 257)
    for pages in ([Image.fromarray(scene()), transparent], [transparent, deep]):
        pages[0].save(path, save_all=True, append_images=pages[1:])
        _, second = open_image(path).frames()
        assert np.array_equal(second[..., 0], scene()[..., 0])


def test_ids_of_16_bits_are_read_from_a_tiff_of_either_byte_order(tmp_path):
    values = ids().astype(np.uint16) * 300
    little, big = save(tmp_path / "little.tif", values), tmp_path / "big.tif"
    Image.frombytes("I;16B", (56, 40), values.astype(">u2").tobytes()).save(big)
    assert big.read_bytes()[:2] == b"MM"
    for path in (little, big):
        labels = read_label_image(path)
        assert labels.dtype == np.uint16
        assert labels.dtype.isnative
        assert np.array_equal(labels, values)


QUICK_TIFFS = [("L", "raw"), ("P", "tiff_lzw"), ("I;16", "tiff_adobe_deflate")]  # each mode and compression once


@pytest.mark.parametrize(
    ("mode", "compression"),
    [
        pytest.param(*case, marks=() if case in QUICK_TIFFS else pytest.mark.slow)
        for case in product(("L", "P", "I;16"), ("raw", "tiff_lzw", "tiff_adobe_deflate"))
    ],
)
def test_a_truncated_tiff_is_refused_or_has_the_same_labels(tmp_path, mode, compression):
    path, small = tmp_path / "a.tif", ids(6, 8)
    picture = Image.fromarray(small.astype(np.uint16) * 300 if mode == "I;16" else small)
    if mode == "P":
        picture = Image.frombytes("P", (8, 6), small.tobytes())
        picture.putpalette([value for i in range(256) for value in (i, i // 2, i // 3)])
    content = save(path, picture, compression=compression, tiffinfo={0x112: 3}).read_bytes()
    labels, refused = read_label_image(path), 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own, which users see or not
        for end in range(len(content)):
            path.write_bytes(content[:end])
            try:
                assert np.array_equal(read_label_image(path), labels)
            except UserError:
                refused += 1
    assert refused > len(content) - 10


def test_label_maps_that_are_read_in_threads_leave_the_programs_warnings_alone(tmp_path):
    picture = Image.frombytes("P", (56, 40), ids().tobytes())
    picture.putpalette(list(range(256)) * 3)
    paths = [save(tmp_path / f"{i}.png", picture) for i in range(40)]
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            list(pool.map(read_label_image, paths))
    assert warnings.filters == before


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "jp2", "avif"])
def test_a_lossy_format_is_refused_for_labels(tmp_path, suffix):
    refusal(read_label_image, save(tmp_path / f"a.{suffix}", scene()))


def test_a_jpeg_that_is_called_png_is_refused_for_labels(tmp_path):
    refusal(read_label_image, save(tmp_path / "a.png", ids(), format="jpeg"))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_written_label_map_is_read_back(tmp_path, dtype):
    stored = (np.arange(35).reshape(5, 7) * (np.iinfo(dtype).max // 34)).astype(dtype)
    write_png(tmp_path / "a" / "b.png", stored)
    assert read_label_image(tmp_path / "a" / "b.png").tolist() == stored.tolist()


@pytest.mark.parametrize("image", [scene(), scene()[:, ::-1], scene(1, 1)])
def test_a_written_picture_is_read_back(tmp_path, image):
    write_png(tmp_path / "a.png", image)
    assert np.array_equal(read_image(tmp_path / "a.png"), image)
    with Image.open(io.BytesIO((tmp_path / "a.png").read_bytes())) as picture:
        assert np.array_equal(np.asarray(picture), image)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 12),
    width=st.integers(1, 20),
    kind=st.sampled_from([(8, 0), (16, 0), (8, 2)]),
    piece=st.integers(1, 200),
)
def test_pngs_of_any_filter_are_read_as_by_pillow(tmp_path_factory, seed, height, width, kind, piece):
    rng, (bits, color_type) = np.random.default_rng(seed), kind
    row = width * (3 if color_type else bits // 8)
    rows = [rng.bytes(row) for _ in range(height)]
    content = png(rows, width, height, bits, color_type, filters=rng.integers(0, 5, height).tolist(), piece=piece)
    with Image.open(io.BytesIO(content)) as picture:
        theirs = np.asarray(picture)
    ours = decode_png(content)
    assert ours.dtype == (np.uint16 if bits == 16 else np.uint8)
    assert np.array_equal(ours, theirs)
    path = tmp_path_factory.getbasetemp() / "any_filter.png"
    path.write_bytes(content)
    assert np.array_equal(read_label_image(path), theirs)
    if bits == 8:
        assert np.array_equal(read_image(path), theirs if color_type else np.stack([theirs] * 3, -1))


@pytest.mark.parametrize("writer", ["opencv", "pillow"])
def test_usual_pngs_are_read_without_the_slower_decoders(tmp_path, monkeypatch, writer):
    for name, pixels in (("image", scene()), ("ids", ids()), ("ids16", ids().astype(np.uint16) * 300)):
        if writer == "opencv":
            write_png(tmp_path / f"{name}.png", pixels)
        else:
            save(tmp_path / f"{name}.png", pixels)
    monkeypatch.setattr(cv2, "imdecode", None)
    monkeypatch.setattr(Image, "open", None)
    assert np.array_equal(read_image(tmp_path / "image.png"), scene())
    assert np.array_equal(read_label_image(tmp_path / "image.png"), scene())
    assert np.array_equal(read_label_image(tmp_path / "ids.png"), ids())
    labels = read_label_image(tmp_path / "ids16.png")
    assert labels.dtype == np.uint16
    assert np.array_equal(labels, ids().astype(int) * 300)


PROFILE = b"\nexif\n      34\n" + b"4578696600004d4d002a00000008000101120003000000010006000000000000\n"


XMP = b'<x tiff:Orientation="6"/>'
TURNED = chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0")


@pytest.mark.parametrize(
    ("between", "turned"),
    [
        (TURNED, True),
        (chunk(b"tEXt", b"Raw profile type exif\0" + PROFILE), False),
        (chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(PROFILE)), False),
        (chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP), False),
    ],
)
def test_a_png_that_says_an_orientation_is_turned_in_one_way_as_image_and_as_labels(tmp_path, between, turned):
    path = tmp_path / "a.png"
    for bits, color_type in ((8, 0), (8, 3)):  # the second kind is not for the fast decoder
        palette = chunk(b"PLTE", bytes(value for i in range(256) for value in (i, i, i))) if color_type else b""
        before = png([row.tobytes() for row in ids()], 56, 40, bits, color_type, between + palette)
        behind = png([row.tobytes() for row in ids()], 56, 40, bits, color_type, palette)
        expected = np.rot90(ids(), -1) if turned else ids()
        for content in (before, behind[:-12] + between + behind[-12:]):
            path.write_bytes(content)
            assert np.array_equal(read_label_image(path), expected)
            assert np.array_equal(read_image(path)[:, :, 0], expected)
            assert read_size(path) == expected.shape


@pytest.mark.parametrize("height", [40, 400])
def test_an_orientation_behind_the_pixels_or_a_long_text_of_a_png_is_applied(tmp_path, height):
    pixels = np.random.default_rng(0).integers(0, 256, (height, 300), np.uint8)  # of 400 rows, they are 120 kB
    content = png([row.tobytes() for row in pixels], 300, height, 8, 0, b"")
    path = tmp_path / "a.png"
    path.write_bytes(content[:-12] + TURNED + content[-12:])
    assert np.array_equal(read_image(path)[:, :, 0], np.rot90(pixels, -1))
    assert read_size(path) == (300, height)
    text = chunk(b"tEXt", b"Comment\0" + b"x" * 70_000)
    path.write_bytes(png([row.tobytes() for row in pixels], 300, height, 8, 0, text + TURNED))
    assert read_size(path) == (300, height)
    path.write_bytes(content[:-12] + TURNED[:-1] + b"\0" + content[-12:])  # a wrong checksum: it may be pixels
    assert read_size(path) == (height, 300)


@pytest.mark.parametrize("suffix", ["tif", "gif", "webp", "jpg", "avif"])
def test_an_orientation_in_xmp_is_ignored_in_images_and_labels(tmp_path, suffix):
    options = {"tiffinfo": {700: XMP}} if suffix == "tif" else {"xmp": XMP}
    path = save(tmp_path / f"a.{suffix}", scene(), **options)
    with Image.open(path) as picture:
        assert suffix == "gif" or picture.getexif()[0x112] == 6  # as Pillow understands it
    assert read_image(path).shape == (40, 56, 3)
    assert read_size(path) == (40, 56)
    if suffix in LABEL_FORMATS:
        assert read_label_image(path).shape[:2] == (40, 56)


def test_a_comment_does_not_slow_a_png_down():
    rows = [row.tobytes() for row in ids()]
    content = png(rows, 56, 40, 8, 0, chunk(b"tEXt", b"Software\0eXIf") + chunk(b"gAMA", struct.pack(">I", 45455)))
    assert np.array_equal(decode_png(content), ids())


@pytest.mark.parametrize("shape", [(1, 1_000_001), (1_000_001, 1, 3)])
def test_a_side_longer_than_libpng_takes_is_written(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 9, shape, np.uint8)
    write_png(tmp_path / "a.png", pixels)
    assert np.array_equal(decode_png((tmp_path / "a.png").read_bytes()), pixels)


@pytest.mark.parametrize("format", ["JPEG", "JPEG2000", "WEBP", "AVIF"])
def test_a_lossy_label_map_of_another_name_is_refused(tmp_path, format):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png", format)
    with pytest.raises(UserError, match=rf"a\.png: {format} changes label values: save label maps as PNG "):
        read_label_image(tmp_path / "a.png")
