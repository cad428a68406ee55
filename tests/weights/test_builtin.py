"""Weights that come with the package: by name wherever weights are asked for, and what is said about them."""

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from dlaseg_testing import TINY, load_benchmark, tiny_config, write_camvid
from PIL import Image
from safetensors import safe_open

import dlaseg
from dlaseg import UserError
from dlaseg.benchmarking.candidates import is_exported
from dlaseg.benchmarking.networks import num_classes_of
from dlaseg.cli import main
from dlaseg.config.files import to_yaml
from dlaseg.export.export import export
from dlaseg.factory import list_models
from dlaseg.files import sha256
from dlaseg.inference.predictor import Predictor
from dlaseg.inference.ray_engine import _read_weights
from dlaseg.label_images import read_label_image
from dlaseg.synthetic.dataset import draw_scene
from dlaseg.training.segmentation import Segmentation
from dlaseg.weights import builtin
from dlaseg.weights.checkpoints import read_checkpoint
from dlaseg.weights.download import resolve
from dlaseg.weights.entries import decode_metadata
from dlaseg.weights.files import model_sha256

pytestmark = pytest.mark.usefixtures("tiny_variant")

ROOT = Path(__file__).resolve().parents[2]
BOX = builtin.FOLDER
FILES = builtin.builtin_files()
OWN = [name for name, file in FILES.items() if file.suffix == ".safetensors"]
EXPORTED = [name for name in FILES if name not in OWN]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder whose data are in a folder with the name of the weights."""
    write_camvid(tmp_path / "camvid", train=2, val=1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def model():
    return dlaseg.load_model(BOX / "camvid.safetensors")


@cache
def predictor_of(name):
    return Predictor(name, device="cpu")


def facts(name):
    return json.loads((BOX / f"{name}.json").read_text(encoding="utf-8"))


def same(one, other):
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    return all(torch.equal(first[key], second[key]) for key in first)


# By name


def test_the_weights_of_camvid_are_there():
    assert "camvid" in FILES
    assert FILES.keys().isdisjoint(list_models())


def test_a_name_loads_in_python(here, model):
    image = np.asarray(Image.open("camvid/val/0.png"))
    labels = dlaseg.Predictor(model)(image)
    assert np.array_equal(dlaseg.Predictor("camvid")(image), labels)
    assert same(dlaseg.load_model("camvid"), model)
    architecture = model.metadata.architecture
    again = dlaseg.create_model(**architecture, weights="camvid")
    assert same(again, model)
    assert again.metadata.label_map == model.metadata.label_map
    (origin,) = again.metadata.origin
    assert (origin.source, origin.sha256) == ("camvid", facts("camvid")["files"]["camvid.safetensors"]["sha256"])
    other = dlaseg.create_model(**{**architecture, "num_classes": 3}, backbone_weights="camvid")
    assert same(other.backbone, model.backbone)
    summary = dlaseg.infer("camvid", "camvid/val", "out", device="cpu")
    assert (summary.written, summary.failed) == (1, [])
    dataset = dlaseg.open_dataset("camvid", "camvid", "val")
    scores = dlaseg.evaluate("camvid", dataset, "scores", device="cpu")
    assert scores["protocol"]["weights_sha256"] == sha256(BOX / "camvid.safetensors")


SPEED = "--size 64 64 --count 1 --rounds 1 --no-memory --device cpu"


@pytest.mark.parametrize(
    ("command", "written"),
    [
        ("infer camvid camvid/val out --backend torch --device cpu", "out/overlay/0.png"),
        ("eval camvid --dataset camvid --root camvid --device cpu --workers 0", "camvid-camvid-val/scores.json"),
        ("weights inspect camvid", None),
        ("weights convert camvid copy.safetensors", "copy.safetensors"),
        pytest.param(f"benchmark speed camvid {SPEED} --output speed", "speed/speed.json", marks=pytest.mark.slow),
        ("benchmark accuracy --weights camvid --datasets camvid:camvid --device cpu --workers 0 --output board",
         "board/leaderboard.json"),
    ],
)  # fmt: skip
def test_a_name_works_in_every_command(here, command, written, capsys):
    before = {path: path.stat().st_mtime_ns for path in BOX.iterdir()}
    assert main(command.split()) == 0, capsys.readouterr().err
    assert written is None or (here / written).is_file()
    assert {path: path.stat().st_mtime_ns for path in BOX.iterdir()} == before  # nothing is left in the package


@pytest.mark.parametrize("argument", ["weights", pytest.param("backbone_weights", marks=pytest.mark.slow)])
def test_a_name_works_in_a_config(here, argument, model, caplog, monkeypatch):
    monkeypatch.setattr(Segmentation, "on_fit_end", lambda *_: None)  # the report of the run
    config = tiny_config(Path("camvid"))
    config.model = replace(config.model, **{**architecture_of(model), argument: "camvid"})
    config.train.epochs, config.train.warmup_steps = 1, 0
    Path("run.yaml").write_text(to_yaml(config), encoding="utf-8")
    with caplog.at_level(logging.INFO, "dlaseg"):
        result = dlaseg.train("run.yaml", "run", report=lambda line: None)
    assert f"{argument} camvid: dlaseg's segmentation layout" in caplog.text
    (origin,) = dlaseg.load_model(result.weights).metadata.origin
    assert (origin.argument, origin.source) == (argument, "camvid")
    converted = result.weights.parent / "converted.safetensors"
    assert main(["weights", "convert", str(result.weights), str(converted), "--precision", "float16"]) == 0
    origins = dlaseg.load_model(converted).metadata.origin  # what they were trained from stays known
    assert [each.source for each in origins] == [result.weights.name, "camvid"]


def architecture_of(model):
    """What a config says about the network."""
    return {key: model.metadata.architecture[key] for key in ("name", "stride", "root_kernel_size")}


def test_a_name_works_for_a_classifier_and_for_a_cluster(model):
    name = model.metadata.architecture["name"]
    classifier = dlaseg.create_backbone(name, weights="camvid")
    assert same(classifier, model.backbone)
    file, contents, digest, network = _read_weights("camvid")
    assert (file, digest) == ("camvid.safetensors", sha256(BOX / "camvid.safetensors"))
    assert contents == {file: (BOX / file).read_bytes()}
    assert same(network.load(), model)


def test_the_benchmark_knows_what_a_name_is_for(model):
    assert num_classes_of(["camvid"]) == model.num_classes
    assert not is_exported("camvid")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_weights_in_the_working_folder_win_and_are_named_once(tmp_path, monkeypatch, caplog, kind):
    monkeypatch.chdir(tmp_path)
    own = dlaseg.create_model(TINY, 2, stride=8)
    dlaseg.save_model(own, "own.safetensors")
    if kind == "file":
        Path("own.safetensors").rename("camvid")
        used = "camvid"
    else:
        Path("camvid").mkdir()
        used = str(Path("own.safetensors").rename("camvid/model.safetensors"))
    assert same(dlaseg.load_model("camvid"), own)
    with caplog.at_level(logging.WARNING, "dlaseg"):
        caplog.clear()
        assert resolve(resolve("camvid")) == tmp_path / used
    assert caplog.messages == [f"camvid: {used} is used, not the weights of this name that come with dlaseg"]


def test_the_folder_of_a_run_stands_for_its_best_weights(here, model, tmp_path):
    dlaseg.save_model(model, tmp_path / "run/best.safetensors")
    assert resolve(tmp_path / "run") == tmp_path / "run/best.safetensors"
    assert same(dlaseg.load_model(tmp_path / "run"), model)


def test_a_folder_of_two_weights_files_that_differ_is_refused(here, model, tmp_path):
    best, other = tmp_path / "run/best.safetensors", tmp_path / "run/model.safetensors"
    dlaseg.save_model(model, best)
    other.write_bytes(best.read_bytes())
    assert resolve(tmp_path / "run") == other  # the same weights
    other.write_bytes(best.read_bytes()[:-1] + b"\1")
    with pytest.raises(dlaseg.UserError) as error:
        resolve(tmp_path / "run")
    assert str(error.value) == (
        f"{tmp_path / 'run'}: model.safetensors and best.safetensors in it differ: name the file, such as {best}"
    )


def test_a_folder_of_data_does_not_hide_a_name(here, caplog):
    with caplog.at_level(logging.INFO, "dlaseg"):
        assert resolve("camvid") == BOX / "camvid.safetensors"
    assert caplog.messages == ["camvid: the weights that come with dlaseg; the folder of this name holds none"]
    assert resolve(resolve("./camvid")) == Path("camvid").absolute()  # a path is a path


@pytest.mark.parametrize("command", ["infer ./camvid x.png out", "weights inspect ./camvid"])
def test_a_path_does_not_become_a_name(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    draw_image(Path("x.png"))
    assert main(command.split()) == 2
    assert f"{tmp_path / 'camvid'}: no such file" in capsys.readouterr().err
    Path("camvid").mkdir()  # a run without its best weights
    assert main(command.split()) == 2
    assert not Path("out").exists()


@pytest.mark.parametrize("command", ["infer camvidd x.png out", "weights inspect camvidd"])
def test_a_misspelt_name_is_one_line_with_the_nearest_and_all(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    draw_image(Path("x.png"))
    assert main(command.split()) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "camvidd" in line]
    assert "camvidd: no such file here, and no weights of this name come with dlaseg, the nearest is camvid:" in line
    assert line.endswith(f"give a file or one of {', '.join(FILES)}")
    assert list(tmp_path.iterdir()) == [tmp_path / "x.png"]


def draw_image(path):
    Image.fromarray(draw_scene(0, 64, 96).image).save(path)


def test_an_installation_without_weights_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(builtin, "FOLDER", tmp_path)
    assert dlaseg.list_weights() == []
    with pytest.raises(UserError, match=r"camvid: no such file: give .*; no weights come with this installation"):
        resolve("camvid")


def test_the_network_of_a_name_is_exported(model, monkeypatch):
    def trace(exported, *options):
        assert same(exported, model)
        raise UserError("this is as far as the name matters")

    monkeypatch.setattr("dlaseg.export.export.trace_network", trace)
    with pytest.raises(UserError, match="as far as the name matters"):
        export("camvid", "camvid.onnx")


@pytest.mark.parametrize("name", EXPORTED)
def test_the_name_of_an_exported_file_says_what_the_file_is_by_the_file(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    draw_image(Path("scene.png"))
    assert is_exported(name)
    assert main(["infer", name, "scene.png", "out", "--device", "cpu"]) == 0
    assert Path("out/overlay/scene.png").is_file()
    assert main(["weights", "inspect", name]) == 0
    assert facts(name)["export"]["output"]["name"] in capsys.readouterr().out
    assert sorted(_read_weights(name)[1]) == [f"{name}.bin", f"{name}.xml"]
    with pytest.raises(UserError, match=rf"{name}\.xml: a file from dlaseg export, which infer, eval and Predictor"):
        dlaseg.load_model(name)


@pytest.mark.slow
def test_a_name_is_exported_and_an_exported_file_has_a_name_too(tmp_path, monkeypatch, capsys):
    """As NAME.xml in the package; a name without suffix says what the file is by the file."""
    monkeypatch.chdir(tmp_path)
    draw_image(Path("scene.png"))
    export = "export camvid box/camvid-xml.xml --output coarse_logits --compare-images scene.png"
    assert main(export.split()) == 0, capsys.readouterr().err
    monkeypatch.setattr(builtin, "FOLDER", tmp_path / "box")
    assert is_exported("camvid-xml")
    assert main(["infer", "camvid-xml", "scene.png", "out", "--device", "cpu"]) == 0
    assert main(["weights", "inspect", "camvid-xml"]) == 0
    assert "coarse_logits" in capsys.readouterr().out
    assert sorted(_read_weights("camvid-xml")[1]) == ["camvid-xml.bin", "camvid-xml.xml"]
    with pytest.raises(UserError, match=r"camvid-xml\.xml: a file from dlaseg export, which infer, eval and Predictor"):
        dlaseg.load_model("camvid-xml")


# What is listed


def test_the_list_says_what_the_files_and_their_facts_say(capsys):
    listed = dlaseg.list_weights()
    assert [each.name for each in listed] == list(FILES)
    assert main(["weights", "list"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ["name", "architecture"]
    for each, line in zip(listed, lines, strict=True):
        said = facts(each.name)
        assert line.split()[0] == each.name == said["name"]
        assert ("-" if said["miou"] is None else f"{100 * said['miou']:.1f}") in line.split()
        assert (each.miou, each.scored_on, each.precision) == (said["miou"], said["scored_on"], said["precision"])
        assert each.bytes == sum(part["bytes"] for part in said["files"].values())
    assert main(["weights", "list", "--json"]) == 0
    assert [each["name"] for each in json.loads(capsys.readouterr().out)] == list(FILES)


@pytest.mark.parametrize("name", FILES)
def test_facts_and_card_agree_with_the_file(name):
    file, said = FILES[name], facts(name)
    card = file.with_suffix(".md").read_text(encoding="utf-8")
    parts = builtin.parts(file)
    assert said["files"] == {part.name: {"bytes": part.stat().st_size, "sha256": sha256(part)} for part in parts}
    predictor = predictor_of(name)
    assert said["architecture"] == dict(predictor.metadata.architecture)
    assert said["classes"] == list(predictor.label_map.names)
    assert f'Predictor("{name}")' in card
    assert said["license"] in card
    assert said["miou"] is None or f"{100 * said['miou']:.2f}" in card


@pytest.mark.parametrize("name", OWN)
def test_scores_and_recipe_are_those_of_the_file(name):
    said, card = facts(name), (BOX / f"{name}.md").read_text(encoding="utf-8")
    digest = said["files"][f"{name}.safetensors"]["sha256"]
    for scores in said["scores"]:
        assert scores["weights_sha256"] == digest
        assert abs(scores["miou"] - scores["miou_before_rounding"]) < 0.001  # 0.1 points
        assert f"mIoU {100 * scores['miou']:.2f} %" in card
        assert digest in card
    for part, scores in said["held_out"].items():
        assert f"| {part} | {100 * scores['miou']:.2f} |" in card
    assert len(said["training"]) > 0
    for run in said["training"]:
        assert run["log"][-1]["epoch"] == len(run["log"])
        assert run["command"][0] in ("dlaseg", "python")
        assert f"seed: {run['seed']}" in run["config"]
        assert run["config"] in card
        assert not [word for word in run["command"] if word.startswith("/")]


@pytest.mark.parametrize("height", [353, *(pytest.param(each, marks=pytest.mark.slow) for each in (360, 370))])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_rows_at_the_bottom_of_an_odd_size_are_as_right_as_those_of_the_whole_image(seed, height):
    """The network pads to a multiple of 32: what it sees there must not change what is above."""
    image, predictor = draw_scene(seed, 384, 512).image, Predictor("camvid", device="cpu")
    cut, whole = predictor(image[:height]), predictor(image)
    assert np.mean(cut[-8:] == whole[height - 8 : height]) > 0.97


@pytest.mark.parametrize("name", EXPORTED)
def test_an_exported_file_is_of_the_weights_that_it_names(name):
    source = name.removesuffix("-int8")
    assert facts(name)["export"]["weights_sha256"] == model_sha256(dlaseg.load_model(source))
    scene = draw_scene(0, 192, 256).image
    one, other = Predictor(name, device="cpu")(scene), Predictor(source, device="cpu")(scene)
    assert np.mean(one == other) > 0.9


def test_no_file_is_larger_than_6_mb_and_all_together_than_12():
    sizes = [path.stat().st_size for path in BOX.iterdir()]
    assert max(sizes) <= 6_000_000
    assert sum(sizes) <= 12_000_000


@pytest.mark.parametrize("name", OWN)
def test_drawn_scenes_get_the_labels_that_they_got(name):
    said = facts(name)["scenes"]
    labels = read_label_image(BOX / said["file"])
    assert hashlib.sha256(labels.tobytes()).hexdigest() == said["labels_sha256"]
    predictor = Predictor(name, backend="torch", device="cpu", precision="float32")
    size = said["height"], said["width"]
    predicted = np.concatenate([predictor(draw_scene(seed, *size).image) for seed in said["seeds"]])
    assert np.mean(predicted == labels) >= 0.999  # the order of sums, so the last bit of a logit, is the CPU's
    assert len(np.unique(labels)) > 3


# float16


def test_a_float16_file_is_widened_exactly_and_keeps_its_metadata(model, tmp_path):
    dlaseg.save_model(model, tmp_path / "a.safetensors", precision="float16")
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        entries, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert {str(t.dtype) for t in tensors.values() if t.dim() > 1} == {"torch.float16"}
    assert {str(t.dtype) for t in tensors.values() if t.dim() == 1} == {"torch.float32"}
    for again in (
        dlaseg.load_model(tmp_path / "a.safetensors"),
        dlaseg.create_model(**model.metadata.architecture, weights=tmp_path / "a.safetensors"),
    ):
        for key, tensor in again.state_dict().items():
            assert tensor.dtype == (torch.float32 if tensor.is_floating_point() else torch.int64)
            assert torch.equal(tensor, tensors[key].to(tensor.dtype))
    assert dlaseg.load_model(tmp_path / "a.safetensors").metadata == model.metadata
    assert decode_metadata(tmp_path, read_checkpoint(tmp_path / "a.safetensors").metadata) == model.metadata
    sides = {"max_short_side", "training_short_side"}
    assert set(entries) == {"format", "model", "labels", "mean", "std", "origin", *sides}


def test_convert_writes_float16(tmp_path, capsys):
    model = dlaseg.create_model(TINY, 2, stride=8)
    dlaseg.save_model(model, tmp_path / "a.safetensors")
    words = ["weights", "convert", str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")]
    assert main([*words, "--precision", "float16"]) == 0
    assert (tmp_path / "b.safetensors").stat().st_size < 0.6 * (tmp_path / "a.safetensors").stat().st_size
    rounded = dlaseg.load_model(tmp_path / "b.safetensors").state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(rounded[name], tensor.half().float() if tensor.dim() > 1 else tensor), name


def test_what_float16_cannot_hold_is_refused_and_nothing_written(tmp_path):
    model = dlaseg.create_model(TINY, 2, stride=8)
    with torch.no_grad():
        model.head.weight[0, 0] = 7e4
    with pytest.raises(UserError, match=r"head\.weight has numbers beyond float16's range, 70000: save it in float32"):
        dlaseg.save_model(model, tmp_path / "a.safetensors", precision="float16")
    with pytest.raises(UserError, match="precision int8 of a weights file: use float32 or float16"):
        dlaseg.save_model(model, tmp_path / "a.safetensors", precision="int8")
    assert list(tmp_path.iterdir()) == []


def test_a_first_layer_for_one_channel_is_summed_in_float32(model, tmp_path):
    dlaseg.save_model(model, tmp_path / "a.safetensors", precision="float16")
    architecture = {**model.metadata.architecture, "in_channels": 1}
    grey = dlaseg.create_model(**architecture, weights=tmp_path / "a.safetensors")
    kernel = dlaseg.load_model(tmp_path / "a.safetensors").backbone.base_layer[0].weight
    assert torch.equal(grey.backbone.base_layer[0].weight, kernel.sum(1, keepdim=True))


# How the files are made


@pytest.fixture(scope="module")
def script():
    return load_benchmark("builtin_weights")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder, beside it the folder of its data."""
    folder = tmp_path_factory.mktemp("run")
    config = tiny_config(write_camvid(folder / "camvid"))
    config.train.epochs = 1
    dlaseg.train(config, folder / "run", report=lambda line: None)
    return folder / "run"


@pytest.fixture
def box(tmp_path, script, monkeypatch):
    monkeypatch.setattr(script, "FOLDER", tmp_path)
    monkeypatch.setattr(builtin, "FOLDER", tmp_path)
    return tmp_path


@pytest.mark.slow
def test_a_run_becomes_weights_of_the_package(run, script, box, capsys):
    root = str(run.parent / "camvid")
    parts = ["north=25", f"south={run / 'scores.json'}"]
    script.main(["add", "streets", str(run), "--root", root, "--data", "two scenes", "--held-out", *parts])
    names = ["streets-scenes.png", "streets.json", "streets.md", "streets.safetensors"]
    assert sorted(path.name for path in box.iterdir()) == names
    (listed,) = dlaseg.list_weights()
    assert (listed.name, listed.data, listed.scored_on) == ("streets", "two scenes", "held out: north, south")
    miou = json.loads((run / "scores.json").read_text())["miou"]
    assert listed.miou == pytest.approx((0.25 + miou) / 2)
    rounded, trained = dlaseg.load_model("streets"), dlaseg.load_model(run / "best.safetensors")
    assert rounded.metadata == trained.metadata
    assert torch.equal(rounded.head.weight, trained.head.weight.half().float())
    said = json.loads((box / "streets.json").read_text())
    (scores,) = said["scores"]
    assert scores["weights_sha256"] == sha256(box / "streets.safetensors")
    assert scores["miou_before_rounding"] == pytest.approx(miou)
    assert [row["epoch"] for row in said["training"][0]["log"]] == [1]
    assert said["note"] == ""
    assert str(run.parent) not in (box / "streets.md").read_text() + (box / "streets.json").read_text()
    content = {name: (box / name).read_bytes() for name in names}
    (box / "streets-scenes.png").unlink()
    script.main(["scenes", "streets"])
    assert {name: (box / name).read_bytes() for name in names} == content


def test_a_score_on_images_of_the_training_says_so(run, script, box):
    script.main(["add", "streets", str(run), "--root", str(run.parent / "camvid"), "--split", "train"])
    (listed,) = dlaseg.list_weights()
    assert (listed.miou, listed.scored_on) == (None, "-")
    card = (box / "streets.md").read_text()
    assert "The network was trained on images of this split." in card.splitlines()
    assert "mean_iou" not in card  # what leader boards read


def test_what_is_no_run_is_one_line_and_leaves_nothing(script, box, tmp_path):
    with pytest.raises(SystemExit, match=r"nothing: not a run folder of dlaseg train"):
        script.main(["add", "streets", str(tmp_path / "nothing")])
    assert list(box.iterdir()) == []


@pytest.mark.slow
def test_an_int8_file_is_made_of_the_weights(run, script, box):
    root = str(run.parent / "camvid")
    script.main(["add", "streets", str(run)])
    script.main(["add-int8", "streets", "--root", root, "--max-drop", "100"])
    assert list(builtin.builtin_files()) == ["streets", "streets-int8"]
    assert {path.name for path in box.glob("streets-int8*")} == {
        f"streets-int8.{x}" for x in ("xml", "bin", "json", "md")
    }
    said = json.loads((box / "streets-int8.json").read_text())
    assert said["export"]["weights_sha256"] == model_sha256(dlaseg.load_model("streets"))
    assert said["precision"] == Predictor("streets-int8", device="cpu").backend.precision == "int8"


# An installed package

NO_NETWORK = """
import socket

def refuse(*arguments, **options):
    raise RuntimeError("the network was asked")

socket.getaddrinfo = socket.create_connection = socket.socket.connect = refuse
"""


BESIDE = ("benchmarks", "configs", "docs", "tests", "tools")
"""Folders that the tests read, beside the package."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The content of a wheel that is made of a copy of the package, in a folder."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("dlaseg", *BESIDE):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    code = f"import setuptools.build_meta as b; b.build_sdist({str(target)!r}); b.build_wheel({str(target)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, check=True)
    (wheel_file,) = target.glob("*.whl")
    with zipfile.ZipFile(wheel_file) as wheel:
        wheel.extractall(target / "site")
    return target


def test_wheel_and_sdist_hold_the_weights(installed):
    wheel = {path.name for path in (installed / "site/dlaseg/weights/pretrained").iterdir()}
    assert wheel == {path.name for path in BOX.iterdir()}
    assert {path.name for path in sdist_files(installed) if path.match("dlaseg/weights/pretrained/*")} == wheel


def test_the_sdist_holds_what_the_tests_need_and_the_wheel_the_package_alone(installed):
    needed = {path.relative_to(ROOT) for name in BESIDE for path in (ROOT / name).rglob("*") if path.is_file()}
    assert {path for path in sdist_files(installed) if path.parts[0] in BESIDE} == {
        path for path in needed if path.suffix != ".pyc"
    }
    assert {path.name for path in (installed / "site").iterdir() if path.suffix != ".dist-info"} == {"dlaseg"}


def sdist_files(folder):
    """The files of the sdist in a folder, by their paths in the project."""
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as sdist:
        return {Path(*Path(member.name).parts[1:]) for member in sdist if member.isfile()}


@pytest.mark.parametrize("name", ["camvid", pytest.param("camvid-int8", marks=pytest.mark.slow)])
def test_infer_camvid_runs_from_an_installed_package_in_an_empty_folder_without_network(installed, name, tmp_path):
    (tmp_path / "hooks").mkdir()
    (tmp_path / "hooks/sitecustomize.py").write_text(NO_NETWORK)
    (tmp_path / "empty").mkdir()
    draw_image(tmp_path / "street.png")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "home"),
        "PYTHONPATH": f"{tmp_path / 'hooks'}{os.pathsep}{installed / 'site'}",
        "OMP_NUM_THREADS": "1",
    }
    code = (
        "import socket, sys, dlaseg; from dlaseg.cli import main; "
        "assert socket.create_connection.__name__ == 'refuse'; print(dlaseg.__file__); sys.exit(main(sys.argv[1:]))"
    )
    words = ["infer", name, "../street.png", "out", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path / "empty", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(installed / "site/dlaseg/__init__.py")
    labels = read_label_image(tmp_path / "empty/out/ids/street.png")
    predicted = predictor_of(name)(draw_scene(0, 64, 96).image)
    assert np.mean(labels == predicted) > 0.99  # the ids of CamVid are its train ids
