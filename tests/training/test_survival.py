"""A run that is killed, stopped, or let down by the disk, the memory or the numbers, loses nothing."""

import math
import os
import random
import resource
import signal
import time
from pathlib import Path

import pytest
import torch
from runs import (
    assert_same_tensors,
    command,
    draw,
    fresh,
    lines,
    made_batch,
    run,
    small,
    start,
    steps,
    tiny,
    train_words,
)

from dlaseg.errors import UserError
from dlaseg.training.checkpoint import load_checkpoint, load_latest

PATIENCE = 60  # seconds, of a loaded machine


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return draw(tmp_path_factory.mktemp("camvid"), train=10)


@pytest.fixture
def config(root):
    """Three epochs of ten steps, a checkpoint after each."""
    return small(tiny(root), epochs=3, batch_size=1, checkpoint_minutes=0, ema=0.9, optimizer="adamw", lr=0.003)


@pytest.fixture(scope="module")
def straight(root, tmp_path_factory):
    """The run that nobody interrupted; read only."""
    output = tmp_path_factory.mktemp("straight") / "run"
    record = small(tiny(root), epochs=3, batch_size=1, ema=0.9, optimizer="adamw", lr=0.003)
    child = start(command, train_words(record, output), output.with_name("errors"))
    child.join(PATIENCE)
    assert child.exitcode == 0, output.with_name("errors").read_text()
    return output


def assert_same_run(one: Path, other: Path) -> None:
    before, after = load_checkpoint(one / "last.ckpt"), load_checkpoint(other / "last.ckpt")
    assert_same_tensors(before["model"], after["model"])
    assert_same_tensors(before["average"], after["average"])
    for key, entry in before["optimizer"]["state"].items():
        assert_same_tensors(entry, after["optimizer"]["state"][key])
    for old, new in zip(lines(one), lines(other), strict=True):
        assert all(old[name] == new[name] for name in ("epoch", "step", "loss", "lr", "miou", "skipped", "broken"))
    assert (one / "best.safetensors").read_bytes() == (other / "best.safetensors").read_bytes()


def place(output: Path) -> tuple[int, int]:
    """Epochs done and batches done within the next."""
    saved = load_latest(output)
    return saved["epoch"], saved["progress"]["batches"]


def changed(path: Path, before: float | None) -> bool:
    try:
        return path.stat().st_mtime_ns != before
    except FileNotFoundError:
        return False


def kill_at_a_random_moment(words: list[str], output: Path, chance: random.Random) -> None:
    """Sometimes before the process has written anything, mostly some steps after it has begun to."""
    last = output / "last.ckpt"
    before = last.stat().st_mtime_ns if last.exists() else None
    child = start(command, words, output.with_name("errors"))
    if chance.random() < 0.8:
        deadline = time.monotonic() + PATIENCE
        while not changed(last, before) and child.is_alive() and time.monotonic() < deadline:
            time.sleep(0.005)
    time.sleep(chance.uniform(0, 0.25))
    child.kill()
    child.join(PATIENCE)
    assert child.exitcode == -signal.SIGKILL, output.with_name("errors").read_text()


@pytest.mark.parametrize(
    "workers", [(0, 2), pytest.param((0,), marks=pytest.mark.slow), pytest.param((2,), marks=pytest.mark.slow)]
)
def test_killed_at_ten_random_moments_it_ends_with_the_same_weights(config, straight, tmp_path, workers):
    output, chance = tmp_path / "run", random.Random(f"{workers}")
    places = []
    for attempt in range(11):
        config.data.workers = workers[attempt % len(workers)]
        words = train_words(config, output, "--resume")
        if attempt < 10:
            kill_at_a_random_moment(words, output, chance)
            places.append(place(output) if (output / "last.ckpt").exists() else None)
    child = start(command, words, output.with_name("errors"))
    child.join(PATIENCE)
    assert child.exitcode == 0, output.with_name("errors").read_text()
    assert_same_run(straight, output)
    assert len({where for where in places if where and where[1]}) > 2, places  # in the middle of an epoch, too
