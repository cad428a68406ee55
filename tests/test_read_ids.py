"""PNGs of ids, against Pillow."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dlaseg.errors import UserError
from dlaseg.label_images import read_ids

ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


def made(seed, height, width, dtype):
    """Runs and noise."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, np.iinfo(dtype).max, (height, width), dtype, endpoint=True)
    return np.where(rng.random((height, width)) < 0.2, noise, rng.integers(0, 40, (height, 1))).astype(dtype)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, body, interlace=0):
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def sub(image):
    """Rows filtered by Sub, for 8 bits."""
    return b"".join(b"\1" + np.diff(row, prepend=np.uint8(0)).tobytes() for row in image)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 30),
    width=st.integers(1, 40),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    writer=st.sampled_from(["opencv", "pillow"]),
)
def test_ids_are_what_pillow_reads(tmp_path_factory, seed, height, width, dtype, writer):
    ids, path = made(seed, height, width, dtype), tmp_path_factory.getbasetemp() / "ids.png"
    if writer == "opencv":
        assert cv2.imwrite(str(path), ids)
    else:
        Image.fromarray(ids).save(path)
    found = read_ids(path)
    assert found.dtype == dtype
    assert np.array_equal(found, ids)
    assert np.array_equal(found, np.asarray(Image.open(path)))


def test_pixels_in_several_chunks(tmp_path):
    ids = made(1, 9, 13, np.uint8)
    data = zlib.compress(sub(ids))
    body = b"".join(chunk(b"IDAT", data[i : i + 7]) for i in range(0, len(data), 7))
    (tmp_path / "a.png").write_bytes(png(13, 9, 8, body))
    assert np.array_equal(read_ids(tmp_path / "a.png"), ids)


def test_an_interlaced_file_is_put_in_order(tmp_path):
    ids = made(2, 8, 8, np.uint8)
    rows = b"".join(sub(ids[top::down, left::across]) for top, left, down, across in ADAM7)
    (tmp_path / "a.png").write_bytes(png(8, 8, 8, chunk(b"IDAT", zlib.compress(rows)), interlace=1))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), ids)
    assert np.array_equal(read_ids(tmp_path / "a.png"), ids)


def test_fewer_bits_are_left_to_the_decoder(tmp_path):
    rows = np.array([[1, 0x0F, 0x11], [1, 0x22, 0x01]], np.uint8).tobytes()
    (tmp_path / "a.png").write_bytes(png(4, 2, 4, chunk(b"IDAT", zlib.compress(rows))))
    expected = np.asarray(Image.open(tmp_path / "a.png"))
    assert np.array_equal(read_ids(tmp_path / "a.png"), expected)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"no deflate stream at all",
        lambda data: zlib.compress(zlib.decompress(data)[:-1]),
    ],
)
def test_pixels_that_are_missing_are_an_error(tmp_path, spoil):
    data = zlib.compress(sub(made(3, 20, 30, np.uint8)))
    (tmp_path / "a.png").write_bytes(png(30, 20, 8, chunk(b"IDAT", spoil(data))))
    with pytest.raises(UserError, match=r"a\.png: broken"):
        read_ids(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["RGB", "1"])
def test_colours_and_single_bits_are_no_ids(tmp_path, mode):
    Image.new(mode, (3, 2)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=f"pixels of mode {mode}: label ids have one channel of 8 or 16 bits"):
        read_ids(tmp_path / "a.png")
