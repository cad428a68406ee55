import copy
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from dlaseg_testing import TINY
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dlaseg import LabelMap, UserError, create_backbone, create_model, load_model, save_model, save_pretrained
from dlaseg.factory import model_from_checkpoint
from dlaseg.models.segmenter import DLASeg
from dlaseg.training.checkpoint import save_checkpoint
from dlaseg.weights.loading import load_backbone_weights, load_weights

pytestmark = pytest.mark.usefixtures("tiny_variant")

LABELS = LabelMap(
    ("road", "sky", "car"), ((1, 2, 3), (4, 5, 6), (7, 8, 9)), ((7, 8), (23,), (26,)), (0, 255), ((0, 0, 0),)
)


@pytest.fixture(scope="module")
def model(tiny_variant):
    torch.manual_seed(0)
    model = create_model(TINY, num_classes=3, stride=8, root_kernel_size=1)
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.normal_()
            norm.num_batches_tracked.fill_(17)
    model.metadata = replace(model.metadata, label_map=LABELS, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    return model


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "saved.safetensors"
    save_model(model, path)
    return path


def metadata_of(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


def rewritten(saved, path, tensors=None, **metadata):
    """A copy with other tensors or metadata; None leaves an entry out."""
    entries = {**metadata_of(saved), **metadata}
    save_file(tensors or load_file(saved), path, {key: value for key, value in entries.items() if value is not None})
    return path


def test_weights_of_one_class_are_refused(saved, tmp_path):
    labels = {"classes": [{"name": "leaf", "id": [1], "color": [1, 2, 3]}], "ignore": [255]}
    path = rewritten(saved, tmp_path / "one.safetensors", labels=json.dumps(labels))
    assert refusal(path) == (
        f"{path}: one class, 'leaf': every pixel would get it: use two classes, such as background and leaf"
    )
    architecture = {**json.loads(metadata_of(saved)["model"]), "num_classes": 1}
    path = rewritten(saved, path, model=json.dumps(architecture))
    assert refusal(path).startswith(f"{path}: num_classes 1: every pixel would get the same class: use two classes")


def refusal(path):
    """The one line that says why a file is not read."""
    with pytest.raises(UserError) as error:
        load_model(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_was_saved_is_loaded(model, saved):
    loaded = load_model(saved)
    assert loaded.metadata.architecture == model.metadata.architecture
    assert loaded.metadata.label_map == LABELS
    assert (loaded.metadata.mean, loaded.metadata.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (loaded.stride, loaded.num_classes) == (8, 3)
    expected = model.state_dict()
    assert list(loaded.state_dict()) == list(expected)
    assert all(torch.equal(tensor, expected[key]) for key, tensor in loaded.state_dict().items())


def test_a_loaded_model_is_in_eval_mode(saved):
    assert not any(module.training for module in load_model(saved).modules())


def test_a_path_may_be_a_string(model, tmp_path):
    save_model(model, f"{tmp_path}/a.safetensors")
    assert load_model(f"{tmp_path}/a.safetensors").metadata.label_map == LABELS


def test_a_loaded_model_is_saved_as_it_was(saved, tmp_path):
    save_model(load_model(saved), tmp_path / "again.safetensors")
    assert_same_content(tmp_path / "again.safetensors", saved)


def test_channels_last_does_not_change_the_file(saved, tmp_path):
    save_model(load_model(saved).to(memory_format=torch.channels_last), tmp_path / "again.safetensors")
    assert_same_content(tmp_path / "again.safetensors", saved)


def assert_same_content(path, other):
    assert metadata_of(path) == metadata_of(other)
    tensors, others = load_file(path), load_file(other)
    assert list(tensors) == list(others)
    assert all(torch.equal(tensor, others[key]) for key, tensor in tensors.items())


def test_the_metadata_alone_say_what_the_file_is(model, saved):
    metadata = metadata_of(saved)
    assert metadata["format"] == "dlaseg-1"
    assert json.loads(metadata["model"]) == model.metadata.architecture
    assert LabelMap.from_dict(json.loads(metadata["labels"])) == LABELS
    assert json.loads(metadata["mean"]) == [0.1, 0.2, 0.3]
    assert json.loads(metadata["std"]) == [0.4, 0.5, 0.6]


def test_another_suffix_is_refused_before_anything_is_written(model, tmp_path):
    with pytest.raises(UserError, match=r"best\.pth: .*name it best\.safetensors"):
        save_model(model, tmp_path / "best.pth")
    assert list(tmp_path.iterdir()) == []


def test_weights_have_the_permissions_of_other_files(saved, tmp_path):
    (tmp_path / "other").touch()
    assert saved.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_folder_in_the_files_place_is_refused(model, tmp_path):
    (tmp_path / "a.safetensors").mkdir()
    with pytest.raises(UserError, match=r"a\.safetensors: a folder has this name"):
        save_model(model, tmp_path / "a.safetensors")


def test_a_file_in_the_folders_place_is_refused(model, tmp_path):
    (tmp_path / "file").write_text("mine")
    for save in (
        lambda: save_model(model, tmp_path / "file/a.safetensors"),
        lambda: save_pretrained(model, tmp_path / "file"),
    ):
        with pytest.raises(
            UserError, match=r"\.safetensors: cannot be written \(File exists\): name a file in a folder that is"
        ):
            save()
    assert (tmp_path / "file").read_text() == "mine"


def test_an_unknown_device_is_refused_by_its_name(saved):
    with pytest.raises(UserError, match="device 'nonsense': not on this machine"):
        load_model(saved, "nonsense")


def test_a_model_without_arguments_is_refused_before_anything_is_written(tmp_path):
    # Nobody could load it
    by_hand = DLASeg(create_backbone(TINY), num_classes=2)
    with pytest.raises(UserError):
        save_model(by_hand, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_weights_are_synced_before_they_replace_others(model, tmp_path, monkeypatch):
    path, synced = tmp_path / "best.safetensors", []
    path.write_bytes(b"old")

    def sync(descriptor):
        assert path.read_bytes() == b"old"
        synced.append(Path(f"/proc/self/fd/{descriptor}").read_bytes())

    monkeypatch.setattr(os, "fsync", sync)
    save_model(model, path)
    assert synced == [path.read_bytes()]


def test_a_failing_save_leaves_the_old_file_and_nothing_else(model, tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"old")

    def half_a_file(where, content):
        with where.open("wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half_a_file)
    with pytest.raises(UserError, match=r"a\.safetensors: cannot be written \(No space left on device\): name a file"):
        save_model(model, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("name", "what"), [("missing.safetensors", "no such file"), ("", "a folder without weights")])
def test_a_missing_file_and_a_folder_are_refused(tmp_path, name, what):
    assert f": {what}; weights are a .safetensors file" in refusal(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello\n",
        b"<!DOCTYPE html>\n<html>\n<body>\nNot found\n</body>\n</html>\n",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        b"PK\x03\x04" + bytes(200),
        bytes(200),
        b"\x02" + bytes(7) + b"{}",
    ],
)
def test_what_is_no_weights_file_is_refused(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert str(path) in refusal(path)


@pytest.mark.parametrize("share", [0, 1e-6, 2e-6, 0.001, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(saved, tmp_path, share):
    content = saved.read_bytes()
    path = tmp_path / "a.safetensors"
    path.write_bytes(content[: int(share * len(content))])
    assert str(path) in refusal(path)


def test_a_file_without_its_last_byte_is_refused(saved, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(saved.read_bytes()[:-1])
    assert str(path) in refusal(path)


def test_a_file_without_metadata_is_refused(saved, tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(load_file(saved), path)
    assert "weights format None" in refusal(path)


def test_a_checkpoint_of_training_is_no_weights_file(model, tmp_path):
    path = tmp_path / "last.ckpt"
    save_checkpoint(tmp_path, {"model": model.state_dict(), "epoch": 3})
    message = f"{path}: a checkpoint for --resume, not a weights file: use {tmp_path / 'best.safetensors'}"
    assert refusal(path) == message
    for argument in ("weights", "backbone_weights"):
        with pytest.raises(UserError) as error:
            create_model(TINY, num_classes=3, stride=8, root_kernel_size=1, **{argument: path})
        assert str(error.value) == message


def test_another_format_version_is_refused_by_its_name(saved, tmp_path):
    path = rewritten(saved, tmp_path / "a.safetensors", format="dlaseg-2")
    assert "'dlaseg-2'" in refusal(path)
    assert refusal(path).endswith("this release reads 'dlaseg-1' files: update dlaseg")
    with pytest.raises(UserError, match=r"'dlaseg-2', this release reads 'dlaseg-1' files: update dlaseg$"):
        model_from_checkpoint(path)


@pytest.mark.parametrize("key", ["model", "labels", "mean", "std"])
@pytest.mark.parametrize("value", [None, "", "{", "3", "null"])
def test_missing_or_broken_metadata_are_refused(saved, tmp_path, key, value):
    refusal(rewritten(saved, tmp_path / "a.safetensors", **{key: value}))


@pytest.mark.parametrize("value", ["[]", "[0.5]", '["a", "b", "c"]'])
def test_a_mean_that_is_not_one_number_per_channel_is_refused(saved, tmp_path, value):
    refusal(rewritten(saved, tmp_path / "a.safetensors", mean=value))


@pytest.mark.parametrize(
    ("key", "value"), [("name", "dla35"), ("stride", 3), ("num_classes", "3"), ("num_classes", 0), ("depth", 4)]
)
def test_arguments_that_make_no_model_are_refused(model, saved, tmp_path, key, value):
    arguments = json.dumps({**model.metadata.architecture, key: value})
    refusal(rewritten(saved, tmp_path / "a.safetensors", model=arguments))


@pytest.mark.parametrize("metadata", [{"labels": "null"}, {"model": '{"name": "dla35", "num_classes": 3}'}])
def test_a_refusal_of_metadata_names_the_file(saved, tmp_path, metadata):
    path = rewritten(saved, tmp_path / "a.safetensors", **metadata)
    assert str(path) in refusal(path)


def test_an_unknown_model_is_named(model, saved, tmp_path):
    arguments = json.dumps({**model.metadata.architecture, "name": "dla35"})
    assert "'dla35'" in refusal(rewritten(saved, tmp_path / "a.safetensors", model=arguments))


def test_a_label_map_of_another_number_of_classes_is_refused(saved, tmp_path):
    labels = json.dumps(LabelMap.numbered(2).to_dict())
    refusal(rewritten(saved, tmp_path / "a.safetensors", labels=labels))


def test_a_missing_tensor_is_refused_by_its_name(saved, tmp_path):
    tensors = load_file(saved)
    del tensors["head.bias"]
    assert "first 'head.bias'" in refusal(rewritten(saved, tmp_path / "a.safetensors", tensors))


def test_a_tensor_too_many_is_refused_by_its_name(saved, tmp_path):
    tensors = {**load_file(saved), "extra.weight": torch.zeros(2)}
    assert "first 'extra.weight'" in refusal(rewritten(saved, tmp_path / "a.safetensors", tensors))


def test_a_tensor_of_another_shape_is_refused_by_its_name(saved, tmp_path):
    tensors = {**load_file(saved), "head.bias": torch.zeros(4)}
    assert f"1 tensors do not fit {TINY}, first 'head.bias'" in refusal(
        rewritten(saved, tmp_path / "a.safetensors", tensors)
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("head.bias", float("nan"), "holds values that are not finite: use another file"),
        ("head.weight", float("inf"), "holds values that are not finite: use another file"),
        ("backbone.level2.root.bn.running_var", float("nan"), "holds values that are not finite: use another file"),
        ("backbone.level2.root.bn.running_var", -1e-3, "holds negative variances: use another file"),
    ],
)
def test_numbers_that_no_network_can_compute_with_are_refused_by_the_name_of_their_tensor(
    model, tmp_path, name, value, message
):
    path = tmp_path / "a.safetensors"
    broken = copy.deepcopy(model)
    broken.state_dict()[name].view(-1)[0] = value
    save_model(broken, path)  # a network that diverged in training is saved and scored, too
    assert refusal(path) == f"{path}: {name} {message}"
    with pytest.raises(UserError, match=f"{name} {message}"):
        model_from_checkpoint(path)


def test_numbers_that_are_infinite_in_float32_alone_are_refused(saved, tmp_path):
    tensors = load_file(saved)
    tensors["head.bias"] = torch.full((3,), 1e300, dtype=torch.float64)
    assert "head.bias holds values that are not finite" in refusal(
        rewritten(saved, tmp_path / "a.safetensors", tensors)
    )
    torch.save(tensors, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a\.pth: head\.bias holds values that are not finite"):
        model_from_checkpoint(tmp_path / "a.pth")


# Networks that a file of ours cannot describe


def unsaved(model, tmp_path):
    """The one line that says why a network is not saved; nothing is written."""
    with pytest.raises(UserError) as error:
        save_model(model, tmp_path / "a.safetensors")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
    return str(error.value)


def test_a_head_for_other_classes_is_refused_with_the_arguments_that_make_one(model, tmp_path):
    changed = copy.deepcopy(model)
    changed.head = torch.nn.Conv2d(model.head.in_channels, 5, 1)
    assert unsaved(changed, tmp_path) == (
        f"{tmp_path / 'a.safetensors'}: head.weight of shape (5, 16, 1, 1), where a {TINY} of 3 classes has shape "
        "(3, 16, 1, 1): make it with create_model(..., num_classes=5)"
    )
    classifier = create_backbone(TINY, num_classes=3)
    classifier.fc = torch.nn.Conv2d(classifier.fc.in_channels, 7, 1)
    assert unsaved(classifier, tmp_path).endswith(": make it with create_backbone(..., num_classes=7)")


def test_a_network_with_other_layers_is_refused_by_its_first_tensor(model, tmp_path):
    changed = copy.deepcopy(model)
    changed.extra = torch.nn.Linear(2, 2)
    assert f"extra.weight of shape (2, 2), where a {TINY} of 3 classes has none: keep" in unsaved(changed, tmp_path)
    changed = copy.deepcopy(model)
    changed.head = torch.nn.Conv2d(model.head.in_channels, 3, 1, bias=False)
    assert f"no head.bias, where a {TINY} of 3 classes has shape (3,): keep" in unsaved(changed, tmp_path)


@pytest.mark.parametrize(
    "architecture",
    [{}, {"decoder": "afa", "head": "ocr", "scales": [0.5, 1]}, {"activation": "leaky_relu", "in_channels": 4}],
)
def test_saving_draws_no_random_numbers(tiny_variant, tmp_path, architecture):
    model = create_model(TINY, 3, stride=8, **architecture)
    before = torch.get_rng_state()
    save_model(model, tmp_path / "a.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    assert load_model(tmp_path / "a.safetensors").metadata == model.metadata


def test_wrappers_and_what_is_no_network_are_refused_with_the_network_inside(model, tmp_path):
    for wrapper in (torch.nn.DataParallel(model), torch.optim.swa_utils.AveragedModel(model)):
        message = f"{type(wrapper).__name__}: wraps the network, which is needed itself: give model.module"
        assert unsaved(wrapper, tmp_path) == message
        for load in (load_weights, load_backbone_weights):
            with pytest.raises(UserError, match=message):
                load(wrapper, tmp_path / "w.safetensors")
        with pytest.raises(UserError, match=message):
            save_pretrained(wrapper, tmp_path / "folder")
    own = torch.nn.Linear(2, 2)
    own.metadata = model.metadata
    for load, other, kind in (
        (load_weights, model.backbone, "DLA: not a DLASeg"),
        (load_weights, own, "Linear: not a DLASeg"),
        (load_backbone_weights, own, "Linear: not a DLA"),
    ):
        with pytest.raises(UserError, match=f"{kind}, which these weights are for: "):
            load(other, tmp_path / "w.safetensors")
    for other in (None, model.state_dict(), torch.nn.Linear(2, 2)):
        assert f"{type(other).__name__}: not a network of dlaseg: give" in unsaved(other, tmp_path)
    for source in (None, model.state_dict(), model):
        with pytest.raises(UserError, match=f"weights of type {type(source).__name__}: weights are given by a file"):
            load_model(source)


def test_a_compiled_network_is_saved_like_any_other(model, saved, tmp_path):
    compiled = copy.deepcopy(model)
    compiled.decoder = torch.compile(compiled.decoder)
    for number, each in enumerate((compiled, torch.compile(compiled))):
        save_model(each, tmp_path / f"{number}.safetensors")
        assert (tmp_path / f"{number}.safetensors").read_bytes() == saved.read_bytes()


@pytest.fixture
def ours(tmp_path):
    model = create_model(TINY, 3, 4, 3)
    model.metadata = replace(model.metadata, mean=(0.1, 0.2, 0.3))
    save_model(model, tmp_path / "ours.safetensors")
    return model, tmp_path / "ours.safetensors"


def test_a_variance_of_zero_is_a_number_like_any_other(ours, tmp_path):
    model, _ = ours
    model.state_dict()["backbone.level2.root.bn.running_var"].zero_()
    save_model(model, tmp_path / "a.safetensors")
    assert not load_model(tmp_path / "a.safetensors").state_dict()["backbone.level2.root.bn.running_var"].any()
