"""The training loop of every task: fit -> train_one_epoch -> step."""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from torch.random import fork_rng
from tqdm import tqdm

from dlaseg.config.files import to_yaml
from dlaseg.data.loading import batches
from dlaseg.device import own_defaults, reproducible
from dlaseg.errors import Stopped, UserError
from dlaseg.files import write_json, write_text
from dlaseg.run_folder import BEST_WEIGHTS, CONFIG, ENVIRONMENT, LOG
from dlaseg.training.checkpoint import save_checkpoint
from dlaseg.training.distributed import (
    distributed_context,
    restarted_by_torchrun,
    torchrun_job_id,
)
from dlaseg.training.environment import environment
from dlaseg.training.out_of_memory import oom_hints
from dlaseg.training.recorded_files import record_files
from dlaseg.training.run import Run, open_run
from dlaseg.training.run_folder import check_output, check_process, dump_batch, flat_config, this_process
from dlaseg.training.schedules import learning_rate
from dlaseg.training.state import Progress, TrainState, snapshot
from dlaseg.training.step import StepResult
from dlaseg.training.stopping import StopRequest
from dlaseg.training.task import Task, Validation
from dlaseg.training.trackers import Tracker, open_trackers, tracker_classes
from dlaseg.weights.files import save_model

logger = logging.getLogger(__name__)

CURVE_EVERY = 10
"""Steps between two points of the curves within an epoch."""


@own_defaults()
def fit(
    task: Task[Any, Any],
    output: str | Path,
    resume: bool = False,
    report: Callable[[str], None] = print,
    allow_trackers: bool = False,
) -> TrainState:
    """Trains as the task's config says and writes a run folder.

    Under torchrun, all processes train and rank 0 writes. If torchrun restarts the processes, they resume from the last
    checkpoint.

    Args:
        task: the kind of training, with its config.
        output: the run folder: config.yaml, train.txt, val.txt, log.jsonl, events.*, last.ckpt, best.safetensors,
            environment.json, and the files of the task's `on_fit_start` and `on_fit_end`.
        resume: resume from the last checkpoint; start from the beginning if there is none yet.
        report: called with one line for each epoch.
        allow_trackers: whether trackers of your own, which the config names as MODULE:NAME, are imported.

    Returns:
        The state after the last epoch.

    Raises:
        UserError: an invalid value or data set, a folder that holds another run or in which another one begins, too
            many non-finite steps in a row, out of memory, or a checkpoint that cannot be read or written.
        Stopped: SIGINT or SIGTERM stopped the run; the checkpoint is written.
    """
    output = Path(output)
    trackers = tracker_classes(task.config.train.trackers, allow_trackers)
    with ExitStack() as stack:
        with (
            distributed_context(task.config.train.device) as dist,
            reproducible(task.config.train.deterministic),
            fork_rng([dist.device] if dist.device.type == "cuda" else []),  # the caller goes on with its own numbers
        ):
            resume = dist.broadcast(resume or restarted_by_torchrun(output))
            run = open_run(task, dist, output, resume)
            # Again, since that took seconds, in which another run may have begun.
            dist.run_on_rank0(lambda: check_output(task.config, output, resume))
            if resume and dist.is_main:
                report(resume_message(run))
            stop = stack.enter_context(StopRequest())
            train(run, stop, report, trackers)
        if dist.is_main:  # outside the process group: the other processes need not wait
            task.on_fit_end(output, run.validation)
    return run.state


def train(
    run: Run, stop: StopRequest, report: Callable[[str], None], tracker_kinds: Sequence[type[Tracker]] = ()
) -> None:
    """Trains until the last epoch, or until the validation metric has not improved for `train.patience` validations."""
    task, state, output, is_main = run.task, run.state, run.output, run.dist.is_main
    config, metric = task.config, next(iter(task.metrics))
    validate_model = task.validator(run.validation, run.dist)
    with ExitStack() as stack:
        trackers: list[Tracker] = []
        if is_main:
            trackers = stack.enter_context(open_trackers(tracker_kinds, output, state.step))
            write_text(output / CONFIG, to_yaml(config))  # first: by it `check_output` knows a run, however it ends
            origin = [asdict(entry) for entry in state.model.metadata.origin]
            claims = {"job": torchrun_job_id(), "process": this_process()}
            write_json(output / ENVIRONMENT, environment() | {"weights": origin} | claims)
            if run.changed:
                save(run)  # until the names are recorded, the next resume sees that the images have changed
            record_files(output, task.names(run.training), task.names(run.validation))
            task.on_fit_start(output)
        stack.enter_context(stop.deferred())
        while state.epoch < config.train.epochs and not should_stop_early(run):
            train_one_epoch(run, stop, trackers)
            share_unreadable(run)
            row: dict[str, Any] = epoch_row(run) | dict.fromkeys(task.metrics)
            validation = None
            if (state.epoch + 1) % config.train.eval_every == 0 or state.epoch + 1 == config.train.epochs:
                save(run)  # validation takes long, and a stop request interrupts it
                with stop.immediate():
                    validation = validate_model(state.eval_model)
                row |= validation.metrics
            if is_main and row[metric] is not None and row[metric] > state.best(metric):
                check_process(output)
                save_model(state.eval_model, output / BEST_WEIGHTS)
            state.epoch, state.progress = state.epoch + 1, Progress()
            state.log.append(row)
            save(run)
            if is_main:
                write_text(output / LOG, "".join(json.dumps(entry) + "\n" for entry in state.log))
                track_epoch(trackers, row, validation)
                report(epoch_summary(row, config.train.epochs, task.metrics))
            with stop.immediate():
                pass  # a stop request that arrived since the last step takes effect here
    if is_main and should_stop_early(run):
        report(f"early stop: no better val {task.metrics[metric]} in {config.train.patience} validations")


def train_one_epoch(run: Run, stop: StopRequest, trackers: Sequence[Tracker]) -> None:
    """Takes a step for each remaining batch of the epoch, and saves a checkpoint every `train.checkpoint_minutes`.

    Raises:
        Stopped: after the step during which a process received a stop request; the checkpoint is written.
        UserError: as `fit`.
    """
    task, state, sampler, progress, is_main = run.task, run.state, run.sampler, run.state.progress, run.dist.is_main
    train = task.config.train
    sampler.epoch, sampler.first = state.epoch, progress.batches
    if len(sampler) == 0:  # resumed between the last step and the end of validation
        return
    start = step_end = last_save = time.perf_counter()
    earlier_seconds, waited = progress.seconds, progress.waited
    title = f"epoch {state.epoch + 1}/{train.epochs}"
    loaded = batches(run.loader, on_skip=skip_recorder(state, is_main))
    with tqdm(initial=sampler.first, total=sampler.batches, desc=title, leave=False, disable=None) as bar:
        while micro_batches := list(islice(loaded, sampler.shard.micro_batches)):
            waited += time.perf_counter() - step_end
            with oom_hints(task.config, run.dist):
                result = run.step(micro_batches, lambda: stop.name is not None)
            step_end = time.perf_counter()
            progress.batches += 1
            progress.seconds, progress.waited = earlier_seconds + step_end - start, waited
            if result.updated:
                progress.updates += 1
                progress.loss_sum += result.loss
            else:
                handle_nonfinite_step(run, result)
            if result.stop:
                save(run)
                raise Stopped(f"stopped by {stop.name or 'another process'} after step {state.step}")
            if step_end - last_save >= 60 * train.checkpoint_minutes:
                save(run)
                last_save = step_end
            if state.step % CURVE_EVERY == 0 and is_main:
                for tracker in trackers:
                    tracker.scalars({"step/loss": result.loss, "step/lr": result.lr}, state.step)
            speed, data_wait = progress.batches * sampler.batch_size / progress.seconds, waited / progress.seconds
            bar.update()
            bar.set_postfix_str(f"loss {result.loss:.3f}, {speed:.1f} img/s, data wait {data_wait:.0%}", refresh=False)


def epoch_row(run: Run) -> dict[str, Any]:
    """The epoch's row of log.jsonl.

    `loss` is the mean over the updates, `lr` the last learning rate, `data_wait` the share of the time spent waiting
    for data, `skipped` the number of batches without an update, `broken` the number of samples since the run began that
    could not be read.
    """
    state, sampler, progress = run.state, run.sampler, run.state.progress
    return {
        "epoch": state.epoch + 1,
        "step": state.step,
        "loss": progress.loss_sum / progress.updates if progress.updates else None,
        "lr": learning_rate(run.task.config.train, state.step - 1, sampler.batches),
        "images_per_second": progress.batches * sampler.batch_size / progress.seconds,
        "data_wait": progress.waited / progress.seconds,
        "skipped": progress.batches - progress.updates,
        "broken": len(state.unreadable),
    }


def save(run: Run) -> None:
    """Writes the checkpoint in rank 0.

    Raises:
        UserError: see `check_process` and `save_checkpoint`.
    """
    if run.dist.is_main:
        check_process(run.output)
        content = {"config": flat_config(run.task.config), "classes": run.task.classes(run.training)}
        save_checkpoint(run.output, snapshot(run.state) | content)


def handle_nonfinite_step(run: Run, result: StepResult) -> None:
    """Logs a step without an update, and ends the run after too many of them in a row.

    Raises:
        UserError: names the files of the batch, whose augmented samples are written to the run folder.
    """
    state, train, sampler = run.state, run.task.config.train, run.sampler
    values = f"loss {result.loss}, gradient norm {result.gradient}"
    if run.dist.is_main:
        logger.warning("step %d: %s: no update (%d in a row)", state.step, values, state.skipped)
    if state.skipped <= train.max_nonfinite_steps:
        return
    keys = sampler.batch(state.epoch, state.progress.batches - 1)
    files = [run.task.image_path(run.training, key.image) for key in keys]
    folder = run.output / f"not_finite_step_{state.step}"
    if run.dist.is_main:
        dump_batch(folder, run.loader.dataset, keys, files)
    raise UserError(
        f"step {state.step}: {values}; no update for {state.skipped} steps in a row, train.max_nonfinite_steps is "
        f"{train.max_nonfinite_steps}: check the batch in {folder} ({', '.join(map(str, files))}); if it is correct, "
        f"start again with a lower train.lr ({train.lr}), more train.warmup_steps ({train.warmup_steps}) or "
        "train.clip_grad_norm"
    )


def skip_recorder(state: TrainState, is_main: bool) -> Callable[[int, str], None]:
    """A function that records a sample that cannot be read, and logs it in rank 0 when it is new."""

    def record(index: int, message: str) -> None:
        if index not in state.unreadable and is_main:
            logger.warning("skipped, the next image replaces it: %s", message)
        state.unreadable[index] = message

    return record


def share_unreadable(run: Run) -> None:
    """Adds what the other processes skipped."""
    record = skip_recorder(run.state, run.dist.is_main)
    for unreadable in run.dist.all_gather(run.state.unreadable):
        for index, message in sorted(unreadable.items()):
            record(index, message)


def should_stop_early(run: Run) -> bool:
    """Whether the validation metric has not improved for `train.patience` validations."""
    patience, every = run.task.config.train.patience, run.task.config.train.eval_every
    return patience is not None and run.state.since_best(next(iter(run.task.metrics)), every) >= patience


def track_epoch(trackers: Sequence[Tracker], row: dict[str, Any], validation: Validation | None) -> None:
    """Passes the numbers and the picture of an epoch to the trackers."""
    numbers = {name: value for name, value in row.items() if name not in ("epoch", "step") and value is not None}
    for tracker in trackers:
        tracker.scalars(numbers | (validation.details if validation else {}), row["step"])
        if validation is not None and validation.picture is not None:
            tracker.picture("validation", validation.picture, row["step"])


def resume_message(run: Run) -> str:
    """Tells after which epoch and batch a run resumes, or that it begins."""
    state, batch = run.state, run.state.progress.batches
    if not state.step:
        return f"{run.output}: nothing to resume from, the run begins"
    position = f" and {batch} of {run.sampler.batches} batches of the next" if batch else ""
    return f"{run.output}: resuming after epoch {state.epoch} of {run.task.config.train.epochs}{position}"


def epoch_summary(row: dict[str, Any], epochs: int, metrics: Mapping[str, str]) -> str:
    """One line about an epoch.

    Args:
        row: of the log.
        epochs: of the whole run.
        metrics: of the task: the name in the row and the name for people.
    """
    scores = "".join(f"  val {title} {row[name]:.4f}" for name, title in metrics.items() if row[name] is not None)
    problems = "".join(f"  {row[name]} {name}" for name in ("skipped", "broken") if row[name])
    loss = "-" if row["loss"] is None else f"{row['loss']:.4f}"
    return (
        f"epoch {row['epoch']}/{epochs}  loss {loss}  lr {row['lr']:.3g}  "
        f"{row['images_per_second']:.1f} img/s  data wait {row['data_wait']:.0%}{scores}{problems}"
    )
