"""Inference on a Ray cluster: the local engine in many processes, on one machine or more."""

import csv
import io
import logging
import math
import pickle
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from dlaseg.errors import UserError
from dlaseg.images import check_max_pixels
from dlaseg.inference.backends.base import check_gives_logits
from dlaseg.inference.backends.exported import OPENVINO
from dlaseg.inference.backends.graph import Graph
from dlaseg.inference.backends.reduced import check_limit
from dlaseg.inference.folders import FAILED, SETTINGS, Folder, check_not_empty
from dlaseg.inference.network import open_network
from dlaseg.inference.pipeline import InferSummary
from dlaseg.inference.ray_cluster import place_workers, ray_cluster
from dlaseg.inference.ray_deaths import Deaths
from dlaseg.inference.ray_worker import (
    Outcome,
    PredictorSpec,
    Task,
    Worker,
    WorkerContext,
    missing_package,
    try_out,
)
from dlaseg.inference.remote import find_remote_images, is_url, local_path, open_folder, read_url
from dlaseg.inference.run import begin, choose_backend, log_torch, network_sha256
from dlaseg.inference.settings import Settings, read_settings
from dlaseg.inference.sinks import KINDS, Sink
from dlaseg.inference.sources import Source, find_images
from dlaseg.memory import MAX_PIXELS
from dlaseg.text import ESCAPE
from dlaseg.weights.download import resolve

if TYPE_CHECKING:
    from dlaseg.inference.network import Network

BATCH = 16
"""Most files that a worker is given at a time: they are done again if its process dies."""


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
    ids: str = "raw",
    scales: Sequence[float] | None = None,
    flip: bool = False,
    max_memory: int | None = None,
    max_short_side: int | None = None,
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
        ids: see `dlaseg.infer`.
        scales: see `dlaseg.infer`.
        flip: see `dlaseg.infer`.
        max_memory: of each worker, see `dlaseg.infer`.
        max_short_side: see `Predictor`.
        address: of a cluster, as for `ray.init`; None for that in RAY_ADDRESS, or one that is started here.
        workers: processes with a predictor each; by default as many as the cluster has room for.
        cpus: cores of each; by default up to 4.

    Raises:
        UserError: as `dlaseg.infer`, no package ray, no such cluster, or one without room for a worker.
    """
    check_max_pixels(max_pixels)
    check_limit(max_short_side)
    _check_options(device, workers, cpus)
    inputs = [input] if isinstance(input, str | Path) else list(input)
    check_not_empty((*inputs, output))
    folder = open_folder(str(output))
    sources = _find(inputs, folder)
    name, files, weights_sha256, network = _read_weights(weights)
    sink = Sink(folder, network.metadata.labels, save, keep_suffix, ids)
    if isinstance(network, Graph) and "probabilities" in sink.kinds:
        check_gives_logits(network, "probabilities are computed from")
    saved = None if overwrite else read_settings(folder)
    chosen = choose_backend(backend, network, weights_sha256, sources, saved)
    assert chosen is not None
    if max_memory is None and saved is not None:
        max_memory = saved.max_memory
    with ray_cluster(address, workers, cpus, sum(map(len, files.values()))):
        import ray

        count, cpus, gpus = place_workers(ray.nodes(), workers, cpus, device)
        reference = ray.put(files)
        given = None if scales is None else tuple(map(float, scales))
        spec = PredictorSpec(name, chosen, precision, cpus, gpus, given, flip, max_memory, max_short_side)
        predictor = _try_out(spec, reference, (folder, sources[-1]))
        settings = Settings(
            weights_sha256, predictor.backend, predictor.precision, keep_suffix, False, ids,
            predictor.scales or (1.0,), flip, max_memory, predictor.max_short_side or None,
        )  # fmt: skip
        todo, summary = begin(sink, sources, settings, overwrite)
        if saved is not None and backend == "auto" and chosen == "torch" and not gpus:
            log_torch(folder, todo)
        context = WorkerContext(predictor, folder, folder.read(SETTINGS), keep_suffix, max_pixels, ids)
        tasks = [
            Task(number, (source,), sink.kinds if overwrite else tuple(sink.missing(source)))
            for number, source in enumerate(todo)
        ]
        start = perf_counter()
        _process(tasks, count, context, reference, summary)
        summary.seconds = perf_counter() - start
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


def _read_weights(weights: str | Path) -> tuple[str, dict[str, bytes], str, "Network"]:
    """The name of a weights file, the content of it and of what belongs to it by name, its hash, and its network."""
    with TemporaryDirectory() as folder:
        if is_url(str(weights)):
            paths = []
            for url in _files(str(weights)):
                paths.append(Path(folder) / PurePosixPath(url).name)
                paths[-1].write_bytes(read_url(url))
        else:
            paths = [Path(file) for file in _files(str(resolve(weights)))]
        try:
            network = open_network(paths[0])
            _ = network.metadata  # read now: the file may be a copy that goes
        except UserError as error:
            raise UserError(str(error).replace(str(paths[0]), str(weights))) from error
        files = {path.name: path.read_bytes() for path in paths}
        return paths[0].name, files, network_sha256(network), network


def _files(weights: str) -> list[str]:
    """A weights file, and the one that belongs to it: the numbers of an OpenVINO IR."""
    stem, dot, suffix = weights.rpartition(".")
    return [weights, f"{stem}{dot}bin"] if f"{dot}{suffix}".lower() == OPENVINO else [weights]


def _try_out(predictor: PredictorSpec, files: Any, others: tuple[Any, ...]) -> PredictorSpec:
    """Makes the predictor on the cluster before anything is written; returns what `auto` is there.

    Args:
        predictor: how to make it.
        files: reference to the content of the weights file, see `PredictorSpec.make`.
        others: what workers need besides, such as the packages of file systems.
    """
    import ray

    task = ray.remote(num_cpus=predictor.cpus, num_gpus=predictor.gpus, max_retries=0)(try_out)
    try:
        resolved: PredictorSpec = ray.get(task.remote(predictor, files, pickle.dumps(others)))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from error
        if isinstance(error.cause, ImportError):
            raise UserError(missing_package(error.cause)) from error
        raise
    return resolved


def _process(tasks: Sequence[Task], workers: int, context: WorkerContext, files: Any, summary: InferSummary) -> None:
    """Runs all tasks; adds to the summary. `files` is as for `Worker`."""
    if not tasks:
        return
    import ray

    workers = min(workers, len(tasks))
    size = max(1, min(BATCH, len(tasks) // (4 * workers)))
    count = math.ceil(len(tasks) / size)
    data_context = ray.data.DataContext.get_current()
    data_context.enable_progress_bars = False
    logger = logging.getLogger("ray.data")  # it also writes to a file
    logger.handlers = [handler for handler in logger.handlers if not isinstance(handler, logging.StreamHandler)]
    dataset = ray.data.from_items([{"task": pickle.dumps(task)} for task in tasks], override_num_blocks=count)
    outcomes = dataset.map_batches(
        Worker,
        fn_constructor_args=(pickle.dumps(context), files, ray.remote(num_cpus=0, max_restarts=-1)(Deaths).remote()),
        batch_size=None,  # a block of the data set, so that it is what a worker is given at a time
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=context.predictor.cpus,
        num_gpus=context.predictor.gpus,
    )
    with tqdm(total=len(tasks), unit="image", disable=None) as progress:
        for row in outcomes.iter_rows():
            outcome: Outcome = pickle.loads(row["outcome"])
            if outcome.error is not None:
                raise UserError(outcome.error)
            progress.update(outcome.files)
            summary.written += outcome.summary.written
            summary.predicted += outcome.summary.predicted
            summary.failed += outcome.summary.failed
            summary.first_frame_only += outcome.summary.first_frame_only
            summary.network_seconds += outcome.summary.network_seconds / workers


def _write_table(folder: Folder, summary: InferSummary) -> None:
    """Writes the table of failed files, if there are any."""
    if not summary.failed:
        return
    text = io.StringIO(newline="")
    rows = [(str(path), message.removeprefix(f"{path}: ")) for path, message in summary.failed]
    csv.writer(text).writerows([("image", "error"), *rows])
    try:
        folder.write(FAILED, text.getvalue().encode("utf-8", ESCAPE))
    except OSError as error:
        raise UserError(f"{folder.show(FAILED)}: cannot be written ({error.strerror}): make room") from error
