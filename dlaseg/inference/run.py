"""Inference over files and folders."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from tqdm import tqdm

from dlaseg.errors import UserError
from dlaseg.images import read_image
from dlaseg.inference.predictor import Predictor
from dlaseg.inference.sinks import KINDS, Sink
from dlaseg.inference.sources import find_images
from dlaseg.models.base import SegmentationModel

IN_FLIGHT = 4
"""Images that are read ahead, images that wait to be written, and threads that do both."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class InferSummary:
    """The outcome of a run.

    Attributes:
        written: number of images whose results were written.
        skipped: number of images all of whose results existed already.
        failed: images that could not be read or predicted, and the message, which begins with the path.
    """

    written: int
    skipped: int
    failed: list[tuple[Path, str]]


def infer(
    weights: str | Path | SegmentationModel,
    input: str | Path,
    output: str | Path,
    save: Sequence[str] = KINDS,
    overwrite: bool = False,
    backend: str = "torch",
    device: str = "auto",
    precision: str = "float32",
) -> InferSummary:
    """Predicts the label maps of an image or of a folder of images, and writes them as files.

    Threads read ahead and write results while the network runs. A broken image is recorded and the others are
    processed. Existing results are kept, so an interrupted run continues where it stopped.

    Args:
        weights: see `Predictor`.
        input: an image, or a folder that is walked recursively (`find_images`).
        output: the folder of the results (`Sink`). It may lie inside the input and is not walked then.
        save: what to write: some of `ids`, `color`, `overlay`.
        overwrite: whether existing results are replaced.
        backend: see `Predictor`.
        device: see `Predictor`.
        precision: see `Predictor`.

    Raises:
        UserError: wrong arguments, no images, two images with the same result file, or an output folder that cannot be
            written to. Files written until then are complete and stay.
    """
    input, output = Path(input), Path(output)
    sources = find_images(input, exclude=output)
    predictor = Predictor(weights, backend, device, precision)
    sink = Sink(output, predictor.label_map, save)
    sink.check(sources)
    todo = [source for source in sources if overwrite or sink.missing(source)]
    failed = []
    writes: deque[Future[None]] = deque()
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        reads = _read_ahead(pool, lambda source: read_image(source.path), todo)
        for source, read in tqdm(reads, total=len(todo), unit="image", disable=None):
            try:
                image = read.result()
                labels = predictor(image)
            except UserError as error:
                failed.append((source.path, str(error)))
            except torch.OutOfMemoryError:
                size = f"{image.shape[0]} x {image.shape[1]} pixels"
                failed.append((source.path, f"{source.path}: {size}: not enough memory on the device: try the CPU"))
            else:
                kinds = sink.kinds if overwrite else sink.missing(source)
                writes.append(pool.submit(sink.write, source, image, labels, kinds))
            # Checked in every round, so that a full disk ends the run now and not at the end
            while writes and (writes[0].done() or len(writes) > IN_FLIGHT):
                writes.popleft().result()
        for write in writes:
            write.result()
    return InferSummary(len(todo) - len(failed), len(sources) - len(todo), failed)


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
