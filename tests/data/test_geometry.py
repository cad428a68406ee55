import itertools

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dlaseg.data.geometry import RandomAffineCrop
from dlaseg.inference.backends.reduced import reduce

FILL = (123.675, 116.28, 103.53)  # rounds to 124, 116, 104


def place(image, target, seed=0, crop_size=(32, 32), scale=(1.0, 1.0), rotation=0.0, point=None):
    return RandomAffineCrop(crop_size, scale, rotation, FILL)(image, target, np.random.default_rng(seed), point)


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def smooth(height, width):
    coarse = np.random.default_rng(0).integers(0, 256, (height // 40, width // 40, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def positions(size, seed, **how):
    """Row and column of the image that each crop pixel shows, -1 outside: two (h, w) arrays."""
    found = []
    for position in np.indices(size).astype(np.uint8):
        labels = place(np.zeros((*size, 3), np.uint8), position, seed, **how)[1].astype(int)
        found.append(np.where(labels == 255, -1, labels))
    return found


def placement(size, seed, **how):
    """The image's row and column in the crop's middle, the scale and the angle in degrees, as the labels show them."""
    down, across = positions(size, seed, **how)
    seen = (down >= 0) & (across >= 0)
    rows, columns = (
        index[seen] - (side - 1) / 2 for index, side in zip(np.indices(seen.shape), seen.shape, strict=True)
    )
    equations = np.stack([rows, columns, np.ones(len(rows))], 1)
    (a, b), (c, d), middle = np.linalg.lstsq(equations, np.stack([down[seen], across[seen]], 1).astype(float))[0]
    return np.array([*middle, (a * d - b * c) ** -0.5, np.degrees(np.arctan2(c - b, a + d))])


def test_an_image_above_the_limit_is_placed_as_it_is_computed():
    image, target = noise(96, 121), np.random.default_rng(1).integers(0, 5, (96, 121), np.uint8)
    how = {"crop_size": (32, 40), "scale": (1, 1), "rotation": 0, "fill": FILL}
    crop, labels = RandomAffineCrop(max_short_side=40, **how)(image[:, :120], target[:, :120], np.random.default_rng(0))
    np.testing.assert_array_equal(crop, reduce(image[:, :120], 3))
    np.testing.assert_array_equal(labels, target[1::3, 1:120:3])
    wide = RandomAffineCrop((64, 160), (0.5, 2), 0, FILL, 40)(image, target, np.random.default_rng(2))
    third = RandomAffineCrop((64, 160), (0.5 / 3, 2 / 3), 0, FILL)(image, target, np.random.default_rng(2))
    for one, other in zip(wide, third, strict=True):
        np.testing.assert_array_equal(one, other)
    unlimited = RandomAffineCrop(max_short_side=96, **how)(image, target, np.random.default_rng(0))
    np.testing.assert_array_equal(unlimited[0], RandomAffineCrop(**how)(image, target, np.random.default_rng(0))[0])


def test_scale_angle_and_place_are_uniform_and_independent():
    size = (100, 160)
    how = {"crop_size": (32, 24), "scale": (0.5, 2.0), "rotation": 20.0}
    drawn = np.array([placement(size, seed, **how) for seed in range(400)])
    row, column, scale, angle = drawn.T
    for values, low, high in ((scale, 0.5, 2.0), (angle, -20.0, 20.0)):
        wanted = low + (high - low) * np.array([0.0, 0.25, 0.5, 0.75, 1.0])
        assert np.abs(np.quantile(values, [0, 0.25, 0.5, 0.75, 1]) - wanted).max() < 0.08 * (high - low)
    # The window reaches as far as the turned crop, 39 x 34 pixels of the scaled image
    free_rows, free_columns = size[0] / 2 - 39 / 2 / scale, size[1] / 2 - 34 / 2 / scale
    for middle, centre, free in ((row, 49.5, free_rows), (column, 79.5, free_columns)):
        assert np.abs(middle - centre).max() < free.max() + 1
        place = (middle - centre) / free  # uniform between -1 and 1
        assert np.abs(np.quantile(place, [0, 0.25, 0.5, 0.75, 1]) - [-1, -0.5, 0, 0.5, 1]).max() < 0.17
    correlation = np.corrcoef([row, column, scale, angle])
    assert np.abs(correlation[np.triu_indices(4, 1)]).max() < 0.15


def test_crops_start_at_every_pixel_alike_up_to_the_images_borders():
    starts = [np.array([p[0, 0] for p in positions((40, 44), seed)]) for seed in range(450)]
    for axis, room in ((0, 8), (1, 12)):
        counts = np.bincount([start[axis] for start in starts], minlength=room + 1)
        assert len(counts) == room + 1
        expected = 450 / (room + 1)
        assert ((counts - expected) ** 2 / expected).sum() < 35  # chi-squared, 1 in 1000 for twelve degrees is 33


@given(
    size=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    crop_size=st.sampled_from([(32, 64), (96, 32)]),
    scale=st.floats(0.1, 4),
    corner=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60)
def test_a_crop_around_a_pixel_contains_it_and_lies_in_the_image(size, crop_size, scale, corner, seed):
    point = tuple(round(share * (side - 1)) for share, side in zip(corner, size, strict=True))
    shown = positions(size, seed, crop_size=crop_size, scale=(scale, scale), point=point)
    for axis, side, wanted, length in zip((1, 0), size, point, crop_size, strict=True):
        rows = shown[1 - axis].max(axis)  # -1 outside
        scaled = max(1, round(side * scale))
        # Where the pixel is, the crop shows the one that is nearest to the centre of the scaled image's pixel
        assert np.abs(rows[rows >= 0] - wanted).min() <= 0.5 * side / scaled + 0.5
        assert (rows >= 0).sum() == min(length, scaled)  # no more of it is padding than need be


@given(
    scale=st.floats(0.4, 3),
    rotation=st.sampled_from([5.0, 20.0, 60.0]),
    point=st.tuples(st.integers(0, 99), st.integers(0, 159)),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=40)
def test_so_it_does_before_a_rotation(scale, rotation, point, seed):
    how = {"crop_size": (32, 64), "scale": (scale, scale), "rotation": rotation, "point": point}
    *middle, _, _ = placement((100, 160), seed, **how)
    for side, length, wanted, found in zip((100, 160), (32, 64), point, middle, strict=True):
        scaled = round(side * scale)
        pixel = (2 * wanted + 1) * scaled // (2 * side)
        assert abs((found + 0.5) * scaled / side - 0.5 - pixel) <= (length - 1) / 2 + 0.25 * max(1, scale)


def test_a_crop_around_a_pixel_starts_at_every_place_alike_and_is_then_moved_into_the_image():
    starts = [[p[0, 0] for p in positions((40, 44), seed, point=(20, 35))] for seed in range(400)]
    for start, room, pixel in zip(np.transpose(starts), (8, 12), (20, 35), strict=True):
        expected = np.bincount(np.clip(np.arange(pixel - 31, pixel + 1), 0, room), minlength=room + 1) * 400 / 32
        counts, some = np.bincount(start, minlength=room + 1), expected > 0
        assert not counts[~some].any()
        assert ((counts - expected)[some] ** 2 / expected[some]).sum() < 33  # chi-squared, as above


def test_a_rotated_crop_around_a_pixel_far_from_the_borders_uncovers_nothing():
    for seed in range(20):
        labels = place(np.zeros((120, 130, 3), np.uint8), np.zeros((120, 130), np.uint8), seed, rotation=45.0,
                       point=(60, 100))[1]  # fmt: skip
        assert not labels.any()


@pytest.mark.parametrize("crop_size", [(32, 48), (48, 32)])
def test_a_small_image_is_shown_whole_at_every_place_alike(crop_size):
    starts = set()
    for seed in range(300):
        down, across = positions((30, 31), seed, crop_size=crop_size)
        assert (down.max(), across.max()) == (29, 30)
        assert (down >= 0).sum() == 30 * 31
        starts.add(tuple(np.argwhere(down >= 0)[0]))
    rows, columns = (set(values) for values in zip(*starts, strict=True))
    assert rows == set(range(crop_size[0] - 29))
    assert columns == set(range(crop_size[1] - 30))


def test_an_image_that_grows_is_interpolated_as_by_torch():
    image, target = noise(24, 40), np.arange(24 * 40).reshape(24, 40).astype(np.uint8) % 19
    pixels, labels = place(image, target, crop_size=(48, 80), scale=(2.0, 2.0))
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    theirs = F.interpolate(tensor, scale_factor=2, mode="bilinear")[0].permute(1, 2, 0).numpy()
    assert np.abs(pixels - theirs).max() <= 1
    assert np.array_equal(labels, np.repeat(np.repeat(target, 2, 0), 2, 1))


def test_an_image_that_shrinks_to_half_is_averaged_exactly():
    image = noise(48, 80)
    pixels, _ = place(image, np.zeros((48, 80), np.uint8), crop_size=(24, 40), scale=(0.5, 0.5))
    means = image.reshape(24, 2, 40, 2, 3).mean((1, 3))
    assert np.abs(pixels - means).max() <= 0.5


def test_a_crop_that_is_not_turned_is_cut_from_the_averaged_image():
    image = noise(100, 120)
    averaged = cv2.resize(image, (84, 70), interpolation=cv2.INTER_AREA)
    places = set()
    for seed in range(8):
        pixels, _ = place(image, np.zeros((100, 120), np.uint8), seed, scale=(0.7, 0.7))
        windows = np.lib.stride_tricks.sliding_window_view(averaged, (32, 32, 3))[:, :, 0]
        found = np.argwhere((windows == pixels).all((2, 3, 4)))
        assert len(found) == 1
        places.add(tuple(found[0]))
    assert len(places) > 1


@pytest.mark.parametrize("scale", [0.4, 0.6, 0.8])  # no two are as near as one another
def test_labels_are_those_of_the_pixel_that_is_nearest(scale):
    target = np.random.default_rng(0).integers(0, 19, (100, 60), np.uint8)
    size = (round(100 * scale), round(60 * scale))
    _, labels = place(noise(100, 60), target, crop_size=size, scale=(scale, scale))
    theirs = F.interpolate(torch.from_numpy(target)[None, None], size, mode="nearest-exact")[0, 0].numpy()
    assert np.array_equal(labels, theirs)


@pytest.mark.parametrize("rotation", [0.0, 30.0])
def test_every_pixel_counts_where_the_image_shrinks(rotation):
    # Averages of 16 pixels of noise deviate a quarter as much as single ones, interpolations at least half as much
    image = noise(400, 400)
    spread = [
        place(image, np.zeros((400, 400), np.uint8), seed, scale=(0.25, 0.25), rotation=rotation)[0].std() / image.std()
        for seed in range(4)
    ]
    assert 0.12 < min(spread) <= max(spread) < 0.26


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.0, 1.3, 2.0, 5.0])
@pytest.mark.parametrize("rotation", [0.0, 45.0])
def test_outside_is_the_fill_and_nothing_inside_takes_from_it(scale, rotation):
    blank = np.zeros((24, 30), np.uint8)
    covered = 0.0
    for seed in range(12):
        pixels, labels = place(np.zeros((24, 30, 3), np.uint8), blank, seed, (64, 48), (scale, scale), rotation)
        assert set(np.unique(labels)) <= {0, 255}
        assert np.unique(pixels[labels == 255], axis=0).tolist() in ([[124, 116, 104]], [])
        assert not pixels[labels == 0].any()
        covered += (labels == 0).mean() / 12
    assert covered > 0.03


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("scale", [0.37, 0.61, 0.81, 1.0, 1.41, 1.9])  # few positions are as near to two pixels
@pytest.mark.parametrize("rotation", [0.0, 25.0])
def test_no_shift_between_image_and_labels(axis, scale, rotation):
    position = np.indices((110, 120))[axis].astype(np.uint8)
    image = np.repeat(2 * position[..., None], 3, axis=2)
    apart = []
    for seed in range(6):
        pixels, labels = place(image, position, seed, (48, 64), (scale, scale), rotation)
        inside = cv2.erode((labels != 255).astype(np.uint8), np.ones((5, 5)), borderValue=0) > 0
        apart.append(pixels[..., 0][inside] / 2 - labels[inside])  # in pixels of the original
    shifts = np.concatenate(apart)
    assert len(shifts) > 4000
    assert abs(shifts.mean()) < 0.1
    assert np.abs(shifts).max() <= 0.5 / min(scale, 1) + 0.8  # half a step, rounding of the doubled positions


@pytest.mark.parametrize(("scale", "difference"), [(1.5, 1), (1.0, 1), (0.8, 2), (0.5, 3), (0.2, 8)])
def test_the_part_that_a_crop_needs_gives_what_the_whole_image_gives(monkeypatch, scale, difference):
    image, target = smooth(320, 400), np.random.default_rng(1).integers(0, 19, (320, 400), np.uint8)
    how = {"crop_size": (40, 64), "scale": (scale, scale), "rotation": 30.0}
    parts = [place(image, target, seed, **how) for seed in range(12)]

    def everything(self, to_image, size, step):
        return np.zeros_like(size), size, True

    monkeypatch.setattr(RandomAffineCrop, "_source_region", everything)
    for seed, (pixels, labels) in enumerate(parts):
        expected, truth = place(image, target, seed, **how)
        assert (labels != truth).mean() < 0.002  # where two are as near
        assert np.abs(pixels.astype(int) - expected).max() <= difference


@pytest.mark.parametrize("scale", [0.9, 1.0, 1.5])
def test_of_a_large_image_only_what_the_crop_shows_is_computed(monkeypatch, scale):
    # 32766 is as far as OpenCV 4 looks for pixels
    image, target = np.full((300, 40_000, 3), 9, np.uint8), np.full((300, 40_000), 3, np.uint8)
    sources = []
    warp = cv2.warpAffine

    def witness(source, *rest):
        sources.append(source.shape)
        return warp(source, *rest)

    monkeypatch.setattr(cv2, "warpAffine", witness)
    for seed in range(4):
        pixels, labels = place(image, target, seed, scale=(scale, scale), rotation=10.0)
        assert (pixels == 9).all()
        assert (labels == 3).all()
    assert len(sources) >= 8
    assert all(max(shape) < 60 for shape in sources)


@pytest.mark.parametrize(("height", "width"), [*itertools.product((1, 2, 3, 50), repeat=2)])
def test_images_of_a_few_pixels_are_placed(height, width):
    image, target = np.full((height, width, 3), 9, np.uint8), np.full((height, width), 3, np.uint8)
    for scale, rotation in itertools.product((0.1, 0.5, 1.0, 2.0), (0.0, 10.0, 180.0)):
        pixels, labels = place(image, target, 0, (32, 64), (scale, scale), rotation)
        assert pixels.shape == (32, 64, 3)
        assert set(np.unique(labels)) <= {3, 255}
        assert (pixels[labels == 3] == 9).all()


def test_the_same_random_state_gives_the_same_sample():
    image, target = noise(30, 40), np.zeros((30, 40), np.uint8)
    placing = RandomAffineCrop((32, 32), (0.5, 1.0), 10.0, FILL)  # the fill is always seen
    first = placing(image, target, np.random.default_rng(3))
    placing(image, target, np.random.default_rng(4))
    again = placing(image, target, np.random.default_rng(3))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], placing(image, target, np.random.default_rng(4))[0])


def test_a_crop_that_is_turned_by_any_angle_fits_into_its_window():
    crop = RandomAffineCrop((32, 96), (1, 1), 90, (0, 0, 0))
    image, target = np.zeros((102, 102, 3), np.uint8), np.zeros((102, 102), np.uint8)  # the diagonal is 101.2
    assert all((crop(image, target, np.random.default_rng(seed))[1] == 0).all() for seed in range(50))
