"""Exported files from strangers: each is read, or refused by a `UserError` of one line; nothing else is opened."""

import json
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from dlaseg import Predictor, create_model
from dlaseg.errors import UserError
from dlaseg.inference.backends.choice import _check_result
from dlaseg.inference.backends.exported import EXPORT, WEIGHTS, exported_sha256, read_graph, report_path
from dlaseg.inference.backends.graph import Graph


def refused(path, backend=None):
    """The message by which a file is refused."""
    with pytest.raises(UserError) as caught:
        Predictor(path, backend)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.fixture
def changed(exported, tmp_path):
    """Writes an exported ONNX file after a change of its content."""

    def change(edit, *kind):
        model = onnx.load(exported(".onnx", *kind))
        edit(model)
        path = tmp_path / "changed.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return change


def set_entry(model, key, value):
    (entry,) = (entry for entry in model.metadata_props if entry.key == key)
    entry.value = value


def edit_export(**changes):
    def edit(model):
        (entry,) = (entry for entry in model.metadata_props if entry.key == EXPORT)
        entry.value = json.dumps({**json.loads(entry.value), **changes})

    return edit


def test_a_foreign_file_is_refused(tmp_path):
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 4, 4])
    labels = helper.make_tensor_value_info("labels", TensorProto.FLOAT, [1, 3, 4, 4])
    graph = helper.make_graph([helper.make_node("Relu", ["image"], ["labels"])], "g", [image], [labels])
    path = tmp_path / "foreign.onnx"
    onnx.save(helper.make_model(graph), path)
    assert "has no metadata of dlaseg" in refused(path)
    import openvino

    openvino.save_model(openvino.Core().read_model(path), tmp_path / "foreign.xml")
    assert "has no metadata of dlaseg" in refused(tmp_path / "foreign.xml")


def test_weights_in_another_file_are_not_read(changed, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(1 << 12))

    def edit(model):
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="secret")

    assert "lies in another file, which is not read" in refused(changed(edit))


def test_operators_of_others_are_refused(changed):
    def edit(model):
        model.graph.node[0].domain = "com.example"

    assert "operators of 'com.example'" in refused(changed(edit))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (edit_export(input="bgr"), "are damaged"),
        (edit_export(output="logits"), "takes .*, its metadata say"),
        (edit_export(input="normalized"), "takes .*, its metadata say"),
        (edit_export(stride=2), "are damaged"),
        (edit_export(stride=True), "are damaged"),
        (edit_export(multiple=0), "are damaged"),
        (edit_export(multiple=1 << 40), "are damaged"),
        (lambda model: set_entry(model, EXPORT, "[]"), "are damaged"),
        (lambda model: set_entry(model, EXPORT, "{"), "are damaged"),
        (lambda model: set_entry(model, "format", "dlaseg-9"), "weights format 'dlaseg-9'"),
        (lambda model: set_entry(model, "mean", "[0.5]"), "mean|std"),
        (lambda model: set_entry(model, "model", '{"a": ["b"]}'), "in 'model' is no text, number or list of"),
        (lambda model: set_entry(model, "labels", "{}"), "changed.onnx"),
        (lambda model: model.graph.input[0].type.tensor_type.ClearField("shape"), "takes uint8 "),
        (lambda model: setattr(model.graph.input[0], "name", "x"), "not one input 'image'"),
    ],
)
def test_metadata_that_do_not_fit_are_refused(changed, edit, message):
    path = changed(edit)
    with pytest.raises(UserError, match=message) as caught:
        Predictor(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_file_that_gives_something_else_is_refused(changed, backend):
    def edit(model):  # labels of classes that do not exist
        set_entry(model, "labels", json.dumps({"classes": [{"name": "a", "id": 0}, {"name": "b", "id": 1}]}))

    def small(model):  # logits of fewer pixels than the stride says
        edit_export(output="coarse_logits", stride=2)(model)
        model.graph.output[0].name = "coarse_logits"
        for size, name in zip(model.graph.output[0].type.tensor_type.shape.dim[2:], "hw", strict=True):
            size.dim_param = name
        pool = {"kernel_shape": [4, 4], "strides": [4, 4], "ceil_mode": 1}
        model.graph.node.append(helper.make_node("MaxPool", ["logits"], ["coarse_logits"], **pool))

    path = changed(small, "pixels", "logits")
    assert "which its metadata do not say" in refused(path, backend)
    path = changed(edit)
    try:
        predictor = Predictor(path, backend)  # a black image has class 0 or 1
    except UserError:
        return
    assert predictor.metadata.num_classes == 2


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_network_that_cannot_be_run_is_refused(changed, backend):
    def edit(model):
        for node in model.graph.node:
            if node.op_type == "Conv":
                node.input[1] = "nowhere"

    assert f"{backend} cannot run it" in refused(changed(edit), backend)


def test_an_ir_without_its_weights_is_refused(exported, tmp_path):
    source = exported(".xml")
    path = tmp_path / "m.xml"
    path.write_bytes(source.read_bytes())
    assert "no m.bin beside it, which holds its weights" in refused(path)
    path.with_suffix(".bin").write_bytes(source.with_suffix(".bin").read_bytes()[:100])
    assert "damaged, or no OpenVINO IR" in refused(path)


def copy_exported(source, folder):
    """A copy of an exported file without its report."""
    for file in {source, source.with_suffix(".bin")} if source.suffix == ".xml" else {source}:
        shutil.copy(file, folder / f"m{file.suffix}")
    return folder / f"m{source.suffix}"


def damage(path):
    """Zeroes bytes in the middle of a file, which are weights."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(40)
    path.write_bytes(content)


def test_the_weights_of_another_export_are_refused(exported, tmp_path):
    path = copy_exported(exported(".xml"), tmp_path)
    read_graph(path)
    numbers = np.fromfile(path.with_suffix(".bin"), np.float32)
    numbers[np.abs(numbers) > 1e-6] *= 1.5  # the others are whole numbers in truth
    numbers.tofile(path.with_suffix(".bin"))
    assert "the weights in m.bin are not those that were exported: copy it with all its files" in refused(path)


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_damaged_weights_are_refused(exported, tmp_path, suffix):
    path = copy_exported(exported(suffix), tmp_path)
    read_graph(path)
    damage(path.with_suffix(".bin") if suffix == ".xml" else path)
    assert "are not those that were exported" in refused(path)


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_file_without_the_hash_of_its_weights_is_refused(exported, tmp_path, suffix):
    path = copy_exported(exported(suffix), tmp_path)
    if suffix == ".xml":
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if f"<{WEIGHTS} " not in line))
    else:
        model = onnx.load(path)
        entries = [entry for entry in model.metadata_props if entry.key != WEIGHTS]
        del model.metadata_props[:]
        model.metadata_props.extend(entries)
        path.write_bytes(model.SerializeToString())
    assert "are not those that were exported" in refused(path)


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_file_is_compared_with_its_report(exported, tmp_path, suffix):
    path = copy_exported(exported(suffix), tmp_path)
    report_path(path).write_text(json.dumps({"sha256": exported_sha256(path)}))
    read_graph(path)
    report_path(path).write_text(json.dumps({"sha256": "0" * 64}))
    message = f"not the file that m{suffix}.json beside it was written for: copy or export both again"
    assert message in refused(path)
    for content in ("{}", "[]", "no JSON"):
        report_path(path).write_text(content)  # of another program
        read_graph(path)


def test_a_program_is_not_read(exported):
    assert "torch.export.load can run code" in refused(exported(".pt2"))


@pytest.mark.parametrize("name", ["m.onnx", "m.xml"])
def test_files_that_are_missing_empty_or_text_are_refused(tmp_path, name):
    path = tmp_path / name
    assert "no such file" in refused(path)
    (tmp_path / "m.bin").touch()
    for content in (b"", b"<html>", b"\x00" * 100, b"version https://git-lfs.github.com/spec/v1\n"):
        path.write_bytes(content)
        refused(path)


@pytest.mark.parametrize("cases", [150, pytest.param(3000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_damaged_files_are_read_or_refused(exported, tmp_path, suffix, cases):
    source, rng = exported(suffix), random.Random(0)
    content, path = source.read_bytes(), tmp_path / f"m{suffix}"
    if suffix == ".xml":
        path.with_suffix(".bin").write_bytes(source.with_suffix(".bin").read_bytes())
    refusals = 0
    for _ in range(cases):
        damaged = bytearray(content)
        for _ in range(rng.choice((1, 1, 4, 30))):
            damaged[rng.randrange(len(damaged))] = rng.choice((0, 255, 45, 57, rng.randrange(256)))
        if rng.random() < 0.2:
            damaged = damaged[: rng.randrange(len(damaged))]
        path.write_bytes(damaged)
        message = ""
        try:
            read_graph(path)
        except UserError as error:
            message = str(error)
        refusals += bool(message)
        assert "\n" not in message
    assert refusals > 0


def test_labels_of_classes_that_do_not_exist_are_refused():
    def check(label):
        backend = SimpleNamespace(run=lambda images: np.full((1, *images.shape[2:]), label, np.uint8))
        _check_result(backend, Graph(Path("m.onnx"), create_model("dla46_c", 2).metadata, 1, output="labels"))

    check(1)
    with pytest.raises(UserError, match=r"m\.onnx: gives uint8 \(1, 37, 70\) for an image of 37 x 70, which"):
        check(2)
