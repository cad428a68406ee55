"""Files that would fill the memory, pixels of other types, and files of several frames."""

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageSequence

from dlaseg.errors import UnreadableFileError, UserError
from dlaseg.images import check_file_size, check_max_pixels, open_image, read_image, read_size, write_png
from dlaseg.label_images import read_ids, read_label_image
from dlaseg.memory import MAX_PIXELS

FORMATS = ["png", "jpg", "bmp", "ppm", "gif", "tif", "webp", "jp2", "avif"]


def scene(height=40, width=56, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BILINEAR))


def save(path, picture=None, **options):
    picture = scene() if picture is None else picture
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(path, **options)
    return path


def large_png(path, side=30_000):
    """A square of one bit per pixel: the file is small."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    deflate, row = zlib.compressobj(1), bytes(1 + side // 8)
    pixels = b"".join(deflate.compress(row * 1000) for _ in range(side // 1000)) + deflate.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone limits the address space")
@pytest.mark.parametrize(
    ("module", "read"),
    [("dlaseg.images", "read_image"), ("dlaseg.label_images", "read_label_image"), ("dlaseg.label_images", "read_ids")],
)
def test_an_image_of_900_million_pixels_is_refused_with_no_memory_for_it(tmp_path, module, read):
    path = large_png(tmp_path / "large.png")
    assert path.stat().st_size < 1_000_000
    code = f"""
import resource, sys
from pathlib import Path
from dlaseg.errors import UserError
from {module} import {read} as read
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 50_000_000,) * 2)
try:
    read(Path(sys.argv[1]))
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert done.stdout == (
        f"{path}: 30000 x 30000 = 900,000,000 pixels, the limit is {MAX_PIXELS:,}: make it smaller, or raise the limit "
        "(--max-pixels of infer and eval)\n"
    ), done.stderr


@pytest.mark.parametrize("suffix", FORMATS)
def test_no_format_is_decoded_beyond_the_limit(tmp_path, suffix, monkeypatch):
    path = save(tmp_path / f"a.{suffix}")
    assert read_image(path, max_pixels=40 * 56).shape == (40, 56, 3)
    monkeypatch.setattr(cv2, "imdecode", None)
    monkeypatch.setattr(Image.Image, "convert", None)
    for read in (read_image, read_size):
        with pytest.raises(UserError, match=r"40 x 56 = 2,240 pixels, the limit is 2,239: .*--max-pixels") as caught:
            read(path, max_pixels=40 * 56 - 1)
        assert not isinstance(caught.value, UnreadableFileError)  # a sound file


@pytest.mark.parametrize("read", [read_label_image, read_ids])
def test_label_maps_have_the_limit(tmp_path, read):
    path = save(tmp_path / "a.png", scene()[..., 0])
    assert read(path, 40 * 56).shape == (40, 56)
    with pytest.raises(UserError, match="the limit is 2,239"):
        read(path, 40 * 56 - 1)


def test_an_image_beyond_pillows_own_limit_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for suffix in ("avif", "gif"):
        assert read_image(save(tmp_path / f"a.{suffix}")).shape == (40, 56, 3)
    palette = Image.fromarray(scene()[..., 0]).convert("P")
    assert read_label_image(save(tmp_path / "labels.png", palette)).shape == (40, 56)


@pytest.mark.parametrize("limit", [0, -1, 2**30 + 1])
def test_a_limit_out_of_range_is_refused(limit):
    with pytest.raises(UserError, match=f"--max-pixels {limit}: use 1 to 1073741824"):
        check_max_pixels(limit)
    check_max_pixels(MAX_PIXELS)


def test_a_file_larger_than_any_image_is_not_read(tmp_path):
    path = tmp_path / "a.tif"
    path.touch()
    os.truncate(path, 10**11)  # sparse: no bytes on the disk
    with pytest.raises(UserError, match=r"a\.tif: a file of 100\.0 GB: larger than an image of 256,000,000 pixels"):
        read_image(path)


def test_a_file_may_have_as_many_bytes_as_four_channels_of_16_bits():
    most = 8 * 1000 + 2**26
    check_file_size(Path("a.tif"), most, max_pixels=1000)
    with pytest.raises(UserError, match="larger than an image of 1,000 pixels"):
        check_file_size(Path("a.tif"), most + 1, max_pixels=1000)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_never_ends_is_not_read(tmp_path, make):
    make(tmp_path / "a.png")
    with pytest.raises(UnreadableFileError, match=r"a\.png: not a regular file"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize(("dtype", "name"), [(np.float32, "float32"), (np.int32, "int32")])
def test_a_sound_tiff_of_other_pixels_is_not_called_broken(tmp_path, dtype, name):
    path = save(tmp_path / "a.tif", np.ones((4, 5), dtype))
    with pytest.raises(UserError) as caught:
        read_image(path)
    assert str(caught.value) == (
        f"{path}: pixels of type {name}; images have 8 or 16 bits per channel: convert the file to one of these"
    )
    assert not isinstance(caught.value, UnreadableFileError)


def test_too_little_memory_to_decode_is_not_a_broken_file(tmp_path, monkeypatch):
    def no_memory(*_):
        error = cv2.error("Failed to allocate 99 bytes")
        error.code = cv2.Error.StsNoMem
        raise error

    path = save(tmp_path / "a.jpg")
    monkeypatch.setattr(cv2, "imdecode", no_memory)
    with pytest.raises(UserError, match=r"a\.jpg: 40 x 56 pixels: not enough memory to decode it") as caught:
        read_image(path)
    assert not isinstance(caught.value, UnreadableFileError)


@pytest.mark.parametrize("content", [None, b"", b"hello", b"\x89PNG\r\n\x1a\n"])
@pytest.mark.parametrize("read", [read_image, read_label_image, read_ids])
def test_what_cannot_be_decoded_has_an_error_of_its_own(tmp_path, read, content):
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UnreadableFileError):
        read(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("gif", {}),
        ("png", {}),
        ("png", {"default_image": True}),
        ("webp", {"lossless": True}),
        ("avif", {"quality": 90}),
    ],
)
def test_frames_are_those_of_pillow(tmp_path, suffix, options):
    frames = [Image.fromarray(scene(seed=seed)) for seed in range(4)]
    path = save(tmp_path / f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:], **options)
    with Image.open(path) as picture:
        theirs = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(picture)]
    theirs = theirs[1:] if "default_image" in options else theirs
    file = open_image(path)
    ours = list(file.frames())
    assert file.header.frames == len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert np.abs(one.astype(int) - other).max() <= (2 if suffix == "avif" else 0)
    assert np.array_equal(ours[0], read_image(path))


def test_frames_of_16_bits_are_refused_but_not_called_broken(tmp_path):
    deep = Image.fromarray(scene()[..., 0].astype(np.uint16) * 257)
    frames = open_image(save(tmp_path / "a.png", deep, save_all=True, append_images=[deep.rotate(180)])).frames()
    assert np.array_equal(next(frames)[..., 0], scene()[..., 0])
    with pytest.raises(UserError, match=r"a\.png: frames with 16 bits per channel: convert the file to 8") as caught:
        next(frames)
    assert not isinstance(caught.value, UnreadableFileError)


def test_transparent_frames_show_what_the_animation_shows(tmp_path):
    # The second frame holds the changed corner alone
    first = Image.fromarray(scene())
    second = first.copy()
    second.paste((255, 0, 0), (0, 0, 9, 9))
    path = save(tmp_path / "a.png", first, save_all=True, append_images=[second])
    assert np.array_equal(list(open_image(path).frames())[1], np.asarray(second))


def test_pages_of_a_tiff_may_differ_in_everything(tmp_path):
    deep = scene(30, 20, 1)[..., 0].astype(np.uint16) * 257
    pages = [Image.fromarray(scene()), Image.fromarray(deep), Image.fromarray(scene(8, 9, 2))]
    path = save(tmp_path / "a.tif", pages[0], save_all=True, append_images=pages[1:])
    ours = list(open_image(path).frames())
    assert [page.shape for page in ours] == [(40, 56, 3), (30, 20, 3), (8, 9, 3)]
    assert np.array_equal(ours[1], np.stack([scene(30, 20, 1)[..., 0]] * 3, -1))
    assert np.array_equal(ours[2], scene(8, 9, 2))
    small_first = save(tmp_path / "b.tif", pages[2], save_all=True, append_images=pages[:1])
    frames = open_image(small_first, max_pixels=100).frames()
    assert next(frames).shape == (8, 9, 3)
    with pytest.raises(UserError, match="40 x 56 = 2,240 pixels, the limit is 100"):
        next(frames)


def test_a_broken_frame_is_named(tmp_path):
    frames = [Image.fromarray(scene(seed=seed)) for seed in range(3)]
    path = save(tmp_path / "a.webp", frames[0], save_all=True, append_images=frames[1:], lossless=True)
    content = bytearray(path.read_bytes())
    start = content.rindex(b"ANMF") + 40
    content[start : start + 60] = bytes(60)
    path.write_bytes(content)
    frames = open_image(path).frames()
    assert [next(frames).shape for _ in range(2)] == [(40, 56, 3)] * 2
    with pytest.raises(UnreadableFileError, match="frame 2 is broken"):
        next(frames)


def test_a_written_file_may_have_a_long_name_of_any_script(tmp_path):
    path = tmp_path / f"{'街' * 80}.png"
    write_png(path, scene())
    assert read_image(path).shape == (40, 56, 3)
