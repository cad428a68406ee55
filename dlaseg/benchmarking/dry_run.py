"""Whether a run would go, and how long it would take, before it is started."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dlaseg.benchmarking.trial import draw, hardware, memory, precision, queued, shape, skip, synchronize, take_step
from dlaseg.data.tensors import normalize
from dlaseg.device import reduced_precision, reproducible
from dlaseg.models.eval_mode import eval_mode
from dlaseg.training.distributed import distributed_context
from dlaseg.training.out_of_memory import oom_hints
from dlaseg.training.step import MicroBatch
from dlaseg.training.task import Task
from dlaseg.training.trainer import Run, open_run, resume_message


def dry_run(
    task: Task[Any, Any], output: Path, resume: bool = False, report: Callable[[str], None] = print
) -> dict[str, str] | None:
    """Builds all that a run is made of, takes one step to warm up and one that is timed, and writes nothing.

    Args:
        task: what would be learnt, and the record.
        output: the run folder; looked at, since a run may be refused or resumed there.
        resume: go on from the last checkpoint.
        report: gets one line for every fact.

    Returns:
        What was found, by name; None where another process has it.

    Raises:
        UserError: what `fit` would raise before or in its first step.
    """
    with distributed_context(task.config.train.device) as own, reproducible(task.config.train.deterministic):
        run = open_run(task, own, output, own.broadcast(resume))
        facts = try_out(run)
        if not own.is_main:
            return None
        if resume:
            report(resume_message(run))
        width = max(map(len, facts))
        for name, fact in facts.items():
            report(f"{name:<{width}}  {fact}")
        report("dry run: one step to warm up, one timed; nothing is written")
        return facts


def try_out(run: Run) -> dict[str, str]:
    """Loads a few batches, takes two steps, and says what that tells of the whole run."""
    task, sampler, own = run.task, run.sampler, run.dist
    train, model, workers = task.config.train, run.state.model, run.loader.num_workers
    # With --resume, of what is left; an epoch may have been left in its midst
    left = max(0, train.epochs * sampler.batches - run.state.epoch * sampler.batches - run.state.progress.batches)
    epochs = range(run.state.epoch + 1, train.epochs + 1)
    validations = sum(epoch % train.eval_every == 0 or epoch == train.epochs for epoch in epochs)

    ahead = queued(run)
    timed = max(1, 2 * ahead)
    drawn = draw(run, ahead + timed + 1)
    skip(drawn, ahead)
    start = time.perf_counter()
    skip(drawn, timed)
    loading = (time.perf_counter() - start) / timed
    parts = next(drawn)
    logits = logits_of(run, parts[0])
    take_step(run, parts)
    synchronize(own.device)
    start = time.perf_counter()
    outcome = take_step(run, parts)
    synchronize(own.device)
    step = time.perf_counter() - start

    apart = "".join(
        f", {count} {what}"
        for count, what in ((train.grad_accum_steps, "parts"), (own.world_size, "processes"))
        if count > 1
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    learnt = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    (images, targets), size = parts[0], f"batches of {sampler.batch_size}{apart}"
    return {
        "images": f"{shape(images)} {kind(images)} ({size})",
        "targets": f"{shape(targets)} {kind(targets)}",
        "logits": f"{shape(logits)} {kind(logits)}",
        "parameters": f"{parameters:,}" + (f", {learnt:,} of them learnt" if learnt < parameters else ""),
        "device": hardware(own.device),
        "precision": precision(run),
        "peak memory": memory(run),
        "batches": f"{sampler.batches} an epoch, {sampler.batches * train.epochs} in all"
        + (f", {left} of them left" if left < sampler.batches * train.epochs else ""),
        "validation": f"{len(run.validation)} images, {validations} times",
        "step": f"{step:.3f} s, loss {outcome.loss:.4f}" + ("" if outcome.updated else ", not finite: no update"),
        "loading": f"{loading:.3f} s a batch, data.workers {workers}",
        "expected": f"about {duration(left * pace(step, loading, workers))} for {left} steps, validation not included"
        + (", less if train.patience ends it" if train.patience is not None else ""),
    }


def pace(step: float, loading: float, workers: int) -> float:
    """Seconds from one step to the next.

    Args:
        step: seconds that a step takes.
        loading: seconds from one batch to the next.
        workers: processes that load beside the steps; without any, the two take turns.
    """
    return max(step, loading) if workers else step + loading


def logits_of(run: Run, part: MicroBatch) -> torch.Tensor:
    """What the loss is taken of, but with batch norm's running statistics, which stay as they are."""
    model, device = run.state.model, run.dist.device
    lower = reduced_precision(run.task.config.train.precision, device)
    with oom_hints(run.task.config, run.dist), eval_mode(model), torch.no_grad():
        inputs = normalize(part[0].to(device), model.metadata.mean, model.metadata.std)
        with torch.autocast(device.type, lower or torch.bfloat16, enabled=lower is not None):
            return model.training_outputs(inputs).logits


def kind(tensor: torch.Tensor) -> str:
    """A tensor's type, such as `uint8`."""
    return str(tensor.dtype).removeprefix("torch.")


def duration(seconds: float) -> str:
    """A time span in its two largest units.

    Example:
        >>> [duration(seconds) for seconds in (0.4, 59, 61, 3700, 90000)]
        ['1 s', '59 s', '1 min 1 s', '1 h 1 min', '1 d 1 h']
    """
    whole = max(1, int(seconds))
    units = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    first = next(i for i, (count, _) in enumerate(units) if count)
    return " ".join(f"{count} {unit}" for count, unit in units[first : first + 2] if count)
