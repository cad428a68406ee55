"""Images in one folder a class, as ImageNet is kept: root/SPLIT/CLASS/*."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dlaseg.data.transforms import CenterCrop
from dlaseg.errors import UserError
from dlaseg.images import IMAGE_SUFFIXES, read_image


@dataclass(frozen=True, eq=False)
class ClassificationDataset:
    """Images of one split, and their classes.

    Arrays rather than lists: loading processes that were forked share them, while every look at one of a million Python
    objects would copy its page.

    Attributes:
        folder: of the split.
        class_names: names of the class folders, sorted; class i is the i-th.
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


class CenterCrops:
    """The same data set as it is validated on: all images of one size, nothing random.

    Args:
        dataset: what is cropped.
        crop: how.
    """

    def __init__(self, dataset: ClassificationDataset, crop: CenterCrop):
        self.dataset, self.crop = dataset, crop

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int) -> tuple[NDArray[np.uint8], int]:
        """The crop, (crop_size, crop_size, 3) uint8 RGB, and its class id."""
        image, target = self.dataset.read(index)
        return self.crop(image), target


def class_folders(root: Path, split: str) -> ClassificationDataset:
    """Opens a split: lists the files, reads none of them.

    Args:
        root: the folder that holds the splits.
        split: such as train. Its folders are the classes; hidden ones are passed over.

    Raises:
        UserError: no such folder, fewer than two classes, or a class without images.
    """
    top = root / split
    if not top.is_dir():
        raise UserError(f"{top}: no such folder; expected files such as {top}/CLASS/IMAGE.jpg")
    names = sorted(entry.name for entry in os.scandir(top) if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        raise UserError(
            f"{top}: {len(names)} class folders; a classifier tells 2 or more apart: "
            f"sort the images into {top}/CLASS/IMAGE.jpg"
        )
    files = [_images_below(top, name) for name in names]
    empty = [name for name, own in zip(names, files, strict=True) if not own]
    if empty:
        raise UserError(
            f"{top / empty[0]}: no image of this class ({len(empty)} such in all): add images or remove the folder; "
            f"images end in {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return ClassificationDataset(
        folder=top,
        class_names=tuple(names),
        files=np.array([os.fsencode(file) for own in files for file in own]),
        targets=np.repeat(np.arange(len(names)), [len(own) for own in files]),
    )


def open_class_folders(
    root: str | Path, train_split: str, val_split: str
) -> tuple[ClassificationDataset, ClassificationDataset]:
    """Opens the training and the validation split.

    Args:
        root: the data set's folder.
        train_split: its folders are the classes.
        val_split: has the same ones.

    Raises:
        UserError: as `class_folders`, or classes that differ.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the one with {train_split}/CLASS/IMAGE.jpg in it")
    training, validation = class_folders(root, train_split), class_folders(root, val_split)
    for lacking, other in ((validation, training), (training, validation)):
        missing = sorted(set(other.class_names) - set(lacking.class_names))
        if missing:
            raise UserError(
                f"{lacking.folder}: lacks {_few(missing)} of {other.folder}: both have the same class folders: "
                "add or remove what is on one side only"
            )
    return training, validation


def _images_below(top: Path, name: str) -> list[str]:
    """Images in a folder and the folders in it, as sorted paths below `top`; hidden ones are passed over."""
    files = []
    endings = tuple(IMAGE_SUFFIXES)
    for place, folders, names in os.walk(top / name, followlinks=True):
        folders[:] = [folder for folder in folders if not folder.startswith(".")]
        below = Path(place).relative_to(top)
        files += [f"{below}/{file}" for file in names if not file.startswith(".") and file.lower().endswith(endings)]
    return sorted(files)


def _few(names: Sequence[str], most: int = 5) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
