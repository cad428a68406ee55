"""Files that people take for weights: read if they are, refused with what they are if not."""

import argparse
import collections
import hashlib
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from dlaseg import UserError
from dlaseg.weights.checkpoints import read_checkpoint

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2, dtype=torch.float16)}


def prefixed(prefix):
    return {f"{prefix}{name}": tensor for name, tensor in STATE.items()}


class RunsCode:
    """What a pickle can do to whoever unpickles it."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("content", "wrapping", "beside"),
    [
        (STATE, (), {}),
        (collections.OrderedDict(STATE), (), {}),
        ({name: torch.nn.Parameter(tensor) for name, tensor in STATE.items()}, (), {}),
        ({"state_dict": prefixed("module."), "epoch": 3}, ("state_dict", "module."), {"epoch": 3}),
        ({"model": STATE, "best": None, "optimizer": {}}, ("model",), {"best": None, "optimizer": "dict of 0"}),
        ({"model": {"state_dict": STATE, "x": [1]}}, ("model", "state_dict"), {"x": "list of 1"}),
        ({"state_dict": STATE, "state_dict_ema": STATE}, ("state_dict",), {"state_dict_ema": "dict of 2"}),
        ({"state_dict_ema": STATE, "epoch": 3}, ("state_dict_ema",), {"epoch": 3}),
        ({"epoch": 3, "model_state_dict": STATE}, ("model_state_dict",), {"epoch": 3}),
        ({"net": STATE, "acc": 0.5}, ("net",), {"acc": 0.5}),
        (prefixed("module._orig_mod.model.backbone."), ("module.", "_orig_mod.", "model.", "backbone."), {}),
        ({"n_averaged": torch.tensor(3), **prefixed("module.")}, ("module.",), {"n_averaged": "a tensor of shape ()"}),
        ({"state_dict": STATE, "acc": torch.tensor(0.5)}, ("state_dict",), {"acc": "a tensor of shape ()"}),
    ],
)
def test_a_pickle_is_unwrapped(content, wrapping, beside, zipped, tmp_path):
    torch.save(content, tmp_path / "x", _use_new_zipfile_serialization=zipped)
    read = read_checkpoint(tmp_path / "x")
    assert (read.container, read.wrapping, read.beside) == ("pickle", wrapping, beside)
    assert read.tensors.keys() == STATE.keys()
    for name, tensor in read.tensors.items():
        assert torch.equal(tensor, STATE[name])
        assert not tensor.requires_grad


def test_safetensors_are_known_by_their_content(tmp_path):
    save_file(prefixed("module."), tmp_path / "x.pth", {"format": "pt"})
    read = read_checkpoint(tmp_path / "x.pth")
    assert (read.container, read.wrapping, read.metadata) == ("safetensors", ("module.",), {"format": "pt"})
    assert all(torch.equal(tensor, STATE[name]) for name, tensor in read.tensors.items())
    assert read.sha256 == hashlib.sha256((tmp_path / "x.pth").read_bytes()).hexdigest()


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("how", ["zip", "old", "bare", "hidden"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(how, protocol, tmp_path):
    mark, path = tmp_path / "it ran", tmp_path / "x.pth"
    content = {"state_dict": STATE, "extra": RunsCode(mark)}
    if how == "bare":
        path.write_bytes(pickle.dumps(RunsCode(mark), protocol=protocol))
    elif how == "hidden":
        torch.save({"state_dict": {**STATE, "b": RunsCode(mark)}}, path, pickle_protocol=max(protocol, 2))
    else:
        torch.save(content, path, pickle_protocol=max(protocol, 2), _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(UserError) as error:
        read_checkpoint(path)
    assert not mark.exists()
    if how in ("zip", "old") and protocol < 4:  # in newer protocols names are not told
        assert "holds more than tensors (posix.mkdir), which could run code" in str(error.value)


def refusal(path):
    with pytest.raises(UserError) as error:
        read_checkpoint(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (argparse.Namespace(lr=1), "argparse.Namespace"),
        (np.float64(3), "numpy"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    ],
)
def test_what_a_pickle_holds_beside_tensors_is_named(content, message, tmp_path):
    torch.save({"state_dict": STATE, "extra": content}, tmp_path / "x")
    assert message in refusal(tmp_path / "x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.ones(3), "holds a tensor of shape (3,), not tensors by name"),
        ([torch.ones(3)], "holds list of 1, not tensors by name"),
        ({}, "holds dict of 0, not tensors by name"),
        ({"state_dict": {}}, "holds dict of 0, not tensors by name"),
        ({"weights": STATE, "epoch": 3}, "weights, epoch: not tensors, and none of state_dict, model, "),
    ],
)
def test_a_pickle_without_tensors_by_name_is_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "x")
    assert message in refusal(tmp_path / "x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html>\n<html>", "a web page, not weights"),
        (b"\n\n  <HTML lang='en'>", "a web page, not weights"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><Error/>", "a web page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a Git LFS pointer"),
        (b"hello, world", "neither a safetensors file nor a pickle"),
        (b"\x93NUMPY\x01\x00v\x00", "neither a safetensors file nor a pickle"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "neither a safetensors file nor a pickle"),
        (b"PK\x03\x04" + bytes(99), "cut off, its end is missing"),
        (b"\x80\x04" + bytes(99), "damaged, or a pickle that torch.save did not write"),
    ],
)
def test_what_is_no_weights_file_is_refused_with_what_it_is(content, message, tmp_path):
    (tmp_path / "x.pth").write_bytes(content)
    assert message in refusal(tmp_path / "x.pth")


def test_a_torchscript_program_is_refused_with_what_it_is(tmp_path):
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        for name, text in (("m/data.pkl", "."), ("m/code/__torch__.py", ""), ("m/version", "3")):
            archive.writestr(name, text)
    assert "a TorchScript program" in refusal(tmp_path / "x")


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    assert "a folder: name the weights file in it" in refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "x")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    torch.save({"state_dict": STATE}, folder / "zip")
    torch.save({"state_dict": STATE}, folder / "old", _use_new_zipfile_serialization=False)
    save_file(STATE, folder / "safetensors")
    return folder


@pytest.mark.parametrize("container", ["zip", "old", "safetensors"])
@settings(max_examples=25)
@given(share=st.floats(0, 0.999))
def test_a_truncated_file_is_refused(files, container, share):
    content = (files / container).read_bytes()
    path = files / f"{container} cut"
    path.write_bytes(content[: int(share * len(content))])
    refusal(path)


@settings(max_examples=60)
@given(
    content=st.binary(min_size=1, max_size=300),
    head=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x40" + bytes(7) + b"{"]),
)
def test_arbitrary_bytes_are_refused_in_one_line(files, content, head):
    path = files / "arbitrary"
    path.write_bytes(head + content)
    refusal(path)
