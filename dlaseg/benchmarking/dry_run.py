"""Checks a run before it starts, and estimates its duration."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dlaseg.benchmarking.trial import (
    device_name,
    discard,
    load_batches,
    memory,
    precision,
    prefetched,
    shape_text,
    take_step,
)
from dlaseg.data.tensors import normalize
from dlaseg.device import reduced_precision, reproducible, synchronize
from dlaseg.models.eval_mode import eval_mode
from dlaseg.training.distributed import distributed_context
from dlaseg.training.out_of_memory import oom_hints
from dlaseg.training.run import Run, open_run
from dlaseg.training.step import MicroBatch
from dlaseg.training.task import Task
from dlaseg.training.trackers import tracker_classes
from dlaseg.training.trainer import resume_message


def dry_run(
    task: Task[Any, Any],
    output: Path,
    resume: bool = False,
    report: Callable[[str], None] = print,
    allow_trackers: bool = False,
) -> dict[str, str] | None:
    """Builds a whole run, takes one step for warm-up and one that is timed, and writes nothing.

    Args:
        task: the kind of training, with its config.
        output: the run folder, which is checked: it may hold another run, or one to resume.
        resume: resume from the last checkpoint.
        report: called with one line for each fact.
        allow_trackers: see `fit`.

    Returns:
        The facts by name; None in processes other than rank 0.

    Raises:
        UserError: what `fit` would raise before or in its first step.
    """
    tracker_classes(task.config.train.trackers, allow_trackers)
    with distributed_context(task.config.train.device) as dist, reproducible(task.config.train.deterministic):
        run = open_run(task, dist, output, dist.broadcast(resume))
        facts = try_out(run)
        if not dist.is_main:
            return None
        if resume:
            report(resume_message(run))
        width = max(map(len, facts))
        for name, fact in facts.items():
            report(f"{name:<{width}}  {fact}")
        report("dry run: one step to warm up, one timed; nothing is written")
        return facts


def try_out(run: Run) -> dict[str, str]:
    """Loads a few batches, takes two steps, and describes the whole run."""
    task, sampler, dist = run.task, run.sampler, run.dist
    train, model, workers = task.config.train, run.state.model, run.loader.num_workers
    # With --resume, the steps that remain; the checkpoint may be in the middle of an epoch
    remaining = max(0, train.epochs * sampler.batches - run.state.epoch * sampler.batches - run.state.progress.batches)
    epochs = range(run.state.epoch + 1, train.epochs + 1)
    validations = sum(epoch % train.eval_every == 0 or epoch == train.epochs for epoch in epochs)

    ahead = prefetched(run)
    timed = max(1, 2 * ahead)
    loaded = load_batches(run, ahead + timed + 1)
    discard(loaded, ahead)
    start = time.perf_counter()
    discard(loaded, timed)
    loading = (time.perf_counter() - start) / timed
    micro_batches = next(loaded)
    logits = eval_logits(run, micro_batches[0])
    take_step(run, micro_batches)
    synchronize(dist.device)
    start = time.perf_counter()
    result = take_step(run, micro_batches)
    synchronize(dist.device)
    step = time.perf_counter() - start

    split = "".join(
        f", {count} {what}"
        for count, what in ((train.grad_accum_steps, "micro-batches"), (dist.world_size, "processes"))
        if count > 1
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    (images, targets), size = micro_batches[0], f"batches of {sampler.batch_size}{split}"
    return {
        "images": f"{shape_text(images)} {dtype_name(images)} ({size})",
        "targets": f"{shape_text(targets)} {dtype_name(targets)}",
        "logits": f"{shape_text(logits)} {dtype_name(logits)}",
        "parameters": f"{parameters:,}" + (f", {trainable:,} of them trainable" if trainable < parameters else ""),
        "device": device_name(dist.device),
        "precision": precision(run),
        "peak memory": memory(run),
        "batches": f"{sampler.batches} per epoch, {sampler.batches * train.epochs} in all"
        + (f", {remaining} of them remaining" if remaining < sampler.batches * train.epochs else ""),
        "validation": f"{len(run.validation)} images, {validations} times",
        "step": f"{step:.3f} s, loss {result.loss:.4f}" + ("" if result.updated else ", not finite: step skipped"),
        "loading": f"{loading:.3f} s per batch, data.workers {workers}",
        "expected": f"about {duration(remaining * pace(step, loading, workers))} for {remaining} steps, without "
        "validation" + (", less if train.patience ends the run" if train.patience is not None else ""),
    }


def pace(step: float, loading: float, workers: int) -> float:
    """Seconds from one step to the next.

    Args:
        step: seconds that a step takes.
        loading: seconds from one batch to the next.
        workers: processes that load during the steps; without any, loading and steps alternate.
    """
    return max(step, loading) if workers else step + loading


def eval_logits(run: Run, micro_batch: MicroBatch) -> torch.Tensor:
    """The logits of a micro-batch in eval mode, which leaves batch norm's statistics unchanged."""
    model, device = run.state.model, run.dist.device
    dtype = reduced_precision(run.task.config.train.precision, device)
    with oom_hints(run.task.config, run.dist), eval_mode(model), torch.no_grad():
        inputs = normalize(micro_batch[0].to(device), model.metadata.mean, model.metadata.std)
        with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            return model.training_outputs(inputs).logits


def dtype_name(tensor: torch.Tensor) -> str:
    """A tensor's type, such as `uint8`."""
    return str(tensor.dtype).removeprefix("torch.")


def duration(seconds: float) -> str:
    """A time span in its two largest units.

    Examples:
        >>> [duration(seconds) for seconds in (0.4, 59, 61, 3700, 90000)]
        ['1 s', '59 s', '1 min 1 s', '1 h 1 min', '1 d 1 h']
    """
    whole = max(1, int(seconds))
    units = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    first = next(i for i, (count, _) in enumerate(units) if count)
    return " ".join(f"{count} {unit}" for count, unit in units[first : first + 2] if count)
