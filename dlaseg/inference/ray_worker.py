"""What runs in the processes of a Ray cluster: the local engine, on a few images at a time."""

import pickle
import socket
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dlaseg.errors import UserError
from dlaseg.inference.folders import Folder
from dlaseg.inference.predictor import Predictor
from dlaseg.inference.run import InferSummary, process
from dlaseg.inference.settings import SETTINGS
from dlaseg.inference.sinks import Sink
from dlaseg.inference.sources import Source
from dlaseg.labels import LabelMap
from dlaseg.version import __version__


@dataclass(frozen=True)
class PredictorSpec:
    """How a worker makes its predictor.

    Attributes:
        name: of the weights file.
        backend: see `Predictor`.
        device: see `Predictor`.
        precision: see `Predictor`.
        threads: of the network on a CPU.
        version: of dlaseg where the run was started.
    """

    name: str
    backend: str
    device: str
    precision: str
    threads: int
    version: str = __version__

    def make(self, weights: bytes) -> Predictor:
        """Makes it from the content of the weights file."""
        if self.version != __version__:
            raise UserError(
                f"dlaseg {__version__} on node {socket.gethostname()}, {self.version} where the run was started: "
                "install the same release on all nodes"
            )
        torch.set_num_threads(self.threads)
        with TemporaryDirectory() as folder:
            path = Path(folder) / self.name
            path.write_bytes(weights)
            return Predictor(path, self.backend, self.device, self.precision)

    def resolve(self, weights: bytes) -> "PredictorSpec":
        """The same with what `auto` is on this machine."""
        backend = self.make(weights).backend
        return replace(self, backend=backend.name, precision=backend.precision)


@dataclass(frozen=True)
class SinkSpec:
    """Where a worker writes to.

    Attributes:
        folder: of the results.
        settings: the content of its `infer.json`.
        keep_suffix: see `Sink`.
    """

    folder: Folder
    settings: bytes
    keep_suffix: bool

    def make(self, label_map: LabelMap, kinds: Sequence[str]) -> Sink:
        """Makes a sink for some kinds of results."""
        return Sink(self.folder, label_map, kinds, self.keep_suffix)

    def check(self) -> None:
        """Raises a UserError if this node has another folder of that name, where the results would be lost."""
        try:
            is_same = self.folder.read(SETTINGS) == self.settings
        except OSError:
            is_same = False
        if not is_same:
            raise UserError(
                f"{self.folder.show()}: not the same folder on node {socket.gethostname()}: give a folder that all "
                "nodes share, or the URL of an object store, such as s3://BUCKET/FOLDER"
            )


@dataclass(frozen=True)
class Task:
    """One file to segment.

    Attributes:
        number: of the task.
        frames: of the file, or the file itself.
        kinds: of results that are to be written.
    """

    number: int
    frames: Sequence[Source]
    kinds: tuple[str, ...]


@dataclass
class Outcome:
    """What became of a few tasks.

    Attributes:
        numbers: of the tasks.
        summary: of their images.
        error: one line that ends the run, such as that nothing can be written.
        traceback: of a defect of dlaseg, which ends the run.
    """

    numbers: list[int]
    summary: InferSummary = field(default_factory=InferSummary)
    error: str | None = None
    traceback: str | None = None


class Worker:
    """Segments images in a process of its own; Ray Data calls it with a batch of pickled tasks.

    What goes wrong is returned, since Ray would wrap an exception, and run the tasks again.

    Args:
        weights: reference to the content of the weights file in Ray's object store.
        predictor: how to segment.
        sink: where to write to.
        max_pixels: see `read_image`.
    """

    def __init__(self, weights: Any, predictor: PredictorSpec, sink: SinkSpec, max_pixels: int):
        self._weights, self._predictor_spec, self._sink = weights, predictor, sink
        self._max_pixels = max_pixels
        self._predictor: Predictor | None = None

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Processes the tasks of the column `task`; returns one pickled `Outcome` in the column `outcome`."""
        tasks = [pickle.loads(task) for task in batch["task"]]
        outcome = Outcome([task.number for task in tasks])
        try:
            self._process(tasks, outcome.summary)
        except (UserError, OSError) as error:
            outcome.error = str(error)
        except Exception:
            outcome.traceback = traceback.format_exc()
        return {"outcome": np.array([pickle.dumps(outcome)], dtype=object)}

    def _process(self, tasks: Sequence[Task], summary: InferSummary) -> None:
        if self._predictor is None:
            import ray

            self._sink.check()
            self._predictor = self._predictor_spec.make(ray.get(self._weights))
        for kinds, group in groupby(tasks, key=attrgetter("kinds")):
            sources = [source for task in group for source in task.frames]
            sink = self._sink.make(self._predictor.label_map, kinds)
            process(self._predictor, sink, sources, True, self._max_pixels, summary)
