"""A run folder may come from anyone: what --resume cannot continue it refuses in one line."""

import shutil
import zipfile

import pytest
import torch
from dlaseg_testing import run, tiny_config, train_arguments, with_train, write_camvid

from dlaseg.cli import main


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
        *(put(key, value=value) for key in ("config", "progress", "log", "model") for value in (None, 3)),
        *(put("epoch", value=value) for value in (None, -1, "1", 1.5, True)),
        *(put(key, value=value) for key in ("optimizer", "average") for value in (None, {})),
        lambda checkpoint: checkpoint.pop("model"),
        lambda checkpoint: checkpoint["progress"].pop("batches"),
        put("config", 3, value=1),
        put("progress", "batches", value="x\x1b[2J"),
        put("progress", "extra", value=1),
        put("log", 0, "miou", value="high"),
        put("log", 0, value=[]),
        put("mean", value=[0.5]),
        put("mean", value=[123, 116, 103]),
        put("std", value=[0.0, 0.0, 0.0]),
        put("origin", value=[{"source": 1}]),
        put("model", "head.bias", value=torch.zeros(5)),
        put("model", "head.bias", value="x"),
        lambda checkpoint: first_momentum(checkpoint).update(momentum_buffer=torch.zeros(5)),
    ],
)  # fmt: skip
def test_a_checkpoint_of_something_else_is_refused(config, folder, capsys, change):
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, folder / "last.ckpt")
    assert str(folder) in refusal(config, folder, capsys)


def test_the_checkpoint_itself_is_continued(config, folder):
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


@pytest.mark.parametrize("text", ["[1]", "3", "", "[" * 50_000, "a: &a [*a]"])
def test_a_config_of_a_run_folder_that_is_none_is_refused(config, folder, capsys, text):
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    assert "config.yaml" in refusal(config, folder, capsys)
