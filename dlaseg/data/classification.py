"""Data sets for classification with one folder per class, in the layout of ImageNet: root/SPLIT/CLASS/*."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dlaseg.data.names import abbreviated
from dlaseg.data.patterns import files_below
from dlaseg.data.transforms import CenterCrop
from dlaseg.errors import UserError
from dlaseg.image_suffixes import IMAGE_SUFFIXES
from dlaseg.images import read_image


@dataclass(frozen=True, eq=False)
class ClassificationDataset:
    """Images of one split and their classes.

    The attributes are arrays rather than lists, since forked loading processes share the memory of an array. Reading
    Python objects changes their reference counts, which would copy the memory of a million file names.

    Attributes:
        folder: folder of the split.
        class_names: names of the class folders, sorted; the position is the class id.
        files: (N,) bytes, paths below `folder`, sorted within each class.
        targets: (N,) int64 class ids.
    """

    folder: Path
    class_names: tuple[str, ...]
    files: NDArray[np.bytes_]
    targets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> tuple[NDArray[np.uint8], int]:
        """Reads an image at its native size.

        Returns:
            The image, (H, W, 3) uint8 RGB, and its class id.

        Raises:
            UserError: a broken file; names it.
        """
        return read_image(self.folder / os.fsdecode(self.files[index])), int(self.targets[index])


class CenterCroppedDataset:
    """A data set as it is validated on: centre crops of the same size, nothing random.

    Args:
        dataset: reads the images.
        crop: crops them.
    """

    def __init__(self, dataset: ClassificationDataset, crop: CenterCrop):
        self.dataset, self.crop = dataset, crop

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int) -> tuple[NDArray[np.uint8], int]:
        """The crop, (crop_size, crop_size, 3) uint8 RGB, and its class id."""
        image, target = self.dataset.read(index)
        return self.crop(image), target


def open_split(root: Path, split: str) -> ClassificationDataset:
    """Opens a split: lists the files, reads no image.

    Args:
        root: the folder of the splits.
        split: such as train. Its subfolders are the classes; hidden ones are skipped.

    Raises:
        UserError: no such folder, fewer than two classes, or a class without images.
    """
    folder = root / split
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected files such as {folder}/CLASS/IMAGE.jpg")
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        raise UserError(
            f"{folder}: {len(names)} class folders; a classifier needs 2 or more: "
            f"sort the images into {folder}/CLASS/IMAGE.jpg"
        )
    files = [_images_below(folder, name) for name in names]
    empty = [name for name, class_files in zip(names, files, strict=True) if not class_files]
    if empty:
        raise UserError(
            f"{folder / empty[0]}: class without images ({len(empty)} in all): add images or remove the folder; "
            f"images end in {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return ClassificationDataset(
        folder=folder,
        class_names=tuple(names),
        files=np.array([os.fsencode(file) for class_files in files for file in class_files]),
        targets=np.repeat(np.arange(len(names)), [len(class_files) for class_files in files]),
    )


def open_class_folders(
    root: str | Path, train_split: str, val_split: str
) -> tuple[ClassificationDataset, ClassificationDataset]:
    """Opens the training and the validation split.

    Args:
        root: folder of the data set.
        train_split: its subfolders are the classes.
        val_split: must have the same ones.

    Raises:
        UserError: as `open_split`, one folder for both splits, or splits with different classes.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; use the folder that contains {train_split}/CLASS/IMAGE.jpg")
    training, validation = open_split(root, train_split), open_split(root, val_split)
    if training.folder.samefile(validation.folder):
        raise UserError(
            f"{validation.folder}: the training and the validation split: a score on images that were trained on is "
            "too high: set data.val_split to a folder with others"
        )
    for dataset, other in ((validation, training), (training, validation)):
        missing = sorted(set(other.class_names) - set(dataset.class_names))
        if missing:
            raise UserError(
                f"{dataset.folder}: lacks the classes {abbreviated(missing, 5)} of {other.folder}: both need the same "
                "class folders: add or remove them"
            )
    return training, validation


def _images_below(split_folder: Path, class_name: str) -> list[str]:
    """Images in a class folder and its subfolders, as sorted paths below the split's folder; skips hidden ones."""
    files = (file for file in files_below(split_folder / class_name) if file.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(file.relative_to(split_folder).as_posix() for file in files)
