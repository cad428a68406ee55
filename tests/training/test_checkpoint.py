import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from dlaseg.errors import UserError
from dlaseg.training import checkpoint
from dlaseg.training.checkpoint import load_checkpoint, load_latest, save_checkpoint


class Intruder:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{path}: ")
    assert "another --output" in message
    return message


def test_what_was_saved_comes_back(tmp_path):
    save_checkpoint(tmp_path, {"model": {"w": torch.arange(3.0)}, "epoch": 2, "log": [{"miou": None}]})
    state = load_checkpoint(tmp_path / "last.ckpt")
    assert torch.equal(state["model"]["w"], torch.arange(3.0))
    assert (state["epoch"], state["log"]) == (2, [{"miou": None}])


@pytest.mark.parametrize("share", [0, 0.3, 0.6, 0.99])
def test_a_truncated_checkpoint_is_refused(tmp_path, share):
    path = tmp_path / "last.ckpt"
    save_checkpoint(tmp_path, {"w": torch.zeros(1000)})
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(path)


@pytest.mark.parametrize("content", [b"hello\n", b"a: 1\nb: 2\n", b"\x80\x02", b"\x00" * 64, b"\xff\xd8\xff\xe0 jpeg"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "a.ckpt").write_bytes(content)
    refused(tmp_path / "a.ckpt")


def test_a_missing_checkpoint_is_refused(tmp_path):
    refused(tmp_path / "none.ckpt")


@pytest.mark.parametrize(
    "write", [torch.save, *(lambda o, p, n=n: p.write_bytes(pickle.dumps(o, protocol=n)) for n in (2, 4))]
)
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, write):
    write({"format": checkpoint.FORMAT, "x": Intruder(tmp_path / "marker")}, tmp_path / "a.ckpt")
    refused(tmp_path / "a.ckpt")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("content", [{"format": "other-9"}, {"epoch": 3}, [1, 2], torch.zeros(2)])
def test_a_checkpoint_of_another_format_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.ckpt")
    assert checkpoint.FORMAT in refused(tmp_path / "a.ckpt")


@pytest.mark.parametrize("place", [0.2, 0.5, 0.9])
def test_a_single_changed_byte_is_noticed(tmp_path, place):
    path = tmp_path / "last.ckpt"
    save_checkpoint(tmp_path, {"w": torch.rand(1000)})
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)
    refused(path)


def saved_twice(folder: Path) -> None:
    for step in (1, 2):
        save_checkpoint(folder, {"step": step, "w": torch.rand(1000)})


def test_the_checkpoint_before_the_last_is_kept(tmp_path):
    saved_twice(tmp_path)
    save_checkpoint(tmp_path, {"step": 3})
    assert [load_checkpoint(tmp_path / name)["step"] for name in ("last.ckpt", "previous.ckpt")] == [3, 2]
    assert {path.name for path in tmp_path.iterdir()} == {"last.ckpt", "previous.ckpt"}


def test_a_checkpoint_is_synced_before_it_replaces_the_last_one(tmp_path, monkeypatch):
    saved_twice(tmp_path)
    before = (tmp_path / "last.ckpt").read_bytes()
    synced = []

    def sync(descriptor: int) -> None:
        synced.append(load_checkpoint(Path(f"/proc/self/fd/{descriptor}").readlink())["step"])
        assert (tmp_path / "last.ckpt").read_bytes() == before

    monkeypatch.setattr(os, "fsync", sync)
    save_checkpoint(tmp_path, {"step": 3})
    assert synced == [3]


@pytest.mark.parametrize("harm", ["truncated", "changed", "emptied", "gone"])
def test_a_broken_checkpoint_is_replaced_by_the_previous_one_and_logged(tmp_path, harm, caplog):
    saved_twice(tmp_path)
    path = tmp_path / "last.ckpt"
    content = path.read_bytes()
    harmed = {"truncated": content[:-100], "changed": content[:3000] + b"?" + content[3001:], "emptied": b""}
    path.write_bytes(harmed.get(harm, b""))
    if harm == "gone":
        path.unlink()
    assert load_latest(tmp_path)["step"] == 1
    (message,) = [record.getMessage() for record in caplog.records]
    assert "last.ckpt" in message
    assert message.endswith("resuming from previous.ckpt, step 1")


def test_a_whole_last_checkpoint_is_taken_without_a_word(tmp_path, caplog):
    saved_twice(tmp_path)
    (tmp_path / "previous.ckpt").write_bytes(b"broken")
    assert load_latest(tmp_path)["step"] == 2
    assert caplog.records == []


def test_where_both_are_broken_the_error_says_so(tmp_path):
    saved_twice(tmp_path)
    for name in ("last.ckpt", "previous.ckpt"):
        (tmp_path / name).write_bytes(b"broken")
    with pytest.raises(UserError, match=r"no intact checkpoint: .*last\.ckpt: broken.*previous\.ckpt: broken"):
        load_latest(tmp_path)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("[enforce fail] unexpected pos")]
)
def test_a_save_that_fails_leaves_the_old_ones_and_says_so(tmp_path, monkeypatch, error):
    saved_twice(tmp_path)

    def fails(state: object, file: Any) -> None:
        file.write(b"half")
        raise error

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(UserError, match=r"last\.ckpt: cannot be written \(.*; the previous checkpoint is intact"):
        save_checkpoint(tmp_path, {"step": 3})
    assert [load_checkpoint(tmp_path / name)["step"] for name in ("last.ckpt", "previous.ckpt")] == [2, 1]
    assert {path.name for path in tmp_path.iterdir()} == {"last.ckpt", "previous.ckpt"}
