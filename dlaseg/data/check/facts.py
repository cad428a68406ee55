"""Reads one image and its label map, and keeps what the findings are made from."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dlaseg.data.label_counts import count_train_ids
from dlaseg.data.pairs import Pair, SegmentationDataset
from dlaseg.errors import UserError
from dlaseg.image_header import exif_orientation, read_header
from dlaseg.images import open_image
from dlaseg.label_images import LabelImage, read_label_file
from dlaseg.labels import IGNORE_INDEX, LabelMap

MOST_VALUES = 1000
"""Most unknown values of a label map that are kept, those of the most pixels."""

_FORMATS = {"PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "AVIF"}
"""Formats whose suffixes are unmistakable."""


@dataclass(frozen=True)
class ImageFacts:
    """What an image is.

    Attributes:
        size: height and width.
        digest: SHA-256 of the file.
        looks: perceptual hash of 64 bits: that of similar images differs in few of them.
        sums: of the values of each channel, 0 to 255.
        squares: of the squared values.
        largest: value of a channel, 0 to 255.
        format: of the content, such as JPEG, if the suffix says another one; else None.
        turned: whether an EXIF orientation turns or mirrors it and leaves its size as it is.
    """

    size: tuple[int, int]
    digest: bytes
    looks: int
    sums: tuple[float, ...]
    squares: tuple[float, ...]
    largest: int
    format: str | None
    turned: bool


@dataclass(frozen=True)
class LabelFacts:
    """What a label map is.

    Attributes:
        size: height and width.
        kind: what its pixels are: `ids`, `palette` or `colors`.
        pixels: number of pixels of each train id; 255 = ignored. Without those of unknown values.
        unknown: number of pixels of each value that is no class and not ignored: ids as numbers, colours as `r, g, b`.
        thin: share of these pixels that lie within a pixel of a known one.
        misread: the message, if its values are known and yet mean two things.
        format: as of an image.
        colors_listed: whether it has a palette and every colour in use is that of a class, or ignored.
    """

    size: tuple[int, int]
    kind: str
    pixels: Mapping[int, int]
    unknown: Mapping[str, int] = field(default_factory=dict)
    thin: float = 0.0
    misread: str | None = None
    format: str | None = None
    colors_listed: bool = False


@dataclass(frozen=True)
class PairFacts:
    """An image and its label map.

    Attributes:
        pair: their files.
        image: what the image is, or the message that says why it cannot be read.
        label: the same of the label map; None for an image without one.
    """

    pair: Pair
    image: ImageFacts | str
    label: LabelFacts | str | None


def read_pair(dataset: SegmentationDataset, pair: Pair) -> PairFacts:
    """Reads both files of a pair; what cannot be read becomes a message."""
    image: ImageFacts | str
    label: LabelFacts | str | None = None
    try:
        image = _image_facts(pair.image, dataset.max_pixels)
    except UserError as error:
        image = str(error)
    if pair.label is not None:
        try:
            label = _label_facts(dataset, pair)
        except UserError as error:
            label = str(error)
    return PairFacts(pair, image, label)


def _image_facts(path: Path, max_pixels: int) -> ImageFacts:
    file = open_image(path, max_pixels)
    pixels = file.read()  # (H, W, 3) uint8
    height, width = pixels.shape[:2]
    mean, deviation = (values.ravel() for values in cv2.meanStdDev(pixels))
    count = height * width
    return ImageFacts(
        (height, width),
        hashlib.sha256(file.content).digest(),
        perceptual_hash(pixels),
        tuple((mean * count).tolist()),
        tuple(((deviation**2 + mean**2) * count).tolist()),
        int(pixels.max()),
        _other_format(path, file.header.format),
        exif_orientation(file.content, file.header) in range(2, 9 if height == width else 5),
    )


def perceptual_hash(pixels: NDArray[np.uint8]) -> int:
    """64 bits of an image, (H, W, 3) uint8 RGB: those of similar images differ in few of them."""
    import imagehash  # and scipy, in the processes that need it

    # Pillow's own reduction of a large image takes most of the time
    small = cv2.resize(pixels, (128, 128), interpolation=cv2.INTER_AREA)
    bits = imagehash.phash(Image.fromarray(small)).hash.ravel()  # (64,) bool
    return int("".join("1" if bit else "0" for bit in bits), 2)


def _other_format(path: Path, format: str) -> str | None:
    """The format of the content, if the suffix is another format's."""
    said = Image.registered_extensions().get(path.suffix.lower())
    return format if said != format.upper() and {said, format.upper()} <= _FORMATS else None


def _label_facts(dataset: SegmentationDataset, pair: Pair) -> LabelFacts:
    assert pair.label is not None
    labels = read_label_file(pair.label, dataset.max_pixels)
    with pair.label.open("rb") as file:
        header = read_header(file.read(1 << 16))
    height, width = labels.pixels.shape[:2]
    kind = "colors" if labels.pixels.ndim == 3 else "ids" if labels.palette is None else "palette"
    format = None if header is None else _other_format(pair.label, header.format)
    try:
        counts = count_train_ids(dataset.encode(labels, pair))
        present = {int(label): int(counts[label]) for label in counts.nonzero()[0]}
        return LabelFacts((height, width), kind, present, format=format)
    except UserError as error:
        pixels, unknown, thin = _known_and_unknown(labels, dataset.label_map)
        misread = None if unknown else str(error)
        listed = _colors_listed(labels, dataset.label_map)
        return LabelFacts((height, width), kind, pixels, unknown, thin, misread, format, listed)


def _colors_listed(labels: LabelImage, label_map: LabelMap) -> bool:
    """Whether there is a palette, and every colour in use is that of a class, or ignored."""
    if labels.palette is None:
        return False
    used = np.unique(labels.pixels)
    listed = {*label_map.palette, *label_map.ignored_colors}
    return bool(used[-1] < len(labels.palette)) and {*map(tuple, labels.palette[used].tolist())} <= listed


def _known_and_unknown(labels: LabelImage, label_map: LabelMap) -> tuple[dict[int, int], dict[str, int], float]:
    """Pixels of each train id, pixels of each unknown value, and the share of the latter next to known ones."""
    texts, train_ids, indices = stored_values(labels, label_map)
    counts = np.bincount(indices.ravel(), minlength=len(texts)).tolist()
    known: dict[int, int] = {}
    unknown: dict[str, int] = {}
    for train_id, text, count in zip(train_ids, texts, counts, strict=True):
        if train_id is None:
            unknown[text] = count
        else:
            known[train_id] = known.get(train_id, 0) + count
    mask = np.array([train_id is None for train_id in train_ids], np.uint8)[indices]
    inner = cv2.erode(mask, np.ones((3, 3), np.uint8), borderValue=1)
    thin = 1 - float(inner.sum()) / max(1, int(mask.sum()))
    most = dict(sorted(unknown.items(), key=lambda item: -item[1])[:MOST_VALUES])
    return known, most, thin


def stored_values(labels: LabelImage, label_map: LabelMap) -> tuple[list[str], list[int | None], NDArray[np.intp]]:
    """The different values of a label map; unlike `LabelMap.encode`, unknown ones are no error.

    Args:
        labels: as stored.
        label_map: the classes.

    Returns:
        Each value as text (ids as numbers, colours as `r, g, b`), its train id or None, and (H, W) indices into both.
    """
    pixels = labels.pixels
    colors = {color: train_id for train_id, color in enumerate(label_map.palette)}
    colors |= dict.fromkeys(label_map.ignored_colors, IGNORE_INDEX)
    ids = {i: train_id for train_id, each in enumerate(label_map.ids) for i in each}
    ids |= dict.fromkeys(label_map.ignored, IGNORE_INDEX)
    if pixels.ndim == 3 and (pixels == pixels[:, :, :1]).all():
        grey = np.unique(pixels[:, :, 0]).tolist()
        as_ids = sum(value in ids and not (value == 255 and label_map.ignores_by_default) for value in grey)
        if as_ids >= sum((value,) * 3 in colors for value in grey):
            pixels = pixels[:, :, 0]  # ids that a program saved as RGB, see `LabelMap.encode`
    if pixels.ndim == 3:
        packed = pixels.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
        values, indices = np.unique(packed, return_inverse=True)
        found = [(value >> 16, value >> 8 & 255, value & 255) for value in values.tolist()]
        texts, train_ids = [", ".join(map(str, color)) for color in found], [colors.get(color) for color in found]
    else:
        values, indices = np.unique(pixels, return_inverse=True)
        texts, train_ids = list(map(str, values.tolist())), [ids.get(value) for value in values.tolist()]
    return texts, train_ids, indices.reshape(pixels.shape[:2])
