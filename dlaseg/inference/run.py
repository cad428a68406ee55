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
from dlaseg.models.segmenter import DLASeg

IN_FLIGHT = 4
"""Images read ahead of the network, and as many being written behind it; also the number of threads that do so."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class InferSummary:
    """What became of the images.

    Attributes:
        done: images whose missing results were written.
        skipped: images whose results were all there.
        failed: images that could not be used, and why; the message begins with the path.
    """

    done: int
    skipped: int
    failed: list[tuple[Path, str]]


def infer(
    weights: str | Path | DLASeg,
    input: str | Path,
    output: str | Path,
    save: Sequence[str] = KINDS,
    overwrite: bool = False,
    backend: str = "torch",
    device: str = "auto",
) -> InferSummary:
    """Predicts the label maps of an image or of a folder of images, and writes them as files.

    Images are read ahead and results written behind in threads, while the network runs. A broken image is noted and the
    others go on. What is there from an earlier run is kept, so a run that was cut off goes on where it stopped.

    Args:
        weights: see `Predictor`.
        input: an image, or a folder that is walked recursively (`find_images`).
        output: the folder of the results (`Sink`). It may lie inside the input and is not walked then.
        save: what to write: some of `ids`, `color`, `overlay`.
        overwrite: replaces results that are there.
        backend: see `Predictor`.
        device: see `Predictor`.

    Raises:
        UserError: wrong arguments, no images, results that would get in each other's way, or an output folder that
            cannot be written to. What was written until then stays, whole.
    """
    input, output = Path(input), Path(output)
    sources = find_images(input, exclude=output)
    predictor = Predictor(weights, backend, device)
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
            # Looked at in every round, so that a full disk ends the run now and not at the end
            while writes and (writes[0].done() or len(writes) > IN_FLIGHT):
                writes.popleft().result()
        for write in writes:
            write.result()
    return InferSummary(len(todo) - len(failed), len(sources) - len(todo), failed)


def _read_ahead(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[tuple[Item, Future[Result]]]:
    """Yields every item with its result to be, `IN_FLIGHT` further ones being under way."""
    pending: deque[tuple[Item, Future[Result]]] = deque()
    for item in items:
        pending.append((item, pool.submit(function, item)))
        if len(pending) > IN_FLIGHT:
            yield pending.popleft()
    yield from pending
