"""The folder for a Triton or KServe server says of the network what is in the file."""

import re

import numpy as np
import onnxruntime
import openvino
import pytest

from dlaseg.cli import main
from dlaseg.errors import UserError
from dlaseg.export import export as exports
from dlaseg.export.triton import model_file, write_config

TYPES = {"tensor(uint8)": "TYPE_UINT8", "tensor(float)": "TYPE_FP32", "u8": "TYPE_UINT8", "f32": "TYPE_FP32"}


def parse(text):
    """Reads protobuf's text format as far as the files use it: repeated messages are lists."""
    words = re.findall(r'"[^"]*"|[\w.-]+|[{}\[\]:,]', text)

    def message(end):
        content = {}
        while words and words[0] != end:
            key = words.pop(0)
            if words[0] == ":":
                words.pop(0)
            content[key] = value()
        if end:
            assert words.pop(0) == end
        return content

    def value():
        word = words.pop(0)
        if word == "{":
            return message("}")
        if word != "[":
            return word[1:-1] if word.startswith('"') else int(word) if re.fullmatch(r"-?\d+", word) else word
        values = []
        while words[0] != "]":
            values.append(value())
            if words[0] == ",":
                words.pop(0)
        words.pop(0)
        return values

    return message(None)


@pytest.fixture
def folder_with(exported, tmp_path):
    """The folder of a model around a file that was exported before."""

    def make(suffix, input, output):
        for part in (suffix, ".bin") if suffix == ".xml" else (suffix,):
            path = model_file(tmp_path / "street", part)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(exported(suffix, input, output).with_suffix(part).read_bytes())
        write_config(tmp_path / "street", suffix)
        return tmp_path / "street"

    return make


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        (".onnx", ("pixels", "labels")),
        (".xml", ("pixels", "labels")),
        *(pytest.param(suffix, ("normalized", "logits"), marks=pytest.mark.slow) for suffix in (".onnx", ".xml")),
    ],
)
def test_the_config_is_that_of_the_file(folder_with, suffix, kind):
    folder = folder_with(suffix, *kind)
    config = parse((folder / "config.pbtxt").read_text())
    if suffix == ".onnx":
        session = onnxruntime.InferenceSession(folder / "1/model.onnx", providers=["CPUExecutionProvider"])
        pairs = [(config["input"], session.get_inputs()), (config["output"], session.get_outputs())]
        tensors = [(given, t.name, TYPES[t.type], t.shape) for (given,), (t,) in pairs]
    else:
        model = openvino.Core().read_model(folder / "1/model.xml")
        pairs = [(config["input"], model.input()), (config["output"], model.output())]
        tensors = [
            (given, t.any_name, TYPES[t.element_type.get_type_name()], list(t.partial_shape)) for (given,), t in pairs
        ]
    assert config["backend"] == {".onnx": "onnxruntime", ".xml": "openvino"}[suffix]
    assert config["max_batch_size"] == 8  # so that dims are without the batch
    for given, name, dtype, shape in tensors:
        assert (given["name"], given["data_type"]) == (name, dtype)
        fixed = [size if isinstance(size, int) else -1 for size in (_fixed(size) for size in shape)]
        assert fixed[0] == -1
        assert given["dims"] == fixed[1:]
    labels = (folder / config["output"][0]["label_filename"]).read_text().splitlines()
    assert labels == [f"c{i}" for i in range(6)]


def _fixed(size):
    if isinstance(size, openvino.Dimension):
        return None if size.is_dynamic else size.get_length()
    return size


def test_the_command_writes_the_folder_or_nothing(network, exported, tmp_path, monkeypatch, capsys):
    source = exported(".onnx")
    monkeypatch.setattr(exports, "load_model", lambda _: network)
    monkeypatch.setattr(exports, "comparison_images", lambda *_: [np.zeros((40, 50, 3), np.uint8)])
    monkeypatch.setattr(exports, "trace_network", lambda *_: None)
    monkeypatch.setattr(exports, "write_network", lambda _, path, *__: path.write_bytes(source.read_bytes()))
    assert main(["export", "camvid", str(tmp_path / "models/street"), "--layout", "triton"]) == 0
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert files == [
        f"models/street/{name}" for name in ("1/model.onnx", "1/model.onnx.json", "config.pbtxt", "labels.txt")
    ]

    def fail(*_):
        raise UserError("it differs")

    monkeypatch.setattr(exports, "require_exact", fail)
    assert main(["export", "camvid", str(tmp_path / "others/street"), "--layout", "triton"]) == 2
    assert not (tmp_path / "others").exists()
    assert capsys.readouterr().err == "dlaseg export: it differs\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["m.onnx", "--layout", "triton"], "m.onnx: with --layout triton, name the folder of the model, such as m"),
        (["m.onnx", "--engine", "openvino"], "--engine openvino: only --layout triton needs it"),
    ],
)
def test_wrong_words_are_refused(words, message, capsys):
    assert main(["export", "w.safetensors", *words]) == 2
    assert message in capsys.readouterr().err
