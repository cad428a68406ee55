"""Cityscapes in its original layout (https://www.cityscapes-dataset.com)."""

from pathlib import Path

from dlaseg.data.pairs import SplitFiles
from dlaseg.data.patterns import FilePattern
from dlaseg.labels import IGNORE_INDEX, LabelMap


def cityscapes_labels() -> LabelMap:
    """The 19 classes of the Cityscapes benchmark, from the table in cityscapesscripts; all other ids are ignored."""
    from cityscapesscripts.helpers.labels import labels

    classes = sorted((label for label in labels if 0 <= label.trainId < IGNORE_INDEX), key=lambda label: label.trainId)
    return LabelMap(
        names=tuple(label.name for label in classes),
        palette=tuple(label.color for label in classes),
        ids=tuple((label.id,) for label in classes),
        ignored=tuple(label.id for label in labels if label.trainId == IGNORE_INDEX and label.id >= 0),
    )


def annotation_of(split: str) -> str:
    """The folder of a split's annotations: gtCoarse for train_extra, else gtFine."""
    return "gtCoarse" if split == "train_extra" else "gtFine"


def find_cityscapes(root: Path, split: str, with_labels: bool) -> SplitFiles:
    """Finds the files of a split. Their names are CITY/CITY_SEQUENCE_FRAME.

    Args:
        root: contains `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png` and `gtFine/SPLIT/CITY/*_gtFine_labelIds.png`.
        split: train, val or test; train_extra for the coarse annotations, which are in `gtCoarse`.
        with_labels: whether label maps are needed; without them, the folder of annotations may be missing.
    """
    annotation = annotation_of(split)
    images = FilePattern(root / "leftImg8bit" / split, "{name}_leftImg8bit.*")
    labels = FilePattern(root / annotation / split, f"{{name}}_{annotation}_labelIds.*")
    return SplitFiles.find(images, labels, cityscapes_labels(), with_labels)
