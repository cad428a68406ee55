"""fit -> train_one_epoch -> train_step, whatever the task."""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from dlaseg.config import LearningConfig, validate
from dlaseg.data.loading import batches
from dlaseg.data.tensors import normalize
from dlaseg.errors import UserError
from dlaseg.files import write_json, write_text
from dlaseg.memory import keep_freed_memory
from dlaseg.models.device import gains_from_bfloat16, memory_format, pick_device
from dlaseg.models.dla import DLA
from dlaseg.models.segmenter import DLASeg
from dlaseg.models.weights import save_model
from dlaseg.records import flatten, read_yaml, to_yaml
from dlaseg.training.checkpoint import load_checkpoint, save_checkpoint
from dlaseg.training.environment import environment
from dlaseg.training.schedules import learning_rate
from dlaseg.training.task import Record, Task


@dataclass
class TrainState:
    """What changes while a run goes on.

    Attributes:
        model: the network, on its device.
        optimizer: of its parameters.
        epoch: epochs done.
        step: steps done.
        log: the rows of log.jsonl.
    """

    model: DLASeg | DLA
    optimizer: Optimizer
    epoch: int
    step: int
    log: list[dict[str, Any]]

    def best(self, metric: str) -> float:
        """The highest value of a metric so far, -1 before the first."""
        return max((row[metric] for row in self.log if row.get(metric) is not None), default=-1.0)


def fit(task: Task[Any, Any], output: Path, resume: bool = False, report: Callable[[str], None] = print) -> TrainState:
    """Trains as the task's record says and leaves a run folder.

    Args:
        task: what to learn, and the record.
        output: the run folder: config.yaml, log.jsonl, events.*, last.ckpt, best.safetensors, environment.json, and
            what the task concludes with.
        resume: go on from last.ckpt; from the start where there is none yet.
        report: gets one line per epoch.

    Returns:
        The state after the last epoch.

    Raises:
        UserError: a bad value, a bad data set, a folder that holds another run, or a loss that is no number.
    """
    config = task.config
    validate(config)
    training, validation = task.open_splits()
    check_output(config, output, resume)
    device = pick_device(config.train.device)
    if device.type == "cpu":
        keep_freed_memory()
    state = initial_state(task, training, device)
    checkpoint = output / "last.ckpt"
    if resume and checkpoint.exists():
        restore(state, load_checkpoint(checkpoint))
    else:
        task.load_weights(state.model)
    loader, sampler = task.train_loader(training, state.model)
    scores = task.validator(validation)
    step = step_function(task, state, len(loader), device)
    best_by = next(iter(task.metrics))

    if resume:
        report(f"{output}: going on after epoch {state.epoch} of {config.train.epochs}")
    write_text(output / "config.yaml", to_yaml(config))
    write_json(output / "environment.json", environment() | {"weights": state.model.origin})
    with SummaryWriter(str(output), purge_step=state.step) as board:
        while state.epoch < config.train.epochs:
            sampler.epoch = state.epoch
            row = train_one_epoch(state, step, loader, config.train.epochs) | dict.fromkeys(task.metrics)
            state.epoch += 1
            if state.epoch % config.train.eval_every == 0 or state.epoch == config.train.epochs:
                row |= scores(state.model)
                if row[best_by] is not None and row[best_by] > state.best(best_by):
                    save_model(state.model, output / "best.safetensors")
            state.log.append(row)
            save_checkpoint(checkpoint, snapshot(state))
            write_text(output / "log.jsonl", "".join(json.dumps(entry) + "\n" for entry in state.log))
            for name in ("loss", "lr", "images_per_second", "data_wait", *task.metrics):
                if row[name] is not None:
                    board.add_scalar(name, row[name], state.step)
            report(summary(row, config.train.epochs, task.metrics))
    task.conclude(output, validation)
    return state


def train_one_epoch(
    state: TrainState, step: Callable[[Tensor, Tensor], tuple[float, float]], loader: Any, epochs: int
) -> dict[str, Any]:
    """Takes a step for every batch.

    Returns:
        The epoch's row of the log: mean loss, last learning rate, images per second, share of the time spent waiting
        for data.
    """
    loss_sum, images_seen, waited, lr = 0.0, 0, 0.0, 0.0
    start = ready = time.perf_counter()
    title = f"epoch {state.epoch + 1}/{epochs}"
    progress = tqdm(batches(loader), total=len(loader), desc=title, leave=False, disable=None)
    for images, targets in progress:
        waited += time.perf_counter() - ready
        loss, lr = step(images, targets)
        loss_sum += loss * len(images)
        images_seen += len(images)
        ready = time.perf_counter()
        speed, wait = images_seen / (ready - start), waited / (ready - start)
        progress.set_postfix_str(f"loss {loss:.3f}, {speed:.1f} img/s, data wait {wait:.0%}")
    seconds = time.perf_counter() - start
    return {
        "epoch": state.epoch + 1,
        "step": state.step,
        "loss": loss_sum / images_seen,
        "lr": lr,
        "images_per_second": images_seen / seconds,
        "data_wait": waited / seconds,
    }


def step_function(
    task: Task[Any, Any], state: TrainState, steps_per_epoch: int, device: torch.device
) -> Callable[[Tensor, Tensor], tuple[float, float]]:
    """Makes the training step: forward, loss, backward, update.

    Args:
        task: the loss, the schedule and the precision.
        state: its model and optimizer are updated, its step counted.
        steps_per_epoch: batches in an epoch, for the schedule.
        device: where the model is.

    Returns:
        A function from (images (N, 3, H, W) uint8, targets, integers as the task's loader gives them) to (loss,
        learning rate).
    """
    model, optimizer, train = state.model, state.optimizer, task.config.train
    bfloat16 = train.precision == "bfloat16" or (train.precision == "auto" and gains_from_bfloat16(device))

    def step(images: Tensor, targets: Tensor) -> tuple[float, float]:
        model.train()
        lr = learning_rate(train, state.step, steps_per_epoch)
        for group in optimizer.param_groups:
            group["lr"] = lr
        inputs = normalize(images.to(device, non_blocking=True), model.mean, model.std)
        inputs = inputs.contiguous(memory_format=memory_format(device))
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            logits = task.logits(model, inputs)
        loss = task.loss(logits, targets.to(device).long())
        value = loss.item()
        if not math.isfinite(value):
            raise UserError(
                f"the loss is {value} at step {state.step + 1}, which was not taken: "
                f"lower train.lr ({train.lr}) or raise train.warmup_steps ({train.warmup_steps})"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        state.step += 1
        return value, lr

    return step


def initial_state(task: Task[Any, Any], training: Any, device: torch.device) -> TrainState:
    """A fresh model for the training split, its weights from the seed, and its optimizer."""
    train = task.config.train
    torch.manual_seed(train.seed)
    model = task.make_model(training)
    model.to(device).to(memory_format=memory_format(device))
    return TrainState(model, make_optimizer(model, train, device), epoch=0, step=0, log=[])


def make_optimizer(model: nn.Module, train: LearningConfig, device: torch.device) -> Optimizer:
    """The optimizer of the record, over all parameters."""
    fused = device.type in ("cpu", "cuda")  # one pass over the parameters rather than one per operation
    if train.optimizer == "adamw":
        return AdamW(model.parameters(), train.lr, weight_decay=train.weight_decay, fused=fused)
    return SGD(model.parameters(), train.lr, train.momentum, weight_decay=train.weight_decay, fused=fused)


def snapshot(state: TrainState) -> dict[str, Any]:
    """What `restore` needs: tensors and plain values.

    No random state: order, augmentation and dropout-free network draw nothing that does not come from (seed, epoch).
    """
    return {
        "model": state.model.state_dict(),
        "mean": list(state.model.mean),
        "std": list(state.model.std),
        "origin": state.model.origin,
        "optimizer": state.optimizer.state_dict(),
        "epoch": state.epoch,
        "step": state.step,
        "log": state.log,
    }


def restore(state: TrainState, saved: dict[str, Any]) -> None:
    """Puts back what `snapshot` took."""
    state.model.load_state_dict(saved["model"])
    state.model.mean, state.model.std = tuple(saved["mean"]), tuple(saved["std"])
    state.model.origin = saved["origin"]
    state.optimizer.load_state_dict(saved["optimizer"])
    state.epoch, state.step, state.log = saved["epoch"], saved["step"], saved["log"]


# A run may move to another machine and folder without becoming another run.
_FREE_TO_CHANGE = ("name", "data.root", "data.workers", "train.device")


def check_output(config: Record, output: Path, resume: bool) -> None:
    """Refuses to write over another run, and to resume with another record.

    Raises:
        UserError: names the folder, or the field that differs.
    """
    recorded = output / "config.yaml"
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: a file stands where the run folder shall be: name another --output")
    if not resume:
        if recorded.exists() or (output / "last.ckpt").exists():
            raise UserError(f"{output}: holds a run already: go on with it by --resume, or name another --output")
        return
    if recorded.exists():
        # A field that is younger than the run was made so that its default is what was done before
        defaults, now = (flatten(yaml.safe_load(to_yaml(record))) for record in (type(config)(), config))
        before = defaults | flatten(read_yaml(recorded))
        if foreign := sorted(before.keys() - now.keys()):
            raise UserError(
                f"{output}: its run has the field {foreign[0]}, which is none of this command's: go on with it by the "
                "command that started it, or name another --output"
            )
        for name in sorted(now):
            if name not in _FREE_TO_CHANGE and before.get(name) != now.get(name):
                raise UserError(
                    f"{name} {now.get(name)}: the run in {output} has {before.get(name)}; a resumed run keeps its "
                    "record: give the same value, or start a new run in another --output"
                )


def summary(row: dict[str, Any], epochs: int, metrics: Mapping[str, str]) -> str:
    """A row of the log as one line for people.

    Args:
        row: of the log.
        epochs: of the whole run.
        metrics: names in the row, and what people call them.
    """
    scores = "".join(f"  val {title} {row[name]:.4f}" for name, title in metrics.items() if row[name] is not None)
    return (
        f"epoch {row['epoch']}/{epochs}  loss {row['loss']:.4f}  lr {row['lr']:.5f}  "
        f"{row['images_per_second']:.1f} img/s  data wait {row['data_wait']:.0%}{scores}"
    )
