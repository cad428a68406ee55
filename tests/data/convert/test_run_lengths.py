import numpy as np
import pytest
from annotation_files import message, whole
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from dlaseg.data.convert.run_lengths import counts_of_string, mask_of_brush, mask_of_counts, patch_of_counts, place

masks = st.tuples(st.integers(1, 12), st.integers(1, 12), st.data())


def random_mask(data, height, width):
    bits = data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    return np.array(bits).reshape(height, width)


def run_lengths(values):
    """Lengths of the runs of a flat mask, which begin with one of zeros."""
    counts, current = [0], False
    for value in values:
        if value != current:
            counts.append(0)
            current = value
        counts[-1] += 1
    return counts


def pack(values, sizes=(3, 4, 8, 16)):
    """Encodes bytes as rle-pack does (https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack)."""
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in sizes)
    start = 0
    while start < len(values):
        end = start + 1
        while end < len(values) and values[end] == values[start] and end - start < 2 ** sizes[3]:
            end += 1
        if end - start == 1:  # a literal: values up to the next run
            while end < len(values) and end - start < 2 ** sizes[1] and values[end] != values[end - 1]:
                end += 1
            bits += f"001{end - start - 1:0{sizes[1]}b}" + "".join(f"{value:08b}" for value in values[start:end])
        else:
            which = next(i for i, size in enumerate(sizes) if end - start <= 2**size)
            bits += f"1{which:02b}{end - start - 1:0{sizes[which]}b}{values[start]:08b}"
        start = end
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


@given(masks)
def test_strings_of_coco_are_decoded_as_pycocotools_encodes_them(size_and_data):
    height, width, data = size_and_data
    mask = random_mask(data, height, width)
    string = coco.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
    counts = counts_of_string(string)
    assert counts == run_lengths(mask.T.ravel())
    patch = patch_of_counts(counts, height, width)
    assert (whole(patch, height, width) == mask).all()
    assert patch.mask.shape[1] == (0 if not mask.any() else np.ptp(np.nonzero(mask)[1]) + 1)


def test_strings_of_large_masks_are_decoded_too():
    mask = np.zeros((3000, 2000), np.uint8)
    mask[17:2900, 3:1990] = 1
    mask[1500, 1000] = 0
    string = coco.encode(np.asfortranarray(mask))["counts"].decode()
    patch = patch_of_counts(counts_of_string(string), 3000, 2000)
    assert (whole(patch, 3000, 2000) == mask).all()


@given(masks)
def test_counts_along_rows_are_those_of_cvat(size_and_data):
    height, width, data = size_and_data
    mask = random_mask(data, height, width)
    assert (mask_of_counts(run_lengths(mask.ravel()), height, width) == mask).all()


@pytest.mark.parametrize("string", ["P", "0P", "p", " ", "/", "oooooooo0", "é", "1\n", "PPPPPPP0"])
def test_a_string_that_is_none_of_coco_is_refused(string):
    assert "run-length string" in message(counts_of_string, string)


@pytest.mark.parametrize("counts", [[], [5], [3, 4], [2**40], [-3, 9], [9, -3], [10, -4]])
def test_counts_that_do_not_cover_the_mask_are_refused(counts):
    assert "runs" in message(patch_of_counts, counts, 2, 3)
    assert "runs" in message(mask_of_counts, counts, 2, 3)


def test_a_mask_is_placed_where_its_box_is():
    assert whole(place(np.array([[True, False]]), 1, 2, 3, 4), 3, 4).tolist() == [
        [False] * 4,
        [False, False, True, False],
        [False] * 4,
    ]
    for top, left in ((-1, 0), (0, -1), (3, 0), (0, 3)):
        assert "3 x 4" in message(place, np.ones((1, 2), bool), top, left, 3, 4)


@given(masks, st.sampled_from([255, 128, 1]))
def test_brush_masks_are_decoded_as_they_are_packed(size_and_data, opacity):
    height, width, data = size_and_data
    mask = random_mask(data, height, width)
    rgba = np.repeat(np.where(mask, opacity, 0).ravel(), 4).tolist()
    assert (mask_of_brush(pack(rgba), height, width) == mask).all()


def test_a_brush_mask_that_label_studio_wrote_is_decoded():
    # encode_rle of label-studio-sdk 2.1.2 gives these bytes for [[0, 255, 255], [0, 0, 255]]
    packed = [0, 0, 0, 24, 57, 27, 252, 96, 19, 255, 206, 1, 31, 248]
    assert mask_of_brush(packed, 2, 3).tolist() == [[False, True, True], [False, False, True]]


def test_half_covered_pixels_at_the_edge_of_a_brush_belong_to_it():
    rgba = [value for alpha in (0, 60, 127, 128, 200, 255) for value in (0, 0, 0, alpha)]
    assert mask_of_brush(pack(rgba), 1, 6).tolist() == [[False, False, False, True, True, True]]


def test_a_broken_brush_mask_is_refused():
    good = pack([0, 0, 0, 255] * 6)
    assert "ends within" in message(mask_of_brush, good[:-3], 2, 3)
    assert "ends within" in message(mask_of_brush, good[:3], 2, 3)
    assert "ends within" in message(mask_of_brush, [], 2, 3)
    assert "6 pixels" in message(mask_of_brush, pack([0, 0, 0, 255]), 2, 3)
    assert "bytes" in message(mask_of_brush, [300, *good], 2, 3)
    assert "bytes" in message(mask_of_brush, [-1], 2, 3)
    # a run that is longer than what is left
    assert "more values" in message(mask_of_brush, [0, 0, 0, 4, 57, 27, 252, 224, 0, 0], 1, 1)
