"""The benchmark's scores against its own script, run as it is on the same PNG files."""

import importlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dlaseg.errors import UserError
from dlaseg.evaluation.cityscapes.scores import Counts, count, label_table, scores

CLASSES = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
IGNORED = [i for i in range(34) if i not in CLASSES]
THINGS = [24, 25, 26, 27, 28, 31, 32, 33]


@pytest.fixture(scope="module")
def script():
    """cityscapesscripts' scorer; what it calls that NumPy lacks, it gets here."""
    with pytest.MonkeyPatch.context() as patch:
        # Deprecated in NumPy 2.0, gone from 2.4, still called by the script
        patch.setattr(np, "in1d", lambda a, b, invert=False: np.isin(a, b, invert=invert).ravel(), raising=False)
        module = importlib.import_module("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")

        patch.setattr(module.args, "quiet", True)
        patch.setattr(module.args, "JSONOutput", False)
        yield module


def random_scene(rng, ids, things=THINGS, height=64, width=96):
    """Ground truth of blocks, and instance ids for the things in it."""
    truth = rng.choice(ids, (height // 8, width // 8)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    number = rng.integers(0, 3, (height // 4, width // 4)).repeat(4, 0).repeat(4, 1)
    instances = truth.astype(np.int32)
    thing = np.isin(truth, things) & (rng.random((height // 8, width // 8)).repeat(8, 0).repeat(8, 1) < 0.8)
    instances[thing] = truth[thing].astype(np.int32) * 1000 + number[thing]
    return truth, instances


def blurred(rng, truth, ids, share):
    """A prediction that is wrong in so many pixels."""
    wrong = rng.random(truth.shape) < share
    return np.where(wrong, rng.choice(ids, truth.shape), truth).astype(np.uint8)


def scene_set(kind):
    rng = np.random.default_rng(sum(map(ord, kind)))
    everything = list(range(34))
    if kind == "all classes":
        return [(*random_scene(rng, CLASSES), CLASSES, 0.3) for _ in range(4)]
    if kind == "ignored in the ground truth":
        return [(*random_scene(rng, everything, [*THINGS, 29, 30]), CLASSES, 0.3) for _ in range(4)]
    if kind == "ignored ids predicted":
        return [(*random_scene(rng, everything, [*THINGS, 29, 30]), everything, 0.5) for _ in range(3)]
    if kind == "classes missing":
        return [(*random_scene(rng, [7, 11, 23, 24, 26]), [7, 11, 23, 26, 33], 0.2) for _ in range(3)]
    if kind == "no instances":
        return [(*random_scene(rng, [7, 8, 11], []), [7, 8, 11], 0.2) for _ in range(2)]
    if kind == "all ignored":
        return [(*random_scene(rng, IGNORED, [29, 30]), CLASSES, 0.5) for _ in range(2)]
    if kind == "one ignored image among others":
        return [(*random_scene(rng, CLASSES), CLASSES, 0.4), (*random_scene(rng, [0], []), CLASSES, 1.0)]
    if kind == "perfect":
        return [(*random_scene(rng, CLASSES), CLASSES, 0.0) for _ in range(2)]
    assert kind == "one pixel"
    return [(np.full((1, 1), 26, np.uint8), np.full((1, 1), 26001, np.int32), [26], 0.0)]


KINDS = [
    "all classes",
    "ignored in the ground truth",
    "ignored ids predicted",
    "classes missing",
    "no instances",
    "all ignored",
    "one ignored image among others",
    "perfect",
    "one pixel",
]


def read(path):
    return np.asarray(Image.open(path))


@pytest.fixture(params=KINDS)
def files(request, tmp_path):
    """(prediction, ground truth) files of a set of scenes, instance files beside."""
    rng = np.random.default_rng(7)
    predictions, truths = [], []
    for index, (truth, instances, ids, share) in enumerate(scene_set(request.param)):
        name = f"aachen_{index:06}_000019"
        truths.append(tmp_path / f"{name}_gtFine_labelIds.png")
        predictions.append(tmp_path / f"{name}_prediction.png")
        Image.fromarray(truth).save(truths[-1])
        Image.fromarray(instances.astype(np.uint16)).save(tmp_path / f"{name}_gtFine_instanceIds.png")
        Image.fromarray(blurred(rng, truth, ids, share)).save(predictions[-1])
    return predictions, truths


def counted(predictions, truths):
    total = Counts.zero()
    for prediction, truth in zip(predictions, truths, strict=True):
        instances = truth.with_name(truth.name.replace("labelIds", "instanceIds"))
        total += count(read(truth), read(prediction), read(instances))
    return total


def assert_equal_tables(ours, theirs):
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=0, abs=1e-12, nan_ok=True), name


def test_every_score_equals_the_scripts(files, script):
    predictions, truths = files
    theirs = script.evaluateImgLists([str(p) for p in predictions], [str(t) for t in truths], script.args)
    ours = scores(counted(predictions, truths))
    assert ours.confusion.tolist() == theirs["confMatrix"]
    assert_equal_tables(ours.classes, theirs["classScores"])
    assert_equal_tables(ours.instance_classes, theirs["classInstScores"])
    assert_equal_tables(ours.categories, theirs["categoryScores"])
    assert_equal_tables(ours.instance_categories, theirs["categoryInstScores"])
    names = {
        "classes": "averageScoreClasses",
        "instance_classes": "averageScoreInstClasses",
        "categories": "averageScoreCategories",
        "instance_categories": "averageScoreInstCategories",
    }
    assert_equal_tables(ours.averages(), {name: theirs[theirs_name] for name, theirs_name in names.items()})


def test_nan_is_null_in_json(files):
    content = scores(counted(*files)).to_dict()
    assert list(content["classes"]) == [label_table().names[i] for i in CLASSES]
    for row in (*content["classes"].values(), *content["categories"].values()):
        assert all(value is None or 0 <= value <= 1 for value in row.values())
    assert content["classes"]["road"]["iiou"] is None
    assert content["categories"]["flat"]["iiou"] is None


def test_a_case_worked_by_hand():
    # 8 pixels: a car of 4 and one of 2 pixels, road, and a void pixel whose prediction does not count
    truth = np.array([[26, 26, 26, 26, 26, 26, 7, 0]], np.uint8)
    instances = np.array([[26000, 26000, 26000, 26000, 26001, 26001, 7, 0]], np.int32)
    prediction = np.array([[26, 26, 26, 27, 27, 26, 26, 26]], np.uint8)
    result = scores(count(truth, prediction, instances))
    assert result.classes["car"] == 4 / 7  # 4 hits, 2 missed, 1 road; the void pixel is not counted
    size = 12794.0202738185
    hits, misses = size * (3 / 4 + 1 / 2), size * (1 / 4 + 1 / 2)
    assert result.instance_classes["car"] == pytest.approx(hits / (hits + misses + 1), abs=1e-15)
    assert result.categories["vehicle"] == 6 / 7  # the trucks are vehicles too
    assert result.instance_categories["vehicle"] == pytest.approx(2 * size / (2 * size + 1), abs=1e-15)
    assert result.classes["road"] == 0.0
    assert math.isnan(result.classes["sky"])
    assert result.classes["truck"] == 0.0  # predicted, nowhere in the ground truth
    assert math.isnan(result.classes["unlabeled"])
    assert result.averages()["classes"] == pytest.approx((4 / 7 + 0 + 0) / 3)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(0, 64))
def test_counts_of_parts_add_up_where_no_instance_is_cut(seed, cut):
    rng = np.random.default_rng(seed)
    truth, instances = random_scene(rng, list(range(34)))
    prediction = blurred(rng, truth, list(range(34)), 0.5)
    instances = np.where(np.arange(64)[:, None] < cut, instances, instances % 1000)  # instances above the cut alone
    whole = count(truth, prediction, instances)
    parts = [count(truth[s], prediction[s], instances[s]) for s in (slice(0, cut), slice(cut, 64))]
    total = parts[0] + parts[1]
    assert np.array_equal(total.confusion, whole.confusion)
    np.testing.assert_allclose(total.instances, whole.instances, rtol=1e-12)
    assert whole.confusion.sum() == truth.size


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_any_integer_type_counts_the_same(dtype):
    rng = np.random.default_rng(0)
    truth, instances = random_scene(rng, CLASSES)
    prediction = blurred(rng, truth, CLASSES, 0.5)
    plain = count(truth, prediction, instances)
    other = count(truth.astype(dtype), prediction.astype(dtype), instances.astype(np.uint16))
    assert np.array_equal(plain.confusion, other.confusion)
    assert np.array_equal(plain.instances, other.instances)


@pytest.mark.parametrize(
    ("truth", "prediction", "instances", "message"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), None, "prediction 3 x 2, ground truth 2 x 3"),
        (np.zeros((2, 3), int), np.zeros((2, 3), int), np.zeros((2, 2), int), "instance map 2 x 2"),
        (np.zeros((2, 3), int), np.zeros((2, 3, 3), int), None, "prediction 2 x 3 x 3"),
        (np.full((1, 1), 34), np.zeros((1, 1), int), None, "ground truth has id 34: label ids are 0 to 33"),
        (np.zeros((1, 1), int), np.full((1, 1), 255), None, "prediction has id 255"),
        (np.zeros((1, 1), int), np.full((1, 1), -1), None, "prediction has id -1"),
        (np.zeros((1, 1), int), np.zeros((1, 1), int), np.full((1, 1), 34000), "instance map has id 34000"),
        (np.zeros((1, 1), int), np.zeros((1, 1), int), np.full((1, 1), 7001), "an instance of road"),
    ],
)
def test_unknown_ids_and_shapes_that_differ_are_refused(truth, prediction, instances, message):
    with pytest.raises(UserError, match=message):
        count(truth, prediction, instances)
