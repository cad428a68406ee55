"""fit -> train_one_epoch -> step, whatever the task."""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from dlaseg.config_files import to_yaml
from dlaseg.data.loading import EpochBatches, batches
from dlaseg.device import reproducible
from dlaseg.errors import Stopped, UserError
from dlaseg.files import write_json, write_text
from dlaseg.memory import keep_freed_memory
from dlaseg.run_folder import BEST_WEIGHTS, CONFIG, ENVIRONMENT, LOG
from dlaseg.training.checkpoint import has_checkpoint, load_latest, save_checkpoint
from dlaseg.training.cpu import convolution
from dlaseg.training.cpu.batch_norm import synchronize
from dlaseg.training.distributed import Processes, job, processes, restarted
from dlaseg.training.environment import environment
from dlaseg.training.out_of_memory import oom_hints
from dlaseg.training.run_folder import check_output, check_record, dump_batch, plain_record
from dlaseg.training.schedules import learning_rate
from dlaseg.training.state import Progress, TrainState, initial_state, restore, snapshot
from dlaseg.training.step import Outcome, Step, step_function
from dlaseg.training.stopping import StopRequest
from dlaseg.training.task import Task, Validation
from dlaseg.training.trackers import Tracker, open_trackers
from dlaseg.weights.files import save_model

logger = logging.getLogger(__name__)

CURVE_EVERY = 10
"""Batches between two points of the curves within an epoch."""


@dataclass
class Run:
    """What a run is made of.

    Attributes:
        task: what is learnt.
        processes: those that share the work.
        output: the run folder.
        training: the split.
        validation: the split.
        state: what changes.
        loader: this process's parts of the batches.
        sampler: of the loader.
        step: takes a batch's parts.
    """

    task: Task[Any, Any]
    processes: Processes
    output: Path
    training: Any
    validation: Any
    state: TrainState
    loader: DataLoader[Any]
    sampler: EpochBatches
    step: Step


def fit(
    task: Task[Any, Any],
    output: Path,
    resume: bool = False,
    report: Callable[[str], None] = print,
) -> TrainState:
    """Trains as the task's record says and leaves a run folder.

    Started by torchrun, all processes take part and the first one writes; after a restart by it they go on from the
    last checkpoint.

    Args:
        task: what to learn, and the record.
        output: the run folder: config.yaml, log.jsonl, events.*, last.ckpt, best.safetensors, environment.json, and
            what the task concludes with.
        resume: go on from the last checkpoint; from the start where there is none yet.
        report: gets one line per epoch.

    Returns:
        The state after the last epoch.

    Raises:
        UserError: a bad value, a bad data set, a folder that holds another run, numbers that are not finite again and
            again, too little memory, or a checkpoint that cannot be read or written.
        Stopped: by SIGINT or SIGTERM; the checkpoint is written.
    """
    with ExitStack() as stack:
        with processes(task.config.train.device) as own, reproducible(task.config.train.deterministic):
            resume = own.broadcast(resume or restarted(output))
            run = open_run(task, own, output, resume)
            if resume and own.is_main:
                report(resume_message(run))
            stop = stack.enter_context(StopRequest())
            train(run, stop, report)
        if own.is_main:  # the others need not wait for it
            task.on_fit_end(output, run.validation)
    return run.state


def open_run(task: Task[Any, Any], own: Processes, output: Path, resume: bool) -> Run:
    """A run where it begins or goes on; writes nothing.

    Args:
        task: what to learn.
        own: this process among those that train.
        output: the run folder.
        resume: whether it goes on from a checkpoint there, if there is one.

    Raises:
        UserError: the folder or its checkpoint is another run's, bad data, weights that do not fit.
    """
    training, validation = task.open_splits()

    def checkpoint() -> dict[str, Any] | None:
        check_output(task.config, output, resume)
        if not resume or not (has_checkpoint(output) or (output / LOG).exists()):
            return None  # no epoch was finished, no checkpoint written
        saved = load_latest(output)
        check_record(task.config, saved["config"], output)
        return saved

    return build(task, own, training, validation, output, own.run_on_rank0(checkpoint))


def build(
    task: Task[Any, Any],
    own: Processes,
    training: Any,
    validation: Any,
    output: Path = Path(),
    saved: dict[str, Any] | None = None,
) -> Run:
    """Puts together what a run is made of.

    Args:
        task: what to learn.
        own: this process among those that train.
        training: the split.
        validation: the split.
        output: the run folder; nothing is written.
        saved: the checkpoint to go on from; None for the start.
    """
    train = task.config.train
    if own.device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(train.seed)
    model = task.make_model(training)
    if own.device.type == "cpu":
        convolution.convert(model)
    if saved is None:
        own.run_on_rank0(lambda: task.load_weights(model))
    if own.world_size > 1:
        model = synchronize(model, own.device)
    state = initial_state(model, train, own.device)
    if saved is not None:
        restore(state, saved)
    elif own.world_size > 1:
        restore(state, own.broadcast(snapshot(state)))
    loader, sampler = task.train_loader(training, model, own)
    step = step_function(task, state, task.criterion(training), sampler.batches, own)
    return Run(task, own, output, training, validation, state, loader, sampler, step)


def train(run: Run, stop: StopRequest, report: Callable[[str], None]) -> None:
    """Trains until the last epoch, or until validation has not improved for as long as the record allows."""
    task, state, output, is_main = run.task, run.state, run.output, run.processes.is_main
    config, best_by = task.config, next(iter(task.metrics))
    scores = task.validator(run.validation, run.processes)
    with ExitStack() as stack:
        trackers: list[Tracker] = []
        if is_main:
            trackers = stack.enter_context(open_trackers(config.train.trackers, output, state.step))
            write_text(output / CONFIG, to_yaml(config))
            origins = [asdict(origin) for origin in state.model.metadata.origin]
            write_json(output / ENVIRONMENT, environment() | {"weights": origins, "job": job()})
        stack.enter_context(stop.deferred())
        while state.epoch < config.train.epochs and not stalled(run):
            train_one_epoch(run, stop, trackers)
            row: dict[str, Any] = epoch_row(run) | dict.fromkeys(task.metrics)
            found = None
            if (state.epoch + 1) % config.train.eval_every == 0 or state.epoch + 1 == config.train.epochs:
                save(run)  # what follows takes long and may be interrupted
                with stop.immediate():
                    found = scores(state.eval_model)
                row |= found.metrics
            if is_main and row[best_by] is not None and row[best_by] > state.best(best_by):
                save_model(state.eval_model, output / BEST_WEIGHTS)
            state.epoch, state.progress = state.epoch + 1, Progress()
            state.log.append(row)
            save(run)
            if is_main:
                write_text(output / LOG, "".join(json.dumps(entry) + "\n" for entry in state.log))
                track(trackers, row, found)
                report(summary(row, config.train.epochs, task.metrics))
            with stop.immediate():
                pass  # here it was deferred to
    if is_main and stalled(run):
        report(f"no better val {task.metrics[best_by]} in {config.train.patience} validations: done")


def train_one_epoch(run: Run, stop: StopRequest, trackers: Sequence[Tracker]) -> None:
    """Takes a step for every batch that the epoch still has, and a checkpoint now and then.

    Raises:
        Stopped: after the step during which a process was asked to, and a checkpoint.
        UserError: as `fit`.
    """
    task, state, sampler, progress, is_main = (
        run.task,
        run.state,
        run.sampler,
        run.state.progress,
        run.processes.is_main,
    )
    train = task.config.train
    sampler.epoch, sampler.first = state.epoch, progress.batches
    if len(sampler) == 0:  # it was left just before its validation
        return
    start = ready = saved = time.perf_counter()
    spent, waited = progress.seconds, progress.waited
    title = f"epoch {state.epoch + 1}/{train.epochs}"
    drawn = batches(run.loader, on_skip=broken_counter(progress))
    with tqdm(initial=sampler.first, total=sampler.batches, desc=title, leave=False, disable=None) as bar:
        while parts := list(islice(drawn, sampler.shard.micro_batches)):
            waited += time.perf_counter() - ready
            with oom_hints(task.config, run.processes):
                outcome = run.step(parts, lambda: stop.name is not None)
            ready = time.perf_counter()
            progress.batches += 1
            progress.seconds, progress.waited = spent + ready - start, waited
            if outcome.updated:
                progress.updates += 1
                progress.loss_sum += outcome.loss
            else:
                left_out(run, outcome)
            if outcome.stop:
                save(run)
                raise Stopped(f"stopped by {stop.name or 'another process'} after step {state.step}")
            if ready - saved >= 60 * train.checkpoint_minutes:
                save(run)
                saved = ready
            if state.step % CURVE_EVERY == 0 and is_main:
                for tracker in trackers:
                    tracker.scalars({"step/loss": outcome.loss, "step/lr": outcome.lr}, state.step)
            speed, wait = progress.batches * sampler.batch_size / progress.seconds, waited / progress.seconds
            bar.update()
            bar.set_postfix_str(f"loss {outcome.loss:.3f}, {speed:.1f} img/s, data wait {wait:.0%}", refresh=False)


def epoch_row(run: Run) -> dict[str, Any]:
    """The epoch's row of the log: mean loss, last learning rate, images per second, share of the time without data.

    `skipped` are batches that gave no update, `broken` are images that others took the place of.
    """
    state, sampler, progress = run.state, run.sampler, run.state.progress
    broken = run.processes.sum_(torch.tensor(progress.broken, device=run.processes.device))
    return {
        "epoch": state.epoch + 1,
        "step": state.step,
        "loss": progress.loss_sum / progress.updates if progress.updates else None,
        "lr": learning_rate(run.task.config.train, state.step - 1, sampler.batches),
        "images_per_second": progress.batches * sampler.batch_size / progress.seconds,
        "data_wait": progress.waited / progress.seconds,
        "skipped": progress.batches - progress.updates,
        "broken": int(broken),
    }


def save(run: Run) -> None:
    """Writes the checkpoint, where this process is the one that writes."""
    if run.processes.is_main:
        save_checkpoint(run.output, snapshot(run.state) | {"config": plain_record(run.task.config)})


def left_out(run: Run, outcome: Outcome) -> None:
    """Says that a step gave no update, and stops where that has happened too often in a row.

    Raises:
        UserError: names the batch's files, which are written to the run folder as the network saw them.
    """
    state, train, sampler = run.state, run.task.config.train, run.sampler
    what = f"loss {outcome.loss}, gradient {outcome.gradient}"
    if run.processes.is_main:
        logger.warning("step %d: %s: no update (%d in a row)", state.step, what, state.skipped)
    if state.skipped <= train.max_nonfinite_steps:
        return
    keys = sampler.batch(state.epoch, state.progress.batches - 1)
    files = [run.task.file(run.training, index) for _, index in keys]
    folder = run.output / f"not_finite_step_{state.step}"
    if run.processes.is_main:
        dump_batch(folder, run.loader.dataset, keys, files)
    raise UserError(
        f"step {state.step}: {what}; no update for {state.skipped} steps in a row, train.max_nonfinite_steps is "
        f"{train.max_nonfinite_steps}: look at its batch in {folder} ({', '.join(map(str, files))}); if it is sound, "
        f"start again with a lower train.lr ({train.lr}), more train.warmup_steps ({train.warmup_steps}) or "
        "train.clip_grad_norm"
    )


def broken_counter(progress: Progress) -> Callable[[str], None]:
    """Counts images that cannot be read, and says so of each."""

    def count(reason: str) -> None:
        progress.broken += 1
        logger.warning("left out, the next one taken: %s", reason)

    return count


def stalled(run: Run) -> bool:
    """Whether validation has not improved for as long as the record allows."""
    patience = run.task.config.train.patience
    return patience is not None and run.state.since_best(next(iter(run.task.metrics))) >= patience


def track(trackers: Sequence[Tracker], row: dict[str, Any], found: Validation | None) -> None:
    """Hands an epoch's numbers and picture on."""
    numbers = {name: value for name, value in row.items() if name not in ("epoch", "step") and value is not None}
    for tracker in trackers:
        tracker.scalars(numbers | (found.details if found else {}), row["step"])
        if found is not None and found.picture is not None:
            tracker.picture("validation", found.picture, row["step"])


def resume_message(run: Run) -> str:
    """Where a resumed run goes on."""
    state, batch = run.state, run.state.progress.batches
    within = f", {batch} of {run.sampler.batches} batches into the next" if batch else ""
    return f"{run.output}: going on after epoch {state.epoch} of {run.task.config.train.epochs}{within}"


def summary(row: dict[str, Any], epochs: int, metrics: Mapping[str, str]) -> str:
    """One line about an epoch.

    Args:
        row: of the log.
        epochs: of the whole run.
        metrics: names in the row, and what people call them.
    """
    scores = "".join(f"  val {title} {row[name]:.4f}" for name, title in metrics.items() if row[name] is not None)
    oddities = "".join(f"  {row[name]} {name}" for name in ("skipped", "broken") if row[name])
    loss = "-" if row["loss"] is None else f"{row['loss']:.4f}"
    return (
        f"epoch {row['epoch']}/{epochs}  loss {loss}  lr {row['lr']:.5f}  "
        f"{row['images_per_second']:.1f} img/s  data wait {row['data_wait']:.0%}{scores}{oddities}"
    )
