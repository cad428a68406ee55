"""Weights files from strangers: read if they are what they claim to be, else refused in one line and without effect."""

import json
import resource
import socket
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dlaseg import UserError, create_backbone, create_model, load_model, save_model
from dlaseg.cli import main
from dlaseg.labels import LabelMap
from dlaseg.metadata import MAX_CHANNELS, MAX_CLASSES, Origin
from dlaseg.weights.checkpoints import read_checkpoint
from dlaseg.weights.entries import decode_metadata, encode_metadata
from dlaseg.weights.inspection import inspect_weights
from dlaseg.weights.loading import load_backbone_weights, load_weights
from dlaseg.weights.recognition import recognize

pytestmark = pytest.mark.usefixtures("tiny_variant")

LABELS = LabelMap.numbered(3).to_dict()
MODEL = {"name": "dla46_c", "num_classes": 3, "stride": 8, "root_kernel_size": 1, "in_channels": 3}
CLASSIFIER = {"name": "dla46_c", "num_classes": 2, "root_kernel_size": 1, "in_channels": 3}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError(f"network: {arguments}")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_model(**MODEL)


def entries(**changes) -> dict[str, str]:
    """Metadata of a segmentation network; None leaves an entry out, text is taken as it is, the rest becomes JSON."""
    values = {"format": "dlaseg-1", "model": MODEL, "labels": LABELS, "mean": [0.5] * 3, "std": [0.5] * 3} | changes
    return {key: v if isinstance(v, str) else json.dumps(v) for key, v in values.items() if v is not None}


def refusal(**changes) -> str:
    """The one line that refuses metadata."""
    with pytest.raises(UserError) as caught:
        decode_metadata(Path("w.safetensors"), entries(**changes))
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith("w.safetensors: ")
    return message.removeprefix("w.safetensors: ")


def test_metadata_of_ours_are_read(model):
    metadata = decode_metadata(Path("w"), encode_metadata(model.metadata))
    assert metadata == model.metadata
    classifier = create_backbone(**CLASSIFIER).metadata
    assert decode_metadata(Path("w"), encode_metadata(classifier)) == classifier
    backbone = create_backbone("dla46_c").metadata
    assert decode_metadata(Path("w"), encode_metadata(backbone)) == backbone


@pytest.mark.parametrize("key", ["weights", "backbone_weights", "node", "backbone", "device", "__class__", ""])
def test_only_the_known_arguments_reach_a_network(key):
    assert "a weights file has exactly name, num_classes, stride, root_kernel_size, in_channels" in refusal(
        model=MODEL | {key: "attacker/repo"}
    )


@pytest.mark.parametrize("key", MODEL)
def test_every_argument_is_there(key):
    assert "a weights file has exactly name, " in refusal(
        model={name: value for name, value in MODEL.items() if name != key}
    )


def test_a_file_that_names_other_weights_opens_nothing(model, tmp_path, monkeypatch, capsys):
    """Such a file once made infer contact the hub, and open any path."""
    monkeypatch.chdir(tmp_path)
    path, touched = tmp_path / "w.safetensors", []
    monkeypatch.setattr("dlaseg.factory.load_weights", lambda *arguments: touched.append(arguments))
    monkeypatch.setattr("dlaseg.factory.load_backbone_weights", lambda *arguments: touched.append(arguments))
    for key, value in (("backbone_weights", "attacker/repo"), ("weights", "/etc/passwd")):
        save_file(model.state_dict(), path, entries(model=MODEL | {key: value}))
        assert main(["infer", str(path), str(tmp_path), str(tmp_path / "out")]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
        with pytest.raises(UserError, match="a weights file has exactly"):
            load_model(path)
    assert touched == []


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("name", ["dla35", "", None, 3, [], {}, ["dla34"], "dla46_c\n"]),
        ("num_classes", [0, -1, 256, 10**9, 10**18, 3.0, "3", True, None, [], {}, [3]]),
        ("stride", [0, 1, 3, 16, -2, 2.0, "2", True, None, [], 10**18]),
        ("root_kernel_size", [0, 2, 5, 1.0, "1", True, None, []]),
        ("in_channels", [0, -1, MAX_CHANNELS + 1, 10**9, 3.0, "3", True, None, []]),
    ],
)
def test_an_argument_of_another_type_or_size_is_refused_by_its_name(key, values):
    for value in values:
        message = refusal(model=MODEL | {key: value})
        assert message.startswith(("model ", f"{key} ")), message


@pytest.mark.parametrize("num_classes", [0, MAX_CLASSES + 1, 10**9, "2", True, 2.0])
def test_a_classifiers_classes_are_bounded_too(num_classes):
    message = refusal(labels=None, classes=["a", "b"], model=CLASSIFIER | {"num_classes": num_classes})
    assert message.startswith("num_classes ")


def test_no_number_in_a_file_makes_memory_be_allocated(model, tmp_path):
    path = tmp_path / "w.safetensors"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for key in ("num_classes", "in_channels"):
        save_file(model.state_dict(), path, entries(model=MODEL | {key: 10**9}))
        with pytest.raises(UserError, match=f"{key} 1000000000: use an integer from "):
            load_model(path)
        with pytest.raises(UserError, match=f"{key} 1000000000: use an integer from "):
            load_weights(model, path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "no 'model' in its metadata"),
        ({"mean": None}, "no 'mean' in its metadata"),
        ({"labels": None}, "not exactly one of 'labels' and 'classes'"),
        ({"classes": ["a"]}, "not exactly one of 'labels' and 'classes'"),
        ({"model": "[" * 100_000}, "nested more than 20 levels deep"),
        ({"labels": "[" * 900 + "]" * 900}, "nested more than 20 levels deep"),
        ({"labels": '{"classes":' * 100_000}, "nested more than 20 levels deep"),
        ({"mean": "[1e400, 0, 0]"}, "number 1e400: not finite"),
        ({"mean": "[NaN, 0, 0]"}, "NaN: not a number of JSON"),
        ({"std": "[Infinity, 1, 1]"}, "Infinity: not a number of JSON"),
        ({"mean": "[" + "9" * 5000 + "]"}, "number 99999999999999999999...: more than 64 bits"),
        ({"model": '{"name": "dla34", "name": "dla60"}'}, "key 'name' occurs twice"),
        ({"labels": '{"classes": [{"name": "\\ud800"}, {"name": "a"}, {"name": "b"}]}'}, "half a surrogate pair"),
        ({"mean": " " * (1 << 24) + "[0, 0, 0]"}, "'mean' of 16777225 characters, the most are 16777216"),
        ({"mean": 0.5}, "'mean' is no list"),
        ({"mean": {"0": 0.5}}, "'mean' is no list"),
        ({"origin": {}}, "'origin' is no list"),
        ({"origin": [{}]}, "{} in 'origin'"),
        ({"origin": [{"argument": "a", "source": "b", "layout": "c", "sha256": "d", "e": "f"}]}, "in 'origin'"),
        ({"labels": None, "classes": "{}", "model": CLASSIFIER}, "'classes' is no list"),
        ({"mean": [0.5, 0.5, None]}, "mean [0.5, 0.5, None]: pixel values are divided by 255"),
        ({"mean": [0.5, 0.5, True]}, "mean [0.5, 0.5, True]: pixel values are divided by 255"),
        ({"mean": [0.5, 0.5, "0.5"]}, "mean [0.5, 0.5, '0.5']: pixel values are divided by 255"),
        ({"mean": [0.5, 0.5, []]}, "mean [0.5, 0.5, []]: pixel values are divided by 255"),
        ({"mean": [123, 116, 103]}, "from 0 to 1: divide by 255: use 0.4824 0.4549 0.4039"),
        ({"mean": [-1, 0, 0]}, "mean [-1, 0, 0]: pixel values are divided by 255, so each number is from 0 to 1"),
        ({"std": [0, 0, 0]}, "std [0, 0, 0]: pixel values are divided by 255, so each number is from 1e-06 to 1"),
        ({"std": [-1, 1, 1]}, "std [-1, 1, 1]: pixel values"),
        ({"std": [1e-300, 1, 1]}, "std [1e-300, 1, 1]: pixel values"),
        ({"std": [58, 57, 57]}, "divide by 255: use 0.2275 0.2235 0.2235"),
        ({"mean": []}, "mean (): use one number for each"),
        ({"mean": [0.5] * (MAX_CHANNELS + 1)}, "use one number for each of 1 to 1024 channels"),
        ({"mean": [0.5], "std": [0.5]}, "mean [0.5]: give one number for each of 3 channels"),
        ({"labels": LabelMap.numbered(2).to_dict()}, "a label map of 2 classes for a network of 3"),
        ({"labels": {"classes": [{"name": "a" * 1001}, {"name": "b"}, {"name": "c"}]}}, "class name 'aaaa"),
        ({"labels": None, "classes": ["a", 3], "model": CLASSIFIER}, "class name 3: use a text"),
        ({"labels": None, "classes": ["a", ""], "model": CLASSIFIER}, "class name '': use a text"),
        ({"labels": None, "classes": ["a"], "model": CLASSIFIER}, "class names of 1 classes for a network of 2"),
        (
            {"labels": None, "classes": ["a"] * (MAX_CLASSES + 1), "model": CLASSIFIER},
            f"{MAX_CLASSES + 1} classes: use {MAX_CLASSES} or less",
        ),
        ({"origin": [dict.fromkeys(("argument", "source", "layout", "sha256"), "a")] * 101}, "origin of 101 entries"),
        ({"origin": [dict.fromkeys(("argument", "source", "layout", "sha256"), 3)]}, "origin 3: use a text"),
        ({"format": "dlaseg-2\x1b[2J"}, "weights format 'dlaseg-2\\x1b[2J'"),
    ],
)
def test_metadata_that_do_harm_or_make_no_sense_are_refused(changes, message):
    assert message in refusal(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": [0.5], "std": [0.5], "model": MODEL | {"in_channels": 1}}, "have in_channels 1, its tensors in_chan"),
        ({"model": MODEL | {"stride": 4}}, "have stride 4, its tensors stride 8"),
        ({"model": MODEL | {"name": "dla60"}}, "have name dla60, its tensors name dla46_c"),
        (
            {"model": MODEL | {"num_classes": 4}, "labels": LabelMap.numbered(4).to_dict()},
            "have num_classes 4, its tensors num_classes 3",
        ),
    ],
)
def test_metadata_of_other_tensors_are_refused_and_change_nothing(model, tmp_path, changes, message):
    path = tmp_path / "w.safetensors"
    save_file(model.state_dict(), path, entries(**changes))
    other = create_model(**MODEL)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    for load in (load_weights, load_backbone_weights):
        with pytest.raises(UserError, match=message):
            load(other, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())
    with pytest.raises(UserError):
        load_model(path)


def test_integers_for_weights_are_refused(model, tmp_path):
    state = {name: tensor.to(torch.int32) for name, tensor in model.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors", entries())
    with pytest.raises(UserError, match="tensors do not fit"):
        load_model(tmp_path / "w.safetensors")


def test_names_reach_the_terminal_without_control_characters(model, tmp_path, capsys):
    evil = "\x1b]0;owned\x07\x1b[2J\u202e"
    origin = Origin("weights", f"x{evil}", "layout", "0")
    path = tmp_path / "w.safetensors"
    names = [{"name": name} for name in (f"road{evil}", "sky", "car")]
    save_file(model.state_dict(), path, entries(origin=[vars(origin)], **{f"key{evil}": evil}))
    assert main(["weights", "inspect", str(path)]) == 0
    shown = capsys.readouterr()
    assert "\\x1b]0;owned\\x07\\x1b[2J\\u202e" in shown.out
    assert (shown.out + shown.err).replace("\n", "").isprintable()
    torch.save({"state_dict": model.state_dict(), evil: evil}, tmp_path / "w.pth")
    assert main(["weights", "inspect", str(tmp_path / "w.pth")]) == 0
    shown = capsys.readouterr()
    assert "\\x1b]0;owned" in shown.out
    assert (shown.out + shown.err).replace("\n", "").isprintable()
    save_file(model.state_dict(), path, entries(labels={"classes": names}))
    for words in (
        ["infer", str(path), str(tmp_path / "missing"), str(tmp_path / "out")],
        ["weights", "inspect", str(path)],
    ):
        main(words)
        shown = capsys.readouterr()
        assert (shown.out + shown.err).replace("\n", "").isprintable()


def test_long_metadata_are_shortened(model, tmp_path):
    save_file(model.state_dict(), tmp_path / "w", {"note": "x" * 100_000} | {f"key {i}": "" for i in range(1000)})
    description, _ = inspect_weights(tmp_path / "w")
    assert len(description) < 20_000
    assert "951 more entries" in description


# Containers


def read_refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        recognize(read_checkpoint(path))
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 5000
    return message.removeprefix(f"{path}: ")


def raw_safetensors(path: Path, header: bytes, length: int | None = None, body: bytes = b"") -> Path:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + body)
    return path


@pytest.mark.parametrize("length", [10**6, (1 << 24) + 1, 2**40, 2**63, 2**64 - 1])
def test_a_header_that_is_longer_than_its_file_is_refused(tmp_path, length):
    path = raw_safetensors(tmp_path / "w", b'{"a": 1}', length)
    assert f"a header of {length} bytes in a file of 16" in read_refusal(path)


def test_a_header_that_is_too_long_is_refused(tmp_path):
    path = raw_safetensors(tmp_path / "w", b"{" + b" " * (1 << 24) + b"}")
    assert "at most 16777216 are read" in read_refusal(path)


@pytest.mark.parametrize(
    "header",
    [
        b"{" * 100_000,
        b'{"a":' * 100_000,
        b"{}",
        b'{"__metadata__": {"format": 3}}',
        b'{"a": {"dtype": "F32", "shape": [1000000000, 1000000000], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [9223372036854775807, 9223372036854775807], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [0, 9223372036854775807, 9223372036854775807], "data_offsets": [0, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 1000000000000]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
        b'{"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F4", "shape": [8], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "BOOL", "shape": [4], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "C64", "shape": [0], "data_offsets": [0, 0]}}',
        b'{"a": {"dtype": "X", "shape": [4], "data_offsets": [0, 4]}}',
        b'{"a\\u001b[2J": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
    ],
)
def test_a_header_that_claims_what_is_not_there_is_refused(tmp_path, header):
    read_refusal(raw_safetensors(tmp_path / "w", header, body=bytes(4)))


def test_more_tensors_than_any_dla_has_are_refused(tmp_path):
    save_file({str(i): torch.zeros(0) for i in range(20_001)}, tmp_path / "w")
    assert read_refusal(tmp_path / "w").startswith("20001 tensors")


def self_containing():
    content = {}
    content["state_dict"] = content
    return content


def nested_pairs():
    pair = ()
    for _ in range(18):
        pair = (pair, pair)  # a megabyte as text
    return pair


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (self_containing(), "more than 16 wrappers and prefixes"),
        ({"module." * 10_000: torch.zeros(1)}, "more than 16 wrappers and prefixes"),
        ({nested_pairs(): torch.zeros(1)}, "a tensor is named by tuple of 2, not by a text"),
        ({nested_pairs(): 3}, "tuple of 2: not tensors"),
        ({1: torch.zeros(1)}, "a tensor is named by int, not by a text"),
        ({"a": torch.zeros(1).expand(10**9, 10**9)}, "a of shape (1000000000, 1000000000), more numbers than"),
        ({"a": torch.zeros(4)[::2].expand(5, 2)}, "a of shape (5, 2), more numbers than the file holds"),
        ({"a": torch.zeros(3, 3).to_sparse()}, "a is sparse_coo float32 on cpu: save it as a dense float32 tensor"),
        ({"a": torch.empty(10**9, 10**9, device="meta")}, "a is strided float32 on meta"),
        ({"a": torch.zeros(3, dtype=torch.complex64)}, "a is strided complex64 on cpu"),
        ({"a": torch.zeros(3, dtype=torch.float8_e4m3fn)}, "a is strided float8_e4m3fn on cpu"),
        pytest.param(
            OrderedDict({f"{i}": torch.zeros(0) for i in range(20_001)}), "20001 tensors", marks=pytest.mark.slow
        ),  # as long as all the others together
        ({"state_dict": {"a": torch.zeros(1)}, "epoch": 10**500}, "not a DLA"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_pickle_that_claims_more_than_it_holds_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "w.pth")
    assert message in read_refusal(tmp_path / "w.pth")


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path):
    torch.save({"a": torch.zeros(10_000_000)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    assert (tmp_path / "w.pth").stat().st_size < 100_000
    assert read_refusal(tmp_path / "w.pth").startswith("a compressed archive of 400")


def test_an_archive_of_several_disks_is_refused(tmp_path):
    """Python's `zipfile.is_zipfile` raises an error for it."""
    locator = b"PK\x06\x07" + struct.pack("<LQL", 0, 0, 2)
    (tmp_path / "w").write_bytes(b"PK\x03\x04" + bytes(30) + locator + b"PK\x05\x06" + bytes(18))
    assert "download or copy it again" in read_refusal(tmp_path / "w")


def test_inspect_describes_entries_of_any_kind(model, tmp_path):
    beside = {"epoch": 10**500, "nested": self_containing(), nested_pairs(): 3, 5: "x"}
    torch.save({"state_dict": model.state_dict(), **beside}, tmp_path / "w.pth")
    description, mismatch = inspect_weights(tmp_path / "w.pth")
    assert mismatch is None
    assert "epoch: a number of more than 64 bits" in description
    assert "tuple of 2: 3" in description


# Shapes


def changed(model, **tensors) -> dict[str, torch.Tensor]:
    return model.state_dict() | {name.replace("__", "."): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"head__bias": torch.tensor(0.0)}, "head.bias of shape ()"),
        (
            {"head__bias": torch.zeros(256), "head__weight": torch.zeros(256, 64, 1, 1)},
            "num_classes 256: use an integer from 2 to 255",
        ),
        (
            {"head__bias": torch.zeros(0), "head__weight": torch.zeros(0, 64, 1, 1)},
            "num_classes 0: use an integer from 2 to 255",
        ),
        (
            {"backbone__base_layer__0__weight": torch.zeros(16, 1025, 7, 7)},
            "in_channels 1025: use an integer from 1 to 1024",
        ),
        ({"backbone__base_layer__0__weight": torch.zeros(16, 0, 7, 7)}, "in_channels 0: use an integer from 1"),
        ({f"decoder__ida__{'9' * 5000}__up__0__weight": torch.zeros(1)}, "a dla46_c, but decoder."),
        ({"decoder__ida__": torch.zeros(1)}, "a dla46_c, but decoder."),
        ({"head__weight": torch.tensor(0.0)}, "head.weight of shape ()"),
    ],
)
def test_tensors_of_hostile_shapes_are_refused(model, tmp_path, tensors, message):
    save_file(changed(model, **tensors), tmp_path / "w")
    with pytest.raises(UserError) as caught:
        recognize(read_checkpoint(tmp_path / "w"))
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", [f"dla_up.ida_{'9' * 5000}.up_1.weight", "dla_up.ida_1.up_0.weight", "dla_up."])
def test_names_of_hostile_numbers_are_refused(model, tmp_path, name):
    save_file(changed(model) | {name: torch.zeros(1)}, tmp_path / "w")
    with pytest.raises(UserError):
        recognize(read_checkpoint(tmp_path / "w"))


# The command line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--std", "0", "0", "0"],
            "std [0.0, 0.0, 0.0]: pixel values are divided by 255, so each number is from 1e-06",
        ),
        (["--std", "-1", "1", "1"], "std [-1.0, 1.0, 1.0]: pixel values are divided by 255"),
        (["--std", "nan", "1", "1"], "std [nan, 1.0, 1.0]: pixel values are divided by 255"),
        (["--std", "inf", "1", "1"], "std [inf, 1.0, 1.0]: pixel values are divided by 255"),
        (["--mean", "nan", "0", "0"], "mean [nan, 0.0, 0.0]: pixel values are divided by 255"),
        (["--mean", "123", "116", "103"], "each number is from 0 to 1: divide by 255: use 0.4824 0.4549 0.4039"),
        (["--mean", "-0.5", "0", "0"], "mean [-0.5, 0.0, 0.0]: pixel values are divided by 255"),
    ],
)
def test_a_mean_or_std_that_normalises_nothing_is_not_converted(model, tmp_path, capsys, words, message):
    save_model(model, tmp_path / "w.safetensors")
    assert main(["weights", "convert", str(tmp_path / "w.safetensors"), str(tmp_path / "o.safetensors"), *words]) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert message in line
    assert printed.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_training_from_hostile_weights_is_refused_in_one_line(tmp_path, capsys, model):
    from dlaseg_testing import tiny_config, train_arguments, write_camvid

    config = tiny_config(write_camvid(tmp_path / "data"))
    save_file(model.state_dict(), tmp_path / "w.safetensors", entries(model=MODEL | {"weights": "/etc/passwd"}))
    config.model.stride, config.model.root_kernel_size = 8, 1
    for option in ("weights", "backbone_weights"):
        words = train_arguments(config, tmp_path / "run", f"--model.{option}", str(tmp_path / "w.safetensors"))
        assert main(words) == 2
        printed = capsys.readouterr()
        assert "a weights file has exactly name, " in printed.err
        assert len(printed.err.splitlines()) == 1
        assert not (tmp_path / "run").exists()
