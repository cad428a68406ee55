"""A run at its beginning or from its last checkpoint: model, optimizer, loader and step."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from dlaseg.data.loading import EpochBatches
from dlaseg.memory import keep_freed_memory
from dlaseg.run_folder import BEST_WEIGHTS, LOG, VAL_NAMES
from dlaseg.training.checkpoint import has_checkpoint, load_latest
from dlaseg.training.cpu import convolution
from dlaseg.training.cpu.batch_norm import synchronize
from dlaseg.training.distributed import DistributedContext
from dlaseg.training.recorded_classes import check_classes
from dlaseg.training.recorded_files import check_files, recorded_names
from dlaseg.training.run_folder import check_epochs, check_output, check_same_config
from dlaseg.training.schedules import check_warmup
from dlaseg.training.state import TrainState, check_snapshot, initial_state, restore, snapshot
from dlaseg.training.step import Step, step_function
from dlaseg.training.task import Task
from dlaseg.weights.files import check_savable


@dataclass
class Run:
    """Everything that a run works with.

    Attributes:
        task: the kind of training.
        dist: the processes that share the work.
        output: the run folder.
        training: the training split.
        validation: the validation split.
        state: what a checkpoint holds.
        loader: loads this process's micro-batches.
        sampler: of the loader.
        step: takes the micro-batches of one batch.
        changed: whether the run resumes with other training images than those that its checkpoint saw.
    """

    task: Task[Any, Any]
    dist: DistributedContext
    output: Path
    training: Any
    validation: Any
    state: TrainState
    loader: DataLoader[Any]
    sampler: EpochBatches
    step: Step
    changed: bool = False


def open_run(task: Task[Any, Any], dist: DistributedContext, output: Path, resume: bool) -> Run:
    """Builds a run at its beginning or from its last checkpoint; writes nothing.

    Args:
        task: the kind of training.
        dist: the processes that train.
        output: the run folder.
        resume: whether to resume from a checkpoint in the run folder, if there is one.

    Raises:
        UserError: the folder or its checkpoint belongs to another run, invalid data, other classes, images that came or
            went, or weights that do not fit.
    """

    def read_checkpoint() -> tuple[dict[str, Any] | None, Collection[str] | None]:
        check_output(task.config, output, resume)
        if not resume or not (has_checkpoint(output) or (output / LOG).exists()):
            return None, None  # the run stopped before its first checkpoint
        checkpoint = load_latest(output)
        check_snapshot(checkpoint, output)
        check_same_config(task.config, checkpoint["config"], output)
        return checkpoint, recorded_names(output / VAL_NAMES)

    checkpoint, val_names = dist.run_on_rank0(read_checkpoint)
    training, validation = task.open_splits(val_names)

    def check_progress() -> bool:
        if checkpoint is None:
            return False
        batches = len(training) // task.config.train.batch_size
        check_classes(task.config, checkpoint.get("classes"), task.classes(training), output)
        check_epochs(task.config, checkpoint, batches, output)
        same = checkpoint["step"] == checkpoint["epoch"] * batches + checkpoint["progress"]["batches"]
        proceed = task.config.data.on_changed_files == "go"
        return check_files(output, task.names(training), task.names(validation), same, proceed)

    changed = dist.run_on_rank0(check_progress)
    run = build(task, dist, training, validation, output, checkpoint)
    if checkpoint is None and dist.is_main:
        task.advise(run.state.model, run.sampler.batches)
    if changed:  # the order of an epoch depends on the number of images
        run.state.begin_epoch_again(run.sampler.batches)
    return replace(run, changed=changed)


def build(
    task: Task[Any, Any],
    dist: DistributedContext,
    training: Any,
    validation: Any,
    output: Path = Path(),
    checkpoint: dict[str, Any] | None = None,
) -> Run:
    """Builds model, optimizer, loader and step.

    Args:
        task: the kind of training.
        dist: the processes that train.
        training: the training split.
        validation: the validation split.
        output: the run folder; nothing is written.
        checkpoint: to resume from; None for the beginning.
    """
    train = task.config.train
    if dist.device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(train.seed)
    model = task.make_model(training)
    dist.run_on_rank0(lambda: check_savable(model, output / BEST_WEIGHTS))  # now, not after the first epoch
    if dist.device.type == "cpu":
        convolution.convert(model)
    if checkpoint is None:
        dist.run_on_rank0(lambda: task.load_weights(model))
    if dist.world_size > 1:
        model = synchronize(model, dist.device)
    state = initial_state(model, train, dist.device)
    if checkpoint is not None:
        restore(state, checkpoint, output)
    elif dist.world_size > 1:
        restore(state, dist.broadcast(snapshot(state)))
    loader, sampler = task.train_loader(training, model, dist)
    check_warmup(train, sampler.batches)
    task.check_data(training, validation, output, dist)  # last, since it may take long
    step = step_function(task, state, task.criterion(training, model), sampler.batches, dist)
    return Run(task, dist, output, training, validation, state, loader, sampler, step)
