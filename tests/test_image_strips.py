"""Images that are read a few rows at a time have the pixels that `read_image` gives."""

import builtins
import sys
import warnings

import cv2
import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dlaseg.errors import UnreadableFileError, UserError
from dlaseg.image_strips import open_strips
from dlaseg.images import read_image
from dlaseg.memory import MAX_PIXELS
from dlaseg.png import PngEncoder

HEIGHT, WIDTH = 83, 101


def scene(seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), np.uint8)
    return np.asarray(Image.fromarray(noise).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


RGB = scene()
GREY = RGB[..., 0]
DEEP = RGB.astype(np.uint16) * 201 + 5


def save(path, picture, **options):
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(path, **options)
    return path


def save_tiff(path, pixels, colors=None, **options):
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    size = {"height": pixels.shape[0], "width": pixels.shape[1], "count": pixels.shape[2], "dtype": pixels.dtype}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no place on the earth
        with rasterio.open(path, "w", driver="GTiff", **size, **options) as file:
            file.write(pixels.transpose(2, 0, 1))
            if colors is not None:
                file.write_colormap(1, colors)
    return path


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


BLOCKS = {"tiled": True, "blockxsize": 32, "blockysize": 16}
SUITABLE = {
    "rgb.png": lambda path: save(path, RGB),
    "grey.png": lambda path: save(path, GREY),
    "deep.png": lambda path: cv2.imwrite(str(path), DEEP[..., ::-1]),
    "deep grey.png": lambda path: save(path, DEEP[..., 0]),
    "alpha.png": lambda path: save(path, np.dstack((RGB, GREY))),
    "grey alpha.png": lambda path: save(path, np.dstack((GREY, GREY[::-1]))),
    "palette.png": lambda path: save(path, Image.fromarray(RGB).convert("P")),
    "few colours.png": lambda path: save(path, Image.fromarray(RGB).quantize(4), bits=2),
    "transparent.png": lambda path: save(path, RGB, transparency=(1, 2, 3)),
    "plain.tif": lambda path: save(path, RGB),
    "lzw.tif": lambda path: save(path, RGB, compression="tiff_lzw"),
    "packed.tif": lambda path: save(path, RGB, compression="packbits"),
    "grey.tif": lambda path: save(path, GREY),
    "deep grey.tif": lambda path: save(path, DEEP[..., 0]),
    "deep.tif": lambda path: save_tiff(path, DEEP, photometric="RGB"),
    "palette.tif": lambda path: save(path, Image.fromarray(RGB).convert("P")),
    "tiles.tif": lambda path: save_tiff(path, RGB, photometric="RGB", compress="deflate", **BLOCKS),
    "planes.tif": lambda path: save_tiff(path, RGB, photometric="RGB", interleave="band"),
    "big.tif": lambda path: save_tiff(path, RGB, photometric="RGB", BIGTIFF="YES", compress="lzw", predictor=2),
}
UNSUITABLE = {
    "photo.jpg": lambda path: save(path, RGB),
    "bits.png": lambda path: save(path, GREY > 128),
    "turned.png": lambda path: save(path, RGB, exif=turned(6)),
    "turned.tif": lambda path: save(path, RGB, tiffinfo={274: 6}),
    "frames.png": lambda path: save(path, RGB, save_all=True, append_images=[Image.fromarray(scene(1))]),
    "pages.tif": lambda path: save(path, RGB, save_all=True, append_images=[Image.fromarray(scene(1))]),
    "alpha.tif": lambda path: save(path, np.dstack((RGB, GREY))),
    "palette that does not count.tif": lambda path: save_tiff(path, GREY, {i: (255 - i, i, 9) for i in range(256)}),
    "deep palette.tif": lambda path: save_tiff(
        path, DEEP[..., 0], {i: (i % 256, i // 256, 9) for i in range(65536)}, photometric="PALETTE"
    ),
    "white is zero.tif": lambda path: save_tiff(path, GREY, photometric="MINISWHITE"),
    "lossy.tif": lambda path: save_tiff(path, RGB, photometric="YCBCR", compress="jpeg", **BLOCKS),
    "five.tif": lambda path: save_tiff(path, np.dstack((RGB, RGB[..., :2]))),
    "float.tif": lambda path: save(path, np.ones((9, 9), np.float32)),
    "text.png": lambda path: path.write_text("hello"),
    "cut.png": lambda path: path.write_bytes(save(path, RGB).read_bytes()[:-20]),
    "empty.png": lambda path: path.touch(),
}


@pytest.mark.parametrize("name", SUITABLE)
def test_strips_have_the_pixels_of_the_whole_image(tmp_path, name):
    path = tmp_path / name
    SUITABLE[name](path)
    image = open_strips(path, 0, None)
    assert (image.height, image.width) == (HEIGHT, WIDTH)
    with image.open() as reader:
        strips = [reader.read(top, min(top + 17, HEIGHT)) for top in range(0, HEIGHT, 17)]
    assert all(strip.dtype == np.uint8 for strip in strips)
    expected = read_image(path)
    np.testing.assert_array_equal(np.concatenate(strips), expected)
    if name in ("deep.tif", "deep.png"):
        np.testing.assert_array_equal(expected, (DEEP.astype(np.uint32) * 255 + 32767) // 65535)


def test_a_file_beside_the_image_does_not_change_its_colors(tmp_path):
    path = tmp_path / "a.tif"
    save_tiff(path, GREY)
    entries = "".join(f'<Entry c1="{255 - i}" c2="{i}" c3="9" c4="255"/>' for i in range(256))
    band = f"<ColorInterp>Palette</ColorInterp><ColorTable>{entries}</ColorTable>"
    text = f'<PAMDataset><PAMRasterBand band="1">{band}</PAMRasterBand></PAMDataset>'
    (tmp_path / "a.tif.aux.xml").write_text(text)
    with open_strips(path, 0, None).open() as reader:
        np.testing.assert_array_equal(reader.read(0, HEIGHT), read_image(path))


@pytest.mark.parametrize("name", UNSUITABLE)
def test_what_other_readers_would_read_in_another_way_is_read_as_a_whole(tmp_path, name):
    path = tmp_path / name
    UNSUITABLE[name](path)
    assert open_strips(path, 0, None) is None


def test_an_interlaced_png_is_read_as_a_whole(tmp_path):
    path = save(tmp_path / "a.png", RGB)
    content = bytearray(path.read_bytes())
    content[28] = 1
    path.write_bytes(content)
    assert open_strips(path, 0, None) is None


def test_small_images_and_missing_files_are_for_others(tmp_path):
    path = save(tmp_path / "a.png", RGB)
    assert open_strips(path, HEIGHT * WIDTH, None) is None
    assert open_strips(path, HEIGHT * WIDTH - 1, None) is not None
    assert open_strips(tmp_path / "none.png", 0, None) is None


def test_a_broken_file_is_named(tmp_path):
    path = save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with open_strips(path, 0, None).open() as reader, pytest.raises(UnreadableFileError, match=r"a\.png: broken \("):
        reader.read(0, 300)


def empty_png(path, height, width, size):
    """A PNG whose header tells a size, without pixels; as long as given."""
    begin = PngEncoder(height, width, np.dtype(np.uint8), 1)._begin
    rest = size - len(begin) - 24
    with path.open("wb") as file:
        file.write(begin + rest.to_bytes(4, "big") + b"IDAT")
        file.truncate(size - 12)
        file.seek(0, 2)
        file.write(bytes(4) + b"IEND" + bytes(4))
    return path


def test_without_the_extra_images_are_read_as_a_whole(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", RGB)
    imported = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("rasterio"):
            raise ModuleNotFoundError(name)
        return imported(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "rasterio")
    assert open_strips(path, 0, None) is None
    large = empty_png(tmp_path / "large.png", 20_000, 20_000, 4_000_000)
    assert open_strips(large, 0, 10**9) is None
    with pytest.raises(UserError, match=r"large\.png: 20000 x 20000 pixels: .* pip install 'dlaseg\[large\]', or"):
        open_strips(large, 0, None)


def test_more_pixels_than_the_limit_only_in_files_as_large_as_real_images(tmp_path):
    pixels = 20_000 * 20_000
    assert pixels > MAX_PIXELS
    real = empty_png(tmp_path / "real.png", 20_000, 20_000, pixels // 100)
    assert open_strips(real, 0, None) is not None
    assert open_strips(real, 0, MAX_PIXELS) is None  # the user's own limit
    bomb = empty_png(tmp_path / "bomb.png", 20_000, 20_000, pixels // 100 - 1)
    assert open_strips(bomb, 0, None) is None
    assert open_strips(bomb, 0, pixels) is not None


@settings(max_examples=40)
@given(
    st.integers(1, 30), st.integers(1, 40), st.sampled_from([np.uint8, np.uint16]), st.sampled_from([1, 3]),
    st.integers(1, 9),
)  # fmt: skip
def test_an_image_encoded_in_strips_decodes_to_itself(height, width, dtype, channels, rows):
    shape = (height, width) if channels == 1 else (height, width, 3)
    image = np.random.default_rng(height * width).integers(0, np.iinfo(dtype).max + 1, shape, dtype)
    encoder = PngEncoder(height, width, np.dtype(dtype), channels)
    content = b"".join(encoder.encode(image[top : top + rows]) for top in range(0, height, rows))
    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decoded if channels == 1 else decoded[..., ::-1], image)
