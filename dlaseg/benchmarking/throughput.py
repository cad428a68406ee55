"""Measures how fast a config trains on this machine, and whether data or network limits the speed."""

import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from statistics import median
from typing import Any

from tqdm import tqdm

from dlaseg.benchmarking.trial import (
    barrier,
    device_name,
    discard,
    load_batches,
    memory,
    precision,
    prefetched,
    shape_text,
    take_step,
)
from dlaseg.device import reproducible, synchronize
from dlaseg.errors import UserError
from dlaseg.memory import peak_memory
from dlaseg.processor import cores
from dlaseg.training.distributed import distributed_context
from dlaseg.training.run import Run, build
from dlaseg.training.task import Task

ROUNDS = 5
"""Rounds, in each of which training, network and data are measured once."""

MOST_STEPS = 100_000
"""Batches per measurement; more would take days."""

WARM_UP = 3
"""Steps before the first measurement."""


@dataclass(frozen=True)
class Speeds:
    """Images per second, over all processes.

    Attributes:
        training: the loader feeds the network.
        network: the network alone, on one batch in memory.
        data: the loader alone.
        data_wait: share of the time of `training` that the network waits for data, 0 to 1.
    """

    training: float
    network: float
    data: float
    data_wait: float


@dataclass(frozen=True)
class Throughput:
    """The measurement, and what was measured.

    Attributes:
        model: the network's name.
        device: such as `cpu (2 threads)`.
        precision: such as bfloat16.
        images: shape of a micro-batch, such as `4 x 3 x 256 x 352`.
        batch_size: images per update, summed over all processes and micro-batches.
        workers: loading processes for each training process.
        cores: for each training process and its loading processes; those of a machine are divided among its processes.
        batches: batches of each measurement in each round.
        rounds: speeds of each round.
        memory: peak memory, such as `2.31 GiB of the GPU`.
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
    """Measures the training of a config; writes nothing.

    Training, network and data are measured in turns, so that other load on the machine affects all three alike. The
    loading processes are busy when a clock starts and when it stops: prefetched batches are discarded first, and more
    batches remain to be loaded. The loading processes are idle while the network is measured alone.

    Args:
        task: the kind of training, with its config.
        batches: batches of each measurement in each round; raised to the number that is prefetched, and to a multiple
            of the loading processes, which finish theirs at about the same time.
        rounds: number of rounds.

    Returns:
        The measurement; None in processes other than rank 0.

    Raises:
        UserError: as `fit`, except for the run folder.
    """
    if not 1 <= batches <= MOST_STEPS:
        raise UserError(f"--steps {batches}: use 1 to {MOST_STEPS}")
    with distributed_context(task.config.train.device) as dist, reproducible(task.config.train.deterministic):
        run = build(task, dist, *task.open_splits())
        workers = run.loader.num_workers
        batches = math.ceil(max(batches, prefetched(run)) / max(1, workers)) * max(1, workers)
        micro_batches = next(load_batches(run, 1))
        for _ in range(WARM_UP):
            take_step(run, micro_batches)
        speeds = [measure_round(run, batches) for _ in tqdm(range(rounds), "rounds", leave=False, disable=None)]
        if not dist.is_main:
            return None
        return Throughput(
            task.config.model.name,
            device_name(dist.device),
            precision(run),
            shape_text(micro_batches[0][0]),
            run.sampler.batch_size,
            workers,
            max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))),  # of torchrun
            batches,
            speeds,
            memory(run),
            peak_memory(dist.device),
        )


def measure_round(run: Run, batches: int) -> Speeds:
    """Measures data, training and network, one after the other.

    Args:
        run: its epoch and step counters move on.
        batches: number of batches for each.
    """
    ahead, images = prefetched(run), batches * run.sampler.batch_size
    loaded = load_batches(run, ahead + batches + 1 + batches + ahead)

    barrier(run)  # before loading is measured, since the loader prefetches meanwhile
    discard(loaded, ahead)  # loaded before the clock starts
    start = time.perf_counter()
    discard(loaded, batches)
    data = images / (time.perf_counter() - start)

    micro_batches = next(loaded)
    take_step(run, micro_batches)  # during a step, the loader prefetches as much as in training
    synchronize(run.dist.device)
    waited = 0.0
    start = step_end = time.perf_counter()
    for _ in range(batches):
        micro_batches = next(loaded)
        waited += time.perf_counter() - step_end
        take_step(run, micro_batches)
        step_end = time.perf_counter()
    synchronize(run.dist.device)
    seconds = time.perf_counter() - start

    discard(loaded)  # until the loading processes are idle
    barrier(run)
    start = time.perf_counter()
    for _ in range(batches):
        take_step(run, micro_batches)
    synchronize(run.dist.device)
    network = images / (time.perf_counter() - start)
    return Speeds(images / seconds, network, data, waited / seconds)


def limit(speeds: Speeds) -> str:
    """What limits the speed of training: `data` or `network`."""
    return "data" if speeds.data < speeds.network else "network"


def advice(speeds: Speeds, workers: int, cores: int) -> str:
    """The limit, and what to change.

    Args:
        speeds: all above 0.
        workers: loading processes.
        cores: cores for these and their training process.

    Examples:
        >>> advice(Speeds(training=20, network=50, data=20, data_wait=0.6), workers=2, cores=8)
        'Data loading is the limit: the network could process 50.0 images per second and gets 20.0: use data.workers 5.'
    """
    wanted = max(1, math.ceil(max(1, workers) * speeds.network / speeds.data))
    if limit(speeds) == "data":
        message = (
            f"Data loading is the limit: the network could process {speeds.network:.1f} images per second and gets "
            f"{speeds.training:.1f}"
        )
        if workers >= cores:
            return (
                f"{message}, and {workers} processes load on {cores} cores: use smaller image files, a cheaper augment "
                "or a machine with more cores."
            )
        if wanted <= cores:
            return f"{message}: use data.workers {wanted}."
        return f"{message}: use data.workers {cores}, the number of cores; {wanted} would be needed."
    message = f"The network is the limit: data can be loaded {speeds.data / speeds.network:.1f} times as fast"
    if speeds.data_wait >= NOTICEABLE and workers < cores:
        return f"{message}, but it waits for data {speeds.data_wait:.0%} of the time: use data.workers {workers + 1}."
    cost = 1 - speeds.training / speeds.network
    if cost >= NOTICEABLE:
        message += f", and loading takes {cost:.0%} of its speed"
        if workers > wanted:
            return f"{message}: use data.workers {wanted}."
    others = "a faster device, train.compile or a smaller augment.crop_size would"
    return f"{message}: more data.workers do not help; {others}."


NOTICEABLE = 0.05
"""Share of the time or of the speed from which on a change is recommended."""


def table(throughput: Throughput) -> str:
    """The measurement as a Markdown table, with advice."""
    middle = throughput.median
    lines = [
        f"{throughput.model}: {throughput.images} per micro-batch, {throughput.batch_size} images per update; "
        f"{throughput.device}, {throughput.precision}; data.workers {throughput.workers}, {throughput.cores} cores",
        f"Images per second, median of {len(throughput.rounds)} rounds of {throughput.batches} batches:",
        "",
        "| measured         |   median |   lowest |  highest |",
        "| ---------------- | -------: | -------: | -------: |",
    ]
    for name, words in (("training", "data and network"), ("network", "network alone"), ("data", "data alone")):
        values = [getattr(each, name) for each in throughput.rounds]
        figures = "".join(f" {value:>8.2f} |" for value in (getattr(middle, name), min(values), max(values)))
        lines.append(f"| {words:<16} |{figures}")
    lines += [
        "",
        f"Waiting for data: {middle.data_wait:.1%} of the time. Peak memory: {throughput.memory}.",
        advice(middle, throughput.workers, throughput.cores),
    ]
    return "\n".join(lines)


def to_dict(throughput: Throughput) -> dict[str, Any]:
    """The measurement as plain values, with median, limit and advice."""
    return asdict(throughput) | {
        "median": asdict(throughput.median),
        "limit": limit(throughput.median),
        "advice": advice(throughput.median, throughput.workers, throughput.cores),
    }
