"""A scores.json, as `dlaseg compare` and the model card read it, may come from anyone."""

import copy
import json
import tracemalloc

import numpy as np
import pytest

from dlaseg.cli import main
from dlaseg.errors import UserError
from dlaseg.evaluation.metrics.bootstrap import RESAMPLES, ImageCounts, miou_interval, resamples
from dlaseg.scores_file import read_scores

SCORES = {
    "miou": 0.5,
    "pixel_accuracy": 1,
    "classes": {"road": {"iou": 0.5, "accuracy": None}, "sky": {}},
    "images": {
        "names": ["a", "b"],
        "hits": [[1, 2], [3, 4]],
        "truth": [[2, 2], [3, 5]],
        "predicted": [[1, 3], [4, 4]],
    },
    "protocol": {"dataset": "camvid", "split": "val", "scales": [1.0, 2], "flip": False, "images": 2},
}


def put(*path, value):
    """A change of a scores.json."""

    def change(scores):
        for key in path[:-1]:
            scores = scores[key]
        scores[path[-1]] = value

    return change


@pytest.fixture
def write(tmp_path):
    def written(content, name="scores.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return written


def changed(change):
    scores = copy.deepcopy(SCORES)
    change(scores)
    return scores


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("classes", value={}), "'classes' does not hold a row for each class"),
        (put("classes", value=["road"]), "'classes' does not hold a row for each class"),
        (put("classes", "sky", value=3), "class 'sky' has no scores"),
        (put("classes", "sky", value={"iou": 1.5}), "iou of 'sky' 1.5, which is not from 0 to 1"),
        (put("classes", "sky", value={"iou": -0.1}), "iou of 'sky' -0.1, which is not from 0 to 1"),
        (put("classes", "sky", value={"iou": True}), "iou of 'sky' True, which is not from 0 to 1"),
        (put("classes", "sky", value={"accuracy": "1"}), "accuracy of 'sky' '1', which is not from 0 to 1"),
        (put("miou", value=[]), "miou [], which is not from 0 to 1"),
        (put("mean_accuracy", value=50), "mean_accuracy 50, which is not from 0 to 1"),
        (put("pixel_accuracy", value={}), "pixel_accuracy {}, which is not from 0 to 1"),
        (lambda scores: scores.pop("miou"), "no 'miou'"),
        (put("protocol", value=[]), "no 'dataset' in 'protocol'"),
        (put("protocol", "dataset", value=3), "dataset 3 in 'protocol'"),
        (put("protocol", "split", value=None), "split None in 'protocol'"),
        (put("protocol", "images", value=True), "images True in 'protocol'"),
        (put("protocol", "flip", value=1), "flip 1 in 'protocol'"),
        (put("protocol", "scales", value=1), "scales 1 in 'protocol'"),
        (put("protocol", "scales", value=[True]), "scales [True] in 'protocol'"),
        (put("protocol", "weights_sha256", value=1), "weights_sha256 1 in 'protocol'"),
        (put("protocol", "scales", value=["1"]), "scales ['1'] in 'protocol'"),
    ],
)
def test_fields_of_another_kind_are_refused(write, change, message):
    path = write(changed(change))
    with pytest.raises(UserError) as caught:
        read_scores(path, "miou")
    assert str(caught.value) == f"{path}: not a scores.json of dlaseg eval ({message}): score again"


def test_what_eval_wrote_is_read(write):
    assert read_scores(write(SCORES), "miou", "images") == SCORES


def refused(capsys, *paths) -> str:
    assert main(["compare", *map(str, paths)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.isprintable()
    return line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("images", value=[]), "'images' is not a mapping"),
        (put("images", "names", value="ab"), "no list 'names' in 'images'"),
        (put("images", "names", value=["a", "a"]), "the names of the images are not one text each, all different"),
        (put("images", "names", value=["a", 3]), "the names of the images are not one text each, all different"),
        (put("images", "names", value=["a", ["b"]]), "the names of the images are not one text each, all different"),
        (put("images", "names", value=["a"]), "counts of shapes (2, 2), (2, 2), (2, 2) for 1 images"),
        (put("images", "hits", value=None), "no list 'hits' in 'images'"),
        (put("images", "hits", value=[[1, 2], [3]]), "'hits' is not a list of as many numbers for each image"),
        (put("images", "hits", value=[[], []]), "'hits' is not a list of as many numbers for each image"),
        (put("images", "hits", value=[1, 2]), "'hits' is not a list of as many numbers for each image"),
        (put("images", "hits", 0, 0, value=-1), "-1 in 'hits', which is not a number of pixels"),
        (put("images", "hits", 0, 0, value=0.5), "0.5 in 'hits', which is not a number of pixels"),
        (put("images", "hits", 0, 0, value=1.0), "1.0 in 'hits', which is not a number of pixels"),
        (put("images", "hits", 0, 0, value="1"), "'1' in 'hits', which is not a number of pixels"),
        (put("images", "hits", 0, 0, value=True), "True in 'hits', which is not a number of pixels"),
        (put("images", "truth", 0, 0, value=2**62), "4611686018427387904 in 'truth', which is not a number of pixels"),
        (put("images", "hits", 0, 0, value=9), "class 0 of image 'a' has 9 hits and truth 2"),
        (put("images", "predicted", 1, 1, value=3), "class 1 of image 'b' has 4 hits and predicted 3"),
        (put("classes", value={"road": {}}), "1 classes, but counts of 2"),
    ],
)
def test_counts_that_cannot_be_are_not_compared(write, capsys, change, message):
    good, bad = write(SCORES, "good.json"), write(changed(change), "bad.json")
    for paths in ((good, bad), (bad, good)):
        assert f"bad.json: not a scores.json of dlaseg eval ({message}): score again" in refused(capsys, *paths)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested more than 20 levels deep"),
        ('{"a":' * 100_000, "nested more than 20 levels deep"),
        (json.dumps(SCORES).replace("0.5", "1e400"), "number 1e400: not finite"),
        (json.dumps(SCORES).replace("0.5", "NaN"), "NaN: not a number of JSON"),
        (json.dumps(SCORES).replace('"sky"', '"road"'), "key 'road' occurs twice"),
        (json.dumps(SCORES).replace("[1, 2]", f"[{'9' * 400}, 2]"), "more than 64 bits"),
        ("null", "no 'classes'"),
        ("", "not JSON"),
    ],
)
def test_text_that_is_no_scores_file_is_refused(write, capsys, text, message):
    assert message in refused(capsys, write(SCORES, "good.json"), write(text, "bad.json"))


def test_names_reach_the_terminal_without_control_characters(write, capsys):
    evil = "\x1b[2J\u202eroad"
    scores = changed(put("classes", value={evil: {}, "sky": {}}))
    paths = [write(scores, "a.json"), write(scores, "b.json")]
    assert main(["compare", *map(str, paths)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[1].startswith(r"\x1b[2J\u202eroad ")
    assert len({line.index(".") for line in table[1:4]}) == 1  # the columns are still aligned
    assert all(line.isprintable() for line in table)
    other = changed(put("protocol", "dataset", value=evil))
    assert r"\x1b[2J\u202eroad" in refused(capsys, paths[0], write(other, "c.json"))


def test_many_images_are_resampled_in_little_memory():
    count = 6000  # all resamples at once would take 96 MB
    images = {"names": [str(i) for i in range(count)]} | {key: [[1]] * count for key in ("hits", "truth", "predicted")}
    counts = ImageCounts.from_dict(images)
    tracemalloc.start()
    assert miou_interval(counts) == (1, 1)
    assert tracemalloc.get_traced_memory()[1] < 80e6
    tracemalloc.stop()


def test_resamples_do_not_depend_on_how_many_are_drawn_at_a_time():
    expected = np.random.default_rng(3).multinomial(1700, np.full(1700, 1 / 1700), RESAMPLES)
    assert np.array_equal(np.concatenate(list(resamples(1700, seed=3))), expected)
