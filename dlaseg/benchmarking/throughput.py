"""How fast a record trains on this machine, and what holds it up: the data or the network."""

import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from statistics import median
from typing import Any

from tqdm import tqdm

from dlaseg.benchmarking.trial import (
    draw,
    hardware,
    memory,
    precision,
    queued,
    shape,
    skip,
    synchronize,
    take_step,
    wait,
)
from dlaseg.device import reproducible
from dlaseg.errors import UserError
from dlaseg.memory import peak_memory
from dlaseg.training.distributed import distributed_context
from dlaseg.training.task import Task
from dlaseg.training.trainer import Run, build

ROUNDS = 5
"""Times that each of the three is measured, in turns."""

WARM_UP = 3
"""Steps before the first measurement."""


@dataclass(frozen=True)
class Speeds:
    """Images per second, over all processes.

    Attributes:
        training: the loader feeds the network.
        network: the network alone, on a batch that is there.
        data: the loader alone.
        data_wait: share of the time of `training` that the network waits, 0 to 1.
    """

    training: float
    network: float
    data: float
    data_wait: float


@dataclass(frozen=True)
class Throughput:
    """What was measured, and on what.

    Attributes:
        model: the network's name.
        device: such as `cpu (2 threads)`.
        precision: such as bfloat16.
        images: shape of what is computed at a time, such as `4 x 3 x 256 x 352`.
        batch_size: images in an update, over all processes and parts.
        workers: processes that load, for each that trains.
        cores: that these processes may use.
        batches: of each measurement in each round.
        rounds: each one's speeds.
        memory: the most that was held, such as `2.31 GiB of the GPU`.
        peak_memory: the same in bytes.
    """

    model: str
    device: str
    precision: str
    images: str
    batch_size: int
    workers: int
    cores: int
    batches: int
    rounds: Sequence[Speeds]
    memory: str
    peak_memory: int

    @property
    def median(self) -> Speeds:
        """Each speed's median over the rounds."""
        return Speeds(*(median(getattr(each, entry.name) for each in self.rounds) for entry in fields(Speeds)))


def measure(task: Task[Any, Any], batches: int, rounds: int = ROUNDS) -> Throughput | None:
    """Measures a record's training; writes nothing.

    Training, network and data take turns, so that what else the machine does hits all three alike. The loading
    processes are in full swing before a clock starts: what they had loaded before is drawn first, and they have
    batches left to load when it stops. They are at rest while the network is measured alone.

    Args:
        task: what is learnt, and the record.
        batches: of each measurement in each round; at least as many as are loaded ahead, and a multiple of the
            loading processes, which finish theirs at about the same time.
        rounds: how often each is measured.

    Returns:
        The figures; None where another process has them.

    Raises:
        UserError: as `fit`, but for the run folder's sake.
    """
    if batches < 1:
        raise UserError(f"--steps {batches}: use 1 or more")
    with distributed_context(task.config.train.device) as own, reproducible(task.config.train.deterministic):
        run = build(task, own, *task.open_splits())
        workers = run.loader.num_workers
        batches = math.ceil(max(batches, queued(run)) / max(1, workers)) * max(1, workers)
        ready = next(draw(run, 1))
        for _ in range(WARM_UP):
            take_step(run, ready)
        found = [measure_round(run, batches) for _ in tqdm(range(rounds), "rounds", leave=False, disable=None)]
        if not own.is_main:
            return None
        return Throughput(
            task.config.model.name,
            hardware(own.device),
            precision(run),
            shape(ready[0][0]),
            run.sampler.batch_size,
            workers,
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            batches,
            found,
            memory(run),
            peak_memory(own.device),
        )


def measure_round(run: Run, batches: int) -> Speeds:
    """Data, training and network, one after the other.

    Args:
        run: its epochs and steps are counted on.
        batches: of each.
    """
    ahead, images = queued(run), batches * run.sampler.batch_size
    drawn = draw(run, ahead + batches + 1 + batches + ahead)

    wait(run)  # here, since it gives the loader time to get ahead
    skip(drawn, ahead)  # loaded before the clock starts
    start = time.perf_counter()
    skip(drawn, batches)
    data = images / (time.perf_counter() - start)

    parts = next(drawn)
    take_step(run, parts)  # during a step, the loader gets as far as it does in training
    synchronize(run.dist.device)
    waited = 0.0
    start = done = time.perf_counter()
    for _ in range(batches):
        parts = next(drawn)
        waited += time.perf_counter() - done
        take_step(run, parts)
        done = time.perf_counter()
    synchronize(run.dist.device)
    seconds = time.perf_counter() - start

    skip(drawn)  # till the loading processes are at rest
    wait(run)
    start = time.perf_counter()
    for _ in range(batches):
        take_step(run, parts)
    synchronize(run.dist.device)
    network = images / (time.perf_counter() - start)
    return Speeds(images / seconds, network, data, waited / seconds)


def limit(speeds: Speeds) -> str:
    """Which of the two training waits for: `data` or `network`."""
    return "data" if speeds.data < speeds.network else "network"


def advice(speeds: Speeds, workers: int, cores: int) -> str:
    """What the limit is, and what to change.

    Args:
        speeds: all above 0.
        workers: processes that load.
        cores: that there are for all.

    Example:
        >>> advice(Speeds(training=20, network=50, data=20, data_wait=0.6), workers=2, cores=8)
        'Data are the limit: the network could take 50.0 images a second and gets 20.0: use data.workers 5.'
    """
    wanted = max(1, math.ceil(max(1, workers) * speeds.network / speeds.data))
    if limit(speeds) == "data":
        said = (
            f"Data are the limit: the network could take {speeds.network:.1f} images a second and gets "
            f"{speeds.training:.1f}"
        )
        if workers >= cores:
            return (
                f"{said}, and {workers} processes load on {cores} cores: use smaller image files or a cheaper augment, "
                "or a machine with more cores."
            )
        if wanted <= cores:
            return f"{said}: use data.workers {wanted}."
        return f"{said}: use data.workers {cores}, as many as there are cores; {wanted} would be needed."
    said = f"The network is the limit: data could come {speeds.data / speeds.network:.1f} times as fast"
    if speeds.data_wait >= NOTICEABLE and workers < cores:
        return f"{said}, but it waits for them {speeds.data_wait:.0%} of the time: use data.workers {workers + 1}."
    cost = 1 - speeds.training / speeds.network
    if cost >= NOTICEABLE:
        said += f", and loading takes {cost:.0%} of its speed"
        if workers > wanted:
            return f"{said}: use data.workers {wanted}."
    others = "a faster device, train.compile or a smaller augment.crop_size would"
    return f"{said}: more data.workers gain nothing; {others}."


NOTICEABLE = 0.05
"""Share of the time, or of the speed, that is worth a change."""


def table(found: Throughput) -> str:
    """The figures for people, as Markdown, and the verdict."""
    middle = found.median
    lines = [
        f"{found.model}: {found.images} at a time, {found.batch_size} an update; {found.device}, {found.precision}; "
        f"data.workers {found.workers}, {found.cores} cores",
        f"Images per second, median of {len(found.rounds)} rounds of {found.batches} batches:",
        "",
        "| measured         |   median |   lowest |  highest |",
        "| ---------------- | -------: | -------: | -------: |",
    ]
    for name, words in (("training", "data and network"), ("network", "network alone"), ("data", "data alone")):
        values = [getattr(each, name) for each in found.rounds]
        figures = "".join(f" {value:>8.2f} |" for value in (getattr(middle, name), min(values), max(values)))
        lines.append(f"| {words:<16} |{figures}")
    lines += [
        "",
        f"Waiting for data: {middle.data_wait:.1%} of the time. Peak memory: {found.memory}.",
        advice(middle, found.workers, found.cores),
    ]
    return "\n".join(lines)


def record(found: Throughput) -> dict[str, Any]:
    """The figures for programs: those of `Throughput`, its median, the limit and the advice."""
    return asdict(found) | {
        "median": asdict(found.median),
        "limit": limit(found.median),
        "advice": advice(found.median, found.workers, found.cores),
    }
