"""Whether a split has images that the weights were trained on: a score on them says nothing of other images."""

from collections.abc import Mapping, Set
from pathlib import Path

from dlaseg.data.label_counts import image_sizes
from dlaseg.data.names import read_names
from dlaseg.data.pairs import Pair, SegmentationDataset
from dlaseg.inference.backends.exported import exported_sha256, is_exported, read_graph
from dlaseg.metadata import Origin
from dlaseg.run_folder import LABEL_COUNTS, LOG, TRAIN_NAMES, RunFolder
from dlaseg.weights.builtin import BuiltinWeights, builtin_files, list_weights


def images_of_training(file: Path, dataset: SegmentationDataset) -> str | None:
    """Says which images of a split are known to be among those of the training; None if none are known to be.

    It is known of weights that come with the package and of networks that started or were exported from these, by the
    names of their splits, and of those in a run folder, by the names and file sizes of the images that the run
    recorded. Of other files nothing is known.

    Args:
        file: the weights.
        dataset: the split.
    """
    seen = {exported_sha256(each.file): each.name for each in _builtin_weights() if _is_data(each.data, dataset)}
    if seen and exported_sha256(file) in seen:
        return "was among the training data"
    names, sizes = _names_of_training(file.parent, dataset), image_sizes(file.parent / LABEL_COUNTS)
    common = sum(pair.name in names and not _is_another(pair, sizes) for pair in dataset.pairs)
    if common:
        images = "1 image" if common == 1 else f"{common} images"
        return f"has {images} of the training, by the names in {file.parent / TRAIN_NAMES}"
    started_from = [seen[each.sha256] for each in (_origin(file) if seen else ()) if each.sha256 in seen]
    if started_from:
        return f"was among the training data of {started_from[0]}, which this network comes from"
    return None


def _is_another(pair: Pair, sizes: Mapping[str, Set[int]]) -> bool:
    """Whether an image has another size in bytes than the one of the run: other data may have the same names."""
    known = None if pair.label is None else sizes.get(pair.label.name)
    try:
        return known is not None and pair.image.stat().st_size not in known
    except OSError:
        return False


def _builtin_weights() -> list[BuiltinWeights]:
    """The weights that come with the package; none if their facts are missing."""
    return list_weights() if all(file.with_suffix(".json").exists() for file in builtin_files().values()) else []


def _is_data(trained: str, dataset: SegmentationDataset) -> bool:
    """Whether training data such as `camvid train+val` have images of a split."""
    name, _, split = trained.partition(" ")
    return name == dataset.name and _share(split, dataset.split)


def _origin(file: Path) -> tuple[Origin, ...]:
    """The weights that a network started from."""
    if is_exported(file):
        return read_graph(file).metadata.origin
    from dlaseg.weights.files import read_model_file  # imports torch

    return read_model_file(file)[0].origin


def _names_of_training(folder: Path, dataset: SegmentationDataset) -> set[str]:
    """The images of a run on the same data set and split; none if the folder is not that of such a run."""
    if not (folder / LOG).exists() or not (folder / TRAIN_NAMES).exists():
        return set()
    config = RunFolder.read(folder).config["data"]
    if config.get("dataset", dataset.name) != dataset.name or not _share(str(config["train_split"]), dataset.split):
        return set()
    return set(read_names(folder / TRAIN_NAMES))


def _share(trained: str, split: str) -> bool:
    """Whether `train+val` has a split such as `val`, or `val-part`; `all` is that of data without splits."""
    return any(
        one == other or one.startswith(f"{other}-")
        for one in split.split("+")
        for other in (*trained.split("+"), "all")
    )
