"""Exported files compute what the network computes, say what they are, and are weights to everything that predicts."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from dlaseg_testing import TINY, write_camvid
from PIL import Image

from dlaseg import Predictor, create_model, evaluate, open_dataset
from dlaseg.cli import main
from dlaseg.data.tensors import normalize
from dlaseg.errors import UserError
from dlaseg.export import export as exports
from dlaseg.export.check import Comparison, batches_of
from dlaseg.export.export import comparison_images, export, writing
from dlaseg.export.formats import write_network, write_openvino
from dlaseg.export.network import trace_network
from dlaseg.files import sha256
from dlaseg.inference.backends.base import takes_tensors
from dlaseg.inference.backends.exported import encode_entries, graph_of_entries
from dlaseg.inference.backends.openvino import OpenVINOBackend
from dlaseg.inference.folders import LocalFolder
from dlaseg.inference.run import infer
from dlaseg.inference.settings import read_settings
from dlaseg.weights.builtin import builtin_files
from dlaseg.weights.files import save_model

KINDS = [(i, o) for i in ("pixels", "normalized") for o in ("labels", "logits", "coarse_logits")]
SIZES = [(1, 1, 1), (1, 33, 64), (3, 64, 32), (1, 63, 97)]


def images_of(*size):
    return np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), np.uint8)


def expected_of(network, images, output):
    """What PyTorch computes."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    with torch.inference_mode():
        normalized = normalize(pixels, network.metadata.mean, network.metadata.std)
        if output == "coarse_logits":
            return network.coarse_logits(normalized).numpy()
        logits = network(normalized)
        return logits.numpy() if output == "logits" else logits.argmax(1).to(torch.uint8).numpy()


def model_input(network, images, input):
    if input == "pixels":
        return images
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    return normalize(pixels, network.metadata.mean, network.metadata.std).numpy()


@pytest.mark.parametrize(
    ("suffix", "input", "output"),
    [
        (".onnx", *KINDS[0]),
        (".xml", *KINDS[0]),
        (".pt2", *KINDS[0]),
        *(pytest.param(".onnx", *kind, marks=pytest.mark.slow) for kind in KINDS[1:]),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((".xml", *KINDS[4]), (".pt2", *KINDS[4]))),
    ],
)
def test_a_file_gives_what_pytorch_gives_without_dlaseg(network, exported, suffix, input, output):
    path = exported(suffix, input, output)
    if suffix == ".onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        run = lambda images: session.run([output], {"image": images})[0]  # noqa: E731
    elif suffix == ".xml":
        compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        run = lambda images: compiled({"image": images})[output]  # noqa: E731
    else:
        program = torch.export.load(path).module()
        run = lambda images: program(torch.from_numpy(images)).detach().numpy()  # noqa: E731
    for size in SIZES:
        images = images_of(*size)
        result, expected = run(model_input(network, images, input)), expected_of(network, images, output)
        assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
        if output == "labels":
            assert (result == expected).mean() > 0.999
        else:
            np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize(
    ("input", "output"),
    [
        *(KINDS[0], KINDS[1], KINDS[4]),  # which other tests export, too
        *(pytest.param(*kind, marks=pytest.mark.slow) for kind in (KINDS[2], KINDS[3], KINDS[5])),
    ],
)
def test_a_file_is_weights_of_a_predictor(network, exported, backend, input, output):
    path = exported(".onnx", input, output)
    predictor = Predictor(path, backend)
    assert predictor.metadata == network.metadata
    image = images_of(50, 71)
    torch_predictor = Predictor(network, device="cpu")
    assert (predictor(image) == torch_predictor(image)).mean() > 0.999
    if output != "labels":
        np.testing.assert_allclose(predictor.probabilities(image), torch_predictor.probabilities(image), atol=1e-5)
        flipped = Predictor(path, backend, flip=True).probabilities(image)
        expected = Predictor(network, device="cpu", flip=True).probabilities(image)
        np.testing.assert_allclose(flipped, expected, atol=1e-5)


def test_scales_need_a_file_that_takes_normalized_images(network, exported):
    image, options = images_of(50, 71), {"scales": [0.8, 1.3], "flip": True}
    result = Predictor(exported(".onnx", "normalized", "logits"), **options).probabilities(image)
    np.testing.assert_allclose(result, Predictor(network, device="cpu", **options).probabilities(image), atol=1e-5)
    with pytest.raises(UserError, match=r"scales 0.8 1.3: this file normalises pixels itself.*--input normalized"):
        Predictor(exported(".onnx", "pixels", "logits"), **options)


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_file_says_where_tiles_of_a_large_image_may_begin(exported, suffix):
    assert Predictor(exported(suffix), device="cpu").backend.multiple == 64


def test_labels_alone_give_no_probabilities(exported, tmp_path):
    path = exported(".onnx")
    dataset = open_dataset("camvid", write_camvid(tmp_path), "val")
    with pytest.raises(UserError, match=r"^calibration needs logits, and this file gives labels alone"):
        evaluate(path, dataset, tmp_path / "out", device="cpu", measures=["calibration"])
    with pytest.raises(UserError, match="scales and flip average logits, and this file gives labels alone"):
        Predictor(path, flip=True)
    with pytest.raises(UserError, match="probabilities are computed from logits"):
        Predictor(path).probabilities(images_of(5, 6))
    with pytest.raises(UserError, match="confidence needs logits"):
        Predictor(path).predict_with_confidence(torch.zeros(1, 3, 5, 6, dtype=torch.uint8))


def test_labels_alone_give_no_probabilities_to_save(exported, tmp_path):
    Image.fromarray(images_of(40, 50)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="probabilities are computed from logits"):
        infer(exported(".onnx"), tmp_path / "a.png", tmp_path / "out", save=["probabilities"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_the_report_beside_a_file_says_what_goes_in_and_comes_out(exported, network, suffix):
    path = exported(suffix)
    report = json.loads(path.with_name(f"{path.name}.json").read_text())
    assert report["input"]["shape"] == ["batch", "height", "width", 3]
    assert report["output"] == {
        "name": "labels",
        "is": "labels",
        "dtype": "uint8",
        "shape": ["batch", "height", "width"],
    }
    assert report["classes"] == list(network.metadata.labels.names)
    engines = {".onnx": ["openvino", "onnxruntime"], ".xml": ["openvino"], ".pt2": ["torch"]}[suffix]
    assert [comparison["engine"] for comparison in report["comparisons"]] == engines
    for comparison in report["comparisons"]:
        assert comparison["equal_labels"] > 0.999
        assert 0 < comparison["max_difference"] < 1e-5 * comparison["largest_logit"]


def test_onnx_names_the_sizes_that_may_be_any_and_no_source_files(exported):
    (input,) = onnxruntime.InferenceSession(exported(".onnx"), providers=["CPUExecutionProvider"]).get_inputs()
    assert (input.name, input.shape, input.type) == ("image", ["batch", "height", "width", 3], "tensor(uint8)")
    assert b".py" not in exported(".onnx").read_bytes()


@pytest.mark.slow
def test_the_same_network_gives_the_same_bytes(network, exported, tmp_path):
    again = tmp_path / "again.onnx"
    entries = encode_entries(network, "pixels", "labels")
    write_network(trace_network(network, "pixels", "labels"), again, entries, "pixels", "labels")
    assert again.read_bytes() == exported(".onnx").read_bytes()


def test_the_origin_names_weights_that_come_with_the_package(network, tmp_path, monkeypatch):
    written = []
    for name in ("comparison_images", "trace_network", "batches_of", "require_exact", "describe"):
        monkeypatch.setattr(exports, name, lambda *_: None)
    monkeypatch.setattr(exports, "compare", lambda *_: ())
    monkeypatch.setattr(exports, "load_model", lambda _: network)
    monkeypatch.setattr(exports, "write_network", lambda _, __, entries, *___: written.append(entries))
    copy, other = tmp_path / "copy.safetensors", tmp_path / "other.safetensors"
    shutil.copy(builtin_files()["camvid"], copy)
    other.touch()
    for weights in ("camvid", copy, other, network):
        export(weights, tmp_path / "m.onnx")
    known, same, *unknown = (graph_of_entries(tmp_path, entries).metadata for entries in written)
    assert [(each.source, each.sha256) for each in known.origin] == [("camvid", sha256(copy))]
    assert same == known == replace(network.metadata, origin=known.origin)
    assert unknown == [network.metadata] * 2


@pytest.fixture
def copied(exported, monkeypatch):
    """Nothing is converted: the file that was exported before is written again."""
    source = exported(".onnx", "pixels", "logits")
    monkeypatch.setattr(exports, "comparison_images", lambda *_: [images_of(40, 50)])
    monkeypatch.setattr(exports, "trace_network", lambda *_: None)
    monkeypatch.setattr(exports, "write_network", lambda _, path, *__: shutil.copy(source, path))


def test_a_file_that_differs_is_not_left(network, tmp_path, monkeypatch, copied):
    (tmp_path / "m.onnx").write_bytes(b"older")
    run = OpenVINOBackend.run
    monkeypatch.setattr(OpenVINOBackend, "run", lambda *args: run(*args) + 0.1)
    with pytest.raises(UserError, match=r"m.onnx: not written, since it differs from PyTorch \(openvino: logits"):
        export(network, tmp_path / "m.onnx", output="logits")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"m.onnx": b"older"}


def test_a_file_whose_report_cannot_be_written_is_not_left(network, tmp_path, monkeypatch, copied):
    def fail(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(exports, "write_json", fail)
    with pytest.raises(UserError, match=r"m.onnx.json: cannot be written \(No space left on device\): make room"):
        export(network, tmp_path / "m.onnx", output="logits")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_an_error_of_the_system(tmp_path):
    for name in ("m.pt2", "m.xml", "m.bin"):
        (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        write_network(torch.export.export(torch.nn.Identity(), (torch.zeros(1),)), tmp_path / "m.pt2", {}, "", "")
    number = openvino.opset13.parameter([1])
    with pytest.raises(OSError, match="iostream"):
        write_openvino(openvino.Model([number], [number], "m"), tmp_path / "m.xml", {})


def test_not_finite_logits_differ(network, tmp_path, monkeypatch, copied):
    @takes_tensors
    def not_finite(self, images):
        return np.full((len(images), 6, *images.shape[2:]), np.nan, np.float32)

    monkeypatch.setattr(OpenVINOBackend, "run", not_finite)
    with pytest.raises(UserError, match="differs from PyTorch"):
        export(network, tmp_path / "m.onnx", output="logits")


def test_files_are_compared_on_several_sizes_and_batches():
    batches = batches_of([images_of(9, 14), images_of(7, 3)])
    assert [tuple(batch.shape) for batch in batches] == [
        (1, 3, 9, 14),
        (1, 3, 7, 3),
        (1, 3, 5, 4),
        (1, 3, 1, 1),
        (2, 3, 5, 7),
    ]
    assert tuple(batches_of([images_of(1, 1)])[-1].shape) == (2, 3, 1, 1)


def test_files_are_compared_on_the_user_s_images(tmp_path):
    for index in range(6):
        Image.fromarray(images_of(20, 30 + index)).save(tmp_path / f"{index}.png")
    Image.fromarray(images_of(1200, 2000)).save(tmp_path / "0.png")
    first, *others = comparison_images(tmp_path)
    assert first.shape[0] * first.shape[1] <= 1 << 20
    assert [image.shape for image in others] == [(20, 31, 3), (20, 32, 3), (20, 33, 3)]


@pytest.mark.parametrize(
    ("file", "options", "message"),
    [
        ("m.tflite", {}, "m.tflite: exported files end in .onnx, .xml"),
        ("folder.onnx", {}, "a folder has this name"),
        ("beside.onnx", {}, "beside.onnx.json is written beside it, and a folder has this name: use another name"),
        ("beside.xml", {}, "beside.bin is written beside it, and a folder has this name: use another name"),
        ("foreign.xml", {}, "would replace foreign.bin, which may be another program's"),
        ("m.onnx", {"input": "bgr"}, "input 'bgr': use one of pixels, normalized"),
        ("m.onnx", {"output": "mask"}, "output 'mask': use one of labels, logits, coarse_logits"),
        ("m.onnx", {"images": "nowhere"}, "nowhere"),
        ("file/m.onnx", {}, "file: cannot be a folder"),
    ],
)
def test_wrong_arguments_are_refused(network, tmp_path, monkeypatch, file, options, message):
    monkeypatch.setattr(exports, "trace_network", lambda *_: None)
    folders, files = ("folder.onnx", "beside.onnx.json", "beside.bin"), ("file", "foreign.bin")
    for name in folders:
        (tmp_path / name).mkdir()
    for name in files:
        (tmp_path / name).write_text("of others")
    with pytest.raises(UserError, match=message):
        export(network, tmp_path / file, **options)
    assert {path.name for path in tmp_path.iterdir()} == {*folders, *files}
    assert (tmp_path / "foreign.bin").read_text() == "of others"


@pytest.mark.slow  # as `make readme` does, with more options
def test_the_command_exports_what_infer_and_eval_take(tmp_path, capsys):
    torch.manual_seed(0)
    save_model(create_model("dla46_c", 5, stride=8), tmp_path / "w.safetensors")
    words = ["export", str(tmp_path / "w.safetensors"), str(tmp_path / "m.onnx"), "--output", "logits"]
    assert main(words) == 0
    output = capsys.readouterr().out
    assert "openvino: logits differ by at most" in output
    assert f"{tmp_path / 'm.onnx'}\n{tmp_path / 'm.onnx.json'}\n" in output
    (tmp_path / "in").mkdir()
    Image.fromarray(images_of(40, 50)).save(tmp_path / "in/a.png")
    infer(tmp_path / "w.safetensors", tmp_path / "in", tmp_path / "torch", backend="torch", device="cpu")
    infer(tmp_path / "m.onnx", tmp_path / "in", tmp_path / "onnx")
    one, other = ((tmp_path / folder / "ids/a.png").read_bytes() for folder in ("torch", "onnx"))
    assert one == other
    settings = read_settings(LocalFolder(tmp_path / "onnx"))
    assert (settings.backend, settings.precision) == ("openvino", "float32")
    report = json.loads((tmp_path / "m.onnx.json").read_text())
    assert settings.weights_sha256 == report["sha256"]


def test_weights_inspect_describes_a_file(exported, capsys):
    assert main(["weights", "inspect", str(exported(".xml"))]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["takes"] == "pixels: uint8 (?, ?, ?, 3)"
    assert lines["gives"] == "labels: uint8 (?, ?, ?), stride 1"
    assert lines["classes"] == "c0, c1, c2, c3, c4, c5"


def test_other_labels_are_not_exact_even_if_the_logits_are():
    comparison = Comparison("openvino", ((1, 8, 8),), max_difference=0.0, largest_logit=1.0, equal_labels=0.9989)
    assert not comparison.is_exact
    assert replace(comparison, equal_labels=0.999).is_exact


def test_an_image_of_less_than_a_megapixel_is_compared_as_a_whole(tmp_path):
    Image.new("RGB", (1000, 800)).save(tmp_path / "a.png")
    assert comparison_images(tmp_path)[0].shape == (800, 1000, 3)


def test_a_network_of_four_channels_is_compared_on_images_of_four(tiny_variant, tmp_path, monkeypatch):
    for name in ("trace_network", "write_network", "require_exact", "describe"):
        monkeypatch.setattr(exports, name, lambda *_: None)
    batches = []
    monkeypatch.setattr(exports, "compare", lambda *args: batches.extend(args[-1]) or ())
    export(create_model(TINY, 2, in_channels=4), tmp_path / "m.onnx")
    assert {batch.shape[1] for batch in batches} == {4}
    assert torch.equal(batches[0][:, 3], batches[0][:, 0])


def test_an_xml_gets_its_name_last(tmp_path, monkeypatch):
    move, moved = Path.replace, []
    monkeypatch.setattr(Path, "replace", lambda self, target: moved.append(self.name) or move(self, target))
    with writing(tmp_path / "m.xml") as temporary:
        for name in ("m.xml", "m.bin", "m.xml.json"):
            temporary.with_name(name).touch()
    assert moved[-1] == "m.xml"
