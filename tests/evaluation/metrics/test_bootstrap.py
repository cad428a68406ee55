import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlaseg.cli import main
from dlaseg.errors import UserError
from dlaseg.evaluation.metrics.bootstrap import (
    RESAMPLES,
    ImageCounts,
    class_intervals,
    compare,
    miou_interval,
    resamples,
)
from dlaseg.evaluation.metrics.confusion import ConfusionMatrix, class_counts, mean_over_present
from dlaseg.evaluation.report.tables import difference_table
from dlaseg.text import percent


def random_matrices(images=12, classes=4, share=0.7, seed=0):
    """Confusion matrices of so many images; so much is right."""
    rng = np.random.default_rng(seed)
    matrices = rng.integers(0, 30, (images, classes, classes))
    for matrix in matrices:
        matrix[np.diag_indices(classes)] += rng.binomial(400, share, classes)
    return matrices.astype(np.int64)


def counts(matrices, names=None):
    return ImageCounts.of(names or [f"image {i}" for i in range(len(matrices))], list(map(class_counts, matrices)))


def scores_of(matrix):
    confusion = ConfusionMatrix(len(matrix))
    confusion.matrix += matrix
    return confusion.scores()


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(1, 5), images=st.integers(1, 6))
def test_a_resample_is_scored_as_the_confusion_matrix_of_its_images(seed, classes, images):
    rng = np.random.default_rng(seed)
    matrices = rng.integers(0, 3, (images, classes, classes)) * rng.integers(0, 2, (images, 1, 1))
    times = rng.integers(0, 3, (3, images))
    iou = counts(matrices).iou(times)
    for split, row in zip(times, iou, strict=True):
        expected = scores_of((matrices * split[:, None, None]).sum(0))
        assert [None if math.isnan(value) else value for value in row] == pytest.approx(list(expected.iou))
        mean = mean_over_present(row[None])[0]
        assert (None if math.isnan(mean) else mean) == pytest.approx(expected.miou)


def test_each_image_has_its_own_mean():
    matrices = random_matrices(3)
    matrices[1] = 0
    expected = [scores_of(matrix).miou for matrix in matrices]
    assert counts(matrices).to_dict()["miou"] == pytest.approx(expected)
    assert expected[1] is None


def test_every_resample_has_as_many_images_as_the_split_and_is_reproducible():
    repeats = np.concatenate(list(resamples(7)))
    assert repeats.shape == (RESAMPLES, 7)
    assert (repeats.sum(1) == 7).all()
    assert np.array_equal(repeats, np.concatenate(list(resamples(7))))
    assert not np.array_equal(repeats, np.concatenate(list(resamples(7, seed=1))))
    assert abs(repeats.mean() - 1) < 1e-12
    assert abs((repeats == 0).mean() - (6 / 7) ** 7) < 0.02  # an image is left out as often as it should be


def test_resamples_are_multiplied_as_floats_which_is_far_faster():
    many = np.full((8, 1), 1 << 60)  # integers would overflow
    assert ImageCounts(tuple("abcdefgh"), many, many, many).iou(np.ones((1, 8), np.int64)) == 1


def test_the_interval_is_the_percentiles_of_a_plain_loop():
    matrices = random_matrices(9)
    means = []
    for times in np.concatenate(list(resamples(9))):
        means.append(scores_of(sum(n * matrix for n, matrix in zip(times, matrices, strict=True))).miou)
    assert miou_interval(counts(matrices)) == pytest.approx(np.percentile(means, (2.5, 97.5)), abs=1e-12)


def test_the_interval_shrinks_with_the_root_of_the_number_of_images():
    widths = [np.diff(miou_interval(counts(np.concatenate([random_matrices(20)] * n))))[0] for n in (1, 16)]
    assert 3.3 < widths[0] / widths[1] < 4.8


def test_identical_images_have_an_interval_of_no_width():
    low, high = miou_interval(counts(np.stack([random_matrices(1)[0]] * 8)))
    assert low == pytest.approx(high, abs=1e-12)


def test_a_split_without_counted_pixels_has_no_interval():
    assert miou_interval(counts(np.zeros((3, 2, 2), np.int64))) is None


@pytest.mark.parametrize(("images", "enough"), [(1, False), (5, False), (6, True)])
def test_few_images_have_no_interval_and_no_significance(images, enough):
    better, worse = random_matrices(images, share=0.9), random_matrices(images, share=0.9)
    worse[:, 0, 0] -= 100
    worse[:, 0, 1] += 100
    first, second = counts(worse), counts(better)
    assert (miou_interval(first) is not None) == enough
    assert all((interval is not None) == enough for interval in class_intervals(first))
    rows = compare(["a", "b", "c", "道路"], first, second)
    assert rows[0].significant == enough
    table = difference_table(rows)
    assert ("no test of statistical significance: it takes 6 images" in table) != enough
    assert f"{100 * (rows[0].second - rows[0].first):+.2f}" in table  # the difference is shown all the same
    assert f"道路  {percent(rows[3].first):>6}  " in table  # as wide as "mIoU"


def test_a_class_in_few_images_is_not_tested():
    matrices = [random_matrices(20, share=share, seed=seed) for seed, share in enumerate((0.7, 0.9))]
    for each in matrices:
        each[5:, 3], each[5:, :, 3] = 0, 0  # the last class is in five images
    matrices[1] += np.eye(4, dtype=np.int64) * (matrices[0].sum(2) - matrices[1].sum(2))[:, None]  # one ground truth
    rows = compare(list("abcd"), *map(counts, matrices))
    assert [row.interval is None for row in rows] == [False, False, False, True, False]
    assert class_intervals(counts(matrices[0]))[3] is None
    assert difference_table(rows).endswith("1 are not tested: their classes occur in fewer than 6 images")


def test_a_network_that_is_better_on_every_image_is_significantly_better():
    matrices = random_matrices(share=0.4)
    right = matrices * np.eye(4, dtype=np.int64)
    better = right + (matrices - right) // 2
    better += np.eye(4, dtype=np.int64) * (matrices.sum(2) - better.sum(2))[:, :, None]  # the same ground truth
    rows = compare(list("abcd"), counts(matrices), counts(better))
    assert [row.name for row in rows] == ["a", "b", "c", "d", "mean"]
    for row in rows:
        assert row.second > row.first
        assert row.significant
        assert row.interval[0] <= row.second - row.first <= row.interval[1]


def with_same_truth(matrices, rng):
    """Other predictions of the same ground truth: each row's pixels dealt out anew."""
    return np.stack([[rng.permutation(row) for row in matrix] for matrix in matrices])


def test_a_network_does_not_differ_from_itself():
    for row in compare(list("abcd"), counts(random_matrices()), counts(random_matrices())):
        assert row.interval == (0.0, 0.0)
        assert not row.significant


def test_both_networks_share_the_resamples():
    # Image by image the second is a little better; repeats apart, the images' own spread would hide it
    matrices = random_matrices(40)
    matrices[::2] *= 10
    better = matrices.copy()
    better[:, 0, 1] -= np.minimum(better[:, 0, 1], 5)
    better[:, 0, 0] += matrices[:, 0, 1] - better[:, 0, 1]
    first, second = counts(matrices), counts(better)
    apart = miou_interval(second)
    assert apart[0] < mean_over_present(first.iou(np.ones((1, 40), np.int64)))[0] < apart[1]
    assert compare(list("abcd"), first, second)[-1].significant


def test_the_order_of_the_images_does_not_matter():
    names, matrices = [f"image {i}" for i in range(12)], random_matrices()
    other = with_same_truth(matrices, np.random.default_rng(1))
    shuffled = np.random.default_rng(2).permutation(12)
    straight = compare(list("abcd"), counts(matrices, names), counts(other, names))
    mixed = compare(list("abcd"), counts(matrices, names), counts(other[shuffled], [names[i] for i in shuffled]))
    assert straight == mixed


def test_a_class_that_occurs_nowhere_is_not_compared():
    matrices = random_matrices()
    matrices[:, 3] = matrices[:, :, 3] = 0
    row = compare(list("abcd"), counts(matrices), counts(matrices))[3]
    assert (row.first, row.second, row.interval, row.significant) == (None, None, None, False)


@pytest.mark.parametrize("fault", ["names", "fewer", "truth"])
def test_other_images_or_ground_truth_are_refused(fault):
    matrices = random_matrices()
    if fault == "names":
        other, message = (
            counts(matrices, ["elsewhere", *[f"image {i}" for i in range(1, 12)]]),
            "elsewhere on one side only",
        )
    elif fault == "fewer":
        other, message = counts(matrices[:-1]), "image 11 on one side only"
    else:
        changed = matrices.copy()
        changed[3, 1, 1] += 1
        other, message = counts(changed), "image 3: its ground truth differs"
    with pytest.raises(UserError, match=message):
        compare(list("abcd"), counts(matrices), other)


def test_counts_survive_json():
    before = counts(random_matrices())
    after = ImageCounts.from_dict(json.loads(json.dumps(before.to_dict())))
    assert after.names == before.names
    for part in ("true_positives", "support", "predicted"):
        assert np.array_equal(getattr(after, part), getattr(before, part))


@pytest.fixture
def files(tmp_path):
    """Two scores.json of the same ground truth, the second better."""
    truth, paths = random_matrices(share=0.5), []
    better = truth.copy()
    for matrix in better:
        moved = matrix[0, 1:] // 2
        matrix[0, 1:] -= moved
        matrix[0, 0] += moved.sum()
    for name, matrices in (("a", truth), ("b", better)):
        content = {
            "classes": {key: {} for key in "wxyz"},
            "images": counts(matrices).to_dict(),
            "protocol": {"dataset": "camvid", "split": "val"},
        }
        paths.append(tmp_path / name / "scores.json")
        paths[-1].parent.mkdir()
        paths[-1].write_text(json.dumps(content))
    return paths


def test_the_command_names_the_better_network(files, capsys):
    assert main(["compare", str(files[0]), str(files[1])]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("w ")
    assert lines[1].endswith("second is better")
    first, second, difference, low, _, high = lines[1].split()[1:7]
    assert float(difference) == pytest.approx(float(second) - float(first), abs=0.011)
    assert 0 < float(low) <= float(difference) <= float(high)
    assert lines[5].startswith("mean ")
    assert lines[-1].endswith("differences are statistically significant (95 % bootstrap interval excludes 0)")
    assert main(["compare", str(files[1].parent), str(files[0].parent)]) == 0  # their folders do as well
    assert capsys.readouterr().out.splitlines()[1].endswith("first is better")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["protocol"].update(split="test"), "has split val, .* has test: score both on the same split"),
        (lambda c: c["protocol"].update(dataset="city"), "has dataset camvid, .* has city: score both"),
        (lambda c: c.update(classes={key: {} for key in "wxya"}), "have different classes"),
        (lambda c: c.update(classes={key: {} for key in "wxy"}), "3 classes, but counts of 4"),
        (lambda c: c.pop("images"), "not a scores.json of dlaseg eval \\(no 'images'\\): score again"),
        (lambda c: c["images"]["hits"].pop(), "counts of shapes .* for 12 images"),
    ],
)
def test_files_that_cannot_be_compared_are_refused(files, capsys, change, message):
    content = json.loads(files[1].read_text())
    change(content)
    files[1].write_text(json.dumps(content))
    assert main(["compare", str(files[0]), str(files[1])]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    with pytest.raises(UserError, match=message):
        main(["compare", str(files[0]), str(files[1]), "--debug"])


def test_a_missing_file_is_refused(files, capsys):
    assert main(["compare", str(files[0]), "nowhere.json"]) == 2
    assert "nowhere.json: not a scores.json of dlaseg eval (No such file or directory): use" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("protocols", "message"),
    [
        (({"trained_on": True}, {}), "{0}: the network was trained on images of this split, so its scores are too"),
        (({}, {"tiled": True}), "{1}: images were computed in tiles, which changes the scores of some networks"),
        (
            ({"scales": [0.75, 1], "flip": True, "precision": "float32"}, {"scales": [1.0], "flip": False}),
            "{0} and {1}: predicted in different ways (scales 0.75 1 and 1; flip true and false), so",
        ),
        (({"precision": "float32"}, {"precision": "bfloat16"}), "(precision float32 and bfloat16), so the networks"),
        (({"scales": [1], "padding": "stretch"}, {"scales": [1]}), "(padding stretch and mirror), so the networks"),
        (({"scales": [1, 2.0], "backend": "torch"}, {"scales": [2, 1], "backend": "openvino"}), None),
        (({"precision": "float32", "flip": False}, {"predictions": "folder"}), None),
    ],
)
def test_the_command_says_what_else_may_explain_a_difference(files, capsys, protocols, message):
    for path, protocol in zip(files, protocols, strict=True):
        content = json.loads(path.read_text())
        content["protocol"].update(protocol)
        path.write_text(json.dumps(content))
    assert main(["compare", *map(str, files)]) == 0
    printed = capsys.readouterr()
    assert "second is better" in printed.out
    lines = printed.err.splitlines()
    assert len(lines) == (message is not None)
    assert message is None or message.format(*files) in lines[0]


def test_images_that_are_ignored_as_a_whole_do_not_count_for_the_interval():
    matrices = random_matrices(9)
    matrices[5:] = 0
    assert miou_interval(counts(matrices)) is None


def test_a_class_counts_where_it_is_predicted_alone():
    truth = random_matrices(12)
    truth[5:, 3] = truth[:, :3, 3] = 0  # the last class is in five images, and predicted nowhere else
    other = truth.copy()
    other[5:, 0, 0] -= 1
    other[5:, 0, 3] += 1
    assert class_intervals(counts(truth))[3] is None
    assert class_intervals(counts(other))[3] is not None
    assert compare(list("abcd"), counts(truth), counts(other))[3].interval is not None
