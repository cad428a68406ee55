import pickle
from pathlib import Path

import pytest
import torch

from dlaseg.errors import UserError
from dlaseg.training import checkpoint
from dlaseg.training.checkpoint import load_checkpoint, save_checkpoint


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
    save_checkpoint(tmp_path / "a.ckpt", {"model": {"w": torch.arange(3.0)}, "epoch": 2, "log": [{"miou": None}]})
    state = load_checkpoint(tmp_path / "a.ckpt")
    assert torch.equal(state["model"]["w"], torch.arange(3.0))
    assert (state["epoch"], state["log"]) == (2, [{"miou": None}])


@pytest.mark.parametrize("share", [0, 0.3, 0.6, 0.99])
def test_a_truncated_checkpoint_is_refused(tmp_path, share):
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, {"w": torch.zeros(1000)})
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


def test_a_save_that_fails_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, {"epoch": 1})

    def fails(state: object, place: Path) -> None:
        Path(place).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, {"epoch": 2})
    assert load_checkpoint(path)["epoch"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.ckpt"]
