import pytest

from dlaseg.benchmarking.candidates import Architecture, make_candidates
from dlaseg.benchmarking.networks import model_of
from dlaseg.errors import UserError
from dlaseg.files import sha256
from dlaseg.inference.backends.exported import exported_sha256


def names(models=("dla34",), against=(), backends=("torch",), precisions=("float32",)):
    rows = make_candidates(models, against, backends, precisions, "cpu", Architecture())
    return [row.name for row in rows]


def test_the_baseline_is_first_and_networks_are_combined_with_backends_and_precisions():
    against = ["smp:Unet:resnet18", "onnx:a/b.onnx", "plain", "torchvision:fcn_resnet50"]
    assert names(["dla34", "runs/a.safetensors"], against, precisions=("float32", "bfloat16")) == [
        "plain PyTorch dla34",
        "dla34 torch float32",
        "dla34 torch bfloat16",
        "a.safetensors torch float32",
        "a.safetensors torch bfloat16",
        "smp:Unet:resnet18 torch float32",
        "smp:Unet:resnet18 torch bfloat16",
        "onnx:a/b.onnx onnxruntime as in the file",
        "torchvision:fcn_resnet50 torch float32",
        "torchvision:fcn_resnet50 torch bfloat16",
    ]


def test_what_is_given_twice_is_measured_once():
    twice = names(["dla34", "dla34"], ["plain", "plain"], ["torch", "torch"], ["float32", "float32"])
    assert twice == ["plain PyTorch dla34", "dla34 torch float32"]


@pytest.mark.parametrize("text", ["fast", "smp", "smp:Unet", "smp:Unet:", "torchvision:", "onnx:", "timm:x", ":"])
def test_what_is_none_of_the_families_is_refused_with_their_names(text):
    with pytest.raises(UserError, match=f"--against {text}: use one of plain, smp:ARCH:ENCODER, torchvision:NAME"):
        names(against=[text])


def test_files_that_could_not_be_told_apart_are_refused():
    with pytest.raises(UserError, match=r"w\.safetensors torch float32: two files of this name"):
        names(["a/w.safetensors", "b/w.safetensors"])
    assert names(["best.safetensors", "runs/b/best.safetensors"]) == [
        "best.safetensors torch float32",
        "b/best.safetensors torch float32",
    ]


def test_nothing_is_refused():
    with pytest.raises(UserError, match="no network"):
        names([])


def test_precisions_that_a_backend_lacks_are_left_out():
    rows = names(backends=["torch", "openvino", "onnxruntime"], precisions=["float32", "bfloat16"])
    assert rows == [
        "dla34 torch float32",
        "dla34 torch bfloat16",
        "dla34 openvino float32",
        "dla34 openvino bfloat16",
        "dla34 onnxruntime float32",
    ]
    with pytest.raises(UserError, match="--precisions float16: the backend openvino has none of them: add float32"):
        names(backends=["openvino"], precisions=["float16"])


def test_exported_files_run_on_what_reads_them():
    files = ["a.safetensors", "a.xml", "b.ONNX"]
    rows = names(files, ["plain"], backends=["torch", "onnxruntime"], precisions=["float32", "bfloat16"])
    assert rows == [
        "plain PyTorch a.safetensors",
        "a.safetensors torch float32",
        "a.safetensors torch bfloat16",
        "a.safetensors onnxruntime float32",
        "a.xml auto float32",
        "a.xml auto bfloat16",
        "b.ONNX auto float32",
        "b.ONNX auto bfloat16",
    ]
    with pytest.raises(UserError, match=r"--against plain: a\.xml is not for PyTorch: give the weights file before it"):
        names(["a.xml", "a.safetensors"], ["plain"])


def test_the_hash_of_an_openvino_network_is_that_of_both_its_files(tmp_path):
    for name, content in (("a.xml", b"graph"), ("a.bin", b"weights"), ("b.xml", b"graph"), ("b.bin", b"others")):
        (tmp_path / name).write_bytes(content)
    hashes = {exported_sha256(tmp_path / name) for name in ("a.xml", "b.xml", "a.bin", "b.bin")}
    assert len(hashes) == 4
    assert exported_sha256(tmp_path / "a.bin") == sha256(tmp_path / "a.bin")


def test_a_decoder_may_follow_the_name_of_a_network():
    afa, plain = make_candidates(["dla46_c:afa", "dla46_c"], [], ["torch"], ["float32"], "cpu", Architecture(5, 8))
    assert (afa.name, afa.is_named) == ("dla46_c:afa torch float32", True)
    assert model_of(afa).metadata.architecture == {**model_of(plain).metadata.architecture, "decoder": "afa"}
    assert not make_candidates(["dla46_c:fpn"], [], ["torch"], ["float32"], "cpu", Architecture())[0].is_named
