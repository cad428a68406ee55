"""Learning rate schedules: functions of the step alone, so a resumed run needs no schedule state."""

import math

from dlaseg.config.training import BaseTrainConfig
from dlaseg.errors import UserError


def warm_up(step: int, warmup: int, start: float = 0.0) -> float:
    """Factor of the learning rate in the warm-up: it rises linearly from `start`, before step 0, to 1.

    Args:
        step: from 0, index of the step.
        warmup: steps over which the factor rises; its last one has 1, and so have all later ones.
        start: 0 to 1.

    Returns:
        Greater than 0, at most 1.

    Examples:
        >>> [round(warm_up(step, warmup=4, start=0.2), 3) for step in range(6)]
        [0.4, 0.6, 0.8, 1.0, 1.0, 1.0]
    """
    return start + (1 - start) * min(1.0, (step + 1) / warmup) if warmup else 1.0


def poly(step: int, total: int, warmup: int = 0, power: float = 0.9, warmup_start: float = 0.0) -> float:
    """Factor of the learning rate: linear warm-up, then (1 - step / total) ** power.

    Args:
        step: 0 to total - 1, index of the step.
        total: steps of the whole run.
        warmup: steps over which the factor rises.
        power: 0.9 in the paper (sec. 5.3); 0 keeps the rate constant.
        warmup_start: `start` of `warm_up`.

    Returns:
        Greater than 0, at most 1.

    Examples:
        >>> [round(poly(step, total=4, warmup=2, power=1), 3) for step in range(4)]
        [0.5, 0.75, 0.5, 0.25]
    """
    return float(warm_up(step, warmup, warmup_start) * (1 - step / total) ** power)


def cosine(step: int, total: int, warmup: int = 0, warmup_start: float = 0.0) -> float:
    """Factor of the learning rate: linear warm-up, then half a cosine wave down to 0.

    SGDR without restarts (https://arxiv.org/abs/1608.03983, eq. 5). The wave begins at step 0, as in `poly`:
    warm-up does not change the later learning rates.

    Args:
        step: 0 to total - 1, index of the step.
        total: steps of the whole run.
        warmup: steps over which the factor rises.
        warmup_start: `start` of `warm_up`.

    Returns:
        Greater than 0, at most 1.

    Examples:
        >>> [round(cosine(step, total=4), 3) for step in range(4)]
        [1.0, 0.854, 0.5, 0.146]
    """
    return warm_up(step, warmup, warmup_start) * (1 + math.cos(math.pi * step / total)) / 2


def step_decay(step: int, period: int, warmup: int = 0, factor: float = 0.1, warmup_start: float = 0.0) -> float:
    """Factor of the learning rate: linear warm-up, and multiplied by `factor` after every `period` steps.

    Args:
        step: from 0, index of the step.
        period: steps between two decays.
        warmup: steps over which the factor rises.
        factor: 0.1 in the paper (sec. 5.1); 1 keeps the rate constant.
        warmup_start: `start` of `warm_up`.

    Returns:
        0 to 1.

    Examples:
        >>> [round(step_decay(step, period=2, factor=0.5), 3) for step in range(6)]
        [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    """
    return float(warm_up(step, warmup, warmup_start) * factor ** (step // period))


def learning_rate(train: BaseTrainConfig, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step: the schedule falls from `train.lr` to `train.min_lr`, times the warm-up's factor.

    As in the scheduler of attentive DLA, https://github.com/SysCV/dla-afa, `afa/model/optimize/scheduler.py`, which
    counts epochs rather than steps. Its warm-up rises to the whole learning rate from a share of it, below the floor.

    Args:
        train: the config.
        step: from 0, index of the step.
        steps_per_epoch: number of batches in an epoch.
    """
    total, warmup, start = train.epochs * steps_per_epoch, train.warmup_steps, train.warmup_start
    if train.schedule == "step":
        factor = step_decay(step, train.step_epochs * steps_per_epoch, warmup, train.step_gamma, start)
    elif train.schedule == "cosine":
        factor = cosine(step, total, warmup, start)
    else:
        factor = poly(step, total, warmup, train.poly_power, start)
    # Without a floor, these are the bits of lr * factor, so that runs go on exactly that began before there was one
    return (train.lr - train.min_lr) * factor + train.min_lr * warm_up(step, warmup, start)


def check_warmup(train: BaseTrainConfig, steps_per_epoch: int) -> None:
    """Checks that the warm-up ends within the run.

    Raises:
        UserError: it is longer.
    """
    steps = train.epochs * steps_per_epoch
    if train.warmup_steps > steps:
        raise UserError(
            f"train.warmup_steps {train.warmup_steps}: the whole run has {steps} steps ({train.epochs} epochs of "
            f"{steps_per_epoch}), and would never reach train.lr: use fewer, such as {steps // 10}"
        )


def depends_on_epochs(train: BaseTrainConfig) -> bool:
    """Whether the learning rates of the first steps depend on how many epochs follow."""
    falls = train.schedule == "cosine" or (train.schedule == "poly" and train.poly_power != 0)
    return falls and train.min_lr != train.lr
