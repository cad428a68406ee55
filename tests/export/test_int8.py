"""int8 files lose no more than allowed, and say what they lose and gain."""

import contextlib
import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import openvino
import pytest
import torch
from dlaseg_testing import TwoHeads, write_camvid

from dlaseg import Predictor, create_model, open_dataset
from dlaseg.cli import main
from dlaseg.errors import UserError
from dlaseg.evaluation.trained_on import images_of_training
from dlaseg.export import int8, quantize
from dlaseg.export.int8 import export_int8
from dlaseg.export.quantize import import_nncf, rank_layers, search, weight_names


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_camvid(tmp_path_factory.mktemp("camvid"))


@pytest.fixture(scope="module")
def network(root):
    torch.manual_seed(0)
    model = TwoHeads(11)
    model.metadata = replace(model.metadata, label_map=open_dataset("camvid", root, "val").label_map)
    return model.eval()


@pytest.fixture(scope="module")
def run(network, root, tmp_path_factory):
    """Runs the command, and gives the path of the file, what was printed, and the path of the file in float32."""
    path, printed = tmp_path_factory.mktemp("int8") / "m.xml", io.StringIO()
    in_float, write_network = tmp_path_factory.mktemp("float") / "m.xml", int8.write_network

    def write_and_keep(program, reference, *arguments):
        write_network(program, reference, *arguments)
        copy_network(reference, in_float)

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(int8, "load_model", lambda _: network)
        patch.setattr(int8, "write_network", write_and_keep)
        words = ["export", "camvid", str(path), "--int8", "--dataset", "camvid", "--root", str(root)]
        assert main([*words, "--max-drop", "100", "--workers", "0"]) == 0
    return path, printed.getvalue(), in_float


def copy_network(source, target):
    for suffix in (".xml", ".bin"):
        shutil.copy(source.with_suffix(suffix), target.with_suffix(suffix))


def test_an_int8_file_is_weights_with_its_precision(run, network):
    predictor = Predictor(run[0])
    assert predictor.backend.precision == "int8"
    assert replace(predictor.metadata, origin=()) == network.metadata
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    agreement = (predictor(image) == Predictor(network, device="cpu")(image)).mean()
    assert agreement > 0.8  # 8 bits of a network that is not trained


def test_the_command_says_what_is_lost_and_gained(run):
    path, printed, _ = run
    report = json.loads(path.with_name("m.xml.json").read_text())["int8"]
    assert (report["dataset"], report["split"]) == ("camvid", "val")
    assert (report["images"], report["calibration_images"]) == (2, 5)
    assert report["in_float32"] == []
    before, after = report["miou_float32"], report["miou_int8"]
    first, second, third, *files = printed.splitlines()
    assert re.fullmatch(
        r"openvino: logits differ by at most [\d.e-]+ \(.*\), [\d.]+ % equal labels, of float32 PyTorch", first
    )
    assert second == f"mIoU on camvid val: {before:.2f} float32, {after:.2f} int8, {after - before:+.2f} points"
    ratio = report["seconds_float32"] / report["seconds_int8"]
    assert third.startswith("48 x 64: ")
    assert third.endswith(f" s int8, {ratio:.2f} times as fast")
    assert files == [str(path), f"{path}.json"]
    assert sorted(file.name for file in path.parent.iterdir()) == ["m.bin", "m.xml", "m.xml.json"]


def test_scores_of_weights_that_come_with_the_package_say_so_when_exported_too(run, root):
    message = "was among the training data of camvid, which this network comes from"
    assert images_of_training(run[0], open_dataset("camvid", root, "val")) == message


def float_layers(network):
    """Names of the convolutions whose weights are float32."""
    constants = {
        op.get_friendly_name(): {value.get_node().get_type_name() for value in op.input_values()}
        for op in network.get_ordered_ops()
        if op.get_type_name() == "Convolution"
    }
    return {name for name, inputs in constants.items() if "Constant" in inputs}


@pytest.fixture
def ranked(exported_float, monkeypatch):
    """The layers in the order of what they lose, which is found out once."""
    layers = rank_layers(*exported_float)
    monkeypatch.setattr(quantize, "rank_layers", lambda network, images: layers)
    return layers


def test_layers_that_lose_most_stay_in_float32(exported_float, ranked):
    model, images = exported_float
    accepted = []
    candidate, in_float = search(model, images, lambda network: bool(accepted) or accepted.append(network))
    assert float_layers(accepted[0]) == set()
    assert list(in_float) == ranked[:1]
    assert float_layers(candidate) == set(in_float)
    assert weight_names(model, in_float)[0] in ("backbone.weight", "head.weight")


def test_the_search_ends_when_half_of_the_layers_are_float(exported_float):
    model, images = exported_float
    asked = []
    assert search(model, images, lambda network: asked.append(float_layers(network))) is None
    assert [len(names) for names in asked] == [0, 1]  # of two


@pytest.mark.parametrize(("layers", "counts"), [(0, []), (1, []), (2, [1]), (8, [1, 2, 4]), (58, [1, 2, 4, 8, 16, 29])])
def test_the_search_tries_powers_of_two_and_at_last_half_of_the_layers(monkeypatch, layers, counts):
    monkeypatch.setattr(quantize, "rank_layers", lambda *_: list(map(str, range(layers))))
    monkeypatch.setattr(quantize, "quantize", lambda network, images, in_float=(): len(in_float))
    tried = []
    assert search(None, [], lambda network: tried.append(network)) is None
    assert tried == [0, *counts]


@pytest.fixture(scope="module")
def exported_float(run):
    """The network in float32, and inputs."""
    rng = np.random.default_rng(0)
    return openvino.Core().read_model(run[2]), [rng.integers(0, 256, (1, 40, 50, 3), np.uint8) for _ in range(3)]


def test_a_loss_that_cannot_be_held_leaves_nothing(network, run, root, tmp_path, monkeypatch):
    def search_in_vain(candidate, _, accept):
        assert [accept(candidate), accept(candidate)] == [False, False]

    scores = iter([50.0, 49.5, 49.0])
    monkeypatch.setattr(int8, "_miou", lambda *_: next(scores))
    monkeypatch.setattr(int8, "trace_network", lambda *_: None)
    monkeypatch.setattr(int8, "write_network", lambda _, path, *__: copy_network(run[2], path))
    monkeypatch.setattr(int8, "search", search_in_vain)
    with pytest.raises(UserError, match=r"m.xml: not written: int8 loses 0.50 points of mIoU or more.*--max-drop"):
        export_int8(
            network, tmp_path / "m.xml", sorted((root / "train").iterdir()), open_dataset("camvid", root, "val")
        )
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_takes_no_rgb_images_is_refused_before_any_work(root, tmp_path):
    model, images = create_model("dla46_c", 11, in_channels=4), sorted((root / "train").iterdir())
    with pytest.raises(UserError, match=r"a network of 4 input channels: .* without --int8"):
        export_int8(model, tmp_path / "m.xml", images, open_dataset("camvid", root, "val"), input="normalized")


SPLIT = ["--dataset", "camvid", "--root", "ROOT"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["m.xml", "--int8"], "--int8: needs a labelled split to score the file on: give --dataset and --root"),
        (
            ["m.onnx", "--int8", *SPLIT],
            "m.onnx: int8 files are OpenVINO IR: name it m.xml",
        ),
        (
            ["m.xml", "--int8", *SPLIT, "--max-drop", "-1"],
            "max_drop -1.0: points of mIoU",
        ),
        (["m.xml", "--dataset", "camvid"], "--dataset: only --int8 needs it"),
        (["m.xml", "--max-drop", "0"], "--max-drop: only --int8 needs it"),
        (["m.xml", "--workers", "2"], "--workers: only --int8 needs it"),
    ],
)
def test_wrong_words_are_refused(root, tmp_path, words, message, capsys):
    words = [str(root) if word == "ROOT" else word for word in words]
    assert main(["export", str(tmp_path / "w.safetensors"), *words]) == 2
    assert message in capsys.readouterr().err


def test_handlers_of_others_keep_their_level():
    """A handler may serve other loggers, too, as pytest's does."""
    handler = logging.NullHandler()
    logging.getLogger("nncf").addHandler(handler)
    import_nncf()
    logging.getLogger("nncf").removeHandler(handler)
    assert handler.level == logging.NOTSET
    assert not logging.getLogger("nncf").isEnabledFor(logging.WARNING)


@pytest.mark.slow
def test_openvino_and_nncf_report_nothing(tmp_path):
    """Their own code would send the use of every import to its makers, and keep an identity in the home folder."""
    code = """
import sys
events = []
sys.addaudithook(lambda event, _: events.append(event) if event.startswith(("socket.", "urllib.")) else None)
from dlaseg.inference.backends.graph import require
require("nncf", "")
require("openvino", "").Core()
print([event for event in events if event not in ("socket.__new__", "socket.gethostname")])
"""
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("CI", None)  # there, they would be silent by themselves
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
    assert list(tmp_path.iterdir()) == []


def test_a_loss_as_large_as_is_allowed_is_accepted(network, run, root, tmp_path, monkeypatch):
    scores, accepted = iter([50.0, 49.5, 49.25]), []
    monkeypatch.setattr(int8, "_miou", lambda *_: next(scores))
    monkeypatch.setattr(int8, "trace_network", lambda *_: None)
    monkeypatch.setattr(int8, "write_network", lambda _, path, *__: copy_network(run[2], path))
    monkeypatch.setattr(
        int8, "search", lambda candidate, _, accept: accepted.extend([accept(candidate), accept(candidate)])
    )
    images, split = sorted((root / "train").iterdir()), open_dataset("camvid", root, "val")
    with pytest.raises(UserError, match="not written"):
        export_int8(network, tmp_path / "m.xml", images, split, max_drop=0.5)
    assert accepted == [True, False]
