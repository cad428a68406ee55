"""Inference on a Ray cluster: the local engine in many processes, on one machine or more."""

import csv
import hashlib
import io
import logging
import os
import pickle
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

from dlaseg.errors import UserError
from dlaseg.factory import load_model
from dlaseg.images import check_max_pixels
from dlaseg.inference.folders import Folder
from dlaseg.inference.ray_worker import Outcome, PredictorSpec, SinkSpec, Task, Worker
from dlaseg.inference.remote import find_remote_images, is_url, local_path, open_folder, read_url
from dlaseg.inference.run import InferSummary, begin
from dlaseg.inference.settings import SETTINGS, Settings
from dlaseg.inference.sinks import KINDS, Sink
from dlaseg.inference.sources import Source, find_images
from dlaseg.labels import LabelMap
from dlaseg.memory import MAX_PIXELS
from dlaseg.text import ESCAPE
from dlaseg.weights.download import resolve

FAILED = "failed.csv"
"""Table of the files that failed, beside the results: columns `image` and `error`."""

MOST_CPUS = 4
"""Cores of a worker by default."""

BATCH = 16
"""Most files that a worker is given at a time: those are done again if its process dies."""

RETRIES = 2
"""How often a batch is done again, before its files are done one by one, as often."""

_OBJECT_STORE = 1 << 27
"""Bytes of the store of a cluster that is started here, beside the weights: tasks and outcomes are small."""


def infer(
    weights: str | Path,
    input: str | Path | Sequence[str | Path],
    output: str | Path,
    save: Sequence[str] = KINDS,
    overwrite: bool = False,
    backend: str = "torch",
    device: str = "auto",
    precision: str = "float32",
    keep_suffix: bool = False,
    max_pixels: int = MAX_PIXELS,
    address: str | None = None,
    workers: int | None = None,
    cpus: int | None = None,
) -> InferSummary:
    """Does what `dlaseg.infer` does, in the processes of a Ray cluster; its results have the same bytes.

    The files that failed are also listed in `failed.csv` in the output folder. A process that dies is replaced, and
    its images are done again. A process that is connected to Ray already stays so; else a cluster is started on this
    machine, or connected to, and left at the end.

    Args:
        weights: a file, a folder, a hub name or a URL.
        input: an image or a folder, also as a URL; or several of them.
        output: a folder, also as a URL.
        save: see `dlaseg.infer`.
        overwrite: see `dlaseg.infer`.
        backend: see `Predictor`.
        device: `cuda`, one GPU for each worker; `cpu`; or `auto`, which is `cuda` if the cluster has GPUs.
        precision: see `Predictor`.
        keep_suffix: see `dlaseg.infer`.
        max_pixels: see `dlaseg.infer`.
        address: of a cluster, as for `ray.init`; None for that in RAY_ADDRESS, or one that is started here.
        workers: processes with a predictor each; by default as many as the cluster has room for.
        cpus: cores of each; by default up to `MOST_CPUS`.

    Raises:
        UserError: as `dlaseg.infer`, no package ray, no such cluster, or one without room for a worker.
    """
    check_max_pixels(max_pixels)
    _check_options(device, workers, cpus)
    folder = open_folder(str(output))
    sources = _find([input] if isinstance(input, str | Path) else list(input), folder)
    name, content, label_map = _read_weights(weights)
    sink = Sink(folder, label_map, save, keep_suffix)
    with _cluster(address, workers, cpus, len(content)):
        import ray

        count, cpus, gpus = place_workers(ray.nodes(), workers, cpus, device)
        spec = PredictorSpec(name, backend, "cuda" if gpus else "cpu", precision, cpus)
        reference = ray.put(content)
        resources = {"num_cpus": cpus, "num_gpus": gpus}
        spec = _try_out(spec, reference, resources)
        settings = Settings(hashlib.sha256(content).hexdigest(), spec.backend, spec.precision, keep_suffix)
        todo, summary = begin(sink, sources, settings, overwrite)
        arguments = (reference, spec, SinkSpec(folder, folder.read(SETTINGS), keep_suffix), max_pixels)
        tasks = [
            Task(number, frames, sink.kinds if overwrite else tuple(sink.missing(frames[0])))
            for number, frames in enumerate([source] for source in todo)
        ]
        _process(tasks, arguments, count, resources, summary)
    order = {source.path: number for number, source in enumerate(sources)}
    summary.failed.sort(key=lambda failed: order[failed[0]])
    summary.first_frame_only.sort(key=lambda first: order[first[0]])
    _write_table(folder, summary)
    return summary


def _check_options(device: str, workers: int | None, cpus: int | None) -> None:
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device {device}: Ray gives each worker its device: use auto, cpu or cuda")
    for option, value in (("workers", workers), ("cpus-per-worker", cpus)):
        if value is not None and not 1 <= value <= 10_000:
            raise UserError(f"--{option} {value}: use 1 to 10000")


def _find(inputs: Sequence[str | Path], output: Folder) -> list[Source]:
    """As `find_all`, also by URL."""
    if not inputs:
        raise UserError("no input: give an image or a folder of images")
    sources = []
    for input in map(str, inputs):
        path = local_path(input)
        if path is None:
            sources += find_remote_images(input, output)
        else:  # absolute, since workers have other working folders
            exclude = Path(output.show())
            sources += find_images(path.absolute(), exclude)
    return list({(source.location, source.relative): source for source in sources}.values())


def _read_weights(weights: str | Path) -> tuple[str, bytes, LabelMap]:
    """Name and content of a weights file, and its classes; refuses what is none before anything is started."""
    if not is_url(str(weights)):
        path = resolve(weights)
        return path.name, path.read_bytes(), load_model(path).metadata.labels
    content, name = read_url(str(weights)), PurePosixPath(str(weights)).name
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            return name, content, load_model(path).metadata.labels
        except UserError as error:
            raise UserError(str(error).replace(str(path), str(weights))) from error


@contextmanager
def _cluster(address: str | None, workers: int | None, cpus: int | None, weights_size: int) -> Iterator[None]:
    """Connects to a cluster, or starts one on this machine; leaves it at the end."""
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    # Read when ray is imported. Ray reports usage by default; and takes the GPUs of processes that ask for none
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address == "local":  # its servers take commands from anyone: they listen to this machine alone
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise UserError("--engine ray needs ray: pip install 'dlaseg[ray]'") from error

    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        options["num_cpus"] = max(cores, (workers or 1) * (cpus or 1))
        options |= {"include_dashboard": False, "object_store_memory": _OBJECT_STORE + 2 * weights_size}
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
        raise UserError(f"no Ray cluster at {address} ({error}): start one, or leave the address out") from error
    try:
        yield
    except ray.exceptions.RayError as error:
        raise UserError(
            f"Ray: {type(error).__name__}: {error}: finished files are complete: the same command continues"
        ) from error
    finally:
        ray.shutdown()


def place_workers(
    nodes: Sequence[dict[str, Any]], workers: int | None, cpus: int | None, device: str
) -> tuple[int, int, int]:
    """How many workers there are, and the cores and GPUs of each.

    Args:
        nodes: of the cluster, as from `ray.nodes()`.
        workers: as asked for; None for as many as there is room for.
        cpus: of each, as asked for; None for the most up to `MOST_CPUS` that all of them can have.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        UserError: there is no room for any.
    """
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    has_gpus = any(node.get("GPU", 0) >= 1 for node in resources)
    gpus = 1 if device == "cuda" or (device == "auto" and has_gpus) else 0

    def room(cpus: int) -> int:
        """For how many workers."""
        return sum(
            min(int(node.get("CPU", 0) // cpus), int(node.get("GPU", 0)) if gpus else sys.maxsize) for node in resources
        )

    if cpus is None:
        cpus = next((count for count in range(MOST_CPUS, 0, -1) if room(count) >= (workers or 1)), 1)
    if room(cpus) == 0:
        what = f"{cpus} CPUs and a GPU" if gpus else f"{cpus} CPUs"
        raise UserError(f"no node of the cluster has {what} for a worker: change --cpus-per-worker or --device")
    return workers or room(cpus), cpus, gpus


def _try_out(spec: PredictorSpec, weights: Any, resources: dict[str, int]) -> PredictorSpec:
    """Makes the predictor on the cluster before anything is written; returns what `auto` is there."""
    import ray

    def make(weights: bytes) -> PredictorSpec:
        return spec.resolve(weights)

    try:
        resolved: PredictorSpec = ray.get(ray.remote(make).options(**resources).remote(weights))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from error
        if isinstance(error.cause, ImportError):
            raise UserError(f"a node of the cluster lacks a package ({error.cause}): install dlaseg on all") from error
        raise
    return resolved


def _process(
    tasks: Sequence[Task], arguments: tuple[Any, ...], workers: int, resources: dict[str, int], summary: InferSummary
) -> None:
    """Runs all tasks; adds to the summary."""
    size = max(1, min(BATCH, len(tasks) // (4 * workers)))
    waiting = {task.number: task for task in tasks}
    with tqdm(total=len(tasks), unit="image", disable=None) as progress:
        # What is lost with its worker again and again is tried alone, so that one bad file costs no others
        for batch in (size, 1):
            batches = [list(waiting.values())[start : start + batch] for start in range(0, len(waiting), batch)]
            for outcome in _outcomes(batches, arguments, workers, resources):
                if outcome.error is not None:
                    raise UserError(outcome.error)
                if outcome.traceback is not None:
                    raise RuntimeError(outcome.traceback)
                for number in outcome.numbers:
                    del waiting[number]
                progress.update(len(outcome.numbers))
                summary.written += outcome.summary.written
                summary.failed += outcome.summary.failed
                summary.first_frame_only += outcome.summary.first_frame_only
    for task in waiting.values():
        path = task.frames[0].path
        reason = "its worker died each time; usually there is not enough memory: use fewer --workers"
        summary.failed.append((path, f"{path}: {reason}"))


def _outcomes(
    batches: Sequence[Sequence[Task]], arguments: tuple[Any, ...], workers: int, resources: dict[str, int]
) -> Iterator[Outcome]:
    """Runs each batch in a worker; yields the outcomes as they come, none of a batch whose worker died each time."""
    if not batches:
        return
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1
    logger = logging.getLogger("ray.data")  # also writes to a file
    logger.handlers = [handler for handler in logger.handlers if not isinstance(handler, logging.StreamHandler)]
    rows = [{"task": pickle.dumps(task)} for batch in batches for task in batch]
    dataset = ray.data.from_items(rows, override_num_blocks=len(batches)).map_batches(
        Worker,
        fn_constructor_args=arguments,
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(batches))),
        max_restarts=-1,
        max_task_retries=RETRIES,
        **resources,
    )
    for row in dataset.iter_rows():
        yield pickle.loads(row["outcome"])


def _write_table(folder: Folder, summary: InferSummary) -> None:
    """Writes the table of failed files; removes that of an earlier run if there are none."""
    try:
        if summary.failed:
            text = io.StringIO(newline="")
            rows = [(str(path), message.removeprefix(f"{path}: ")) for path, message in summary.failed]
            csv.writer(text).writerows([("image", "error"), *rows])
            folder.write(FAILED, text.getvalue().encode("utf-8", ESCAPE))
        else:
            folder.remove(FAILED)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UserError(f"{folder.show(FAILED)}: cannot be written ({error.strerror}): make room") from error
