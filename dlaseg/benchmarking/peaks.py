"""Peak memory of a process that segments as `dlaseg infer` does; for a new process. Does not import torch itself."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dlaseg.images import read_image
from dlaseg.inference.predictor import Predictor
from dlaseg.inference.run import infer
from dlaseg.memory import peak_memory, share_freed_memory
from dlaseg.processor import set_num_threads


@dataclass(frozen=True)
class Segmenting:
    """How it segments; the first three as for `Predictor`.

    Attributes:
        weights: a file.
        backend: that `Predictor` turned out to have.
        precision: as asked for.
        device: to compute on.
        threads: of the network.
    """

    weights: Path
    backend: str
    precision: str
    device: str
    threads: int


def peak_of_image(how: Segmenting, image: Path) -> int:
    """Peak memory in bytes after one image was predicted, without writing."""
    set_num_threads(how.threads)
    predictor = Predictor(how.weights, how.backend, how.device, how.precision, max_short_side=0)
    predictor(read_image(image))
    return peak_memory(predictor.backend.device)


def peak_of_files(how: Segmenting, images: Sequence[Path]) -> int:
    """Peak memory in bytes after the label maps of all images were written."""
    set_num_threads(how.threads)
    share_freed_memory()  # as the command does
    with tempfile.TemporaryDirectory() as folder:
        infer(how.weights, images, folder, ["ids"], False, how.backend, how.device, how.precision, max_short_side=0)
    return peak_memory(how.device)
