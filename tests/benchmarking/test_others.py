import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from dlaseg.benchmarking import others
from dlaseg.benchmarking.candidates import Architecture, make_candidates
from dlaseg.benchmarking.costs import count_macs, count_parameters
from dlaseg.benchmarking.networks import build, model_of
from dlaseg.benchmarking.timing import Stopwatch
from dlaseg.errors import UserError
from dlaseg.metadata import IMAGENET_MEAN, IMAGENET_STD

ARCHITECTURE = Architecture(num_classes=5, stride=8)
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 70, 3), np.uint8)


def other(text, backend="torch"):
    return make_candidates(["dla46_c"], [text], [backend], ["float32"], "cpu", ARCHITECTURE)[-1]


@pytest.mark.parametrize("text", ["smp:Linknet:resnet18", "torchvision:lraspp_mobilenet_v3_large"])
def test_networks_of_other_packages_segment_images_of_any_size(text, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *arguments: pytest.fail("nothing is downloaded"))
    watch = Stopwatch()
    labels = build(other(text)).predict(IMAGE, watch)
    assert (labels.shape, labels.dtype) == ((40, 70), np.uint8)
    assert labels.max() < 5
    assert list(watch.seconds) == ["prepare", "upsample", "network"]


def test_a_network_of_another_package_is_its_own_logits_and_nothing_else():
    model = model_of(other("smp:Linknet:resnet18")).eval()
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(model.coarse_logits(x), model.network(x))
        assert torch.equal(model(x), model.network(x))
        assert model.coarse_logits(x[..., :50, :70]).shape == (1, 5, 50, 70)


def test_multiply_adds_of_another_network_are_those_of_the_padded_image():
    model = others.OtherNetwork(torch.nn.Conv2d(3, 5, 1, bias=False), 5, multiple=16)
    assert count_parameters(model) == 15
    assert count_macs(model, 30, 16) == 15 * 32 * 16


def test_random_networks_are_the_same_every_time():
    candidate = make_candidates(["dla46_c"], [], ["torch"], ["float32"], "cpu", ARCHITECTURE)[0]
    first, second = (model_of(candidate) for _ in range(2))
    assert torch.equal(first.head.weight, second.head.weight)
    assert (first.stride, first.num_classes) == (8, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("smp:Unett:resnet18", "unknown architecture 'unett': did you mean unet\\? There are unet, unetplusplus, "),
        ("smp:Unet:resnet19", "unknown encoder 'resnet19': did you mean resnet1"),
        ("smp:Unet:tu-nothing", "segmentation_models_pytorch does not build it"),
        ("torchvision:fcn", "unknown network 'fcn': did you mean fcn_resnet50"),
        ("onnx:none.onnx", "no such file: give an ONNX file"),
    ],
)
def test_unknown_names_are_refused_with_those_there_are(text, message):
    with pytest.raises(UserError, match=f"^--against {text}: {message}"):
        build(other(text))


@pytest.mark.parametrize(
    ("text", "package", "install"),
    [
        ("smp:Unet:resnet18", "segmentation_models_pytorch", "pip install 'dlaseg\\[benchmark\\]'"),
        ("onnx:a.onnx", "onnxruntime", "pip install 'dlaseg\\[onnxruntime\\]'"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(text, package, install, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"^{package} is not installed: {install}"):
        build(other(text))


def write_onnx(
    path,
    kind=TensorProto.FLOAT,
    shape=(1, 3, "h", "w"),
    operator="Identity",
    output=TensorProto.FLOAT,
    inputs=("image",),
    **attributes,
):
    """A file whose output is an operator of its first input."""
    nodes = [helper.make_node(operator, ["image"], ["out"], **attributes)]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, kind, shape) for name in inputs],
        [helper.make_tensor_value_info("out", output, None)],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return other(f"onnx:{path}")


def test_an_onnx_file_gets_normalised_floats_and_its_logits_become_labels(tmp_path):
    watch = Stopwatch()
    labels = build(write_onnx(tmp_path / "a.onnx")).predict(IMAGE, watch)
    expected = ((IMAGE / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)).argmax(2)
    np.testing.assert_array_equal(labels, expected)
    assert list(watch.seconds) == ["prepare", "network", "upsample"]


@pytest.mark.parametrize(("shape", "axis"), [((1, 3, "h", "w"), 1), ((1, "h", "w", 3), 3)])
def test_an_onnx_file_may_take_pixel_values_and_give_labels(tmp_path, shape, axis):
    candidate = write_onnx(tmp_path / "a.onnx", TensorProto.UINT8, shape, "ArgMax", TensorProto.INT64, axis=axis)
    np.testing.assert_array_equal(build(candidate).predict(IMAGE, Stopwatch()), IMAGE.argmax(2))


def test_logits_of_an_onnx_file_are_upsampled(tmp_path):
    file = build(write_onnx(tmp_path / "a.onnx")).file
    logits = np.zeros((1, 4, 10, 20), np.float32)
    logits[:, 2, :, :10] = 1
    assert file.labels(logits, 40, 80)[:, [0, 79]].tolist() == [[2, 0]] * 40
    with pytest.raises(UserError, match=r"its first output has shape \(1, 10, 20\), int64"):
        file.labels(np.zeros((1, 10, 20), np.int64), 40, 80)
    assert file._session.get_session_options().intra_op_num_threads == torch.get_num_threads()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (1, 3, 64, 96)}, "takes images of 64 x 96 pixels: use --size 64 96"),
        ({"shape": (1, 64, 96, 3)}, "takes images of 64 x 96 pixels: use --size 64 96"),
        ({"inputs": ("image", "mask")}, r"its inputs are image .*, mask tensor\(float\)"),
        ({"shape": (1, 4, "h", "w")}, "its inputs are image tensor\\(float\\) \\[1, 4, 'h', 'w'\\]: use a file with"),
        ({"kind": TensorProto.DOUBLE, "output": TensorProto.DOUBLE}, "its inputs are image tensor\\(double\\)"),
        ({"operator": "Shape", "output": TensorProto.INT64}, "its first output has shape \\(4,\\), int64"),
    ],
)
def test_other_onnx_files_are_refused(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        build(write_onnx(tmp_path / "a.onnx", **arguments)).predict(IMAGE, Stopwatch())


def test_a_broken_onnx_file_is_refused(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"nothing")
    with pytest.raises(UserError, match="onnxruntime cannot load it"):
        others.OnnxFile(str(tmp_path / "a.onnx"))
