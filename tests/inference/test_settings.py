"""Results of two networks, or of other options, never mix in a folder."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from video_files import write_video

from dlaseg import UserError, load_model, save_model
from dlaseg.files import sha256
from dlaseg.inference import run
from dlaseg.inference.folders import LocalFolder
from dlaseg.inference.grid import Axis, Grid
from dlaseg.inference.memory import MemoryBudget
from dlaseg.inference.predictor import Predictor
from dlaseg.inference.run import InferSummary, infer
from dlaseg.inference.settings import Claim, Settings, read_settings
from dlaseg.label_images import read_label_image
from dlaseg.weights.files import model_sha256


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (20 + i, 30, 3), np.uint8)).save(folder / f"{i}.png")
    return folder


def results(output):
    """The bytes of every result."""
    return {path.relative_to(output): path.read_bytes() for path in output.rglob("*.png")}


def test_the_settings_of_the_results_stand_beside_them(weights, images, tmp_path):
    infer(weights, images, tmp_path / "out", ["ids"], device="cpu", precision="bfloat16")
    content = json.loads((tmp_path / "out/infer.json").read_text())
    assert content.pop("dlaseg")
    assert content == {
        "weights_sha256": sha256(weights),
        "backend": "torch",
        "precision": "bfloat16",
        "keep_suffix": False,
        "all_frames": False,
        "ids": "raw",
        "scales": [1.0],
        "flip": False,
        "max_memory": None,  # while no image is computed in tiles
        "max_short_side": None,
    }


@pytest.mark.parametrize("overwrite", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_same_settings_go_on(weights, images, tmp_path, overwrite):
    out = tmp_path / "out"
    infer(weights, images, out, ["ids"], device="cpu")
    copy = shutil.copy(weights, tmp_path / "copy.safetensors")
    expected = InferSummary(written=3) if overwrite else InferSummary(skipped=3)
    assert infer(copy, images, out, ["ids"], overwrite, device="cpu") == expected
    assert infer(load_model(copy), images, out, ["ids"], overwrite, device="cpu") == expected


def test_a_model_has_the_hash_of_its_file(weights, tmp_path):
    model = load_model(weights)
    save_model(model, tmp_path / "again.safetensors")
    assert model_sha256(model) == sha256(weights) == sha256(tmp_path / "again.safetensors")


def test_the_settings_are_read_as_they_were_written(network, images, tmp_path):
    options = {"scales": [1, 0.5], "flip": 1, "keep_suffix": 1, "all_frames": 0, "ids": "train"}
    infer(network, images, tmp_path / "out", ["ids"], device="cpu", **options)
    assert read_settings(LocalFolder(tmp_path / "out")) == Settings(
        model_sha256(network), "torch", "float32", keep_suffix=True, ids="train", scales=(1.0, 0.5), flip=True
    )
    assert infer(network, images, tmp_path / "out", ["ids"], device="cpu", **options) == InferSummary(skipped=3)


def test_results_of_other_network_are_refused_and_kept(network, other_network, images, tmp_path):
    out = tmp_path / "out"
    infer(network, images, out, device="cpu")
    (out / "ids/1.png").unlink()  # as after an interrupted run
    before, settings = results(out), read_settings(LocalFolder(out))
    with pytest.raises(UserError) as caught:
        infer(other_network, images, out, device="cpu")
    before_after = [model_sha256(model)[:12] for model in (network, other_network)]
    assert str(caught.value) == (
        f"{out}: holds results of other weights (SHA-256 {before_after[0]}..., now {before_after[1]}...): use another "
        "output folder, or replace them with --overwrite"
    )
    assert (results(out), read_settings(LocalFolder(out))) == (before, settings)


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"precision": "bfloat16"}, "other options (precision float32, now bfloat16)"),
        ({"keep_suffix": True}, "(keep_suffix False, now True)"),
        ({"all_frames": True}, "(all_frames False, now True)"),
        ({"ids": "train"}, "(ids raw, now train)"),
        ({"scales": [0.5, 1]}, "(scales (1.0,), now (0.5, 1.0))"),
        ({"flip": True}, "(flip False, now True)"),
    ],
)
def test_results_of_other_options_are_refused_and_the_option_is_named(network, images, tmp_path, options, difference):
    infer(network, images, tmp_path / "out", ["ids"], device="cpu")
    with pytest.raises(UserError) as caught:
        infer(network, images, tmp_path / "out", ["ids"], device="cpu", **options)
    assert difference in str(caught.value)
    assert "weights" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "{}",
        "[1]",
        '{"dlaseg": "0", "weights_sha256": "0", "other": 1}',
        '{"dlaseg": "0", "weights_sha256": 0, "backend": "torch", "precision": "float32"}',
        '{"dlaseg": "0", "weights_sha256": "0", "backend": "torch", "precision": "float32", "scales": 1}',
        pytest.param("[" * 100_000, id="nested"),
    ],
)
def test_results_of_unknown_weights_are_refused(network, images, tmp_path, content):
    out = tmp_path / "out"
    infer(network, images, out, ["ids"], device="cpu")
    if content is None:
        (out / "infer.json").unlink()
    else:
        (out / "infer.json").write_text(content)
    with pytest.raises(UserError, match=r"out: holds results of unknown weights \(no infer.json of this release\)"):
        infer(network, images, out, ["ids"], device="cpu")
    assert infer(network, images, out, ["ids"], overwrite=True, device="cpu").written == 3


def test_overwriting_gives_the_results_of_the_new_weights_alone(network, other_network, images, tmp_path):
    out = tmp_path / "out"
    infer(network, images, out, device="cpu")
    assert infer(other_network, images, out, overwrite=True, device="cpu") == InferSummary(written=3)
    infer(other_network, images, tmp_path / "fresh", device="cpu")
    assert results(out) == results(tmp_path / "fresh")
    assert read_settings(LocalFolder(out)) == Settings(model_sha256(other_network), "torch", "float32")


def test_an_interrupted_overwrite_leaves_results_of_one_network(network, other_network, images, tmp_path, monkeypatch):
    out = tmp_path / "out"
    infer(network, images, out, ["ids"], device="cpu")
    call, calls = Predictor.__call__, []

    def interrupted(self, image):
        calls.append(image)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return call(self, image)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            infer(other_network, images, out, ["ids"], overwrite=True, device="cpu")
    assert results(out).keys() <= {path.relative_to(out) for path in [out / "ids/0.png"]}
    with pytest.raises(UserError, match="other weights"):
        infer(network, images, out, ["ids"], device="cpu")
    infer(other_network, images, out, ["ids"], device="cpu")
    predictor = Predictor(other_network, device="cpu")
    for i in range(3):
        expected = predictor.label_map.decode(predictor(images / f"{i}.png"))
        np.testing.assert_array_equal(read_label_image(out / f"ids/{i}.png"), expected)


@pytest.mark.parametrize("more", [["ids"], ["ids", "color"]])
def test_an_overwrite_that_would_leave_other_results_is_refused(network, other_network, images, tmp_path, more):
    out = tmp_path / "out"
    infer(network, images, out, ["ids", "color"], device="cpu")
    before = results(out)
    first = images if more == ["ids"] else images / "0.png"  # all of the images but one kind, or one of the images
    with pytest.raises(UserError, match=r"color/\d\.png: one of \d results of other weights .* would not replace"):
        infer(other_network, first, out, more, overwrite=True, device="cpu")
    assert results(out) == before
    with pytest.raises(UserError, match=r"use another output folder, or remove what is in it$"):
        infer(other_network, first, out, more, device="cpu")


def test_an_empty_folder_of_other_settings_is_free(network, other_network, images, tmp_path):
    out = tmp_path / "out"
    infer(network, images, out, ["ids"], device="cpu")
    shutil.rmtree(out / "ids")
    (out / "ids").mkdir()
    (out / "ids/.rest.png").touch()  # of a killed run
    assert infer(other_network, images, out, ["ids"], device="cpu").written == 3


@pytest.mark.parametrize("kind", ["ids", "strips", "video"])
def test_a_run_ends_when_another_takes_over_its_output(network, other_network, images, tmp_path, monkeypatch, kind):
    out, name = tmp_path / "out", "predict_strips" if kind == "strips" else "__call__"
    predict, grid = getattr(Predictor, name), MemoryBudget.grid
    inputs = write_video(tmp_path / "clip.mp4", frames=2) if kind == "video" else images / "0.png"
    if kind == "strips":
        tiles = Grid(Axis.split(20, 32, 32, 32), Axis.split(30, 32, 32, 32))
        monkeypatch.setattr(MemoryBudget, "grid", lambda *arguments, **options: tiles)

    def taken(*arguments):
        monkeypatch.setattr(Predictor, name, predict)
        monkeypatch.setattr(MemoryBudget, "grid", grid)
        infer(other_network, images / "0.png", out, ["color"], device="cpu")  # begins while there is no result
        return predict(*arguments)

    monkeypatch.setattr(Predictor, name, taken)
    with pytest.raises(UserError, match=r"out: another run writes results of other weights .* to it: use another outp"):
        infer(network, inputs, out, ["ids"], device="cpu")
    assert list(results(out)) == [Path("color/0.png")]
    assert read_settings(LocalFolder(out)).weights_sha256 == model_sha256(other_network)


def test_runs_of_the_same_settings_share_an_output(network, images, tmp_path, monkeypatch):
    out, call, limit = tmp_path / "out", Predictor.__call__, 64 * 10**9

    def shared(self, image):
        monkeypatch.setattr(Predictor, "__call__", call)
        infer(network, images / "2.png", out, ["ids"], device="cpu")
        settings = read_settings(LocalFolder(out))
        replace(settings, max_memory=limit).write(LocalFolder(out))  # that run had an image in tiles
        return call(self, image)

    monkeypatch.setattr(Predictor, "__call__", shared)
    assert infer(network, images, out, ["ids"], device="cpu") == InferSummary(written=3)
    claim = Claim(LocalFolder(out), replace(read_settings(LocalFolder(out)), max_memory=None))
    claim.record_limit(limit)
    with pytest.raises(UserError, match="max_memory 64000000000, now 32000000000"):
        Claim(LocalFolder(out), replace(claim.settings, max_memory=None)).record_limit(limit // 2)


def test_the_settings_are_written_first(network, images, tmp_path, monkeypatch):
    def killed(*_):
        assert read_settings(LocalFolder(tmp_path / "out")) is not None
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "process", killed)
    with pytest.raises(KeyboardInterrupt):
        infer(network, images, tmp_path / "out", device="cpu")


def test_a_model_that_diverged_is_refused_before_anything_is_written(network, images, tmp_path):
    diverged = copy.deepcopy(network)
    with torch.no_grad():
        next(diverged.parameters()).fill_(torch.nan)
    with pytest.raises(UserError, match=r"holds values that are not finite: train with a lower learning rate$"):
        infer(diverged, images, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_settings_is_not_that_of_a_run(tmp_path):
    with pytest.raises(UserError, match="another run writes results of unknown weights"):
        Claim(LocalFolder(tmp_path), Settings("0", "torch", "float32")).check()


def test_settings_of_a_release_without_scales_are_those_of_one_scale(tmp_path):
    (tmp_path / "infer.json").write_text(
        json.dumps({"dlaseg": "0", "weights_sha256": "0", "backend": "torch", "precision": "float32"})
    )
    assert read_settings(LocalFolder(tmp_path)) == Settings("0", "torch", "float32")
