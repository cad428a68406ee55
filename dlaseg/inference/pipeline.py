"""Reads, predicts and writes images: three stages that run at the same time."""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import ParamSpec, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dlaseg.errors import UnreadableFileError, UserError
from dlaseg.image_strips import StripImage, open_strips
from dlaseg.images import MOST_PIXELS, ImageFile, open_image
from dlaseg.inference.backends.base import SMALL
from dlaseg.inference.grid import Grid
from dlaseg.inference.memory import memory_message
from dlaseg.inference.predictor import Predictor
from dlaseg.inference.sinks import Sink
from dlaseg.inference.sources import Source
from dlaseg.inference.strips import STRIP_KINDS, ReadRows, infer_strips
from dlaseg.memory import MAX_PIXELS, is_out_of_memory
from dlaseg.processor import num_threads

IN_FLIGHT = 4
"""Images of up to `SMALL` pixels that are read ahead, images that wait to be written, and threads that do both."""

WHOLE_PER_PIXEL = 16
"""Bytes of an image that is decoded, predicted and written as a whole, per pixel; without the network."""

DECODED_PER_PIXEL = 3
"""Bytes of an image that is decoded as a whole and predicted in tiles, per pixel."""

Item = TypeVar("Item")
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


@dataclass
class InferSummary:
    """The outcome of a run.

    Attributes:
        written: number of images whose results were written; a frame of an animation counts as an image, and so does a
            video.
        skipped: number of images all of whose results existed already.
        failed: files that could not be read, predicted or named, and the message, which begins with the path.
        first_frame_only: files of several frames, of which only the first was predicted, and how many they have.
        predicted: number of images, and of frames of animations and videos, that went through the network.
        seconds: from the first image to the last, without the start.
        network_seconds: of these, what the network took, with upsampling and argmax. The rest was waiting for images to
            be read or written.
    """

    written: int = 0
    skipped: int = 0
    failed: list[tuple[Path, str]] = field(default_factory=list)
    first_frame_only: list[tuple[Path, int]] = field(default_factory=list)
    predicted: int = field(default=0, compare=False)
    seconds: float = field(default=0.0, compare=False)
    network_seconds: float = field(default=0.0, compare=False)


def process(
    predictor: Predictor,
    sink: Sink,
    todo: Sequence[Source],
    overwrite: bool,
    max_pixels: int | None,
    summary: InferSummary,
    on_tiled: Callable[[], None] = lambda: None,
) -> None:
    """Predicts and writes all sources; adds to the summary. Calls `on_tiled` before it writes results in tiles."""
    files = [list(frames) for _, frames in groupby(todo, key=attrgetter("path", "relative"))]
    predictions: deque[tuple[Source, NDArray[np.uint8], Future[Prediction]]] = deque()
    writes: deque[tuple[Source, Future[None]]] = deque()
    large, clock = predictor.memory.large, BusyClock()

    def kinds(source: Source) -> Sequence[str]:
        return sink.kinds if overwrite else sink.missing(source)

    def finish_predictions(waiting: int) -> None:
        """Hands finished predictions on to be written, until no more than `waiting` are still to be computed."""
        while predictions and (predictions[0][2].done() or len(predictions) > waiting):
            source, image, prediction = predictions.popleft()
            try:
                labels, probabilities = prediction.result()
            except UserError as error:
                summary.failed.append((source.path, str(error)))
                continue
            except (MemoryError, RuntimeError, cv2.error) as error:
                summary.failed.append((source.path, memory_message(error, source.path, *image.shape[:2])))
                continue
            summary.predicted += 1
            if predictor.tiled:
                on_tiled()
            writes.append((source, pool.submit(sink.write, source, image, labels, kinds(source), probabilities)))
            # Checked in every round, so that a full disk ends the run now and not at the end
            finish_writes(0 if labels.size > large else IN_FLIGHT)

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

    with ThreadPoolExecutor(IN_FLIGHT) as pool, _computing(predictor, sink.kinds) as compute:
        streams = predictor.backend.streams
        ahead = 1  # a larger image takes the network longer than the next one takes to be read
        reads = _read_ahead(pool, lambda frames: _open(frames[0], max_pixels, large), files, lambda: ahead)
        for frames, read in tqdm(reads, total=len(files), unit="image", disable=None):
            for item in _decode_all(predictor, frames, read, max_pixels, kinds, sink.is_local, summary):
                if isinstance(item, Tiled):
                    finish_predictions(0)
                    finish_writes(0)
                    on_tiled()
                    _write_tiled(predictor, sink, item, kinds(item.source), summary)
                    continue
                source, image = item
                pixels = predictor.memory_for(*image.shape[:2]).pixels(*image.shape[:2])
                held = max(pixels, image.size // 3)
                ahead = IN_FLIGHT if held <= SMALL else 1
                prediction = compute.submit(clock.time, predictor.segment, image, "probabilities" in kinds(source))
                predictions.append((source, image, prediction))
                finish_predictions(0 if held > large else streams if pixels <= SMALL else 1)
        finish_predictions(0)
        finish_writes(0)
    summary.network_seconds += clock.seconds


Prediction = tuple[NDArray[np.uint8], NDArray[np.float16] | None]
"""Labels and probabilities, see `Predictor.segment`."""


class BusyClock:
    """Measures how long at least one of several threads is in a function.

    Attributes:
        seconds: so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._lock, self._calls, self._since = Lock(), 0, 0.0

    def time(
        self, function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result:
        """Calls the function."""
        with self._lock:
            if not self._calls:
                self._since = perf_counter()
            self._calls += 1
        try:
            return function(*args, **kwargs)
        finally:
            with self._lock:
                self._calls -= 1
                if not self._calls:
                    self.seconds += perf_counter() - self._since


@contextmanager
def _computing(predictor: Predictor, kinds: Sequence[str]) -> Iterator[ThreadPoolExecutor]:
    """The threads that call the predictor: several where the backend computes small images side by side."""
    backend, threads = predictor.backend, num_threads()
    streams = backend.streams = min(predictor.memory.streams, backend.max_streams)
    if streams > 1 and (predictor.needs_torch or "probabilities" in kinds):
        import torch  # noqa: F401  so that each thread is given its part of the cores by torch, too
    try:
        with ThreadPoolExecutor(streams, initializer=_limit_torch, initargs=(threads // streams,)) as pool:
            yield pool
    finally:
        backend.streams = 1
        _limit_torch(threads)


def _limit_torch(threads: int) -> None:
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Tiled:
    """An image that is still to be computed in tiles.

    Attributes:
        source: the image.
        read: reads its rows.
        grid: the tiles.
    """

    source: Source
    read: ReadRows
    grid: Grid


def _write_tiled(predictor: Predictor, sink: Sink, image: Tiled, kinds: Sequence[str], summary: InferSummary) -> None:
    """Predicts and writes an image in tiles; adds to the summary. A full disk raises its error."""
    path = image.source.path
    try:
        predictor.check_gives_logits("the tiles of a large image are blended by")
    except UserError as error:  # of this image: smaller ones are computed as a whole
        summary.failed.append((path, f"{path}: {error}"))
        return
    try:
        summary.network_seconds += infer_strips(predictor, sink, image.source, image.read, image.grid, kinds)
        summary.written += 1
        summary.predicted += 1
    except UnreadableFileError as error:
        summary.failed.append((path, str(error)))
    except (MemoryError, RuntimeError, cv2.error) as error:
        message = memory_message(error, path, image.grid.rows.length, image.grid.columns.length)
        summary.failed.append((path, message))


Opened = tuple[ImageFile | StripImage, NDArray[np.uint8] | None]


def _open(source: Source, max_pixels: int | None, large: int) -> Opened:
    """Opens a file; decodes it already unless that takes much memory."""
    is_file = type(source) is Source and source.frame is None  # not the object of a store
    strips = open_strips(source.path, large, max_pixels) if is_file else None
    if strips is not None:
        return strips, None
    file = source.open(max_pixels or MAX_PIXELS)
    return file, file.read() if source.frame is None and file.header.pixels <= large else None


def _decode_all(
    predictor: Predictor,
    frames: Sequence[Source],
    read: Future[Opened],
    max_pixels: int | None,
    kinds: Callable[[Source], Sequence[str]],
    in_strips: bool,
    summary: InferSummary,
) -> Iterator[tuple[Source, NDArray[np.uint8]] | Tiled]:
    """Yields the frames of one file with their images, or to be tiled; adds what went wrong to the summary."""
    path = frames[0].path
    height = width = 0

    def grid(source: Source, decoded_bytes: float) -> Grid | None:
        if not in_strips or not set(kinds(source)) <= set(STRIP_KINDS):
            return None
        try:
            whole_bytes = WHOLE_PER_PIXEL * height * width
            return predictor.memory_for(height, width).grid(height, width, whole_bytes, decoded_bytes)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    try:
        file, first = read.result()
        if isinstance(file, StripImage):
            height, width = file.height, file.width
            if (tiles := grid(frames[0], 0)) is not None:
                with file.open() as reader:
                    yield Tiled(frames[0], reader.read, tiles)
                return
            file = open_image(path, max_pixels or MOST_PIXELS)
        height, width = file.header.height, file.header.width
        grid(frames[0], DECODED_PER_PIXEL * height * width)  # before it is decoded
        for source, image in _decode(frames, file, first):
            height, width = image.shape[:2]
            tiles = grid(source, DECODED_PER_PIXEL * height * width)
            if tiles is not None:
                yield Tiled(source, _rows_of(image), tiles)
                continue
            yield source, image
        if file.header.frames > 1 and frames[0].frame is None:
            summary.first_frame_only.append((path, file.header.frames))
    except UserError as error:
        summary.failed.append((path, str(error)))
    except (MemoryError, RuntimeError, cv2.error) as error:
        summary.failed.append((path, memory_message(error, path, height, width)))


def _rows_of(image: NDArray[np.uint8]) -> ReadRows:
    return lambda top, bottom: image[top:bottom]


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
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], ahead: Callable[[], int]
) -> Iterator[tuple[Item, Future[Result]]]:
    """Yields every item with the future of its result, while up to `ahead()` further ones are computed."""
    pending: deque[tuple[Item, Future[Result]]] = deque()
    for item in items:
        pending.append((item, pool.submit(function, item)))
        while len(pending) > ahead():
            yield pending.popleft()
    yield from pending


def infer_sources(predictor: Predictor, sink: Sink, sources: Sequence[Source]) -> InferSummary:
    """Predicts and writes sources with a predictor that is ready; existing results are replaced.

    `infer` does the same for files that it finds, after it has loaded the network.
    """
    summary = InferSummary()
    process(predictor, sink, sources, True, MAX_PIXELS, summary)
    return summary
