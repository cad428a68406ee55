import copy
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlaseg.evaluation.metrics.bootstrap import ImageCounts, class_intervals, resamples
from dlaseg.evaluation.metrics.confusion import ConfusionMatrix, class_counts
from dlaseg.evaluation.report.gallery import pack_image
from dlaseg.evaluation.report.report import confusions, training_section, write_report
from dlaseg.evaluation.results import build_results

PROTOCOL = {"dataset": "folder", "split": "val", "images": 2, "scales": [1.0], "flip": False,
            "precision": "float32", "backend": "torch", "weights_sha256": "ab12",
            "weights_origin": []}  # fmt: skip


def results_of(matrices, names=None, image_names=None):
    confusion = ConfusionMatrix(len(matrices[0]))
    confusion.matrix += sum(matrices)
    names = names or [f"class {i}" for i in range(len(matrices[0]))]
    images = ImageCounts.of(
        image_names or [f"image {i}" for i in range(len(matrices))], list(map(class_counts, matrices))
    )
    return build_results(names, confusion.scores(), confusion.matrix, images, PROTOCOL)


def written(tmp_path, results, gallery=None, run=None):
    palette = [(i, 2 * i, 100) for i in range(len(results["classes"]))]
    write_report(tmp_path / "report.html", results, palette, gallery or {"all": []}, run)
    return (tmp_path / "report.html").read_text()


def miou(matrix):
    confusion = ConfusionMatrix(len(matrix))
    confusion.matrix += matrix
    return confusion.scores().miou


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(1, 6))
def test_the_cost_of_a_confusion_is_the_gain_in_miou_without_it(seed, classes):
    rng = np.random.default_rng(seed)
    matrix = rng.integers(0, 9, (classes, classes)) * rng.integers(0, 2, (classes, classes))
    expected = {}
    for t, p in zip(*np.nonzero(matrix), strict=True):
        if t != p:
            better = matrix.copy()
            better[t, t] += better[t, p]
            better[t, p] = 0
            expected[f"class {t}", f"class {p}"] = miou(better) - miou(matrix)
    pairs = confusions(results_of([matrix]), limit=100)
    assert {(pair.truth, pair.prediction): pair.cost for pair in pairs} == pytest.approx(
        {pair: cost for pair, cost in expected.items() if cost > 1e-15}
    )
    assert [pair.cost for pair in pairs] == sorted((pair.cost for pair in pairs), reverse=True)


def test_confusions_by_hand():
    # IoU of a: 6 / 10, of b: 8 / 12; with a's 2 pixels right: 8 / 10 and 8 / 10
    pairs = confusions(results_of([np.array([[6, 2], [2, 8]])], ["a", "b"]), limit=1)
    assert len(pairs) == 1
    assert (pairs[0].truth, pairs[0].prediction, pairs[0].pixels, pairs[0].share) == ("a", "b", 2, 0.25)
    assert pairs[0].cost == pytest.approx((8 / 10 + 8 / 10) / 2 - (6 / 10 + 8 / 12) / 2)
    results = results_of([np.array([[6, 2], [2, 8]])], ["a", "b"])
    results["classes"]["a"]["pixels"] = 10  # two of them predicted as no class
    assert confusions(results)[0].share == 0.2
    assert confusions(results_of([np.diag([3, 4])])) == []
    assert confusions(results_of([np.zeros((2, 2), int)])) == []


def test_class_intervals_equal_the_percentiles_of_a_plain_loop():
    matrices = np.random.default_rng(0).integers(0, 50, (7, 3, 3))
    counts = ImageCounts.of([str(i) for i in range(7)], list(map(class_counts, matrices)))
    drawn = []
    for times in np.concatenate(list(resamples(7))):
        confusion = ConfusionMatrix(3)
        confusion.matrix += (matrices * times[:, None, None]).sum(0)
        drawn.append(confusion.scores().iou)
    expected = np.percentile(np.array(drawn), (2.5, 97.5), axis=0).T
    assert np.array(class_intervals(counts)) == pytest.approx(expected, abs=1e-12)


def test_names_are_escaped(tmp_path):
    evil = "</script><img src=x onerror=alert(1)>"
    matrix = np.array([[6, 2], [2, 8]])
    results = results_of([matrix], [evil, "b & <i>"], [evil + ".png"])
    page = written(tmp_path, results, {"all": [pack_image(evil + ".png", None, *np.zeros((2, 3, 3), np.uint8))]})
    assert "<img src=x" not in page
    assert page.count("</script>") == 2
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert data["classes"][0]["name"] == evil
    assert data["matrix"] == matrix.tolist()


def test_the_page_loads_nothing_from_elsewhere(tmp_path):
    page = written(tmp_path, results_of([np.diag([3, 4])]))
    assert "default-src 'none'" in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//|@import|url\(["']?(https?:)?//""", page)


def test_five_hundred_images_stay_below_15_megabytes(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 19, (2, 900, 1800), np.uint8)
    one = pack_image("", rng.integers(0, 256, (900, 1800, 3), np.uint8), *noise)
    assert sum(len(one[part]) for part in ("target", "prediction", "image")) > 500_000
    names = [f"some_city/some_city_{i:06d}_000019" for i in range(500)]
    results = results_of(list(rng.integers(0, 10**6, (500, 19, 19))), image_names=names)
    gallery = {
        heading: [{**one, "name": name} for name in names[4 * i : 4 * i + 4]]
        for i, heading in enumerate(("worst", "median", "best"))
    }
    assert 6e6 < len(written(tmp_path, results, gallery)) < 15e6


def run_folder(tmp_path, rows=3):
    run = tmp_path / "run"
    run.mkdir()
    log = [{"epoch": i + 1, "loss": 1 / (i + 1), "lr": 0.1, "miou": i / 10 if i % 2 else None} for i in range(rows)]
    (run / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    environment = {"command": ["dlaseg", "train", "--output", "a b"], "python": "3.12", "platform": "Linux", "cpus": 2,
                   "packages": {"torch": "2.9"}, "git_commit": "c0ffee", "gpus": []}  # fmt: skip
    (run / "config.yaml").write_text("data: {train_split: train, val_split: val}\n")
    (run / "environment.json").write_text(json.dumps(environment))
    return run


def test_the_page_shows_training_command_versions_and_curves(tmp_path):
    page = written(tmp_path, results_of([np.diag([3, 4])]), run=run_folder(tmp_path, 4))
    for text in ("dlaseg train --output &#39;a b&#39;", "c0ffee", "torch 2.9", "Python 3.12", "SHA-256 ab12"):
        assert text in page
    assert "Validation mIoU: 10.00 % at epoch 2, 30.00 % at epoch 4; lowest 10.00 %, highest 30.00 %." in page
    assert "Training loss: 1 at epoch 1, 0.25 at epoch 4; lowest 0.25, highest 1." in page
    assert "Learning rate: 0.1 at epoch 1" in page
    assert page.count("<svg") == 3


@pytest.mark.parametrize(
    ("file", "content"),
    [("log.jsonl", "{"), ("log.jsonl", '{"epoch": 1}\n'), ("environment.json", "[]"), ("environment.json", None)],
)
def test_a_broken_run_folder_is_reported_in_the_page(tmp_path, file, content):
    run = run_folder(tmp_path)
    (run / file).unlink() if content is None else (run / file).write_text(content)
    assert training_section(run)["problem"].startswith(f"{run}: not a run folder of dlaseg train")
    assert "not a run folder of dlaseg train" in written(tmp_path, results_of([np.diag([3, 4])]), run=run)


def test_a_run_without_a_finished_epoch_has_no_curves(tmp_path):
    assert training_section(run_folder(tmp_path, 0))["charts"] == []
    assert [
        chart["description"].split(":")[0] for chart in training_section(run_folder(tmp_path / "run", 1))["charts"]
    ] == [
        "Training loss",
        "Learning rate",
    ]


def test_the_same_scores_give_the_same_page(tmp_path):
    results = results_of([np.array([[6, 2], [2, 8]])])
    results["calibration"] = {
        "expected_calibration_error": 0.1,
        "bins": [
            {"pixels": 3, "accuracy": 0.5, "confidence": 0.6},
            {"pixels": 0, "accuracy": None, "confidence": None},
        ],
    }
    before = copy.deepcopy(results)
    run = run_folder(tmp_path)
    assert written(tmp_path, results, run=run) == written(tmp_path, results, run=run)
    assert results == before
    assert "confidence 60 %: accuracy 50 %" in (tmp_path / "report.html").read_text()


def test_an_image_without_counted_pixels_is_listed_last(tmp_path):
    page = written(tmp_path, results_of([np.zeros((2, 2), int), np.diag([3, 4])], image_names=["void", "scored"]))
    assert 0 < page.index('<th scope="row">scored</th>') < page.index('<th scope="row">void</th>')


def test_a_split_without_counted_pixels_has_a_page(tmp_path):
    page = written(tmp_path, results_of([np.zeros((2, 2), int)]))
    assert "mIoU –" in page
    assert "No pixel is predicted as another class." in page
    assert "No image has a pixel that counts" in page
