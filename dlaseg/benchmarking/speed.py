"""Measures how fast networks segment on this machine, in turns, and in relation to a baseline."""

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from dlaseg.benchmarking.candidates import PLAIN, Candidate
from dlaseg.benchmarking.child import in_new_process
from dlaseg.benchmarking.costs import count_macs, count_parameters
from dlaseg.benchmarking.files import memory_of_files, memory_of_image, write_labels
from dlaseg.benchmarking.machine import fingerprint, matrix_product
from dlaseg.benchmarking.networks import (
    IN_MEMORY,
    PHASES,
    Network,
    Predicting,
    build,
    exported_from,
    model_of,
    weights_of,
)
from dlaseg.benchmarking.peaks import Segmenting, peak_of_files, peak_of_image
from dlaseg.benchmarking.timing import Ratio, Stopwatch, in_turns, speed_ratio, totals
from dlaseg.device import PRECISIONS, pick_device, synchronize
from dlaseg.errors import UserError
from dlaseg.images import read_size
from dlaseg.inference.backends.exported import exported_sha256
from dlaseg.inference.predictor import Predictor
from dlaseg.label_images import read_label_image
from dlaseg.text import one_line
from dlaseg.weights.download import resolve
from dlaseg.weights.files import model_sha256

Sample = dict[str, float]
"""Seconds of one image by phase."""


@dataclass(frozen=True)
class SpeedRow:
    """What was measured of one candidate, from an image in memory to its label map.

    Attributes:
        candidate: what was measured.
        weights_sha256: hash of the weights file; None for a randomly initialised network.
        parameters: of the network; None if they cannot be counted.
        macs: multiply-adds of an image, the mean over the images; None if they cannot be counted.
        rounds: round by round, the sample of each image.
        peak_flops: the machine's peak in this precision, floating-point operations per second; None if unknown.
        peak_memory: in bytes, of a process that predicts the largest image alone; None if not measured.
        equal_labels: share of the pixels that have the same label as plain PyTorch gives; None for another network.
        message: why nothing was measured.
    """

    candidate: Candidate
    weights_sha256: str | None = None
    parameters: int | None = None
    macs: float | None = None
    rounds: Sequence[Sequence[Sample]] = ()
    peak_flops: float | None = None
    peak_memory: int | None = None
    equal_labels: float | None = None
    message: str | None = None

    @property
    def latencies(self) -> list[float]:
        """Seconds from an image in memory to its label map, one value per round and image."""
        return [seconds for samples in self.rounds for seconds in totals(samples, IN_MEMORY)]

    @property
    def round_seconds(self) -> list[float]:
        """Seconds of each round, all images together."""
        return [sum(totals(samples, IN_MEMORY)) for samples in self.rounds]

    @property
    def images_per_second(self) -> float:
        """In the round of median speed."""
        return len(self.rounds[0]) / median(self.round_seconds)

    def phase(self, name: str) -> float:
        """Median seconds of a phase."""
        return median(sample[name] for samples in self.rounds for sample in samples)

    @property
    def share_of_peak(self) -> float | None:
        """Arithmetic of the network per second, relative to the machine's peak."""
        if self.macs is None or self.peak_flops is None:
            return None
        seconds = median(sum(totals(samples, ["network"])) / len(samples) for samples in self.rounds)
        return 2 * self.macs / seconds / self.peak_flops


@dataclass(frozen=True)
class FilesRow:
    """What was measured of one candidate, from image files to label PNGs.

    Attributes:
        candidate: what was measured.
        images: number of files.
        seconds: of each round.
        peak_memory: in bytes, of a process that does nothing else; None if not measured.
        equal_labels: share of the pixels whose label is that of plain PyTorch; None for another network.
    """

    candidate: Candidate
    images: int
    seconds: Sequence[float]
    peak_memory: int | None
    equal_labels: float | None

    @property
    def images_per_second(self) -> float:
        """In the round of median speed."""
        return self.images / median(self.seconds)


@dataclass(frozen=True)
class Speed:
    """The whole measurement.

    Attributes:
        machine: see `fingerprint`.
        sizes: height and width of each image.
        rows: the baseline first.
        files: the same from file to file; empty if not measured.
    """

    machine: dict[str, Any]
    sizes: Sequence[tuple[int, int]]
    rows: Sequence[SpeedRow]
    files: Sequence[FilesRow] = ()

    def ratio(self, row: SpeedRow | FilesRow) -> Ratio:
        """How many times as fast as the first row of its table."""
        if isinstance(row, FilesRow):
            return speed_ratio(self.files[0].seconds, row.seconds)
        baseline = next(each for each in self.rows if each.message is None)
        return speed_ratio(baseline.round_seconds, row.round_seconds)


@dataclass
class _Measured:
    """A candidate that is being measured."""

    candidate: Candidate
    network: Network
    watch: Stopwatch
    labels: list[NDArray[np.uint8]]
    peak_memory: int | None = None
    files_peak_memory: int | None = None
    rounds: list[list[Sample]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def measure_speed(
    candidates: Sequence[Candidate],
    images: Sequence[Path],
    rounds: int,
    with_files: bool = False,
    with_memory: bool = True,
    clock: Callable[[], float] = time.perf_counter,
    pause: Callable[[float], None] = time.sleep,
) -> Speed:
    """Measures all candidates in turns.

    A network of another package that cannot run is a row with a message.

    Args:
        candidates: the baseline first, all on one device.
        images: the files to segment.
        rounds: in each, every candidate segments every image once. One more before them is for warm-up.
        with_files: whether `dlaseg infer` is measured from file to file, too; the first candidate is `plain` then.
        with_memory: whether new processes measure the peak memory.
        clock: seconds since any moment.
        pause: waits so many seconds.

    Raises:
        UserError: a candidate that cannot be built, or an image that cannot be read.
    """
    if rounds < 1:
        raise UserError(f"--rounds {rounds}: use 1 or more")
    machine = fingerprint(pick_device(candidates[0].device))
    sizes = [read_size(path) for path in images]
    largest = images[max(range(len(images)), key=lambda index: math.prod(sizes[index]))]
    measured: dict[str, _Measured] = {}
    failed: dict[str, SpeedRow] = {}
    for candidate in tqdm(candidates, "build", leave=False, disable=None):
        try:
            each = _warmed_up(candidate, images, clock)
            if with_memory:
                # At once: the cache of converted networks is small, and a process that converts takes more memory
                _measure_memory(each, largest, images if with_files else [])
            measured.setdefault(each.candidate.name, each)  # `auto` may be what another candidate is
        except UserError:
            raise
        except Exception as error:
            if candidate.family in ("dlaseg", PLAIN):
                raise
            # What other packages' networks raise, on a backend that they were not made for, may be anything
            first_line = str(error).strip().partition("\n")[0]
            failed[candidate.name] = SpeedRow(candidate, message=one_line(f"{type(error).__name__}: {first_line}"))
    if not measured:
        name, row = next(iter(failed.items()))
        raise UserError(f"{name}: {row.message}: give another network")
    # Of int8 there is no peak: torch multiplies such matrices slowly on a CPU, and not at all on a GPU
    kinds = {_arithmetic(each): each for each in measured.values() if each.candidate.computes_in in PRECISIONS}
    peaks = {kind: matrix_product(each.candidate.computes_in, each.network.device) for kind, each in kinds.items()}
    peak_seconds: dict[str, list[float]] = {kind: [] for kind in peaks}
    turns = [*measured, *peaks]
    with tempfile.TemporaryDirectory() as folder:
        for name in tqdm(in_turns(turns, rounds, pause), "measure", rounds * len(turns), leave=False, disable=None):
            if name in measured:
                each = measured[name]
                each.rounds.append([_sample(each, path, Path(folder)) for path in images])
            else:
                peak_seconds[name].append(_seconds(peaks[name][0], clock))
        files = (
            _measure_files(list(measured.values()), images, rounds, Path(folder), clock, pause) if with_files else []
        )
    flops = {kind: peaks[kind][1] / min(seconds) for kind, seconds in peak_seconds.items()}
    first = next(iter(measured.values()))
    costs: dict[str, tuple[int | None, float | None]] = {}
    rows = []
    for each in measured.values():
        if each.candidate.network not in costs:
            costs[each.candidate.network] = _cost(each.candidate, sizes)
        rows.append(_row(each, costs[each.candidate.network], flops.get(_arithmetic(each)), first))
    return Speed(machine, sizes, [*rows, *failed.values()], files)


def _warmed_up(candidate: Candidate, images: Sequence[Path], clock: Callable[[], float]) -> _Measured:
    """Builds a candidate and segments every image once."""
    network = build(candidate)
    if isinstance(network, Predicting):
        backend, precision = network.predictor.backend.name, network.predictor.backend.precision
        candidate = replace(candidate, runs_backend=backend, runs_precision=precision)
    watch = Stopwatch(clock, partial(synchronize, network.device))
    return _Measured(candidate, network, watch, [network.predict(network.decode(path), watch) for path in images])


def _arithmetic(each: _Measured) -> str:
    """Precision and device that a network computes in, such as `float32 cpu`."""
    return f"{each.candidate.computes_in} {each.network.device}"


def _measure_memory(each: _Measured, largest: Path, files: Sequence[Path]) -> None:
    """Measures the peak memory of a candidate in new processes, in the second one from file to file."""
    candidate, threads = each.candidate, torch.get_num_threads()
    if candidate.family != "dlaseg":
        each.peak_memory = in_new_process(memory_of_image, candidate, largest, threads)
        if files and candidate.family == PLAIN:
            each.files_peak_memory = in_new_process(memory_of_files, candidate, files, threads)
        return
    with tempfile.TemporaryDirectory() as folder:
        weights = weights_of(candidate, Path(folder))
        backend = candidate.runs_backend or candidate.backend
        how = Segmenting(weights, backend, candidate.precision, candidate.device, threads)
        Predictor(weights, how.backend, how.device, how.precision)  # converts the network, if need be
        each.peak_memory = in_new_process(peak_of_image, how, largest)
        if files:
            each.files_peak_memory = in_new_process(peak_of_files, how, files)


def _sample(each: _Measured, path: Path, folder: Path) -> Sample:
    """Segments one image file."""
    each.watch.reset()
    with each.watch.phase("decode"):
        image = each.network.decode(path)
    labels = each.network.predict(image, each.watch)
    with each.watch.phase("encode"):
        each.network.encode(labels, folder / "labels.png")
    return {phase: each.watch.seconds[phase] for phase in PHASES}


def _seconds(block: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    block()
    return clock() - start


def _cost(candidate: Candidate, sizes: Sequence[tuple[int, int]]) -> tuple[int | None, float | None]:
    """Parameters, and multiply-adds of an image on average; None for what cannot be counted."""
    if candidate.is_exported:
        return None, None
    model = model_of(candidate)
    counted = {size: count_macs(model, *size) for size in set(sizes)}
    return count_parameters(model), sum(counted[size] for size in sizes) / len(sizes)


def _row(each: _Measured, cost: tuple[int | None, float | None], flops: float | None, first: _Measured) -> SpeedRow:
    candidate, equal = each.candidate, None
    if first.candidate.family == PLAIN and _is_same_network(candidate, first.candidate):
        equal = _equal_share(first.labels, each.labels)
    from_file = candidate.family in ("dlaseg", PLAIN) and not candidate.is_named
    digest = exported_sha256(resolve(candidate.source)) if from_file else None
    return SpeedRow(candidate, digest, *cost, each.rounds, flops, each.peak_memory, equal)


def _measure_files(
    measured: Sequence[_Measured],
    images: Sequence[Path],
    rounds: int,
    folder: Path,
    clock: Callable[[], float],
    pause: Callable[[float], None],
) -> list[FilesRow]:
    """Measures plain PyTorch and our networks from file to file; the first round is for warm-up."""
    ours = {each.candidate.name: each for each in measured if each.candidate.family in ("dlaseg", PLAIN)}
    outputs = {name: folder / str(number) for number, name in enumerate(ours)}
    written = {name: write_labels(each.network, images, outputs[name]) for name, each in ours.items()}
    for name in tqdm(in_turns(list(ours), rounds, pause), "files", rounds * len(ours), leave=False, disable=None):
        each = ours[name]
        each.seconds.append(_seconds(partial(write_labels, each.network, images, outputs[name]), clock))
    labels = {name: [read_label_image(path) for path in paths] for name, paths in written.items()}
    first = next(iter(ours.values())).candidate
    rows = []
    for name, each in ours.items():
        equal = _equal_share(labels[first.name], labels[name]) if _is_same_network(each.candidate, first) else None
        rows.append(FilesRow(each.candidate, len(images), each.seconds, each.files_peak_memory, equal))
    return rows


def _is_same_network(candidate: Candidate, first: Candidate) -> bool:
    """Whether labels should be equal: the same weights, or a file that was exported from them."""
    if candidate.source == first.source:
        return True
    return candidate.is_exported and exported_from(candidate.source) == model_sha256(model_of(first))


def _equal_share(expected: Sequence[NDArray[Any]], labels: Sequence[NDArray[Any]]) -> float:
    """Share of the pixels of all images that are equal."""
    equal = sum(int((a == b).sum()) for a, b in zip(expected, labels, strict=True))
    return equal / sum(a.size for a in expected)
