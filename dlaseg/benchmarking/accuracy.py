"""Scores weights files on data sets by protocols, and computes only what has not been computed before."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dlaseg.benchmarking.candidates import is_exported
from dlaseg.benchmarking.dataset_names import distinct_names
from dlaseg.config.checks import check_workers
from dlaseg.data.label_check import OnMissingClass, check_on_missing_class, has_own_classes
from dlaseg.data.pairs import SegmentationDataset
from dlaseg.device import pick_device
from dlaseg.errors import UserError
from dlaseg.evaluation.cityscapes.predictions import instance_file
from dlaseg.evaluation.cityscapes.scores import BENCHMARK
from dlaseg.evaluation.scoring import evaluate
from dlaseg.evaluation.trained_on import images_of_training
from dlaseg.files import check_folder, sha256
from dlaseg.inference.backends.choice import BACKENDS
from dlaseg.inference.backends.exported import exported_sha256
from dlaseg.scores_file import read_scores
from dlaseg.text import ESCAPE, to_json
from dlaseg.version import package_version
from dlaseg.weights.download import resolve

PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Protocol:
    """How images are predicted for a score, see `Predictor`; the backend None is torch, or what reads the file."""

    backend: str | None = None
    precision: str = "float32"
    scales: tuple[float, ...] | None = None
    flip: bool = False

    @property
    def name(self) -> str:
        """As `parse_protocol` takes it."""
        words = [self.precision] if self.backend is None else [self.backend, self.precision]
        if self.scales is not None:
            words.append("scales=" + ",".join(f"{scale:g}" for scale in self.scales))
        return "+".join([*words, *(["flip"] if self.flip else [])])


def parse_protocol(text: str) -> Protocol:
    """Reads a protocol: words joined by `+`, each at most once; what is not said has the default of `dlaseg eval`.

    Args:
        text: of a backend's name, a precision, `flip`, and `scales=` with numbers separated by commas.

    Raises:
        UserError: an unknown word, or two of one kind.

    Examples:
        >>> parse_protocol("bfloat16+scales=0.75,1,1.25+flip").name
        'bfloat16+scales=0.75,1,1.25+flip'
    """
    found: dict[str, Any] = {}
    for word in text.split("+"):
        key, _, value = word.partition("=")
        kinds = {"backend": word in BACKENDS, "precision": word in PRECISIONS, "flip": word == "flip"}
        kind = next((kind for kind, fits in kinds.items() if fits), "scales" if key == "scales" else None)
        if kind is None or kind in found:
            what = "unknown" if kind is None else f"a second {kind}"
            raise UserError(
                f"protocol {text!r}: {word!r} is {what}: join by + at most one each of {', '.join(BACKENDS)}; "
                f"{', '.join(PRECISIONS)}; scales=0.75,1,1.25; flip"
            )
        found[kind] = True if kind == "flip" else word
        if kind == "scales":
            try:
                found[kind] = tuple(map(float, value.split(",")))
            except ValueError:
                found[kind] = ()
            if not found[kind] or not all(0 < scale < math.inf for scale in found[kind]):
                raise UserError(f"protocol {text!r}: {word!r}: write numbers above 0, such as scales=0.75,1,1.25")
    return Protocol(**found)


@dataclass(frozen=True)
class Score:
    """A row of the leader board.

    Attributes:
        weights: as the user gave them.
        dataset: name and split; and where it is from, if another data set of the leader board has these, too.
        protocol: how images were predicted.
        weights_sha256: of the file; None if it cannot be read.
        results: content of `scores.json`; None if scoring failed.
        report: the page about these scores; None if scoring failed.
        cached: whether the scores existed already.
        message: why scoring failed.
    """

    weights: str
    dataset: str
    protocol: Protocol
    weights_sha256: str | None = None
    results: dict[str, Any] | None = None
    report: Path | None = None
    cached: bool = False
    message: str | None = None


def score_all(
    weights: Sequence[str],
    datasets: Sequence[SegmentationDataset],
    protocols: Sequence[Protocol],
    output: Path,
    workers: int = 1,
    device: str = "auto",
    on_missing_class: OnMissingClass = "stop",
) -> list[Score]:
    """Scores every weights file on every data set by every protocol, as `dlaseg eval` does.

    The scores of each are kept in `output/scores/KEY`, and are read from there as long as the key stays the same. It is
    a hash of the bytes of the weights file, of every image and label map, of the classes and the protocol, and of the
    versions of dlaseg and of what computes, the kind of device, whether the images are known as those of the training,
    and, for classes of the user's own, of `on_missing_class`. A data set that is given twice, even at two places, is
    scored once; so is a protocol with and without torch, the default backend of a weights file.

    Args:
        weights: files, folders or hub names.
        datasets: splits, see `distinct_names`.
        protocols: how images are predicted.
        output: folder of the scores.
        workers: see `evaluate`.
        device: see `Predictor`.
        on_missing_class: see `evaluate`.

    Returns:
        A row for each, also for what cannot be scored.

    Raises:
        UserError: a wrong value, nothing to score, a data set whose files cannot be read, or an output that cannot be
            written to.
    """
    for name, given in (("weights", weights), ("data sets", datasets), ("protocols", protocols)):
        if not given:
            raise UserError(f"no {name}: a leader board needs weights, data sets and protocols")
    check_workers("workers", workers)
    check_on_missing_class(on_missing_class)
    distinct: dict[str, SegmentationDataset] = {}
    for dataset in datasets:
        distinct.setdefault(dataset_identity(dataset), dataset)
    names = dict(zip(distinct, distinct_names(list(distinct.values())), strict=True))
    check_folder(output)
    rows = []
    files = {file: _find(file) for file in dict.fromkeys(weights)}
    cells: dict[tuple[str, str, Protocol], Protocol] = {}
    for identity, file, protocol in product(distinct, files, protocols):
        cells.setdefault((identity, file, _without_default(protocol, files[file])), protocol)
    for (identity, file, canonical), protocol in tqdm(cells.items(), "score", leave=False, disable=None):
        dataset, where, path, digest = distinct[identity], names[identity], files[file], None
        try:
            if isinstance(path, UserError):
                raise path
            digest = _file_hash(path, exported_sha256)
            seen = images_of_training(path, dataset) is not None
            missing = on_missing_class if has_own_classes(dataset) else None
            folder = output / "scores" / _key(digest, identity, canonical, pick_device(device).type, seen, missing)
            cached = _read(folder)
            if cached is None:
                evaluate(
                    file, dataset, folder, protocol.scales, protocol.flip, workers, device, (), protocol.precision,
                    on_missing_class, protocol.backend or ("auto" if is_exported(str(path)) else "torch"),
                )  # fmt: skip
            results = cached or _read(folder)
            rows.append(Score(file, where, protocol, digest, results, folder / "report.html", cached is not None))
        except UserError as error:
            rows.append(Score(file, where, protocol, digest, message=str(error)))
    return rows


def _find(weights: str) -> Path | UserError:
    """The weights file, or why there is none: a hub that does not answer takes half a minute, so it is asked once."""
    try:
        return resolve(weights)
    except UserError as error:
        return error


def _without_default(protocol: Protocol, path: Path | UserError) -> Protocol:
    """The same protocol without the backend torch, if that is the default for this file."""
    if protocol.backend != "torch" or isinstance(path, UserError) or is_exported(str(path)):
        return protocol
    return replace(protocol, backend=None)


def _read(folder: Path) -> dict[str, Any] | None:
    """Scores that exist with their report; None if there are none, or not of this release."""
    if not (folder / "report.html").is_file():
        return None
    try:
        return read_scores(folder / "scores.json", "miou", "miou_interval", "pixel_accuracy")
    except UserError:
        return None


def dataset_identity(dataset: SegmentationDataset) -> str:
    """SHA-256 of everything in a split that scores depend on: names and bytes of all files, and the classes.

    The files of the benchmark Cityscapes are also the instance maps beside the label maps, or that there are none.

    Bytes are read, since size and time of a file stay as they are when some tools change its pixels. That takes a
    second per gigabyte, and far less than to score.

    Raises:
        UserError: a file that cannot be read, or an image without label map.
    """
    dataset.require_labels()
    digest = hashlib.sha256(to_json([dataset.name, dataset.split, dataset.label_map.to_dict()]).encode())
    for index, pair in enumerate(tqdm(dataset.pairs, f"hash {dataset.name}", leave=False, disable=None)):
        label = dataset.label_file(index)
        hashes = [_file_hash(pair.image), _file_hash(label)]
        if dataset.benchmark == BENCHMARK:
            instances = instance_file(label)
            hashes.append(_file_hash(instances) if instances.exists() else "no instance map")
        for each in hashes:
            digest.update(f"\n{pair.name} {each}".encode("utf-8", ESCAPE))
    return digest.hexdigest()


def _file_hash(path: Path, hash_of: Callable[[Path], str] = sha256) -> str:
    try:
        return hash_of(path)
    except OSError as error:
        raise UserError(f"{error.filename or path}: {error.strerror or error}: use a file that can be read") from error


def _key(
    weights_sha256: str,
    identity: str,
    protocol: Protocol,
    device: str,
    trained_on: bool,
    on_missing_class: OnMissingClass | None,
) -> str:
    """Name of the folder of a score."""
    versions = {name: package_version(name) for name in ("dlaseg", *BACKENDS)}
    content = to_json([weights_sha256, identity, asdict(protocol), device, trained_on, on_missing_class, versions])
    return hashlib.sha256(content.encode()).hexdigest()[:32]
