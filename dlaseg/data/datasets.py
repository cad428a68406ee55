"""Images and their label maps, as files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dlaseg.errors import UserError
from dlaseg.images import IMAGE_SUFFIXES, LOSSY_SUFFIXES, read_image, read_label_image
from dlaseg.labels import LabelMap, camvid_labels, cityscapes_labels


@dataclass(frozen=True)
class Pair:
    """An image and its label map.

    Attributes:
        name: the image's path below its folder, without suffix.
        image: the picture's file.
        label: the label map's file.
    """

    name: str
    image: Path
    label: Path


@dataclass(frozen=True)
class SegmentationDataset:
    """Pairs of one split, and what their labels mean.

    Attributes:
        name: of the data set, such as `cityscapes`.
        split: such as `val`.
        pairs: sorted by name.
        label_map: from stored ids to train ids.
    """

    name: str
    split: str
    pairs: tuple[Pair, ...]
    label_map: LabelMap

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Reads a pair at its native size.

        Returns:
            The image, (H, W, 3) uint8 RGB, and the target, (H, W) uint8 train ids, 255 ignored.

        Raises:
            UserError: a broken file, sizes that differ, or a label outside the label map; names the file.
        """
        pair = self.pairs[index]
        image = read_image(pair.image)
        labels = read_label_image(pair.label)
        if image.shape[:2] != labels.shape[:2]:
            raise UserError(
                f"{pair.label}: {labels.shape[0]} x {labels.shape[1]} pixels, but its image {pair.image} has "
                f"{image.shape[0]} x {image.shape[1]}: a label map has its image's height and width"
            )
        return image, self.encode(labels, pair)

    def encode(self, labels: NDArray[np.integer], pair: Pair) -> NDArray[np.uint8]:
        """A stored label map as train ids, (H, W) uint8; an error names the pair's file."""
        try:
            return self.label_map.encode(labels)
        except UserError as error:
            raise UserError(f"{pair.label}: {error}") from error


def cityscapes(root: Path, split: str) -> SegmentationDataset:
    """Cityscapes in its own layout (https://www.cityscapes-dataset.com).

    `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png` and `gtFine/SPLIT/CITY/*_gtFine_labelIds.png`; the raw ids are mapped to
    the 19 train ids while reading.

    Args:
        root: the folder that holds both.
        split: train, val or test; train_extra for the coarsely annotated set, whose labels are in `gtCoarse`.
    """
    kind = "gtCoarse" if split == "train_extra" else "gtFine"
    images = _files_below(root / "leftImg8bit" / split, "_leftImg8bit", IMAGE_SUFFIXES)
    labels = _files_below(root / kind / split, f"_{kind}_labelIds", IMAGE_SUFFIXES)
    return SegmentationDataset("cityscapes", split, _matched(images, labels), cityscapes_labels())


def cityscapes_images(root: Path, split: str) -> dict[str, Path]:
    """The images of a split, with or without annotations: `CITY/CITY_SEQUENCE_FRAME` -> file, sorted."""
    return dict(sorted(_files_below(root / "leftImg8bit" / split, "_leftImg8bit", IMAGE_SUFFIXES).items()))


def camvid(root: Path, split: str) -> SegmentationDataset:
    """CamVid in the layout published with SegNet: `SPLIT/*.png` and `SPLITannot/*.png`, 11 classes, 11 is void.

    Args:
        root: the folder that holds the splits.
        split: train, val or test.
    """
    images = _files_below(root / split, "", IMAGE_SUFFIXES)
    labels = _files_below(root / f"{split}annot", "", IMAGE_SUFFIXES)
    return SegmentationDataset("camvid", split, _matched(images, labels), camvid_labels())


def folder(
    root: Path,
    split: str,
    images: str = "images/{split}",
    labels: str = "labels/{split}",
    classes: str = "classes.yaml",
) -> SegmentationDataset:
    """Any pair of folders: an image and its label map have the same path below their folders, but for the suffix.

    Args:
        root: what the other paths are relative to.
        split: stands in for `{split}`.
        images: folder of the images.
        labels: folder of the label maps: ids (8 or 16 bits, or a palette), or RGB colours as in the classes file.
        classes: the classes file, see `LabelMap.from_dict`.
    """
    label_map = LabelMap.from_file(root / classes)
    images_folder, labels_folder = (root / pattern.replace("{split}", split) for pattern in (images, labels))
    pairs = _matched(
        _files_below(images_folder, "", IMAGE_SUFFIXES),
        _files_below(labels_folder, "", IMAGE_SUFFIXES - LOSSY_SUFFIXES),
    )
    return SegmentationDataset("folder", split, pairs, label_map)


DATASETS: dict[str, Callable[..., SegmentationDataset]] = {
    "cityscapes": cityscapes,
    "camvid": camvid,
    "folder": folder,
}


def open_dataset(
    name: str,
    root: str | Path,
    split: str,
    images: str = "images/{split}",
    labels: str = "labels/{split}",
    classes: str = "classes.yaml",
) -> SegmentationDataset:
    """Opens a split by the data set's name: lists and matches the files, reads none of them.

    Args:
        name: cityscapes, camvid or folder.
        root: the data set's folder.
        split: such as train or val.
        images: for `folder` alone, see there.
        labels: for `folder` alone.
        classes: for `folder` alone.

    Raises:
        UserError: an unknown name, a missing or empty folder, an image without a label map or the other way round.
    """
    if name not in DATASETS:
        raise UserError(f"dataset {name!r}: unknown; use one of {', '.join(DATASETS)}")
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; the data set {name!r} lies in a folder of its own: give its path")
    if name == "folder":
        return folder(root, split, images, labels, classes)
    return DATASETS[name](root, split)


def _files_below(top: Path, ending: str, suffixes: frozenset[str]) -> dict[str, Path]:
    """Files by their name: the path below `top` without `ending` and suffix."""
    if not top.is_dir():
        raise UserError(f"{top}: no such folder; expected files such as {top}/NAME{ending}.png")
    files: dict[str, Path] = {}
    for path in sorted(top.rglob(f"*{ending}.*")):
        if (
            path.suffix.lower() not in suffixes
            or not path.is_file()
            or any(part.startswith(".") for part in path.relative_to(top).parts)
        ):
            continue
        name = path.relative_to(top).with_suffix("").as_posix().removesuffix(ending)
        if name in files:
            raise UserError(f"{files[name]} and {path}: two files of one name: remove or rename one")
        files[name] = path
    if not files:
        raise UserError(f"{top}: holds no file NAME{ending}{{{','.join(sorted(suffixes))}}}")
    return files


def _matched(images: dict[str, Path], labels: dict[str, Path]) -> tuple[Pair, ...]:
    for kind, lonely, partner in (
        ("image without a label map", images.keys() - labels.keys(), images),
        ("label map without an image", labels.keys() - images.keys(), labels),
    ):
        if lonely:
            first = partner[min(lonely)]
            raise UserError(f"{first}: {kind} ({len(lonely)} in all): add its partner or remove it")
    return tuple(Pair(name, images[name], labels[name]) for name in sorted(images))
