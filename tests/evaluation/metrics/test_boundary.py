import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlaseg.evaluation.metrics.boundary import BoundaryIoU, contour, contour_width


def scene(seed, height=40, width=60, classes=4, block=10):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, classes, (height // block + 1, width // block + 1))
    return small.repeat(block, 0).repeat(block, 1)[:height, :width].astype(np.uint8)


def eroded_contour(mask, width):
    """A mask's pixels near its contour, as the paper's authors find them: what so many erosions by 3 x 3 take away."""
    padded = np.pad(mask.astype(np.uint8), 1)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    return mask & (eroded == 0)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(1, 40), width=st.integers(1, 50), d=st.integers(1, 6))
def test_contours_of_all_classes_equal_the_erosion_of_each_class(seed, height, width, d):
    labels = scene(seed, height, width)
    mask = contour(labels, d)
    for label in range(4):
        assert np.array_equal(mask & (labels == label), eroded_contour(labels == label, d)), label


@pytest.mark.parametrize("seed", range(4))
def test_scores_equal_a_loop_over_classes_and_images(seed):
    measure, expected = BoundaryIoU(4), np.zeros((2, 4), int)
    for image in range(3):
        target, prediction = scene([seed, image, 0]), scene([seed, image, 1])
        prediction[:20] = target[:20]
        prediction = np.roll(prediction, 2, 1)
        target[5:9, 10:30] = 255
        measure.update(target, prediction)
        d = contour_width(40, 60)
        for label in range(4):
            one, other = (eroded_contour(labels == label, d) & (target != 255) for labels in (target, prediction))
            expected[:, label] += (one & other).sum(), (one | other).sum()
    iou, mean = measure.scores()
    assert iou == pytest.approx(expected[0] / expected[1])
    assert mean == pytest.approx((expected[0] / expected[1]).mean())


def test_a_case_worked_by_hand():
    # 12 x 12, d = 1: the outline of a 4 x 4 square has 12 pixels; moved by one pixel, it shares 6 of them
    target, prediction = np.zeros((2, 12, 12), np.uint8)
    target[3:7, 3:7] = 1
    prediction[4:8, 4:8] = 1
    assert contour_width(12, 12) == 1
    measure = BoundaryIoU(2)
    measure.update(target, prediction)
    assert (measure.support[1], measure.predicted[1]) == (12, 12)
    shared = sum(target[y, x] == prediction[y, x] == 1 and (y in (3, 6) or x in (3, 6)) and (y in (4, 7) or x in (4, 7))
                 for y in range(12) for x in range(12))  # fmt: skip
    assert measure.true_positives[1] == shared
    assert measure.scores()[0][1] == shared / (24 - shared)


def test_a_perfect_prediction_has_1_and_an_absent_class_none():
    measure = BoundaryIoU(5)
    measure.update(scene(0), scene(0))
    iou, mean = measure.scores()
    assert iou == (1.0, 1.0, 1.0, 1.0, None)
    assert mean == 1.0


def test_a_dilated_mask_has_high_iou_and_low_boundary_iou():
    # A large square that is one pixel too wide all around: IoU is near 1, the outline is not met anywhere
    target, prediction = np.zeros((2, 200, 200), np.uint8)
    target[20:180, 20:180] = 1
    prediction[14:186, 14:186] = 1
    measure = BoundaryIoU(2)
    measure.update(target, prediction)
    assert (target & prediction).sum() / (target | prediction).sum() > 0.85
    assert measure.scores()[0][1] < 0.05


def test_nothing_counted_has_no_score():
    measure = BoundaryIoU(2)
    measure.update(np.full((8, 8), 255, np.uint8), np.zeros((8, 8), np.uint8))
    assert measure.scores() == ((None, None), None)


@pytest.mark.parametrize(("size", "width"), [((1, 1), 1), ((360, 480), 12), ((1024, 2048), 46)])
def test_the_width_is_two_per_cent_of_the_diagonal(size, width):
    assert contour_width(*size) == width
