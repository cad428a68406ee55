import numpy as np
import pytest
import torch

from dlaseg.errors import UserError
from dlaseg.evaluation.metrics.confusion import ConfusionMatrix, iou, mean_over_present, none_if_nan, ratio

CLASSES = 5


def maps(seed=0, shape=(3, 13, 17), classes=CLASSES):
    rng = np.random.default_rng(seed)
    target = rng.integers(0, classes, shape).astype(np.uint8)
    prediction = np.where(rng.random(shape) < 0.6, target, rng.integers(0, classes, shape)).astype(np.uint8)
    target[rng.random(shape) < 0.2] = 255
    return target, prediction


def counted(target, prediction, classes=CLASSES):
    matrix = ConfusionMatrix(classes)
    matrix.update(target, prediction)
    return matrix


def test_iou_equals_torchmetrics():
    from torchmetrics.classification import MulticlassJaccardIndex

    target, prediction = maps()
    arguments = torch.from_numpy(prediction).long(), torch.from_numpy(target).long()
    each = MulticlassJaccardIndex(CLASSES, average="none", ignore_index=255)(*arguments)
    mean = MulticlassJaccardIndex(CLASSES, average="macro", ignore_index=255)(*arguments)
    scores = counted(target, prediction).scores()
    assert scores.iou == pytest.approx(each.tolist(), abs=1e-6)
    assert scores.miou == pytest.approx(mean.item(), abs=1e-6)


@pytest.mark.parametrize(
    ("average", "name"), [("none", "accuracy"), ("macro", "mean_accuracy"), ("micro", "pixel_accuracy")]
)
def test_accuracies_equal_torchmetrics(average, name):
    from torchmetrics.classification import MulticlassAccuracy

    target, prediction = maps(1)
    metric = MulticlassAccuracy(CLASSES, average=average, ignore_index=255)
    expected = metric(torch.from_numpy(prediction).long(), torch.from_numpy(target).long()).tolist()
    assert getattr(counted(target, prediction).scores(), name) == pytest.approx(expected, abs=1e-6)


def test_the_matrix_equals_a_plain_loop_with_ground_truth_in_rows():
    target, prediction = maps(2)
    expected = np.zeros((CLASSES, CLASSES), int)
    for truth, guess in zip(target.ravel(), prediction.ravel(), strict=True):
        if truth != 255:
            expected[truth, guess] += 1
    assert counted(target, prediction).matrix.tolist() == expected.tolist()


def test_rows_are_ground_truth_and_columns_prediction():
    assert counted(np.array([0, 0]), np.array([1, 1]), 2).matrix.tolist() == [[0, 2], [0, 0]]


def test_updates_one_by_one_equal_one_update():
    target, prediction = maps(3)
    matrix = ConfusionMatrix(CLASSES)
    for pair in zip(target, prediction, strict=True):
        matrix.update(*pair)
    assert (matrix.matrix == counted(target, prediction).matrix).all()


def test_a_class_in_neither_is_none_and_left_out_of_the_mean():
    scores = counted(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), 3).scores()
    assert scores.iou == (1 / 2, pytest.approx(2 / 3), None)
    assert scores.accuracy == (1 / 2, 1.0, None)
    assert scores.miou == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert scores.mean_accuracy == 3 / 4


def test_a_class_predicted_but_absent_from_the_truth_counts_with_iou_zero():
    scores = counted(np.array([0, 0, 0, 0]), np.array([0, 0, 0, 1]), 2).scores()
    assert scores.iou == (3 / 4, 0.0)
    assert scores.miou == 3 / 8
    assert scores.accuracy == (3 / 4, None)
    assert scores.mean_accuracy == 3 / 4


@pytest.mark.parametrize("target", [None, np.full((2, 2), 255, np.uint8), np.empty((0, 4), np.uint8)])
def test_without_counted_pixels_every_score_is_none(target):
    matrix = ConfusionMatrix(2)
    if target is not None:
        matrix.update(target, np.zeros_like(target))
    scores = matrix.scores()
    assert (scores.miou, scores.pixel_accuracy, scores.mean_accuracy) == (None, None, None)
    assert scores.iou == scores.accuracy == (None, None)
    assert scores.pixels == (0, 0)


def test_iou_takes_weighted_pixels_and_is_nan_without_any():
    values = iou(np.array([1.5, 0, 0]), np.array([0.5, 2, 0]), np.array([1, 0, 0]))
    assert values[:2].tolist() == [0.5, 0]
    assert [none_if_nan(value) for value in values] == [0.5, 0, None]


def test_a_ratio_with_denominator_0_is_nan_without_a_warning():
    assert np.isnan(ratio(0, 0))
    assert ratio(np.array([1, 0]), np.array([4, 3])).tolist() == [0.25, 0]


def test_the_mean_over_present_classes_leaves_nan_out_of_rows_and_of_a_single_row():
    rows = np.array([[0.5, np.nan, 1], [np.nan, np.nan, np.nan], [0, 0.25, 0.5]])
    expected = [0.75, np.nan, 0.25]
    np.testing.assert_array_equal(mean_over_present(rows), expected)
    np.testing.assert_array_equal([mean_over_present(row) for row in rows], expected)


def test_predictions_at_ignored_pixels_are_not_used():
    matrix = counted(np.array([0, 255, 255], np.uint8), np.array([0, 200, 1], np.uint8), 2)
    assert matrix.matrix.tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize(
    ("target", "prediction", "message"),
    [
        ([0, 2], [0, 0], "target id 2"),
        ([0, -1], [0, 0], "target id -1"),
        ([0, 1], [0, 2], "prediction id 2"),
        ([0, 1], [0, -1], "prediction id -1"),
        ([0, 1], [0, 255], "prediction id 255"),
    ],
)
def test_an_id_out_of_range_is_refused_and_nothing_is_added(target, prediction, message):
    matrix = ConfusionMatrix(2)
    with pytest.raises(UserError, match=message):
        matrix.update(np.array(target), np.array(prediction))
    assert not matrix.matrix.any()


@pytest.mark.parametrize(("target", "prediction", "name"), [([0.5], [0], "target"), ([0], [0.5], "prediction")])
def test_floats_are_refused(target, prediction, name):
    with pytest.raises(UserError, match=f"^{name} of type float64: train ids are integers: use an integer type$"):
        ConfusionMatrix(2).update(np.array(target), np.array(prediction))


def test_shapes_that_differ_are_refused_even_where_they_broadcast():
    with pytest.raises(UserError, match=r"\(1, 4\) and prediction \(4, 4\)"):
        ConfusionMatrix(2).update(np.zeros((1, 4), int), np.zeros((4, 4), int))


@pytest.mark.parametrize("classes", [0, 256])
def test_a_number_of_classes_out_of_range_is_refused(classes):
    with pytest.raises(UserError, match=f"num_classes {classes}"):
        ConfusionMatrix(classes)


def test_tensors_count_as_arrays_do():
    target, prediction = maps(4)
    from_tensors = counted(torch.from_numpy(target), torch.from_numpy(prediction))
    assert (from_tensors.matrix == counted(target, prediction).matrix).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_any_integer_type_counts_the_same(dtype):
    target, prediction = maps(5)
    matrix = counted(target.astype(dtype), prediction.astype(dtype))
    assert (matrix.matrix == counted(target, prediction).matrix).all()


def test_ids_of_many_classes_do_not_overflow_eight_bits():
    assert counted(np.array([200], np.uint8), np.array([199], np.uint8), 255).matrix[200, 199] == 1


def test_miou_is_that_of_the_whole_set_and_not_the_mean_over_images():
    pairs = [(np.array([0, 0, 0, 0]), np.array([0, 0, 0, 0])), (np.array([1, 0, 0, 0]), np.array([1, 1, 1, 1]))]
    whole = ConfusionMatrix(2)
    for pair in pairs:
        whole.update(*pair)
    assert whole.scores().miou == pytest.approx((4 / 7 + 1 / 4) / 2)
    mean_over_images = np.mean([counted(*pair, 2).scores().miou for pair in pairs])
    assert abs(whole.scores().miou - mean_over_images) > 0.1


def test_pixels_are_those_of_the_ground_truth():
    assert counted(np.array([0, 1, 1, 255]), np.array([0, 0, 0, 0]), 2).scores().pixels == (1, 2)
