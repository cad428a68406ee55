"""Images and their label maps: how the files of a split are found, matched and read."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dlaseg.data.names import near_name, read_names
from dlaseg.data.patterns import FilePattern, lossy_labels, same_name
from dlaseg.errors import MissingSplitError, UserError
from dlaseg.images import read_image
from dlaseg.label_images import LabelImage, read_label_file
from dlaseg.labels import LabelMap
from dlaseg.memory import MAX_PIXELS

if TYPE_CHECKING:  # a `DataLoader` asks for it by its annotation alone; reading pairs needs no torch
    from torch.utils.data import Dataset

    _Dataset = Dataset[Any]
else:
    _Dataset = object


@dataclass(frozen=True)
class Pair:
    """An image and its label map.

    Attributes:
        name: what {name} stands for in the paths of image and label map, see `FilePattern`; in most data sets the path
            below the folder of the images, without suffix.
        image: image file.
        label: label map file; None for an image without annotation.
    """

    name: str
    image: Path
    label: Path | None = None


@dataclass(frozen=True)
class SegmentationDataset(_Dataset):
    """One split of a data set.

    Attributes:
        name: name of the data set, such as `camvid`.
        split: name of the split, such as `val`; `val-NAME` for a part of it that `NAME.txt` lists.
        pairs: sorted by name.
        label_map: maps stored ids to train ids.
        benchmark: name of the benchmark whose protocol scores the data set, if there is one.
        max_pixels: larger images and label maps are refused, see `read_image`.
        transform: makes an item of the image and the target that `read` gives, for a `torch.utils.data.DataLoader`;
            None for the pair of both. The package itself reads, and transforms nothing by it.

    Examples:
        ``DataLoader(replace(dataset, transform=crop), batch_size=8)``, with `dataclasses.replace`.
    """

    name: str
    split: str
    pairs: tuple[Pair, ...]
    label_map: LabelMap
    benchmark: str | None = None
    max_pixels: int = MAX_PIXELS
    transform: Callable[[NDArray[np.uint8], NDArray[np.uint8]], Any] | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Any:
        """The image and the target as `read` gives them, or what `transform` makes of them.

        Args:
            index: as of a sequence: -1 is the last pair.

        Raises:
            IndexError: no such pair.
            TypeError: no integer, such as a slice.
            UserError: as `read`.
        """
        if not hasattr(index, "__index__"):
            raise TypeError(
                f"index {index!r:.80}: use an integer, or torch.utils.data.Subset(dataset, range(2)) for several pairs"
            )
        image, target = self.read(index)
        return (image, target) if self.transform is None else self.transform(image, target)

    def __iter__(self) -> Iterator[Any]:
        return map(self.__getitem__, range(len(self)))

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Reads a pair at its native size.

        Returns:
            The image, (H, W, 3) uint8 RGB, and the target, (H, W) uint8 train ids, 255 = ignore.

        Raises:
            UserError: no label map, a broken file, sizes that differ, or a label outside the label map; names the file.
        """
        pair, label = self.pairs[index], self.label_file(index)
        image = read_image(pair.image, self.max_pixels)
        labels = read_label_file(label, self.max_pixels)
        height, width = labels.pixels.shape[:2]
        if image.shape[:2] != (height, width):
            raise UserError(
                f"{label}: {height} x {width} pixels, but its image {pair.image} has "
                f"{image.shape[0]} x {image.shape[1]}: {size_remedy((height, width), image.shape[:2])}"
            )
        return image, self.encode(labels, pair)

    def encode(self, labels: LabelImage, pair: Pair) -> NDArray[np.uint8]:
        """Maps stored labels to train ids, (H, W) uint8; an error names the label map of the pair.

        Raises:
            UserError: as `LabelMap.encode`, `LabelMap.encode_palette` and, without a file, `LabelMap.check_colors`.
        """
        if labels.pixels.ndim == 3:
            self.label_map.check_colors()
        try:
            if labels.palette is not None:
                return self.label_map.encode_palette(labels.pixels, labels.palette)
            return self.label_map.encode(labels.pixels)
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


def size_remedy(label_size: tuple[int, ...], image_size: tuple[int, ...]) -> str:
    """What to do about a label map whose height and width are not those of its image."""
    if label_size == image_size[::-1]:  # a resized one would have the right size and wrong labels
        return "turn the label map instead of resizing it, as an image counts as it is displayed (EXIF orientation)"
    return "use a label map of the same height and width"


@dataclass(frozen=True)
class SplitFiles:
    """The files of a split; an image and its label map have the same name.

    Attributes:
        images: image files by name.
        labels: label map files by name; None if the split has none, or if they are not needed.
        label_map: maps stored ids to train ids.
        image_pattern: where an image is expected; of several splits, in the first.
        label_pattern: where a label map is expected; likewise.
        twice: files of a name that has one already, each after that one.
        parts: the splits, if several are joined.
    """

    images: dict[str, Path]
    labels: dict[str, Path] | None
    label_map: LabelMap
    image_pattern: FilePattern
    label_pattern: FilePattern
    twice: tuple[tuple[Path, Path], ...] = ()
    parts: "tuple[SplitFiles, ...]" = ()

    @classmethod
    def find(cls, images: FilePattern, labels: FilePattern, label_map: LabelMap, with_labels: bool) -> "SplitFiles":
        """Finds the files of both patterns; without `with_labels`, those of the label maps may be missing.

        Raises:
            MissingSplitError: the folder of the images does not exist.
            UserError: as `FilePattern.find`, but for two files of a name.
        """
        if not images.folder.is_dir():
            raise MissingSplitError(str(images.missing_folder()))
        twice: list[tuple[Path, Path]] = []
        image_files = images.find(labels, twice)
        label_files = labels.find(images, twice) if with_labels else None
        return cls(image_files, label_files, label_map, images, labels, tuple(twice))

    @classmethod
    def together(cls, splits: "Sequence[SplitFiles]") -> "SplitFiles":
        """The files of several splits as one.

        Raises:
            UserError: two of them have files of the same name, also if one is an image and the other a label map.
        """
        whole, *others = splits
        for other in others:
            kinds = ((split.images, split.labels or {}) for split in (whole, other))
            for images, more in product(*kinds):
                if common := images.keys() & more.keys():
                    name = min(common)
                    raise UserError(
                        f"{more[name]}: {images[name]} has the same name ({len(common)} such files): rename one of "
                        "them, or use the splits one by one"
                    )
            labels = None if whole.labels is None or other.labels is None else whole.labels | other.labels
            whole = replace(whole, images=whole.images | other.images, labels=labels, twice=whole.twice + other.twice)
        return replace(whole, parts=tuple(splits)) if others else whole

    def part_of(self, name: str) -> "SplitFiles":
        """Of several splits, the one that has an image or a label map of this name; otherwise the only one."""
        return next((part for part in self.parts if name in part.images or name in (part.labels or {})), self)

    def pairs(self) -> tuple[Pair, ...]:
        """Matches images and label maps by name.

        Raises:
            UserError: two files of a name, an image without a label map, or a label map without an image.
        """
        for first, second in self.twice:
            raise same_name(first, second)
        if self.labels is None:
            return tuple(Pair(name, image) for name, image in sorted(self.images.items()))
        for kind, files, others in (
            ("image without a label map", self.images, self.labels),
            ("label map without an image", self.labels, self.images),
        ):
            if unmatched := files.keys() - others.keys():
                name, near = min(unmatched), near_name(sorted(unmatched), sorted(others.keys() - files.keys()))
                if near is not None:
                    raise UserError(
                        f"{files[near[0]]}: {kind} ({len(unmatched)} in all): rename it: {others[near[1]]} differs in "
                        f"{near[2]} alone"
                    )
                part = self.part_of(name)
                if files is self.images and (lossy := part.label_pattern.lossy_file(name)):
                    raise lossy_labels(lossy)
                pattern = part.label_pattern if files is self.images else part.image_pattern
                expected = pattern.path_of(name, next((file.suffix for file in others.values()), ".png"))
                advice = pattern.any_suffix_advice(name, files[name])
                advice = advice or f"add the missing file, {expected}, or remove this one"
                raise UserError(f"{files[name]}: {kind} ({len(unmatched)} in all): {advice}")
        return tuple(Pair(name, image, self.labels[name]) for name, image in sorted(self.images.items()))

    def listed(self, path: Path) -> "SplitFiles":
        """Keeps only the files whose names a text file lists.

        Args:
            path: see `read_names`. The order has no effect.

        Raises:
            UserError: as `read_names`, or a name without an image.
        """
        lines = read_names(path)
        for name, line in lines.items():
            if name not in self.images:
                raise UserError(
                    f"{path}, line {line}: {name!r} is not the name of an image of this split: use names such as "
                    f"{min(self.images)!r}, or the split that the list is of"
                )
        labels = None if self.labels is None else {name: self.labels[name] for name in lines if name in self.labels}
        images = {name: self.images[name] for name in lines}
        listed = {*images.values(), *(labels or {}).values()}
        twice = tuple(each for each in self.twice if each[0] in listed)
        return replace(self, images=images, labels=labels, twice=twice)
