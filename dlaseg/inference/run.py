"""Inference over files and folders."""

import importlib.util
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from dlaseg.errors import UserError
from dlaseg.images import check_max_pixels
from dlaseg.inference.backends.choice import kept_graph
from dlaseg.inference.backends.exported import exported_sha256
from dlaseg.inference.backends.graph import Graph
from dlaseg.inference.folders import FAILED, Folder, LocalFolder, check_not_empty, check_output
from dlaseg.inference.network import WeightsFile, open_network
from dlaseg.inference.pipeline import IN_FLIGHT, InferSummary, process
from dlaseg.inference.predictor import Predictor
from dlaseg.inference.remote import is_url
from dlaseg.inference.settings import Claim, Settings, claim_output, read_settings
from dlaseg.inference.sinks import KINDS, Sink
from dlaseg.inference.sources import Source, expand_frames, find_all
from dlaseg.inference.video import check_cameras, check_recordings, segment_videos
from dlaseg.memory import MAX_PIXELS

if TYPE_CHECKING:
    from dlaseg.inference.network import Network
    from dlaseg.models.base import SegmentationModel

FEW = 8
"""From so many images on, `auto` converts a network: for fewer, that takes longer than it saves."""

logger = logging.getLogger(__name__)


def infer(
    weights: "str | Path | SegmentationModel",
    input: str | Path | Sequence[str | Path],
    output: str | Path,
    save: Sequence[str] = KINDS,
    overwrite: bool = False,
    backend: str | None = None,
    device: str = "auto",
    precision: str = "float32",
    keep_suffix: bool = False,
    all_frames: bool = False,
    max_pixels: int | None = None,
    ids: str = "raw",
    scales: Sequence[float] | None = None,
    flip: bool = False,
    max_memory: int | None = None,
    max_short_side: int | None = None,
) -> InferSummary:
    """Predicts the label maps of images and of folders of images, and writes them as files.

    Threads read ahead and write results while the network runs. A file that cannot be read, named or held in memory is
    recorded, and the others are processed. Existing results are kept, so an interrupted run continues where it stopped;
    those of other weights or options are refused.

    Args:
        weights: see `Predictor`.
        input: an image, a video, a folder that is walked recursively (`find_images`), or several of them; or a camera,
            `camera:0`, which ends with Ctrl-C (KeyboardInterrupt).
        output: the folder of the results (`Sink`) and of `infer.json` (`Settings`). It may lie inside the input and is
            not walked then; nor are results of earlier runs.
        save: what to write: some of `ids`, `color`, `overlay`, `probabilities`, `contours`, see `Sink`.
        overwrite: whether existing results are replaced; those of other settings are removed first.
        backend: see `Predictor`. `auto` continues with the backend that results in the output folder are from, and is
            `torch` for a few images (`FEW`) if the network would have to be converted for them.
        device: see `Predictor`.
        precision: see `Predictor`.
        keep_suffix: whether the results of `a.jpg` are called `a.jpg.png`, not `a.png`.
        all_frames: whether all frames of animations and all pages of TIFFs are predicted, not the first ones: those of
            `a.gif` become `a/0000.png`, `a/0001.png`, ...
        max_pixels: larger images are refused. None for `MAX_PIXELS`, and more for those that can be read in strips, see
            `open_strips`.
        ids: what label maps hold: `raw`, the ids that the data set stores, or `train`, 0 to C - 1.
        scales: see `Predictor`.
        flip: see `Predictor`.
        max_memory: see `Predictor`. Results in tiles depend on it: a folder that has such results goes on with the
            limit that they were computed with.
        max_short_side: see `Predictor`.

    Raises:
        UserError: wrong arguments, no images, a folder that holds results of other settings or cannot be written to.
            Files written until then are complete and stay.
    """
    if max_pixels is not None:
        check_max_pixels(max_pixels)
    inputs = [input] if isinstance(input, str | Path) or not isinstance(input, Iterable) else list(input)
    for path in inputs:
        if not isinstance(path, str | Path):
            raise UserError(
                f"image of type {type(path).__name__}: infer reads files: give their paths; dlaseg.Predictor takes "
                "images in memory"
            )
    if not isinstance(output, str | Path):
        raise UserError(f"output of type {type(output).__name__}: use the path of a folder")
    check_not_empty((*inputs, output))
    for path in (*inputs, output):
        if is_url(str(path)):
            raise UserError(f"{path}: a URL: `dlaseg infer --engine ray` reads and writes URLs")
    output = Path(output)
    check_output(output)
    sources = find_all([Path(path) for path in inputs], exclude=output, videos=True)
    check_cameras(sources)
    network = open_network(weights)
    weights_sha256 = network_sha256(network)
    previous = read_settings(LocalFolder(output))
    saved = None if overwrite else previous
    recorded = None if previous is None else previous.max_memory
    if overwrite and recorded != max_memory:
        recorded = None
    chosen = choose_backend(backend, network, weights_sha256, sources, saved)
    limit = recorded if max_memory is None else max_memory
    predictor = Predictor(
        network, chosen, device, precision, scales, flip, max_memory=limit, max_short_side=max_short_side
    )
    settings = Settings(
        weights_sha256, predictor.backend.name, predictor.backend.precision, bool(keep_suffix), bool(all_frames), ids,
        tuple(map(float, predictor.scales)), bool(flip), None if recorded is None else predictor.memory.max_memory,
        predictor.max_short_side,
    )  # fmt: skip
    sink = Sink(output, predictor.label_map, save, keep_suffix, ids)
    if "probabilities" in sink.kinds:
        predictor.check_gives_logits("probabilities are computed from")
    if all_frames:
        sources = expand_frames(sources, max_pixels or MAX_PIXELS, IN_FLIGHT)
    if not overwrite:
        check_recordings(sink, sources)
    todo, summary = begin(sink, sources, settings, overwrite)
    if saved is not None and backend == "auto" and chosen == "torch" and predictor.backend.device == "cpu":
        log_torch(sink.folder, todo)
    claim = Claim(LocalFolder(output), settings)
    sink.before_write = claim.check

    def on_tiled() -> None:
        claim.record_limit(predictor.memory.max_memory)

    images = [source for source in todo if not source.is_video]
    start = perf_counter()
    if images:
        process(predictor, sink, images, overwrite, max_pixels, summary, on_tiled)
    for result in segment_videos(predictor, sink, todo, overwrite, max_pixels or MAX_PIXELS):
        summary.predicted += result.frames
        summary.network_seconds += result.network_seconds
        if predictor.tiled:
            on_tiled()
        if result.problem is None:
            summary.written += 1
        else:
            summary.failed.append((result.source.path, result.problem))
    summary.seconds = perf_counter() - start
    return summary


def network_sha256(network: "Network") -> str:
    """What `Settings` say of the weights.

    Raises:
        UserError: a model with values that are not finite, which a weights file is refused for, too.
    """
    if isinstance(network, Graph):
        return exported_sha256(network.path)
    if isinstance(network, WeightsFile):
        return network.sha256
    from dlaseg.weights.files import check_numbers, model_sha256

    check_numbers(type(network).__name__, network.state_dict(), remedy="train with a lower learning rate")
    return model_sha256(network)


def choose_backend(
    backend: str | None,
    network: "Network",
    weights_sha256: str,
    sources: Sequence[Source],
    saved: Settings | None,
) -> str | None:
    """What `auto` is, as far as images and existing results decide it; any other backend is returned as it is.

    Args:
        backend: see `infer`.
        network: of the weights.
        weights_sha256: hash of the weights.
        sources: what is to be predicted.
        saved: settings of existing results that are kept.
    """
    if backend != "auto":
        return backend
    if saved is not None and saved.weights_sha256 == weights_sha256:
        return saved.backend  # continues what a run with another set of packages began
    if not isinstance(network, Graph) and _are_few(sources) and kept_graph(network) is None:
        return "torch"
    return backend


def log_torch(output: Folder, todo: Sequence[Source]) -> None:
    """Says that `auto` is torch because results are; not for a few images, or if nothing faster is installed."""
    if importlib.util.find_spec("openvino") and not _are_few(todo):
        logger.info(
            "%s: holds results of torch, so torch runs the network: use another output folder, or --overwrite, to let "
            "--backend auto choose",
            output.show(),
        )


def begin(
    sink: Sink, sources: Sequence[Source], settings: Settings, overwrite: bool
) -> tuple[list[Source], InferSummary]:
    """Claims the output folder (`claim_output`) for the results of these sources; removes an earlier run's failures.

    Returns:
        The sources that lack results, and a summary of the others: those that are skipped, and those without a name.

    Raises:
        UserError: as `Sink.check` and `claim_output`.
    """
    sink.check(sources)
    unnameable = sink.unnameable(sources)
    sources = [source for source in sources if source.path not in unnameable]
    results = (sink.file(source, kind) for source in sources for kind in sink.kinds)
    claim_output(sink.folder, settings, results, overwrite)
    _remove_table(sink.folder)
    todo = [source for source in sources if overwrite or sink.missing(source)]
    return todo, InferSummary(skipped=len(sources) - len(todo), failed=list(unnameable.items()))


def _remove_table(folder: Folder) -> None:
    """Removes the table of files that failed in an earlier run: this run tries them again."""
    try:
        if folder.read(FAILED).startswith(b"image,error"):  # or it is the user's
            folder.remove(FAILED)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UserError(
            f"{folder.show(FAILED)}: cannot be removed ({error.strerror}): make the folder writable or give another one"
        ) from error


def _are_few(sources: Sequence[Source]) -> bool:
    return len(sources) < FEW and not any(source.is_video for source in sources)
