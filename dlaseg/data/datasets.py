"""The table of data sets, and how a split of one is opened by name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dlaseg.data.pairs import SegmentationDataset, SplitFiles
from dlaseg.data.sets.camvid import camvid_labels, find_camvid
from dlaseg.data.sets.cityscapes import cityscapes_labels, find_cityscapes
from dlaseg.data.sets.folder import PLACES, find_folder
from dlaseg.errors import UserError
from dlaseg.labels import LabelMap


@dataclass(frozen=True)
class DatasetEntry:
    """A data set.

    Attributes:
        name: what users call it in a config and on the command line.
        description: one line for help texts.
        find_files: finds the files of a split. Takes the data set's folder, the name of the split, whether label maps
            are needed, and the `options` by keyword.
        label_map: the classes; None if a file of the data set defines them.
        options: the options that only this data set has, with their defaults.
        benchmark: the benchmark whose protocol scores the data set.
    """

    name: str
    description: str
    find_files: Callable[..., SplitFiles]
    label_map: Callable[[], LabelMap] | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    benchmark: Literal["cityscapes"] | None = None

    def with_defaults(self, options: Mapping[str, str | None]) -> dict[str, str]:
        """The data set's options, each from `options` or, where that is None, its default."""
        given = {option: options.get(option) for option in self.options}
        return {option: self.options[option] if value is None else value for option, value in given.items()}

    def has_splits(self, options: Mapping[str, str | None]) -> bool:
        """Whether images or label maps lie in splits; otherwise, all images are one pool, whatever the split's name."""
        places = [value for name, value in self.with_defaults(options).items() if name in ("images", "labels")]
        return not places or any("{split}" in path for path in places)

    def check_options(self, options: Mapping[str, str | None]) -> None:
        """Raises a UserError for an option that is not the data set's and not at its default."""
        for option, value in options.items():
            entries = [entry for entry in DATASETS.values() if option in entry.options]
            if self in entries or value in (None, *(entry.options[option] for entry in entries)):
                continue  # configs hold every field, also those of other data sets
            suitable = " or ".join(entry.name for entry in entries)
            raise UserError(
                f"{option} {value!r}: dataset {self.name} has no such option: leave it out, or use dataset {suitable}"
            )


DATASETS: dict[str, DatasetEntry] = {
    entry.name: entry
    for entry in (
        DatasetEntry(
            "cityscapes",
            "leftImg8bit/SPLIT/CITY/*_leftImg8bit.png with gtFine/SPLIT/CITY/*_gtFine_labelIds.png; 19 classes",
            find_cityscapes,
            cityscapes_labels,
            benchmark="cityscapes",
        ),
        DatasetEntry("camvid", "SPLIT/*.png with SPLITannot/*.png; 11 classes", find_camvid, camvid_labels),
        DatasetEntry(
            "folder",
            "images/SPLIT/* with labels/SPLIT/*, or paths of your own; classes.yaml defines the classes",
            find_folder,
            options={**PLACES, "classes": "classes.yaml"},
        ),
    )
}


DEFAULT_SPLITS = ("train", "val")
"""Splits that are examined unless the user names others; the second one need not exist."""


def dataset_entry(name: str) -> DatasetEntry:
    """The data set of that name.

    Raises:
        UserError: an unknown name; lists the known ones.
    """
    if name not in DATASETS:
        raise UserError(f"dataset {name!r}: unknown; use one of {', '.join(DATASETS)}")
    return DATASETS[name]


def label_map_of(name_or_path: str) -> LabelMap:
    """The label map of a data set whose classes are fixed, or that of a classes file.

    Args:
        name_or_path: such as `camvid`, or the path of a classes file (YAML).

    Raises:
        UserError: the classes file is missing or broken.
    """
    entry = DATASETS.get(name_or_path)
    if entry is not None and entry.label_map is not None:
        return entry.label_map()
    return LabelMap.from_file(Path(name_or_path))


def find_split(
    entry: DatasetEntry, root: Path, split: str, options: Mapping[str, str | None], with_labels: bool = True
) -> SplitFiles:
    """Finds the files of a split, or of several that are joined by +; matches nothing yet.

    Raises:
        MissingSplitError: the folder of a split's images does not exist.
        UserError: no such files, or two splits have an image of the same name.
    """
    parts = split.split("+") if entry.has_splits(options) else [split]
    return SplitFiles.together(
        [entry.find_files(root, part, with_labels, **entry.with_defaults(options)) for part in parts]
    )


def open_dataset(
    name: str,
    root: str | Path,
    split: str,
    images: str | None = None,
    labels: str | None = None,
    classes: str | None = None,
    names: str | Path | None = None,
    with_labels: bool = True,
) -> SegmentationDataset:
    """Opens a split: finds and matches the files, reads no image.

    Args:
        name: a name in `DATASETS`.
        root: folder of the data set.
        split: such as train or val; train+val is both together. Without {split} in `images` and `labels`, all images
            are one pool, and their split is called all.
        images: an option of the data set `folder`, see `find_folder`; None for its default.
        labels: an option of the data set `folder`; None for its default.
        classes: an option of the data set `folder`; None for its default.
        names: text file that lists the images to keep, one name (see `Pair`) per line; None for the whole split.
        with_labels: whether label maps are needed; otherwise they are not looked for, and all pairs are without one.

    Raises:
        UserError: an unknown name, an option that the data set does not have, a missing or empty folder, an image
            without a label map, a label map without an image, or a list of names that does not fit.
    """
    entry = dataset_entry(name)
    options = {"images": images, "labels": labels, "classes": classes}
    entry.check_options(options)
    if not isinstance(root, str | Path):
        raise UserError(f"root of type {type(root).__name__}: use the path of a folder")
    if not isinstance(split, str):
        raise UserError(f"split of type {type(split).__name__}: use a name, such as train")
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; use the folder of dataset {name}: {entry.description}")
    files = find_split(entry, root, split, options, with_labels)
    split = split if entry.has_splits(options) else "all"
    if names is not None:
        files, split = files.listed(Path(names)), f"{split}-{Path(names).stem}"
    return SegmentationDataset(name, split, files.pairs(), files.label_map, entry.benchmark)


def check_pool(option: str, named: Sequence[str], images: str | None, labels: str | None) -> None:
    """Refuses names of splits for a data set that has none, see `DatasetEntry.has_splits`.

    Args:
        option: that named them.
        named: the names.
        images: an option of the data set.
        labels: an option of the data set.
    """
    if named:
        raise UserError(
            f"{option} {' '.join(named)}: there is no {{split}} in --images {images} and --labels {labels}, so all "
            f"images are one pool: leave {option} out; --list chooses a part"
        )


def open_images(name: str, root: str | Path, split: str) -> SegmentationDataset:
    """Opens the images of a split, with or without annotations; see `open_dataset`."""
    return open_dataset(name, root, split, with_labels=False)
