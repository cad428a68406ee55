"""`dlaseg eval` replaces the scores of the same, and without `--output` no others."""

import json
import shutil
from dataclasses import replace

import dlaseg_testing
import numpy as np
import pytest
import torch
from dlaseg_testing import TINY
from PIL import Image

from dlaseg import create_model, save_model
from dlaseg.cli import main
from dlaseg.data.sets.camvid import camvid_labels
from dlaseg.evaluation import scoring
from dlaseg.evaluation.earlier_scores import protocol_differences


def write_weights(path, seed):
    torch.manual_seed(seed)
    model = create_model(TINY, 11, stride=8)
    model.metadata = replace(model.metadata, label_map=camvid_labels())
    save_model(model, path)


def evaluate(weights, root, *options):
    words = ["--dataset", "camvid", "--root", str(root), "--workers", "0", "--device", "cpu"]
    return main(["eval", str(weights), *words, *options])


@pytest.fixture(scope="module")
def scored(tiny_variant, tmp_path_factory):
    """A folder with weights, a data set and the scores."""
    folder = tmp_path_factory.mktemp("scored")
    dlaseg_testing.write_camvid(folder / "camvid", train=3)
    write_weights(folder / "a.safetensors", 0)
    assert evaluate(folder / "a.safetensors", folder / "camvid") == 0
    return folder


@pytest.fixture
def copy(scored, tmp_path):
    return shutil.copytree(scored, tmp_path / "copy")


def change_weights(folder):
    write_weights(folder / "a.safetensors", 1)


def change_images(folder):
    for kind in ("val", "valannot"):
        shutil.rmtree(folder / "camvid" / kind)
        (folder / "camvid" / kind.replace("val", "train")).rename(folder / "camvid" / kind)


def change_label_map(folder):
    path = folder / "camvid/valannot/0.png"
    labels = np.array(Image.open(path))
    labels[20, 20] = 3 - labels[20, 20]
    Image.fromarray(labels).save(path)


@pytest.mark.parametrize(
    ("change", "options", "difference"),
    [
        (change_weights, (), "other weights"),
        (change_images, (), "other images (2, now 3)"),
        (change_label_map, (), "another label map of 0"),
        (None, ("--scales", "1", "0.5"), "scales 1, now 0.5 1"),
        (None, ("--flip",), "flip false, now true"),
        pytest.param(None, ("--precision", "bfloat16"), "precision float32, now bfloat16", marks=pytest.mark.slow),
        (None, ("--precision", "auto"), "precision float32, now bfloat16"),
        (None, ("--padding", "stretch"), "padding mirror, now stretch"),
        (None, ("--max-short-side", "40"), "max_short_side none, now 40"),
        (change_weights, ("--flip",), "other weights; flip false, now true"),
    ],
)
def test_scores_of_something_else_are_kept(copy, capsys, monkeypatch, change, options, difference):
    if change is not None:
        change(copy)
    monkeypatch.setattr("dlaseg.device.computes_bfloat16", lambda: True)
    monkeypatch.setattr(scoring, "evaluate_predictor", lambda *_, **__: pytest.fail("nothing may be scored"))
    path = copy / "a-camvid-val/scores.json"
    before = path.read_bytes()
    assert evaluate(copy / "a.safetensors", copy / "camvid", *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"dlaseg eval: {path}: has scores of something else ({difference}): choose another folder by --output, or "
        f"replace them by --output {path.parent}"
    )
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), marks=pytest.mark.slow),  # as in the tests below
        ("--scales", "1"),
        pytest.param(("--precision", "auto"), marks=pytest.mark.slow),
        ("--measures", "boundary"),
    ],
)
def test_scores_of_the_same_are_replaced(copy, monkeypatch, options):
    monkeypatch.setattr("dlaseg.device.computes_bfloat16", lambda: False)
    report = copy / "a-camvid-val/report.html"
    report.unlink()
    assert evaluate(copy / "a.safetensors", copy / "camvid", *options) == 0
    assert report.exists()


def test_scores_of_a_run_that_was_trained_further_are_replaced(copy):
    best = (copy / "a.safetensors").rename(copy / "best.safetensors")
    assert evaluate(best, copy / "camvid") == 0
    write_weights(best, 1)
    assert evaluate(best, copy / "camvid") == 0
    assert evaluate(best, copy / "camvid", "--flip") == 2


def test_broken_scores_and_those_in_the_folder_of_the_option_are_replaced(copy):
    path = copy / "a-camvid-val/scores.json"
    before = path.read_bytes()
    path.write_text("{")
    assert evaluate(copy / "a.safetensors", copy / "camvid") == 0
    assert path.read_bytes() == before
    assert evaluate(copy / "a.safetensors", copy / "camvid", "--flip", "--output", str(path.parent)) == 0
    assert path.read_bytes() != before


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("best.safetensors", "camvid-val"),
        ("model.safetensors", "camvid-val"),
        ("last.safetensors", "last-camvid-val"),
        ("model.onnx", "model-camvid-val"),
    ],
)
def test_the_default_folder_tells_the_weights_of_a_folder_apart(scored, tmp_path, monkeypatch, name, folder):
    seen = []
    monkeypatch.setattr("dlaseg.evaluation.scoring.evaluate", lambda *arguments, **_: seen.append(arguments[2]))
    monkeypatch.setattr("dlaseg.evaluation.report.tables.scores_table", lambda results: "")
    (tmp_path / name).touch()
    assert evaluate(tmp_path / name, scored / "camvid") == 0
    assert seen == [tmp_path / folder]


def test_scores_without_counts_of_images_are_replaced(copy):
    path = copy / "a-camvid-val/scores.json"
    before = path.read_bytes()
    path.write_text(json.dumps({**json.loads(before), "images": {}}))
    assert evaluate(copy / "a.safetensors", copy / "camvid") == 0
    assert path.read_bytes() == before


def test_label_maps_of_any_program_have_no_padding():
    of_weights = {"scales": [1.0], "flip": False, "precision": "float32", "padding": "stretch"}
    assert protocol_differences(of_weights, {"predictions": "folder"}) == []
    assert protocol_differences({"predictions": "folder"}, of_weights) == []


@pytest.mark.parametrize("name", [pytest.param("best.safetensors", marks=pytest.mark.slow), "model.safetensors"])
def test_scores_of_a_file_that_may_have_changed_are_replaced(copy, name):
    best = (copy / "a.safetensors").rename(copy / name)
    assert evaluate(best, copy / "camvid") == 0
    write_weights(best, 1)
    assert evaluate(best, copy / "camvid") == 0
