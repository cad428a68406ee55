"""Inference over files and folders."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dlaseg.errors import UserError
from dlaseg.images import ImageFile, check_max_pixels, open_image
from dlaseg.inference.backends.exported import exported_sha256
from dlaseg.inference.backends.graph import Graph, graph_path
from dlaseg.inference.memory import MemoryCheck
from dlaseg.inference.predictor import Predictor, load_network
from dlaseg.inference.settings import Settings, claim_output, read_settings
from dlaseg.inference.sinks import KINDS, Sink
from dlaseg.inference.sources import Source, expand_frames, find_all
from dlaseg.memory import MAX_PIXELS, is_out_of_memory
from dlaseg.models.base import SegmentationModel
from dlaseg.weights.download import resolve
from dlaseg.weights.files import model_sha256

IN_FLIGHT = 4
"""Images that are read ahead, images that wait to be written, and threads that do both."""

LARGE = 1 << 25
"""Pixels of an image that is not decoded ahead, and written before the next one: a hundred megabytes of RGB."""

FEW = 8
"""Images for which `auto` does not convert a network: that takes longer than it saves."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class InferSummary:
    """The outcome of a run.

    Attributes:
        written: number of images whose results were written; a frame counts as an image.
        skipped: number of images all of whose results existed already.
        failed: files that could not be read, predicted or named, and the message, which begins with the path.
        first_frame_only: files of several frames, of which only the first was predicted, and how many they have.
        seconds: from the first image to the last, without the start.
        network_seconds: of these, what the network took, with upsampling and argmax. The rest was waiting for images to
            be read or written.
    """

    written: int = 0
    skipped: int = 0
    failed: list[tuple[Path, str]] = field(default_factory=list)
    first_frame_only: list[tuple[Path, int]] = field(default_factory=list)
    seconds: float = field(default=0.0, compare=False)
    network_seconds: float = field(default=0.0, compare=False)


def infer(
    weights: str | Path | SegmentationModel,
    input: str | Path | Sequence[str | Path],
    output: str | Path,
    save: Sequence[str] = KINDS,
    overwrite: bool = False,
    backend: str | None = None,
    device: str = "auto",
    precision: str = "float32",
    keep_suffix: bool = False,
    all_frames: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> InferSummary:
    """Predicts the label maps of images and of folders of images, and writes them as files.

    Threads read ahead and write results while the network runs. A file that cannot be read, named or held in memory is
    recorded, and the others are processed. Existing results are kept, so an interrupted run continues where it stopped;
    those of other weights or options are refused.

    Args:
        weights: see `Predictor`.
        input: an image, a folder that is walked recursively (`find_images`), or several of them.
        output: the folder of the results (`Sink`) and of `infer.json` (`Settings`). It may lie inside the input and is
            not walked then.
        save: what to write: some of `ids`, `color`, `overlay`.
        overwrite: whether existing results are replaced; those of other settings are removed first.
        backend: see `Predictor`. `auto` continues with the backend that results in the output folder are from, and is
            `torch` for a few images (`FEW`) if the network would have to be converted for them.
        device: see `Predictor`.
        precision: see `Predictor`.
        keep_suffix: whether the results of `a.jpg` are called `a.jpg.png`, not `a.png`.
        all_frames: whether all frames of animations and all pages of TIFFs are predicted, not the first ones: those of
            `a.gif` become `a/0000.png`, `a/0001.png`, ...
        max_pixels: larger images are refused, see `read_image`.

    Raises:
        UserError: wrong arguments, no images, a folder that holds results of other settings or cannot be written to.
            Files written until then are complete and stay.
    """
    check_max_pixels(max_pixels)
    inputs, output = [input] if isinstance(input, str | Path) else list(input), Path(output)
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: results cannot be written to a file: the last path is the output folder: add one")
    sources = find_all([Path(path) for path in inputs], exclude=output)
    weights = resolve(weights) if isinstance(weights, str | Path) else weights
    network = load_network(weights) if isinstance(weights, Path) else weights
    weights_sha256 = exported_sha256(weights) if isinstance(weights, Path) else model_sha256(weights)
    if backend == "auto":
        saved = None if overwrite else read_settings(output)
        if saved is not None and saved.weights_sha256 == weights_sha256:
            backend = saved.backend  # continues what a run with another set of packages began
        elif not isinstance(network, Graph) and len(sources) < FEW and not graph_path(network).is_file():
            backend = "torch"
    predictor = Predictor(network, backend, device, precision)
    settings = Settings(weights_sha256, predictor.backend.name, predictor.backend.precision, keep_suffix, all_frames)
    sink = Sink(output, predictor.label_map, save, keep_suffix)
    if all_frames:
        sources = expand_frames(sources, max_pixels, IN_FLIGHT)
    sink.check(sources)
    unnameable = sink.unnameable(sources)
    sources = [source for source in sources if source.path not in unnameable]
    claim_output(output, settings, (sink.path(source, kind) for source in sources for kind in sink.kinds), overwrite)
    todo = [source for source in sources if overwrite or sink.missing(source)]
    summary = InferSummary(skipped=len(sources) - len(todo), failed=list(unnameable.items()))
    start = perf_counter()
    _process(predictor, sink, todo, overwrite, max_pixels, summary)
    summary.seconds = perf_counter() - start
    return summary


def infer_sources(predictor: Predictor, sink: Sink, sources: Sequence[Source]) -> InferSummary:
    """Predicts and writes sources with a predictor that is ready; existing results are replaced.

    `infer` does the same for files that it finds, after it has loaded the network.
    """
    summary = InferSummary()
    _process(predictor, sink, sources, True, MAX_PIXELS, summary)
    return summary


def _process(
    predictor: Predictor, sink: Sink, todo: Sequence[Source], overwrite: bool, max_pixels: int, summary: InferSummary
) -> None:
    """Predicts and writes all sources; adds to the summary."""
    memory = MemoryCheck(predictor.backend)
    files = [list(frames) for _, frames in groupby(todo, key=attrgetter("path"))]
    writes: deque[tuple[Source, Future[None]]] = deque()

    def finish_writes(waiting: int) -> None:
        """Waits until no more than `waiting` images are still to be written."""
        while writes and (writes[0][1].done() or len(writes) > waiting):
            source, write = writes.popleft()
            try:
                write.result()
            except (MemoryError, cv2.error) as error:
                if not is_out_of_memory(error):
                    raise
                message = f"{source.path}: not enough memory to write its results: close other programs"
                summary.failed.append((source.path, message))
            else:
                summary.written += 1

    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        reads = _read_ahead(pool, lambda frames: _open(frames[0], max_pixels), files)
        for frames, read in tqdm(reads, total=len(files), unit="image", disable=None):
            for source, image, labels in _predict(predictor, memory, frames, read, summary):
                kinds = sink.kinds if overwrite else sink.missing(source)
                writes.append((source, pool.submit(sink.write, source, image, labels, kinds)))
                # Checked in every round, so that a full disk ends the run now and not at the end
                finish_writes(0 if labels.size > LARGE else IN_FLIGHT)
        finish_writes(0)


def _open(source: Source, max_pixels: int) -> tuple[ImageFile, NDArray[np.uint8] | None]:
    """Opens a file; decodes it already unless that takes much memory."""
    file = open_image(source.path, max_pixels)
    return file, file.read() if source.frame is None and file.header.pixels <= LARGE else None


def _predict(
    predictor: Predictor,
    memory: MemoryCheck,
    frames: Sequence[Source],
    read: Future[tuple[ImageFile, NDArray[np.uint8] | None]],
    summary: InferSummary,
) -> Iterator[tuple[Source, NDArray[np.uint8], NDArray[np.uint8]]]:
    """Yields the frames of one file with image and labels; adds what went wrong to the summary."""
    path = frames[0].path
    height = width = 0
    try:
        file, first = read.result()
        height, width = file.header.height, file.header.width
        memory.check(path, height, width)
        for source, image in _decode(frames, file, first):
            height, width = image.shape[:2]
            memory.check(path, height, width)
            start = perf_counter()
            labels = predictor(image)
            summary.network_seconds += perf_counter() - start
            yield source, image, labels
        if file.header.frames > 1 and frames[0].frame is None:
            summary.first_frame_only.append((path, file.header.frames))
    except UserError as error:
        summary.failed.append((path, str(error)))
    except (MemoryError, RuntimeError, cv2.error) as error:
        if not is_out_of_memory(error):
            raise
        summary.failed.append((path, memory.message(path, height, width)))


def _decode(
    frames: Sequence[Source], file: ImageFile, first: NDArray[np.uint8] | None
) -> Iterator[tuple[Source, NDArray[np.uint8]]]:
    """Yields the frames of one file with their images."""
    if frames[0].frame is None:
        yield frames[0], file.read() if first is None else first
        return
    wanted = {source.frame: source for source in frames}
    for number, image in enumerate(file.frames()):
        if number in wanted:
            yield wanted.pop(number), image
        if not wanted:
            return
    raise UserError(f"{file.path}: its frames have changed since they were counted: run the same command again")


def _read_ahead(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[tuple[Item, Future[Result]]]:
    """Yields every item with the future of its result, while `IN_FLIGHT` further ones are computed."""
    pending: deque[tuple[Item, Future[Result]]] = deque()
    for item in items:
        pending.append((item, pool.submit(function, item)))
        if len(pending) > IN_FLIGHT:
            yield pending.popleft()
    yield from pending
