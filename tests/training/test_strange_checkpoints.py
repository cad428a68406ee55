"""A run folder may come from anyone: what --resume cannot continue it refuses in one line."""

import copy
import shutil
import zipfile

import pytest
import torch
from dlaseg_testing import new_state, run, tiny_config, train_arguments, with_train, write_camvid

from dlaseg.cli import main
from dlaseg.errors import UserError
from dlaseg.training.state import check_snapshot, restore


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_camvid(tmp_path_factory.mktemp("camvid"))


@pytest.fixture(scope="module")
def config(root):
    return with_train(tiny_config(root), epochs=2, ema_decay=0.9, eval_every=2)


@pytest.fixture(scope="module")
def original(config, tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "run"
    run(config, output)
    return output


@pytest.fixture(scope="module")
def saved(original):
    """The checkpoint of the run; not to be changed."""
    return torch.load(original / "last.ckpt", weights_only=True)


@pytest.fixture
def folder(original, tmp_path):
    shutil.copytree(original, tmp_path / "run")
    (tmp_path / "run/previous.ckpt").unlink()
    return tmp_path / "run"


def refusal(config, folder, capsys) -> str:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(train_arguments(config, folder, "--resume")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    return line


def put(*path, value):
    def change(checkpoint):
        for key in path[:-1]:
            checkpoint = checkpoint[key]
        checkpoint[path[-1]] = value

    return change


def first_momentum(checkpoint):
    return checkpoint["optimizer"]["state"][0]


@pytest.mark.parametrize(
    "change",
    [
        *(put(key, value=value) for key in ("config", "progress", "log") for value in (None, 3, "x", ["x"])),
        *(put(key, value=value) for key in ("epoch", "step", "skipped") for value in (None, -1, "1", 1.5, True, [])),
        lambda checkpoint: checkpoint.pop("config"),
        lambda checkpoint: checkpoint["progress"].pop("batches"),
        put("config", 3, value=1),
        put("progress", "batches", value="x\x1b[2J"),
        put("progress", "batches", value=-1),
        put("progress", "a\x1b[2J", value=None),
        put("log", 0, "miou", value="high"),
        put("log", 0, "epoch", value=None),
        put("log", 0, value=[]),
        *(put("unreadable", value=value) for value in (None, [3], {"a": "x"}, {3: 4})),
    ],
)
def test_plain_values_of_another_kind_are_refused(saved, tmp_path, change):
    checkpoint = copy.deepcopy(saved)
    check_snapshot(checkpoint, tmp_path)
    change(checkpoint)
    with pytest.raises(UserError) as caught:
        check_snapshot(checkpoint, tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: its checkpoint is not one of this run (")
    assert str(caught.value).isprintable()


def test_a_sum_of_losses_below_zero_is_one(saved, tmp_path):
    checkpoint = copy.deepcopy(saved)
    checkpoint["progress"] |= {"batches": 2, "updates": 2, "loss_sum": -1.5}  # rmi is negative where it is low
    check_snapshot(checkpoint, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda checkpoint: checkpoint.pop("model"),
        put("optimizer", value={}),
        put("average", value=None),
        put("progress", "extra", value=1),
        put("mean", value=[0.5]),
        put("std", value=[0.0, 0.0, 0.0]),
        put("origin", value=[{"source": 1}]),
        put("model", "head.bias", value=torch.zeros(5)),
        lambda checkpoint: first_momentum(checkpoint).update(momentum_buffer=torch.zeros(5)),
    ],
)
def test_a_state_of_something_else_is_refused(config, saved, tmp_path, change):
    checkpoint = copy.deepcopy(saved)
    change(checkpoint)
    with pytest.raises(UserError) as caught:
        restore(new_state(config), checkpoint, tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: its checkpoint is not one of this run (")


@pytest.mark.parametrize("change", [put("epoch", value=None), put("model", "head.bias", value=torch.zeros(5))])
def test_a_checkpoint_of_something_else_is_refused(config, folder, capsys, change):
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, folder / "last.ckpt")
    assert f"{folder}: its checkpoint is not one of this run (" in refusal(config, folder, capsys)


def test_the_checkpoint_itself_is_continued(config, folder, no_scores):
    torch.save(torch.load(folder / "last.ckpt", weights_only=True), folder / "last.ckpt")
    assert main(train_arguments(config, folder, "--resume")) == 0


def test_a_compressed_checkpoint_is_refused(config, folder, capsys):
    (folder / "last.ckpt").rename(folder / "plain")
    with (
        zipfile.ZipFile(folder / "plain") as plain,
        zipfile.ZipFile(folder / "last.ckpt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    (folder / "plain").unlink()
    assert "broken, or not a checkpoint" in refusal(config, folder, capsys)


@pytest.mark.parametrize("text", ["[1]", "", "[" * 50_000])
def test_a_config_of_a_run_folder_that_is_none_is_refused(config, folder, capsys, text):
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    assert "config.yaml" in refusal(config, folder, capsys)
