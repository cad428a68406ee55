import logging
from dataclasses import replace

import dlaseg_testing
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dlaseg.benchmarking import time_limit
from dlaseg.benchmarking.time_limit import epochs_within, most_epochs
from dlaseg.config.checks import MANY
from dlaseg.errors import UserError
from dlaseg.training.segmentation import Segmentation

STEP, LOADING, BEGIN, IMAGE = 3.0, 2.0, 1.0, 0.5


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(time_limit, "TIMED_SECONDS", 0.0)
    monkeypatch.setattr(time_limit, "WARM_UP", 2)


class Clock:
    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """Time that passes only in steps, loading and validations; the task's network is not used."""
    clock = Clock()
    load_batches, take_step, validator = time_limit.load_batches, time_limit.take_step, Segmentation.validator

    def slow_loading(run, count):
        for micro_batches in load_batches(run, count):
            clock.now += LOADING
            yield micro_batches

    def slow_step(run, micro_batches):
        clock.now += STEP
        return take_step(run, micro_batches)

    def slow_validator(task, images, dist):
        validate = validator(task, images, dist)

        def slow_validate(model):
            clock.now += BEGIN + IMAGE * len(images)
            return validate(model)

        return slow_validate

    monkeypatch.setattr(time_limit, "time", clock)
    monkeypatch.setattr(time_limit, "load_batches", slow_loading)
    monkeypatch.setattr(time_limit, "take_step", slow_step)
    monkeypatch.setattr(Segmentation, "validator", slow_validator)
    return clock


@given(
    seconds=st.floats(-10, 500),
    epoch=st.floats(0.5, 50),
    validation=st.floats(0, 50),
    eval_every=st.integers(1, 20),
)
def test_one_epoch_more_would_not_end_in_time(seconds, epoch, validation, eval_every):
    def needed(epochs: int) -> float:
        last = [] if epochs % eval_every == 0 else [epochs]
        validations = [*range(eval_every, epochs + 1, eval_every), *last]
        return epochs * epoch + len(validations) * validation + validation  # the last one is that of the report

    epochs = most_epochs(seconds, epoch, validation, eval_every)
    assert epochs == 0 or needed(epochs) <= seconds
    assert needed(epochs + 1) > seconds


def test_a_long_time_is_divided_at_once():
    assert most_epochs(6e7, 0.01, 100, 1) == 599_939  # not found by counting down from 6 billion
    assert most_epochs(1e18, 1, 1, 1) == MANY


def test_the_timing_itself_the_start_and_validations_are_counted(clock, folder, tmp_path_factory):
    root = dlaseg_testing.write_camvid(tmp_path_factory.mktemp("camvid"), val=20)
    config = dlaseg_testing.with_train(dlaseg_testing.tiny_config(root), eval_every=2)
    start = time_limit.WARM_UP * (STEP + LOADING)
    timing = 5 * (STEP + LOADING) + 2 * (BEGIN + IMAGE) + BEGIN + 7 * IMAGE  # every third of 20 images
    epoch, validation = 2 * (STEP + LOADING), BEGIN + 20 * IMAGE
    minutes = (start + timing + start + 5 * epoch + (3 + 1) * validation) / 60
    epochs, message = epochs_within(Segmentation(config), minutes + 1e-6)
    assert epochs == 5
    assert message.startswith("an epoch takes 10 s, a validation 11 s: train.epochs 5 in ")
    assert clock.now == pytest.approx(start + timing)
    assert epochs_within(Segmentation(config), minutes - 1e-6)[0] == 4
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_a_fast_machine_is_timed_over_more_steps(clock, config, monkeypatch):
    monkeypatch.setattr(time_limit, "TIMED_SECONDS", 10.0)
    taken, slow_step = [], time_limit.take_step

    def fast_step(run, micro_batches):
        taken.append(1)
        clock.now += 0.5 - STEP
        return slow_step(run, micro_batches)

    monkeypatch.setattr(time_limit, "take_step", fast_step)
    epochs_within(Segmentation(config), 60)
    assert len(taken) == time_limit.WARM_UP + 20


def test_too_little_time_for_an_epoch_names_what_is_enough(clock, config):
    with pytest.raises(
        UserError, match=r"^--minutes 0\.9: an epoch takes 10 s, a validation 2 s on this machine, .* use "
    ) as caught:
        epochs_within(Segmentation(config), 0.9)
    enough = int(str(caught.value).split("--minutes ")[-1].split()[0])
    assert epochs_within(Segmentation(config), enough)[0] >= 1


def test_a_single_validation_image_is_enough_and_the_warm_up_may_be_longer_than_the_configs_epochs(clock, tmp_path):
    config = dlaseg_testing.tiny_config(dlaseg_testing.write_camvid(tmp_path, val=1))
    config = dlaseg_testing.with_train(config, epochs=1, warmup_steps=100)
    task = Segmentation(config)
    assert "a validation 1.5 s" in epochs_within(task, 60)[1]
    assert task.config is config
    assert config.train.epochs == 1


def test_it_leaves_random_numbers_as_they_are_and_warns_of_nothing(config, caplog):
    model_bias = Segmentation.make_model

    def certain(task, training):
        model = model_bias(task, training)
        torch.rand(1)
        with torch.no_grad():
            model.head.bias[3] += 1e4  # predicts one class alone
        return model

    caplog.set_level(logging.WARNING, "dlaseg")
    state = torch.get_rng_state()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Segmentation, "make_model", certain)
        epochs_within(Segmentation(config), 60)
    assert torch.equal(torch.get_rng_state(), state)
    assert caplog.messages == []
    assert logging.getLogger("dlaseg").level == logging.WARNING


def test_several_processes_are_refused(config, monkeypatch):
    context = time_limit.distributed_context

    class Two:
        def __init__(self, device):
            self.context = context(device)

        def __enter__(self):
            return replace(self.context.__enter__(), world_size=2)

        def __exit__(self, *error):
            return self.context.__exit__(*error)

    monkeypatch.setattr(time_limit, "distributed_context", Two)
    with pytest.raises(UserError, match=r"--minutes with torchrun: .*: use --train\.epochs"):
        epochs_within(Segmentation(config), 60)
