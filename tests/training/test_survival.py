"""A run loses nothing when it is killed or stopped, or when the disk, the memory or the numbers fail."""

import functools
import math
import os
import random
import re
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from dlaseg_testing import (
    assert_same_tensors,
    log_rows,
    make_batch,
    make_step,
    new_state,
    run,
    run_command,
    start_process,
    tiny_config,
    train_arguments,
    with_train,
    write_camvid,
)

from dlaseg.config.segmentation import Config, LossConfig, ModelConfig, TrainConfig
from dlaseg.errors import UserError
from dlaseg.images import read_image
from dlaseg.label_images import read_label_image
from dlaseg.training.checkpoint import load_checkpoint, load_latest
from dlaseg.training.distributed import DistributedContext
from dlaseg.training.out_of_memory import oom_message
from dlaseg.training.state import restore, snapshot
from dlaseg.training.stopping import StopRequest

PATIENCE = 60  # seconds, of a loaded machine


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_camvid(tmp_path_factory.mktemp("camvid"), train=10)


@pytest.fixture
def config(root):
    """Two epochs of ten steps, a checkpoint after each."""
    return with_train(
        tiny_config(root), epochs=2, batch_size=1, checkpoint_minutes=0, ema_decay=0.9, optimizer="adamw", lr=0.003
    )


@pytest.fixture(scope="module")
def straight(root, tmp_path_factory):
    """Gives the folder of an uninterrupted run of so many epochs, which is made once; read only."""

    @functools.cache
    def made(epochs: int) -> Path:
        output = tmp_path_factory.mktemp("straight") / "run"
        config = with_train(tiny_config(root), epochs=epochs, batch_size=1, ema_decay=0.9, optimizer="adamw", lr=0.003)
        child = start_process(run_command, train_arguments(config, output), output.with_name("errors"))
        child.join(PATIENCE)
        assert child.exitcode == 0, output.with_name("errors").read_text()
        return output

    return made


def assert_same_run(one: Path, other: Path) -> None:
    before, after = load_checkpoint(one / "last.ckpt"), load_checkpoint(other / "last.ckpt")
    assert_same_tensors(before["model"], after["model"])
    assert_same_tensors(before["average"], after["average"])
    for key, entry in before["optimizer"]["state"].items():
        assert_same_tensors(entry, after["optimizer"]["state"][key])
    for old, new in zip(log_rows(one), log_rows(other), strict=True):
        assert all(old[name] == new[name] for name in ("epoch", "step", "loss", "lr", "miou", "skipped", "broken"))
    assert (one / "best.safetensors").read_bytes() == (other / "best.safetensors").read_bytes()


def position(output: Path) -> tuple[int, int]:
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
    child = start_process(run_command, words, output.with_name("errors"))
    if chance.random() < 0.8:
        deadline = time.monotonic() + PATIENCE
        while not changed(last, before) and child.is_alive() and time.monotonic() < deadline:
            time.sleep(0.005)
    time.sleep(chance.uniform(0, 0.1))
    child.kill()
    child.join(PATIENCE)
    assert child.exitcode == -signal.SIGKILL, output.with_name("errors").read_text()


@pytest.mark.parametrize(
    ("workers", "kills", "epochs"),
    [((0, 2), 2, 2), *(pytest.param((n,), 10, 3, marks=pytest.mark.slow) for n in (0, 2))],
)
def test_killed_at_random_moments_it_ends_with_the_same_weights(config, straight, tmp_path, workers, kills, epochs):
    config = with_train(config, epochs=epochs)
    output, chance = tmp_path / "run", random.Random(f"{workers}")
    positions = []
    for attempt in range(kills + 1):
        config.data.workers = workers[attempt % len(workers)]
        words = train_arguments(config, output, "--resume")
        if attempt < kills:
            kill_at_a_random_moment(words, output, chance)
            positions.append(position(output) if (output / "last.ckpt").exists() else None)
    child = start_process(run_command, words, output.with_name("errors"))
    child.join(PATIENCE)
    assert child.exitcode == 0, output.with_name("errors").read_text()
    assert_same_run(straight(config.train.epochs), output)
    in_epochs = {where for where in positions if where and where[1]}
    assert len(in_epochs) > (2 if kills == 10 else 0), positions


# Signals


def running(config, output: Path, *more: str):
    """A running process that has written a checkpoint."""
    child = start_process(run_command, train_arguments(config, output, *more), output.with_name("errors"))
    deadline = time.monotonic() + PATIENCE
    while not (output / "last.ckpt").exists() and child.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert child.is_alive(), output.with_name("errors").read_text()
    return child


@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGINT, 0), pytest.param(signal.SIGTERM, 2, marks=pytest.mark.slow)]
)
def test_a_signal_ends_the_run_after_the_step_with_a_checkpoint_and_a_code_of_its_own(
    config, straight, tmp_path, number, workers
):
    output = tmp_path / "run"
    config.data.workers = workers
    child = running(config, output)
    os.kill(child.pid, number)
    child.join(PATIENCE)
    log = output.with_name("errors").read_text()
    assert child.exitcode == 75, log
    step = load_checkpoint(output / "last.ckpt")["step"]
    assert f"dlaseg train: stopped by {number.name} after step {step}; continue with --resume" in log
    assert "Traceback" not in log
    assert not any(path.name.startswith(".") for path in output.iterdir())
    if number == signal.SIGINT:
        return  # from here on both are alike
    child = start_process(run_command, train_arguments(config, output, "--resume"), output.with_name("errors"))
    child.join(PATIENCE)
    assert child.exitcode == 0
    assert_same_run(straight(config.train.epochs), output)


def test_a_signal_to_the_whole_group_stops_it_as_well(config, tmp_path):
    """As a terminal's Ctrl-C does, which reaches the loading processes, too."""
    config.data.workers = 2
    child = running(config, tmp_path / "run")
    for process in (child.pid, *children_of(child.pid)):
        os.kill(process, signal.SIGINT)
    child.join(PATIENCE)
    assert child.exitcode == 75, (tmp_path / "errors").read_text()


def test_a_handler_that_is_not_pythons_is_left_alone(monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(signal, "getsignal", lambda _: None)  # as in a Python inside R or Julia
        with StopRequest():
            patch.undo()
            assert signal.getsignal(signal.SIGTERM) is before


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]


def test_a_second_signal_ends_it_at_once(config, tmp_path):
    slow = with_train(config, epochs=1)
    child = start_process(stubborn, train_arguments(slow, tmp_path / "run"), tmp_path / "errors", tmp_path / "in_step")
    deadline = time.monotonic() + PATIENCE
    while not (tmp_path / "in_step").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    for _ in range(2):
        os.kill(child.pid, signal.SIGTERM)
        time.sleep(0.1)
    child.join(PATIENCE)
    assert child.exitcode == -signal.SIGTERM


def stubborn(words, errors, marker):
    """A run whose first step does not end."""
    from dlaseg.training import step

    def backward(*arguments, **more):
        marker.touch()
        while True:
            time.sleep(0.01)

    torch.Tensor.backward = backward
    assert step
    run_command(words, errors)


@pytest.mark.slow
def test_a_signal_during_validation_loses_no_step(config, straight, tmp_path):
    output = tmp_path / "run"
    child = start_process(
        slow_validation, train_arguments(config, output), tmp_path / "errors", tmp_path / "validating"
    )
    deadline = time.monotonic() + PATIENCE
    while not (tmp_path / "validating").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGTERM)
    child.join(PATIENCE)
    assert child.exitcode == 75, (tmp_path / "errors").read_text()
    assert position(output) == (0, 10)
    child = start_process(run_command, train_arguments(config, output, "--resume"), tmp_path / "errors")
    child.join(PATIENCE)
    assert child.exitcode == 0
    assert_same_run(straight(config.train.epochs), output)


def slow_validation(words, errors, marker):
    from dlaseg.training import segmentation

    def evaluate_predictor(*arguments, **more):
        marker.touch()
        time.sleep(PATIENCE)

    segmentation.evaluate_predictor = evaluate_predictor
    run_command(words, errors)


# The disk


def test_on_a_full_disk_the_old_checkpoint_stays_whole_and_the_run_says_so(config, tmp_path, no_page):
    output = tmp_path / "run"
    config = with_train(config, epochs=1, batch_size=5, warmup_steps=0)
    run(config, output)
    before = load_checkpoint(output / "last.ckpt")["step"]
    saved = {name: (output / name).read_bytes() for name in ("last.ckpt", "previous.ckpt")}
    for name in ("config.yaml", "log.jsonl"):  # as if it had only begun
        (output / name).unlink()
    child = start_process(on_a_small_disk, train_arguments(config, output, "--resume"), tmp_path / "errors")
    child.join(PATIENCE)
    log = (tmp_path / "errors").read_text()
    assert child.exitcode == 2, log
    assert "last.ckpt: cannot be written (File too large); the previous checkpoint is intact: free some space" in log
    assert "Traceback" not in log
    assert {name: (output / name).read_bytes() for name in saved} == saved
    assert load_latest(output)["step"] == before


def on_a_small_disk(words, errors):
    """Every file ends at a megabyte, where a full disk would end it."""
    from dlaseg.training import run

    run.check_same_config = lambda *arguments: None
    run.has_checkpoint = lambda folder: False
    run.check_output = lambda *arguments: None
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    run_command(words, errors)


# Numbers that are not finite


def test_a_step_that_is_not_finite_changes_nothing(config):
    config = with_train(config, batch_size=2, clip_grad_norm=1.0)
    state = new_state(config)
    step = make_step(config, state)
    step(make_batch())
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    average = {name: tensor.clone() for name, tensor in state.average.state_dict().items()}
    moments = [tensor.clone() for entry in state.optimizer.state.values() for tensor in entry.values()]
    bias = state.model.head.bias
    kept = bias.detach().clone()
    bias.data[0] = math.nan
    result = step(make_batch())
    bias.data.copy_(kept)
    assert not result.updated
    assert math.isnan(result.loss)
    assert_same_tensors(before, dict(state.model.state_dict()) | counters(before))
    assert_same_tensors(average, state.average.state_dict())
    after = [tensor for entry in state.optimizer.state.values() for tensor in entry.values()]
    assert all(torch.equal(one, other) for one, other in zip(moments, after, strict=True))
    assert (state.step, state.skipped) == (2, 1)
    assert step(make_batch()).updated
    assert (state.step, state.skipped) == (3, 0)


def counters(before):
    """How many batches batch norm has seen does not matter to what it does."""
    return {name: tensor for name, tensor in before.items() if name.endswith("num_batches_tracked")}


def test_a_gradient_that_is_not_finite_makes_no_update_either(config):
    config = with_train(config, batch_size=2)
    state = new_state(config)
    before = {name: parameter.detach().clone() for name, parameter in state.model.named_parameters()}
    state.model.head.weight.register_hook(lambda gradient: gradient / 0)
    result = make_step(config, state)(make_batch())
    assert math.isfinite(result.loss)
    assert not result.updated
    assert_same_tensors(before, dict(state.model.named_parameters()))


def with_a_bad_loss(monkeypatch, bad):
    """The loss is NaN in the steps of which the function says so."""
    from dlaseg.training.pixel_loss import PixelLoss

    loss, count = PixelLoss.__call__, iter(range(10**6))

    def spoilt(self, *arguments):
        return loss(self, *arguments) * (math.nan if bad(next(count)) else 1)

    monkeypatch.setattr(PixelLoss, "__call__", spoilt)


def test_steps_that_are_not_finite_are_counted_and_the_run_goes_on(config, tmp_path, monkeypatch, caplog, no_page):
    with_a_bad_loss(monkeypatch, lambda step: step in (2, 3, 7))
    run(with_train(config, epochs=1, max_nonfinite_steps=2, checkpoint_minutes=1000), tmp_path / "run")
    (row,) = log_rows(tmp_path / "run")
    assert row["skipped"] == 3
    assert math.isfinite(row["loss"])
    log = [record.getMessage() for record in caplog.records if "no update" in record.getMessage()]
    assert [line.split(":")[0] for line in log] == ["step 3", "step 4", "step 8"]
    assert [line.split("(")[1] for line in log] == ["1 in a row)", "2 in a row)", "1 in a row)"]


def test_too_many_in_a_row_stop_the_run_with_the_batch_to_look_at(config, root, tmp_path, monkeypatch):
    with_a_bad_loss(monkeypatch, lambda step: step >= 2)
    with pytest.raises(
        UserError, match=r"no update for 3 steps in a row, train\.max_nonfinite_steps is 2: check the batch"
    ) as caught:
        run(
            with_train(config, epochs=1, batch_size=2, max_nonfinite_steps=2, checkpoint_minutes=1000), tmp_path / "run"
        )
    folder = next((tmp_path / "run").glob("not_finite_step_*"))
    named = [line.split(" ", 1)[1] for line in (folder / "files.txt").read_text().splitlines()]
    assert len(named) == 2
    assert all(Path(name).parent == root / "train" and name in str(caught.value) for name in named)
    assert {path.name for path in folder.iterdir()} == {"files.txt"} | {
        f"00{i}_{kind}.png" for i in (0, 1) for kind in ("image", "target")
    }
    assert read_image(folder / "000_image.png").shape == (32, 64, 3)
    assert set(np.unique(read_label_image(folder / "000_target.png"))) <= {0, 3, 255}


def test_a_batch_of_ignored_pixels_alone_teaches_nothing_and_breaks_nothing(config):
    for name in ("cross_entropy", "ohem", "focal", "dice", "lovasz", "binary_cross_entropy", "rmi"):
        plain = with_train(config, losses=[LossConfig(name)], optimizer="sgd", weight_decay=0.0, batch_size=2)
        state = new_state(plain)
        before = {key: parameter.detach().clone() for key, parameter in state.model.named_parameters()}
        result = make_step(plain, state)(make_batch(label=255))
        assert (result.loss, result.gradient, result.updated) == (0, 0, True)
        assert_same_tensors(before, dict(state.model.named_parameters()))


# Memory


def test_out_of_memory_says_what_to_change_with_the_figure(config, tmp_path):
    config.augment.crop_size = (2048, 2048)
    big = with_train(config, batch_size=2, epochs=1, warmup_steps=0)
    child = start_process(with_little_memory, train_arguments(big, tmp_path / "run"), tmp_path / "errors")
    child.join(PATIENCE)
    log = (tmp_path / "errors").read_text()
    assert child.exitcode == 2, log
    assert "Traceback" not in log
    line = next(line for line in log.splitlines() if "out of memory" in line)
    assert "a micro-batch of 2 crops of 2048 x 2048 does not fit" in line
    assert re.search(r"peak memory ([1-9][0-9.]*|0\.[0-9]*[1-9]) GiB in this process", line)
    for change in ("train.grad_accum_steps 2", "bfloat16", "augment.crop_size", "model.stride 8", "train.batch_size"):
        assert change in line


def with_little_memory(words, errors):
    """A gigabyte more than what is mapped now."""
    mapped = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + (1 << 30),) * 2)
    run_command(words, errors)


@pytest.mark.parametrize(("decoder", "splits"), [("plain", True), ("afa", False)])
def test_micro_batches_of_one_image_are_proposed_where_the_network_takes_them(decoder, splits):
    config = Config(model=ModelConfig(decoder=decoder), train=TrainConfig(batch_size=2))
    message = oom_message(config, DistributedContext(0, 1, torch.device("cpu")))
    assert ("train.grad_accum_steps 2 (micro-batches of 1)" in message) == splits


def test_more_micro_batches_than_there_are_already_are_proposed():
    config = Config(train=TrainConfig(batch_size=8, grad_accum_steps=2))
    message = oom_message(config, DistributedContext(0, 1, torch.device("cpu")))
    assert "train.grad_accum_steps 4 (micro-batches of 2)" in message


def test_batches_without_an_update_are_counted_on_after_a_resume(config):
    state, other = new_state(config), new_state(config)
    state.skipped = 3
    restore(other, snapshot(state))
    assert other.skipped == 3
