import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dlaseg import LabelMap, UserError
from dlaseg.visualize import comparison_grid, error_map, overlay

LABELS = LabelMap(("road", "car"), ((128, 64, 128), (0, 0, 142)), ids=((7,), (26,)))
IMAGE = np.full((2, 3, 3), 100, np.uint8)
RED = (214, 39, 40)


@given(
    st.tuples(st.integers(1, 5), st.integers(1, 5)).flatmap(
        lambda size: hnp.arrays(np.uint8, (2, *size, 3), elements=st.integers(0, 255))
    ),
    st.floats(0, 1),
)
def test_overlay_is_the_rounded_blend(pair, alpha):
    image, color = pair
    blended = overlay(image, color, alpha)
    assert blended.dtype == np.uint8
    exact = (1 - alpha) * image.astype(np.float64) + alpha * color.astype(np.float64)
    np.testing.assert_allclose(blended, exact, rtol=0, atol=0.501)


def test_overlay_refuses_shapes_that_differ_and_alpha_out_of_range():
    with pytest.raises(UserError, match="overlay needs equal"):
        overlay(IMAGE, IMAGE[:1])
    for alpha in (-0.1, 1.5, float("nan")):
        with pytest.raises(UserError, match=f"alpha {alpha}"):
            overlay(IMAGE, IMAGE, alpha)


def test_error_map_marks_wrong_and_ignored_pixels_and_keeps_the_rest_grey():
    target = np.array([[0, 1, 255], [0, 0, 255]], np.uint8)
    prediction = np.array([[0, 0, 255], [1, 0, 1]], np.uint8)
    before = IMAGE.copy()
    picture = error_map(IMAGE, target, prediction)
    grey, black = (165, 165, 165), (0, 0, 0)
    expected = np.array([[grey, RED, black], [RED, grey, black]], np.uint8)
    np.testing.assert_array_equal(picture, expected)
    np.testing.assert_array_equal(IMAGE, before)


def test_comparison_grid_has_a_row_per_image_with_image_ground_truth_prediction_and_errors():
    rng = np.random.default_rng(0)
    rows = []
    for height, width in ((8, 16), (16, 16)):
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        target, prediction = rng.choice(np.array([0, 1, 255], np.uint8), (2, height, width))
        rows.append((image, target, prediction))
    grid = comparison_grid(rows, LABELS, width=16)
    assert grid.shape == (8 + 16, 4 * 16, 3)
    for (image, target, prediction), line in zip(rows, np.split(grid, [8]), strict=True):
        expected = [image, LABELS.colorize(target), LABELS.colorize(prediction), error_map(image, target, prediction)]
        for picture, column in zip(expected, np.split(line, 4, axis=1), strict=True):
            np.testing.assert_array_equal(picture, column)


def test_comparison_grid_shrinks_images_by_area_and_labels_by_nearest_neighbour():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (32, 64, 3), np.uint8)
    target = rng.integers(0, 2, (32, 64), np.uint8)
    grid = comparison_grid([(image, target, target)], LABELS, width=16)
    assert grid.shape == (8, 64, 3)
    np.testing.assert_array_equal(grid[:, :16], cv2.resize(image, (16, 8), interpolation=cv2.INTER_AREA))
    assert {tuple(color) for color in grid[:, 16:48].reshape(-1, 3).tolist()} == set(LABELS.palette)
    assert comparison_grid([(image[:1], target[:1], target[:1])], LABELS, width=16).shape == (1, 64, 3)


@pytest.mark.parametrize(("count", "height", "width"), [(1, 64, 6), (2, 32, 3), (4, 16, 2), (64, 1, 1), (70, 1, 1)])
def test_comparison_grid_of_high_images_is_no_higher_than_wide(count, height, width):
    image, target = np.zeros((200, 20, 3), np.uint8), np.zeros((200, 20), np.uint8)
    grid = comparison_grid([(image, target, target)] * count, LABELS, width=16)
    assert grid.shape == (count * height, 64, 3)
    for pictures in np.split(grid[:height], 4, axis=1):
        white = (pictures == 255).all((0, 2))
        assert white.tolist() == [False] * width + [True] * (16 - width)
