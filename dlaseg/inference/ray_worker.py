"""What runs in the processes of a Ray cluster: the local engine, on a few images at a time."""

import pickle
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlaseg.errors import UserError
from dlaseg.inference.folders import SETTINGS, Folder
from dlaseg.inference.pipeline import InferSummary, process
from dlaseg.inference.predictor import Predictor
from dlaseg.inference.sinks import Sink
from dlaseg.inference.sources import Source
from dlaseg.processor import set_num_threads
from dlaseg.version import __version__

ATTEMPTS = 3
"""How many workers may die at a file before it counts as failed."""


@dataclass(frozen=True)
class PredictorSpec:
    """How a worker makes its predictor.

    Attributes:
        name: of the weights file.
        backend: see `Predictor`.
        precision: see `Predictor`; or what a backend computes in.
        cpus: cores that it has, and threads of the network there.
        gpus: that it has, 0 or 1.
        scales: see `Predictor`.
        flip: see `Predictor`.
        max_memory: see `Predictor`; of each worker.
        max_short_side: see `Predictor`.
        version: of dlaseg where the run was started.
    """

    name: str
    backend: str
    precision: str
    cpus: int
    gpus: int
    scales: tuple[float, ...] | None = None
    flip: bool = False
    max_memory: int | None = None
    max_short_side: int | None = None
    version: str = __version__

    def make(self, files: Mapping[str, bytes]) -> Predictor:
        """Makes it from the content of the weights file, and of one that belongs to it, by name."""
        if self.version != __version__:
            raise UserError(
                f"dlaseg {__version__} on node {socket.gethostname()}, {self.version} where the run was started: "
                "install the same release on all nodes"
            )
        set_num_threads(self.cpus)
        with TemporaryDirectory() as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            device = "cuda" if self.gpus else "cpu"
            # int8, int8+bfloat16: what is quantised is said by the file alone
            precision = self.precision.removeprefix("int8").removeprefix("+") or "float32"
            return Predictor(
                Path(folder) / self.name, self.backend, device, precision, self.scales, self.flip,
                max_memory=self.max_memory, max_short_side=self.max_short_side,
            )  # fmt: skip


def try_out(predictor: PredictorSpec, files: Mapping[str, bytes], others: bytes) -> PredictorSpec:
    """Makes a predictor, and imports what pickled objects need; returns how to make it again without `auto`."""
    pickle.loads(others)
    made = predictor.make(files)
    return replace(
        predictor, backend=made.backend.name, precision=made.backend.precision, scales=made.scales,
        max_short_side=made.max_short_side or 0,
    )  # fmt: skip


def missing_package(error: ImportError) -> str:
    """The message for a package that a node of the cluster lacks."""
    return f"a node of the cluster lacks a package ({error}): install the same packages on all nodes"


@dataclass(frozen=True)
class Task:
    """One file to segment.

    Attributes:
        number: of the task.
        frames: of the file, or the file itself.
        kinds: of results that are to be written.
    """

    number: int
    frames: tuple[Source, ...]
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class WorkerContext:
    """What all tasks have in common.

    Attributes:
        predictor: how to segment.
        folder: of the results.
        settings: the content of its `infer.json`.
        keep_suffix: see `Sink`.
        max_pixels: see `read_image`.
        ids: see `Sink`.
    """

    predictor: PredictorSpec
    folder: Folder
    settings: bytes
    keep_suffix: bool
    max_pixels: int
    ids: str = "raw"

    def check_folder(self) -> None:
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


@dataclass
class Outcome:
    """What became of a batch of tasks.

    Attributes:
        files: number of them.
        summary: of their images.
        error: one line that ends the run, such as that nothing can be written.
    """

    files: int
    summary: InferSummary = field(default_factory=InferSummary)
    error: str | None = None


class Worker:
    """Segments images in a process of its own; Ray Data calls it with a batch of pickled tasks.

    What the user can mend is returned, since Ray would wrap an exception; a defect is an exception, which ends the run.

    Args:
        context: of all tasks, pickled: what it needs may be missing here.
        files: reference to what `PredictorSpec.make` takes, in Ray's object store.
        deaths: handle of a `Deaths` actor.
    """

    def __init__(self, context: bytes, files: Any, deaths: Any):
        self._pickled_context, self._files, self._deaths = context, files, deaths
        self._predictor: Predictor | None = None

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Processes the tasks of the column `task`; returns one pickled `Outcome` in the column `outcome`."""
        outcome = Outcome(len(batch["task"]))
        try:
            self._process([pickle.loads(task) for task in batch["task"]], outcome.summary)
        except (UserError, OSError) as error:
            outcome.error = str(error)
        except ImportError as error:
            outcome.error = missing_package(error)
        return {"outcome": np.array([pickle.dumps(outcome)], dtype=object)}

    def _process(self, tasks: Sequence[Task], summary: InferSummary) -> None:
        import ray

        batch = tasks[0].number
        deaths: dict[int, int] | None = ray.get(self._deaths.start.remote(batch))
        if deaths is None:
            self._segment(tasks, summary)
            return
        for task in tasks:  # one after the other, to know which one it is if it happens again
            if deaths.get(task.number, 0) < ATTEMPTS:
                ray.get(self._deaths.at.remote(batch, task.number))
                self._segment([task], summary)
            else:
                path = task.frames[0].path
                message = f"{path}: its worker died {ATTEMPTS} times, usually for lack of memory: use fewer --workers"
                summary.failed.append((path, message))

    def _segment(self, tasks: Sequence[Task], summary: InferSummary) -> None:
        """Processes tasks as the local engine does; adds to the summary."""
        context, predictor = self._start()
        for kinds, group in groupby(tasks, key=attrgetter("kinds")):
            sources = [source for task in group for source in task.frames]
            sink = Sink(context.folder, predictor.label_map, kinds, context.keep_suffix, context.ids)
            process(predictor, sink, sources, True, context.max_pixels, summary)

    def _start(self) -> tuple[WorkerContext, Predictor]:
        """Makes the predictor at the first call."""
        if self._predictor is None:
            import ray

            self._context: WorkerContext = pickle.loads(self._pickled_context)
            self._context.check_folder()
            self._predictor = self._context.predictor.make(ray.get(self._files))
        return self._context, self._predictor
