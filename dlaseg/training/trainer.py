"""fit -> train_one_epoch -> train_step."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from dlaseg.config import Config, TrainConfig, flatten, read_yaml, to_yaml, validate
from dlaseg.data.datasets import SegmentationDataset, open_dataset
from dlaseg.data.loading import batches, train_loader, whole_image_loader
from dlaseg.data.tensors import normalize
from dlaseg.data.transforms import Augmentation
from dlaseg.errors import UserError
from dlaseg.evaluation.evaluator import evaluate
from dlaseg.files import write_json, write_text
from dlaseg.models.device import gains_from_bfloat16, keep_freed_memory, memory_format, pick_device
from dlaseg.models.factory import create_model
from dlaseg.models.segmenter import DLASeg
from dlaseg.models.weights import save_model
from dlaseg.training.checkpoint import load_checkpoint, save_checkpoint
from dlaseg.training.environment import environment
from dlaseg.training.losses import pixel_cross_entropy
from dlaseg.training.schedules import poly


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

    model: DLASeg
    optimizer: Optimizer
    epoch: int
    step: int
    log: list[dict[str, Any]]

    @property
    def best_miou(self) -> float:
        """The best validation mIoU so far, -1 before the first."""
        return max((row["miou"] for row in self.log if row.get("miou") is not None), default=-1.0)


def fit(config: Config, output: Path, resume: bool = False, report: Callable[[str], None] = print) -> TrainState:
    """Trains as the record says and leaves a run folder.

    Args:
        config: the record.
        output: the run folder: config.yaml, log.jsonl, events.*, last.ckpt, best.safetensors, environment.json.
        resume: go on from last.ckpt; from the start where there is none yet.
        report: gets one line per epoch.

    Returns:
        The state after the last epoch.

    Raises:
        UserError: a bad value, a bad data set, a folder that holds another run, or a loss that is no number.
    """
    validate(config)
    training, validation = (open_split(config, split) for split in (config.data.train_split, config.data.val_split))
    check_output(config, output, resume)
    device = pick_device(config.train.device)
    if device.type == "cpu":
        keep_freed_memory()
    state = initial_state(config, training, device)
    augmentation = Augmentation(config.augment, fill=[m * 255 for m in state.model.mean])
    loader, sampler = train_loader(
        training, augmentation, config.train.batch_size, config.train.seed, config.data.workers
    )
    val_loader = whole_image_loader(validation, min(config.data.workers, 1))
    step = step_function(config.train, state, config.train.epochs * len(loader), device)

    checkpoint = output / "last.ckpt"
    if resume:
        if checkpoint.exists():
            restore(state, load_checkpoint(checkpoint))
        report(f"{output}: going on after epoch {state.epoch} of {config.train.epochs}")
    write_text(output / "config.yaml", to_yaml(config))
    write_json(output / "environment.json", environment())
    with SummaryWriter(str(output), purge_step=state.step) as board:
        while state.epoch < config.train.epochs:
            sampler.epoch = state.epoch
            row = train_one_epoch(state, step, loader, config.train.epochs)
            state.epoch += 1
            if state.epoch % config.train.eval_every == 0 or state.epoch == config.train.epochs:
                row["miou"] = evaluate(state.model, validation, loader=val_loader).scores().miou
                if row["miou"] is not None and row["miou"] > state.best_miou:
                    save_model(state.model, output / "best.safetensors")
            state.log.append(row)
            save_checkpoint(checkpoint, snapshot(state))
            write_text(output / "log.jsonl", "".join(json.dumps(entry) + "\n" for entry in state.log))
            for name in ("loss", "lr", "images_per_second", "data_wait", "miou"):
                if row[name] is not None:
                    board.add_scalar(name, row[name], state.step)
            report(summary(row, config.train.epochs))
    return state


def train_one_epoch(
    state: TrainState, step: Callable[[Tensor, Tensor], tuple[float, float]], loader: Any, epochs: int
) -> dict[str, Any]:
    """Takes a step for every batch.

    Returns:
        The epoch's row of the log: mean loss, last learning rate, images per second, share of the time spent waiting
        for data; `miou` is None until the epoch is validated.
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
        "miou": None,
    }


def step_function(
    train: TrainConfig, state: TrainState, total: int, device: torch.device
) -> Callable[[Tensor, Tensor], tuple[float, float]]:
    """Makes the training step: forward, loss, backward, update.

    Args:
        train: the schedule and the precision.
        state: its model and optimizer are updated, its step counted.
        total: steps of the whole run.
        device: where the model is.

    Returns:
        A function from (images (N, 3, H, W) uint8, targets (N, H, W) uint8) to (loss, learning rate).
    """
    model, optimizer = state.model, state.optimizer
    weights = torch.tensor(train.class_weights, device=device) if train.class_weights is not None else None
    bfloat16 = train.precision == "bfloat16" or (train.precision == "auto" and gains_from_bfloat16(device))

    def step(images: Tensor, targets: Tensor) -> tuple[float, float]:
        model.train()
        lr = train.lr * poly(state.step, total, train.warmup_steps, train.power)
        for group in optimizer.param_groups:
            group["lr"] = lr
        inputs = normalize(images.to(device, non_blocking=True), model.mean, model.std)
        inputs = inputs.contiguous(memory_format=memory_format(device))
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            coarse = model.coarse_logits(inputs)
        loss = pixel_cross_entropy(coarse, targets.to(device).long(), model.stride, weights)
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


def initial_state(config: Config, training: SegmentationDataset, device: torch.device) -> TrainState:
    """A fresh model, its weights from the seed, and its optimizer."""
    model_config, train = config.model, config.train
    classes = training.label_map.num_classes
    if train.class_weights is not None and len(train.class_weights) != classes:
        raise UserError(
            f"train.class_weights has {len(train.class_weights)} numbers, the data set {classes} classes: "
            "give one a class, in their order"
        )
    torch.manual_seed(train.seed)
    model = create_model(model_config.name, classes, model_config.stride, model_config.root_kernel_size)
    model.label_map = training.label_map
    model.to(device).to(memory_format=memory_format(device))
    return TrainState(model, make_optimizer(model, train, device), epoch=0, step=0, log=[])


def make_optimizer(model: DLASeg, train: TrainConfig, device: torch.device) -> Optimizer:
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
        "optimizer": state.optimizer.state_dict(),
        "epoch": state.epoch,
        "step": state.step,
        "log": state.log,
    }


def restore(state: TrainState, saved: dict[str, Any]) -> None:
    """Puts back what `snapshot` took."""
    state.model.load_state_dict(saved["model"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.epoch, state.step, state.log = saved["epoch"], saved["step"], saved["log"]


def open_split(config: Config, split: str) -> SegmentationDataset:
    """The data set of the record, one split of it."""
    data = config.data
    return open_dataset(data.dataset, data.root, split, data.images, data.labels, data.classes)


# A run may move to another machine and folder without becoming another run.
_FREE_TO_CHANGE = ("name", "data.root", "data.workers", "train.device")


def check_output(config: Config, output: Path, resume: bool) -> None:
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
        before, now = flatten(read_yaml(recorded)), flatten(yaml.safe_load(to_yaml(config)))
        for name in sorted(before.keys() | now.keys()):
            if name not in _FREE_TO_CHANGE and before.get(name) != now.get(name):
                raise UserError(
                    f"{name} {now.get(name)}: the run in {output} has {before.get(name)}; a resumed run keeps its "
                    "record: give the same value, or start a new run in another --output"
                )


def summary(row: dict[str, Any], epochs: int) -> str:
    """A row of the log as one line for people."""
    miou = "" if row["miou"] is None else f"  val mIoU {row['miou']:.4f}"
    return (
        f"epoch {row['epoch']}/{epochs}  loss {row['loss']:.4f}  lr {row['lr']:.5f}  "
        f"{row['images_per_second']:.1f} img/s  data wait {row['data_wait']:.0%}{miou}"
    )
