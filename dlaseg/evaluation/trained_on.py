"""Whether a split has images that the weights were trained on: a score on them says nothing of other images."""

from pathlib import Path

from dlaseg.data.names import read_names
from dlaseg.data.pairs import SegmentationDataset
from dlaseg.run_folder import LOG, TRAIN_NAMES, RunFolder
from dlaseg.weights.builtin import builtin_files, list_weights


def images_of_training(file: Path, dataset: SegmentationDataset) -> str | None:
    """Says which images of a split are known to be among those of the training; None if none are known to be.

    It is known of weights that come with the package, by the names of their splits, and of those in a run folder, by
    the names of the images that the run recorded. Of other files nothing is known.

    Args:
        file: the weights.
        dataset: the split.
    """
    if file in builtin_files().values() and file.with_suffix(".json").exists():
        data = next(each.data for each in list_weights() if each.file == file).split()
        if len(data) != 2 or data[0] != dataset.name or not _share(data[1], dataset.split):
            return None
        return "was among the training data"
    common = _names_of_training(file.parent, dataset) & {pair.name for pair in dataset.pairs}
    if not common:
        return None
    return f"has {len(common)} images of the training, by the names in {file.parent / TRAIN_NAMES}"


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
