"""The training state, and its snapshot for checkpoints."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from dlaseg.config.training import BaseTrainConfig
from dlaseg.device import memory_format
from dlaseg.errors import UserError
from dlaseg.metadata import Origin
from dlaseg.training.optimizers import Network, freeze, make_optimizer, moving_average


@dataclass
class Progress:
    """Progress within an epoch.

    Attributes:
        batches: finished batches, including those without an update.
        loss_sum: sum of the losses of the updates.
        updates: number of updates.
        seconds: training time, including the time before a resume.
        waited: seconds of it spent waiting for data.
    """

    batches: int = 0
    loss_sum: float = 0.0
    updates: int = 0
    seconds: float = 0.0
    waited: float = 0.0


@dataclass
class TrainState:
    """The content of a checkpoint.

    Attributes:
        model: the network, on its device.
        optimizer: of the trainable parameters.
        average: moving average of the weights; None without `train.ema_decay`.
        scaler: scales the loss; disabled unless the precision is float16.
        epoch: finished epochs.
        step: finished batches, including those without an update.
        skipped: batches since the last update.
        progress: within the current epoch.
        log: rows of log.jsonl.
        unreadable: samples that were skipped since the run began, and why: index -> message.
    """

    model: Network
    optimizer: Optimizer
    average: AveragedModel | None = None
    scaler: GradScaler = field(default_factory=lambda: GradScaler("cpu", enabled=False))
    epoch: int = 0
    step: int = 0
    skipped: int = 0
    progress: Progress = field(default_factory=Progress)
    log: list[dict[str, Any]] = field(default_factory=list)
    unreadable: dict[int, str] = field(default_factory=dict)

    @property
    def eval_model(self) -> Network:
        """The network that is validated and saved: the moving average if there is one."""
        return self.model if self.average is None else cast(Network, self.average.module)

    def best(self, metric: str) -> float:
        """The highest value of a metric so far; -1 before the first validation."""
        return max((row[metric] for row in self.log if row.get(metric) is not None), default=-1.0)

    def since_best(self, metric: str, every: int) -> int:
        """The number of validations since the best one.

        Args:
            metric: the first of the task.
            every: epochs between validations. Others, of the last epoch before a run was extended, do not count, so an
                extended run ends where a run of that length would.
        """
        values = [row[metric] for row in self.log if row.get(metric) is not None and row["epoch"] % every == 0]
        return len(values) - 1 - values.index(max(values)) if values else 0

    def begin_epoch_again(self, batches: int) -> None:
        """Sets the state to the beginning of the unfinished epoch, of so many batches; the weights stay as they are.

        The samples are other ones than before, so those that cannot be read are named again.
        The step becomes that of a run with so many batches in every epoch: the learning rate depends on it.
        """
        self.step, self.progress, self.unreadable = self.epoch * batches, Progress(), {}


def initial_state(model: Network, train: BaseTrainConfig, device: torch.device) -> TrainState:
    """The state before the first step.

    Args:
        model: with its initial weights; moved to the device.
        train: the config.
        device: to train on.
    """
    model.to(device).to(memory_format=memory_format(device))
    freeze(model, train.freeze)
    average = moving_average(model, train.ema_decay) if train.ema_decay else None
    scaler = GradScaler(device.type, enabled=train.precision == "float16")
    return TrainState(model, make_optimizer(model, train, device), average, scaler)


def snapshot(state: TrainState) -> dict[str, Any]:
    """The state as tensors and plain values, for `restore`.

    It holds no random state: the order of the samples and their augmentation depend on (seed, epoch, index) alone, and
    dropout on (seed, step, place in the batch).
    """
    return {
        "model": state.model.state_dict(),
        "mean": list(state.model.metadata.mean),
        "std": list(state.model.metadata.std),
        "origin": [asdict(origin) for origin in state.model.metadata.origin],
        "optimizer": state.optimizer.state_dict(),
        "average": None if state.average is None else state.average.state_dict(),
        "scaler": state.scaler.state_dict(),
        "epoch": state.epoch,
        "step": state.step,
        "skipped": state.skipped,
        "progress": asdict(state.progress),
        "log": state.log,
        "unreadable": state.unreadable,
    }


def check_snapshot(saved: Mapping[str, Any], output: Path) -> None:
    """Checks the plain values of a checkpoint, `config` included; `restore` checks the tensors.

    Raises:
        UserError: a value is missing or of another kind.
    """
    kinds = {"config": dict, "progress": dict, "log": list, "epoch": int, "step": int, "skipped": int}
    wrong = [name for name, kind in kinds.items() if type(saved.get(name)) is not kind]
    wrong = wrong or [name for name in ("epoch", "step", "skipped") if saved[name] < 0]
    wrong = wrong or [name for name in saved["config"] if not isinstance(name, str)]
    progress = {} if wrong else saved["progress"]
    wrong = wrong or [
        f"progress.{name}"
        for name, value in progress.items()
        if not _is_number(value) or (value < 0 and name != "loss_sum")  # a loss may be negative, such as rmi
    ]
    wrong = wrong or [f"progress.{field.name}" for field in fields(Progress) if field.name not in progress]
    rows = [] if wrong else saved["log"]
    wrong = wrong or ["log" for row in rows if not isinstance(row, dict) or not _is_number(row.get("epoch"))]
    wrong = wrong or [
        name for row in rows for name, value in row.items() if value is not None and not _is_number(value)
    ]
    unreadable = saved.get("unreadable")
    if type(unreadable) is not dict or not all(
        type(index) is int and type(message) is str for index, message in unreadable.items()
    ):
        wrong = wrong or ["unreadable"]
    if wrong:
        raise unfit(output, f"{wrong[0]} is missing or wrong")


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def unfit(output: Path, reason: str) -> UserError:
    """The error about a checkpoint that cannot be continued."""
    return UserError(f"{output}: its checkpoint is not one of this run ({reason}): start again with another --output")


def restore(state: TrainState, saved: dict[str, Any], output: Path = Path()) -> None:
    """Sets the state to a `snapshot`.

    Raises:
        UserError: the snapshot is not one of such a network and optimizer; names the run folder `output`.
    """
    try:
        _restore(state, saved)
    except torch.OutOfMemoryError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise unfit(output, f"{type(error).__name__}: {error}") from error


def _restore(state: TrainState, saved: dict[str, Any]) -> None:
    for model in {state.model, state.eval_model}:
        origin, before = tuple(Origin(**entry) for entry in saved["origin"]), model.metadata
        model.metadata = replace(before, mean=tuple(saved["mean"]), std=tuple(saved["std"]), origin=origin)
        model.metadata.check(before.num_classes, before.in_channels)
    state.model.load_state_dict(saved["model"])
    state.optimizer.load_state_dict(saved["optimizer"])
    for parameter, entry in state.optimizer.state.items():
        for name, value in entry.items():
            if isinstance(value, Tensor) and value.shape not in (parameter.shape, ()):
                raise ValueError(f"{name} of shape {tuple(value.shape)} for a parameter of {tuple(parameter.shape)}")
    if state.average is not None:
        state.average.load_state_dict(saved["average"])
    state.scaler.load_state_dict(saved["scaler"])
    state.epoch, state.step, state.skipped = saved["epoch"], saved["step"], saved["skipped"]
    state.progress = Progress(**saved["progress"])
    state.log, state.unreadable = saved["log"], saved["unreadable"]
