"""As many epochs as fit into a time on this machine."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from math import ceil
from typing import Any

from torch.random import fork_rng

from dlaseg.benchmarking.dry_run import duration
from dlaseg.benchmarking.trial import load_batches, take_step
from dlaseg.config.checks import MANY
from dlaseg.device import reproducible, synchronize
from dlaseg.errors import UserError
from dlaseg.training.distributed import distributed_context
from dlaseg.training.run import Run, build
from dlaseg.training.task import Task

WARM_UP = 3
"""Steps before those that are timed."""

TIMED_SECONDS = 10.0
"""How long steps are timed, in about; 5 steps at least, 200 at most."""

TIMED_IMAGES = 8
"""Validation images that are timed."""


def epochs_within(task: Task[Any, Any], minutes: float) -> tuple[int, str]:
    """Times steps and validation of a run, which is then discarded, and computes how many epochs end in time.

    What is counted is the time from this call to the end of the run: the timing itself, the start of the run (the
    check of the labels; in its first steps, `train.compile`), all epochs with their validations, and the report of the
    best weights. The steps are timed together with their loading, as they compete for the cores. The result is an
    estimate: a machine that gets busier or hotter later takes longer.

    Args:
        task: the kind of training, with its config, whose `train.epochs` has no effect.
        minutes: above 0.

    Returns:
        The number of epochs, and a message about it.

    Raises:
        UserError: not a single epoch fits, several processes (torchrun), or what `fit` would raise in its first step.
    """
    begin = time.perf_counter()
    task = copy(task)
    task.config = deepcopy(task.config)
    train = task.config.train
    train.epochs = MANY  # the warm-up need not end within the config's
    with (
        without_warnings(),
        distributed_context(train.device) as dist,
        reproducible(train.deterministic),
        fork_rng([dist.device] if dist.device.type == "cuda" else []),
    ):
        if dist.world_size > 1:
            raise UserError("--minutes with torchrun: steps are timed in one process: use --train.epochs")
        run = build(task, dist, *task.open_splits())
        step = warm_up(run)
        start = time.perf_counter() - begin
        epoch = step_seconds(run, steps=min(200, max(5, int(TIMED_SECONDS / step)))) * run.sampler.batches
        validation = validation_seconds(run)
    spent = time.perf_counter() - begin + start  # the run starts in the same way
    epochs = most_epochs(60 * minutes - spent, epoch, validation, train.eval_every)
    times = f"an epoch takes {epoch:.3g} s, a validation {validation:.3g} s"
    if epochs == 0:
        needed = spent + epoch + 2 * validation
        raise UserError(
            f"--minutes {minutes:g}: {times} on this machine, so that a run of one epoch takes {duration(needed)}: use "
            f"--minutes {ceil(needed / 60 + 0.5)} or more"
        )
    return epochs, f"{times}: train.epochs {epochs} in {minutes:g} minutes"


@contextmanager
def without_warnings() -> Iterator[None]:
    """Logs errors alone: the run that follows gives each warning itself."""
    logger = logging.getLogger("dlaseg")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def most_epochs(seconds: float, epoch: float, validation: float, eval_every: int) -> int:
    """The largest number of epochs that ends in time, 0 if none does.

    Args:
        seconds: for the run.
        epoch: seconds of an epoch, above 0.
        validation: seconds of a validation: after every `eval_every` epochs, after the last one, and for the report.
        eval_every: epochs between two validations.

    Examples:
        >>> most_epochs(99, 10, 5, 3)  # 7 epochs, 3 validations and the report take 90 seconds, 8 epochs 100
        7
    """

    def needed(epochs: int) -> float:
        return epochs * epoch + (ceil(epochs / eval_every) + 1) * validation

    at_most = (seconds - validation) / (epoch + validation / eval_every)  # as if no validation came early
    epochs = min(MANY, int(max(0.0, at_most)) + 1)  # one more, for rounding
    while epochs and needed(epochs) > seconds:
        epochs -= 1
    return epochs


def warm_up(run: Run) -> float:
    """Takes a few steps; returns the seconds of the last one, without loading."""
    start = time.perf_counter()
    for micro_batches in load_batches(run, WARM_UP):
        start = time.perf_counter()
        take_step(run, micro_batches)
        synchronize(run.dist.device)
    return time.perf_counter() - start


def step_seconds(run: Run, steps: int) -> float:
    """Seconds from one step to the next, with loading: the mean of some steps."""
    start = time.perf_counter()
    for micro_batches in load_batches(run, steps):
        take_step(run, micro_batches)
    synchronize(run.dist.device)
    return (time.perf_counter() - start) / steps


def validation_seconds(run: Run) -> float:
    """Seconds of a validation, from one image and from a few: what a validation begins with is counted once."""
    total = len(run.validation)
    few = slice(None, None, ceil(total / TIMED_IMAGES))
    seconds = []
    for part in (slice(1), slice(1), few):
        images = run.task.part(run.validation, part)
        validate = run.task.validator(images, run.dist)
        start = time.perf_counter()
        validate(run.state.eval_model)
        seconds.append((len(images), time.perf_counter() - start))
    (_, (one, first), (several, last)) = seconds
    per_image = max(0.0, (last - first) / (several - one)) if several > one else 0.0
    return first + (total - one) * per_image
