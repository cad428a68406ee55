"""Files from strangers, thousands of them: each is read, or refused by a `UserError` of one line; nothing else happens.

No other exception, no network, and no more than 500 MB of memory: the address space of the process is limited while a
test runs. The cases are the same in every run.
"""

import copy
import gc
import json
import resource
import socket
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from dlaseg.commands.config_parser import ConfigParser
from dlaseg.config.fields import fields_of
from dlaseg.config.files import to_dict
from dlaseg.config.pretraining import PretrainConfig
from dlaseg.config.reading import make_config, read_config, values_of
from dlaseg.config.segmentation import Config
from dlaseg.errors import UserError
from dlaseg.evaluation.metrics.bootstrap import ImageCounts, compare
from dlaseg.evaluation.report.tables import difference_table
from dlaseg.labels import LabelMap
from dlaseg.metadata import ModelMetadata, Origin
from dlaseg.scores_file import read_scores
from dlaseg.weights.checkpoints import read_checkpoint
from dlaseg.weights.entries import decode_metadata, encode_metadata

MEMORY = 500 << 20

CASES = pytest.mark.parametrize("cases", [12, pytest.param(20_000, marks=pytest.mark.slow)])


class NetworkError(BaseException):
    """Nothing that catches exceptions catches it."""


@pytest.fixture(autouse=True)
def _limits(monkeypatch):
    """No network, and little memory beyond what the process has."""

    def refuse(*arguments: Any, **options: Any) -> None:
        raise NetworkError

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    gc.collect()  # what earlier tests left would be freed later, and give room beyond the limit
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def fuzz(cases: int, strategy: st.SearchStrategy[Any], read: Callable[[Any], object]) -> tuple[int, int]:
    """Reads each case; returns how many were read and how many were refused."""
    messages: list[str | None] = []

    @settings(max_examples=cases, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def check(case: Any) -> None:
        message = None
        try:
            read(case)
        except UserError as error:
            message = str(error)
        messages.append(message)
        if message is not None:
            assert message.strip()
            assert len(message) < 5000
            assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in message), repr(message)

    check()
    done = messages.count(None)
    return done, len(messages) - done


# What files are made of


def nested(depth: int, kind: type = list) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    return value


TEXT = st.text(max_size=12) | st.sampled_from(
    [
        "",
        "\x1b[2J",
        "a\nb",
        "\0",
        "\u202e",
        "\ud800",
        "x" * 5000,
        "../../x",
        "/etc/passwd",
        "attacker/repo",
        "os:system",
    ]
)
NUMBERS = (
    st.integers()
    | st.floats()
    | st.sampled_from([0, 1, -1, 2, 3, 255, 256, 10**9, 10**20, 10**299, 0.0, 0.5, 1e300, float("nan"), float("inf")])
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT | st.dates(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT | st.integers(), inner, max_size=4),
    max_leaves=8,
) | st.sampled_from([nested(19), nested(22), nested(200), nested(40, dict), [0] * 200, [[]] * 3, {"a": {}}]).map(
    copy.deepcopy
)


def paths(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where the parts of a structure are, the whole first."""
    if isinstance(content, dict):
        return [path, *(place for key in content for place in paths(content[key], (*path, key)))]
    if isinstance(content, list):
        return [path, *(place for i, item in enumerate(content) for place in paths(item, (*path, i)))]
    return [path]


@st.composite
def structures(draw: Any, valid: Any) -> Any:
    """Mostly a valid structure with a few parts replaced, removed, added or repeated; sometimes anything."""
    if draw(st.integers(0, 19)) == 0:
        return draw(VALUES)
    content = copy.deepcopy(valid)
    for _ in range(draw(st.integers(0, 3))):
        places = paths(content)
        *parents, last = ("", *draw(st.sampled_from(places)))
        if not parents:
            continue
        parent = content
        for key in parents[1:]:
            parent = parent[key]
        action = draw(st.sampled_from(["replace", "replace", "remove", "add", "repeat"]))
        if action == "remove":
            del parent[last]
        elif action == "repeat" and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[last]))
        elif action == "add" and isinstance(parent, dict):
            parent[draw(TEXT | st.sampled_from(["name", "weights", "class_path", "<<"]))] = draw(VALUES)
        else:
            parent[last] = draw(VALUES)
    return content


PIECES = [
    *("[", "]", "{", "}", ",", ":", "\n", "\t", " ", "-", "#", '"', "'", "\\", "\0", "\x1b", "\r", "\ufeff", "\x85"),
    *(
        "&a ",
        "*a",
        "!!python/object/apply:os.mkdir [x]",
        "!!int x",
        "!!binary a",
        "<<: *a",
        "? ",
        "--- ",
        "%YAML 9.9\n",
    ),
    *("[" * 50_000, "{a: " * 3000, "9" * 5000, "0x" + "f" * 5000, "1e400", "NaN", "-.inf", "2024-99-99", "1:2:3", "~"),
    *("&a [x, x], &b [*a, *a], &c [*b, *b]", "null", "true", "\\ud800", "\udcff", "x" * 9000),
]


@st.composite
def broken(draw: Any, texts: st.SearchStrategy[str]) -> bytes:
    """Text with pieces put in, taken out or doubled; not always UTF-8."""
    text = draw(texts)
    for _ in range(draw(st.integers(0, 3))):
        start, length = draw(st.integers(0, len(text))), draw(st.integers(0, 20))
        piece = draw(st.sampled_from(PIECES) | st.just(text[start : start + length]))
        text = text[:start] + piece + text[start + draw(st.sampled_from([0, length])) :]
    return text.encode("utf-8", "surrogateescape" if "\udcff" in text else "surrogatepass")


def as_yaml(content: Any) -> str:
    try:
        return yaml.safe_dump(content, allow_unicode=True)
    except ValueError:  # an integer of too many digits
        return repr(content) if not isinstance(content, int) else hex(content)


def as_json(content: Any) -> str:
    try:
        return json.dumps(content, default=str)
    except (ValueError, TypeError):  # an integer of too many digits, a key that is no text
        return "{"


# Metadata of weights files

ORIGIN = (Origin("backbone_weights", "timm/dla34.in1k", "timm's classification layout", "ab"),)
METADATA = [
    encode_metadata(
        ModelMetadata(
            {"name": "dla34", "num_classes": 3, "stride": 4, "root_kernel_size": 1, "in_channels": 3},
            LabelMap(("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)), ((1, 2), (3,), (4,)), (0,), ((9, 9, 9),)),
            origin=ORIGIN,
        )
    ),
    encode_metadata(
        ModelMetadata(
            {"name": "dla60", "num_classes": 2, "root_kernel_size": 3, "in_channels": 1},
            class_names=("a", "b"),
            mean=(0.5,),
            std=(0.25,),
        )
    ),
]
ENTRIES = [{key: json.loads(text) if key != "format" else text for key, text in entry.items()} for entry in METADATA]


def metadata_texts(content: Any) -> dict[str, str]:
    entries = content if isinstance(content, dict) else {"model": content}
    return {str(key): value if key == "format" else as_json(value) for key, value in entries.items()}


@st.composite
def metadata_files(draw: Any) -> dict[str, str]:
    entries = metadata_texts(draw(st.sampled_from(ENTRIES).flatmap(structures)))
    if entries and draw(st.integers(0, 3)) == 0:
        key = draw(st.sampled_from(sorted(entries)))
        text = broken(st.just(str(entries[key])))
        entries[key] = draw(text).decode("utf-8", "replace")
    return {key: str(value) for key, value in entries.items()}


@CASES
def test_metadata_of_weights(cases):
    def read(entries: dict[str, str]) -> None:
        metadata = decode_metadata(Path("w"), entries)
        assert decode_metadata(Path("w"), encode_metadata(metadata)) == metadata

    done, refused = fuzz(cases, metadata_files(), read)
    assert done > cases / 50
    assert refused > cases / 3


STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2, dtype=torch.float16)}


@CASES
def test_weights_files_of_damaged_bytes(cases, tmp_path):
    torch.save({"state_dict": STATE, "epoch": 3}, tmp_path / "zip")
    torch.save({"state_dict": STATE}, tmp_path / "old", _use_new_zipfile_serialization=False)
    contents = [(tmp_path / name).read_bytes() for name in ("zip", "old")] + [save(STATE, {"format": "pt"})]

    @st.composite
    def damaged(draw: Any) -> bytes:
        content = bytearray(draw(st.sampled_from(contents)))
        for _ in range(draw(st.integers(0, 4))):
            place = draw(st.integers(0, min(len(content) - 1, draw(st.sampled_from([16, 200, 10**6])))))
            content[place : place + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
        return bytes(content)

    def read(content: bytes) -> None:
        (tmp_path / "w").write_bytes(content)
        read_checkpoint(tmp_path / "w")

    done, refused = fuzz(cases, damaged(), read)
    assert done > cases / 500
    assert refused > cases / 3


# Configs

CONFIGS = [
    {
        "name": "run",
        "data": {"dataset": "folder", "root": "data", "workers": 2, "val_share": 0.1, "train_list": None},
        "model": {"name": "dla34", "stride": 4, "backbone_weights": "timm/dla34.in1k"},
        "augment": {"scale": [0.5, 2.0], "crop_size": [64, 96], "flip": 0.5},
        "train": {
            "epochs": 5, "batch_size": 4, "lr": 0.01, "clip_grad_norm": 1.0, "class_weights": [1.0, 0.5],
            "losses": [{"name": "focal", "gamma": 2.0}, {"name": "dice", "weight": 0.5}], "trackers": ["tensorboard"],
            "precision": "auto", "patience": 3, "seed": 1,
        },
    },
    {
        "name": "run",
        "data": {"root": "data/imagenet", "workers": 0},
        "model": {"name": "dla34", "weights": None},
        "augment": {"crop_size": 64, "resize": 80, "area": [0.1, 1.0], "jitter": 0.4},
        "train": {"epochs": 5, "schedule": "step", "step_epochs": 2, "lr": 0.1, "ema_decay": 0.9, "compile": False},
    },
]  # fmt: skip


def check_config(config: Config | PretrainConfig) -> None:
    """What is read is a config, and can be written and read again."""
    assert make_config(type(config), values_of(to_dict(config), "again", type(config))) == config


@pytest.mark.parametrize("cases", [15, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", [Config, PretrainConfig])
def test_configs_as_structures(cases, kind):
    def read(content: Any) -> None:
        check_config(make_config(kind, values_of(content, "config.yaml", kind)))

    done, refused = fuzz(cases, structures(CONFIGS[kind is PretrainConfig]), read)
    assert done > cases / 100
    assert refused > cases / 6


@CASES
def test_configs_as_text(cases, tmp_path):
    path = tmp_path / "config.yaml"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        check_config(read_config(path))

    small = {"name": "run", "augment": CONFIGS[0]["augment"], "train": {"losses": [{"name": "dice"}], "epochs": 3}}
    done, refused = fuzz(cases, broken(structures(small).map(as_yaml)), read)
    assert done > cases / 50
    assert refused > cases / 3


@CASES
def test_options_of_a_config(cases):
    """Values are text of the command line, which is YAML for lists."""

    @st.composite
    def options(draw: Any) -> str:
        name = draw(st.sampled_from([field.name for field in fields_of(Config())]))
        value = draw(broken(VALUES.map(as_yaml)) | st.sampled_from([b"[64,96]", b"[{name: dice}]", b"3", b"0.5", b"x"]))
        return f"--{name}={value.decode('utf-8', 'surrogateescape')}"

    def read(option: str) -> None:
        check_config(ConfigParser(Config, prog="dlaseg train").parse([option])[0])

    done, refused = fuzz(cases, options(), read)
    assert done > cases / 200
    assert refused > cases / 3


# Classes files

CLASSES = {
    "classes": [{"name": "road", "id": 0, "color": [1, 2, 3]}, {"name": "car", "id": [26, 27]}, {"name": "sky"}],
    "ignore": [255, [0, 0, 0]],
}


def check_labels(labels: LabelMap) -> None:
    assert LabelMap.from_dict(json.loads(json.dumps(labels.to_dict()))) == labels


@CASES
def test_classes_as_structures(cases):
    done, refused = fuzz(cases, structures(CLASSES), lambda content: check_labels(LabelMap.from_dict(content)))
    assert done > cases / 50
    assert refused > cases / 3


@CASES
def test_classes_as_text(cases, tmp_path):
    path = tmp_path / "classes.yaml"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        check_labels(LabelMap.from_file(path))

    done, refused = fuzz(cases, broken(structures(CLASSES).map(as_yaml)), read)
    assert done > cases / 50
    assert refused > cases / 3


# scores.json

SCORES = {
    "miou": 0.5,
    "classes": {"road": {"iou": 0.5, "accuracy": None, "pixels": 4}, "sky": {"iou": None}},
    "images": {
        "names": ["a", "b"],
        "miou": [0.5, None],
        "hits": [[1, 2], [3, 4]],
        "truth": [[2, 2], [3, 5]],
        "predicted": [[1, 3], [4, 4]],
    },
    "protocol": {"dataset": "camvid", "split": "val", "scales": [1.0, 2], "flip": False, "images": 2},
}


@CASES
def test_scores(cases, tmp_path):
    path = tmp_path / "scores.json"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        scores = read_scores(path, "images")
        try:
            counts = ImageCounts.from_dict(scores["images"])
        except ValueError as error:
            raise UserError(str(error)) from error
        names = list(scores["classes"])
        if counts.support.shape[1] == len(names):
            difference_table(compare(names, counts, counts))

    done, refused = fuzz(cases, broken(structures(SCORES).map(as_json)), read)
    assert done > cases / 50
    assert refused > cases / 3


def test_these_tests_can_fail():
    with pytest.raises((TypeError, AttributeError, KeyError)):
        fuzz(20, st.just({}), lambda content: content["classes"])
    with pytest.raises(NetworkError):
        fuzz(5, st.just(0), lambda _: socket.create_connection(("127.0.0.1", 9)))
    with pytest.raises(MemoryError):
        fuzz(5, st.just(0), lambda _: bytearray(16 * MEMORY))  # more than earlier tests can have left
