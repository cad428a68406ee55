"""Images and their label maps: how the files of a split are found, matched and read."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlaseg.errors import UserError
from dlaseg.images import IMAGE_SUFFIXES, read_image, read_label_image
from dlaseg.labels import LabelMap


@dataclass(frozen=True)
class Pair:
    """An image and its label map.

    Attributes:
        name: path of the image below its folder, without the suffix and the ending that all images have.
        image: image file.
        label: label map file; None for an image without annotation.
    """

    name: str
    image: Path
    label: Path | None = None


@dataclass(frozen=True)
class SegmentationDataset:
    """One split of a data set.

    Attributes:
        name: name of the data set, such as `camvid`.
        split: name of the split, such as `val`; `val-NAME` for a part of it that `NAME.txt` lists.
        pairs: sorted by name.
        label_map: maps stored ids to train ids.
        benchmark: name of the benchmark whose protocol scores the data set, if there is one.
        transform: makes an item of the image and the target that `read` gives, for a `torch.utils.data.DataLoader`;
            None for the pair of both. The package itself reads, and transforms nothing by it.

    Example:
        ``DataLoader(replace(dataset, transform=crop), batch_size=8)``, with `dataclasses.replace`.
    """

    name: str
    split: str
    pairs: tuple[Pair, ...]
    label_map: LabelMap
    benchmark: str | None = None
    transform: Callable[[NDArray[np.uint8], NDArray[np.uint8]], Any] | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Any:
        """The image and the target as `read` gives them, or what `transform` makes of them.

        Args:
            index: as of a sequence: -1 is the last pair.

        Raises:
            IndexError: no such pair.
            UserError: as `read`.
        """
        image, target = self.read(index)
        return (image, target) if self.transform is None else self.transform(image, target)

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Reads a pair at its native size.

        Returns:
            The image, (H, W, 3) uint8 RGB, and the target, (H, W) uint8 train ids, 255 = ignore.

        Raises:
            UserError: no label map, a broken file, sizes that differ, or a label outside the label map; names the file.
        """
        pair, label = self.pairs[index], self.label_file(index)
        image = read_image(pair.image)
        labels = read_label_image(label)
        if image.shape[:2] != labels.shape[:2]:
            raise UserError(
                f"{label}: {labels.shape[0]} x {labels.shape[1]} pixels, but its image {pair.image} has "
                f"{image.shape[0]} x {image.shape[1]}: use a label map of the same height and width"
            )
        return image, self.encode(labels, pair)

    def encode(self, labels: NDArray[np.integer], pair: Pair) -> NDArray[np.uint8]:
        """Maps stored labels to train ids, (H, W) uint8; an error names the label map of the pair."""
        try:
            return self.label_map.encode(labels)
        except UserError as error:
            raise UserError(f"{pair.label}: {error}") from error

    def label_file(self, index: int) -> Path:
        """The label map file of a pair.

        Raises:
            UserError: the image has none.
        """
        pair = self.pairs[index]
        if pair.label is None:
            raise UserError(f"{pair.image}: image without a label map: use a split with annotations")
        return pair.label

    def require_labels(self) -> None:
        """Checks that every image has a label map, as training and scoring need.

        Raises:
            UserError: names the first image without one.
        """
        for index in range(len(self)):
            self.label_file(index)


@dataclass(frozen=True)
class SplitFiles:
    """The files of a split; an image and its label map have the same name.

    Attributes:
        images: image files by name.
        labels: label map files by name; None if the split has none, or if they are not needed.
        label_map: maps stored ids to train ids.
    """

    images: dict[str, Path]
    labels: dict[str, Path] | None
    label_map: LabelMap

    def pairs(self) -> tuple[Pair, ...]:
        """Matches images and label maps by name.

        Raises:
            UserError: an image without a label map, or a label map without an image.
        """
        if self.labels is None:
            return tuple(Pair(name, image) for name, image in sorted(self.images.items()))
        for kind, unmatched, files in (
            ("image without a label map", self.images.keys() - self.labels.keys(), self.images),
            ("label map without an image", self.labels.keys() - self.images.keys(), self.labels),
        ):
            if unmatched:
                first = files[min(unmatched)]
                raise UserError(f"{first}: {kind} ({len(unmatched)} in all): add the missing file or remove this one")
        return tuple(Pair(name, image, self.labels[name]) for name, image in sorted(self.images.items()))

    def listed(self, path: Path) -> "SplitFiles":
        """Keeps only the files whose names a text file lists.

        Args:
            path: one name per line; blank lines and lines that start with # are skipped. The order has no effect.

        Raises:
            UserError: a file that cannot be read, no name, a name listed twice, or a name without an image.
        """
        lines = _read_names(path)
        for name, line in lines.items():
            if name not in self.images:
                raise UserError(
                    f"{path}, line {line}: {name!r} is not the name of an image of this split: use names such as "
                    f"{min(self.images)!r}"
                )
        labels = None if self.labels is None else {name: self.labels[name] for name in lines if name in self.labels}
        return replace(self, images={name: self.images[name] for name in lines}, labels=labels)


def files_below(
    folder: Path, ending: str = "", suffixes: frozenset[str] | set[str] = IMAGE_SUFFIXES
) -> dict[str, Path]:
    """Finds the files in a folder and its subfolders; hidden ones are skipped.

    Args:
        folder: is searched recursively.
        ending: end of the file names before the suffix, such as `_leftImg8bit`.
        suffixes: lower-case suffixes of the files.

    Returns:
        The files by name: the path below `folder` without `ending` and suffix.

    Raises:
        UserError: no such folder, no such file in it, or two files of the same name.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected files such as {folder}/NAME{ending}.png")
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob(f"*{ending}.*")):
        if (
            path.suffix.lower() not in suffixes
            or not path.is_file()
            or any(part.startswith(".") for part in path.relative_to(folder).parts)
        ):
            continue
        name = path.relative_to(folder).with_suffix("").as_posix().removesuffix(ending)
        if name in files:
            raise UserError(f"{files[name]} and {path}: two files of the same name: remove or rename one")
        files[name] = path
    if not files:
        raise UserError(f"{folder}: no file named NAME{ending}{{{','.join(sorted(suffixes))}}} in it")
    return files


def _read_names(path: Path) -> dict[str, int]:
    """The names that a text file lists, each with its line number."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{path}: {reason}: use a text file with one image name per line") from error
    names: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        if name in names:
            raise UserError(f"{path}, line {number}: {name!r} is also in line {names[name]}: list each name once")
        names[name] = number
    if not names:
        raise UserError(f"{path}: lists no image: write one image name per line")
    return names
