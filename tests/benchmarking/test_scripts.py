"""The scripts of benchmarks/ that no other test runs, each at its smallest."""

import re

import pytest
import torch
from dlaseg_testing import load_benchmark, write_camvid
from torch import nn

from dlaseg.models.ida import BilinearUpsample


def run(script, monkeypatch, *words):
    monkeypatch.setattr("sys.argv", [script.__name__, *map(str, words)])
    script.main()


@pytest.mark.slow
def test_training_step_compares_the_trainer_with_plain_loops(monkeypatch, capsys):
    script = load_benchmark("training_step")
    monkeypatch.setattr(script, "MATRIX", 64)
    run(script, monkeypatch, "--model", "dla46_c", "--steps", 1, "--rounds", 1, "--batch", 2, "--size", 32, 32)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    names = [row[0] for row in rows if len(row) == 6]
    assert names == ["float32", "bfloat16", "step", "trainer"]
    assert [row[4:] for row in rows if row[:1] == ["bfloat16"]] == [["1.000", "1.000"]]


def test_the_plain_loop_trains_an_unmodified_network(monkeypatch):
    script = load_benchmark("training_step")
    model = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), BilinearUpsample(2))
    targets = torch.zeros(1, 8, 8, dtype=torch.int64)
    train = script.plain_loop(model, torch.randn(1, 3, 4, 4), targets, 1, torch.channels_last, autocast=True)
    assert [type(layer) for layer in model] == [nn.Conv2d, nn.ConvTranspose2d]
    before = model[1].weight.detach().clone()
    train()
    assert not torch.equal(model[1].weight, before)


@pytest.mark.slow
def test_data_loading_compares_ours_with_plain(monkeypatch, capsys, tmp_path):
    words = ("--scenes", 1, "--images", 2, "--rounds", 1, "--batch", 2, "--workers", 0, "--folder", tmp_path)
    run(load_benchmark("data_loading"), monkeypatch, *words)
    assert re.search(r"ours [\d.]+: [\d.]+ times as fast\n$", capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.parametrize("writer", ["opencv", "pillow"])
def test_cityscapes_scoring_agrees_with_the_benchmarks_own_script(monkeypatch, capsys, tmp_path, writer):
    words = ("--pairs", 2, "--scenes", 1, "--rounds", 1, "--writer", writer, "--folder", tmp_path)
    run(load_benchmark("cityscapes_scoring"), monkeypatch, *words)
    out = capsys.readouterr().out
    assert float(re.search(r"means differ by at most (\S+)", out)[1]) < 1e-9
    assert re.search(r"[\d.]+ times as fast", out)


@pytest.mark.slow
def test_pretraining_compares_a_pretrained_backbone_with_random_weights(monkeypatch, capsys, tmp_path):
    script = load_benchmark("pretraining")
    monkeypatch.setattr(script, "SIDE", 16)
    monkeypatch.setattr(script, "STEP", 4)
    dlaseg, short = script.dlaseg, ["--train.warmup_steps", "0"]  # two steps have no warm-up of 50
    monkeypatch.setattr(script, "dlaseg", lambda words: dlaseg(words + short if words[0] == "train" else words))
    root = write_camvid(tmp_path / "camvid")
    words = ("--root", root, "--output", tmp_path / "out", "--seeds", 1, "--epochs", 2, "--pretrain-epochs", 1)
    run(script, monkeypatch, *words)
    rows = capsys.readouterr().out.partition("val mIoU    epoch")[2].splitlines()[1:]
    assert [row.split()[:2] for row in rows] == [["random", "2"], ["pretrained", "2"]]
