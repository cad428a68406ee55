"""The metadata of a network: all that is needed to rebuild and use it, besides its tensors."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any

from dlaseg.errors import UserError
from dlaseg.labels import IGNORE_INDEX, LabelMap

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of the channels red, green, blue on ImageNet, in units of 255."""

IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of the same."""


MAX_LABELS = IGNORE_INDEX
"""Most classes of a segmentation network: train ids are 0 to 254."""

MAX_CLASSES = 100_000
"""Most classes of a classifier."""

MAX_CHANNELS = 1024
"""Most channels of an image."""

MAX_TEXT = 1000
"""Most characters of a class name, or of a line about the origin."""

MAX_ORIGINS = 100

SMALLEST_STD = 1e-6

_SIDE = re.compile("left|right|(?<![a-z])[lr](?![a-z])")
_OTHER_SIDE = {"left": "right", "right": "left", "l": "r", "r": "l"}

SMALLEST_SHORT_SIDE, LARGEST_SHORT_SIDE = 32, 100_000
"""Limits of the shorter side of images, pixels."""


@dataclass(frozen=True)
class Origin:
    """The weights that a network was initialised from.

    Attributes:
        argument: `weights` or `backbone_weights`.
        source: the hub name, or the file's name without its folder.
        layout: layout, variant and classes of the file, for people.
        sha256: of the file, hexadecimal.
    """

    argument: str
    source: str
    layout: str
    sha256: str


@dataclass(frozen=True)
class ModelMetadata:
    """The metadata of a network, which every weights file carries.

    Immutable: `model.metadata = dataclasses.replace(model.metadata, label_map=...)` changes a network's. Whether the
    architecture's arguments make a network is checked where networks are built; everything else is checked here.

    Attributes:
        architecture: arguments of `create_model`, or for a classifier or backbone of `create_backbone`; empty for a
            network that was assembled by hand, which cannot be saved.
        label_map: of a segmentation network, else None.
        class_names: of a classifier's outputs; empty for a segmentation network and a plain backbone.
        mean: per input channel, in units of 255; the network expects images normalised with it.
        std: per input channel, in units of 255.
        origin: the weights that training or the user started from.
        max_short_side: of the images for which a segmentation network was trained, such as photographs of streets: one
            whose shorter side has more pixels is computed at a smaller size, see `Predictor`. None for images whose
            size does not tell how large things are in them.
        training_short_side: median of the shorter sides of the images that a segmentation network was trained on, in
            pixels; None if it is not known.

    Raises:
        UserError: a mean, std, class name, origin or side out of range, or a mean and a std of different lengths.
    """

    architecture: Mapping[str, Any] = field(default_factory=dict)
    label_map: LabelMap | None = None
    class_names: tuple[str, ...] = ()
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    origin: tuple[Origin, ...] = ()
    max_short_side: int | None = None
    training_short_side: int | None = None

    def __post_init__(self) -> None:
        check_max_short_side(self.max_short_side)
        side = self.training_short_side
        if side is not None and not (type(side) is int and 1 <= side <= LARGEST_SHORT_SIDE):
            raise UserError(
                f"training_short_side {side!r:.80}: use an integer from 1 to {LARGEST_SHORT_SIDE}, in pixels; "
                "where it is not known, leave it out"
            )
        _check_statistics("mean", self.mean, 0.0)
        _check_statistics("std", self.std, SMALLEST_STD)
        if len(self.mean) != len(self.std):
            raise UserError(f"mean {list(self.mean)}, std {list(self.std)}: give one number of both for each channel")
        if len(self.class_names) > MAX_CLASSES:
            raise UserError(f"{len(self.class_names)} classes: use {MAX_CLASSES} or less")
        names = self.class_names if self.label_map is None else self.label_map.names
        for name in names:
            _check_text("class name", name)
        if len(self.origin) > MAX_ORIGINS:
            raise UserError(f"origin of {len(self.origin)} entries: use {MAX_ORIGINS} or less")
        for text in (text for origin in self.origin for text in astuple(origin)):
            _check_text("origin", text)

    @classmethod
    def for_segmentation(cls, num_classes: int, in_channels: int) -> "ModelMetadata":
        """Numbered classes, ImageNet's mean and std."""
        mean, std = imagenet_statistics(in_channels)
        return cls(label_map=LabelMap.numbered(num_classes), mean=mean, std=std)

    @classmethod
    def for_classification(cls, num_classes: int, in_channels: int) -> "ModelMetadata":
        """Numbered classes, ImageNet's mean and std."""
        mean, std = imagenet_statistics(in_channels)
        return cls(class_names=tuple(f"class {i}" for i in range(num_classes)), mean=mean, std=std)

    @property
    def labels(self) -> LabelMap:
        """A segmentation network's label map.

        Raises:
            UserError: the network is a classifier or a backbone.
        """
        if self.label_map is None:
            raise UserError("a classifier's or backbone's weights: segmentation takes a segmentation network's")
        return self.label_map

    @property
    def mirrored_classes(self) -> tuple[str, str] | None:
        """Two classes of a segmentation network that a mirror exchanges by their names, such as left and right arm."""
        names = {name.lower(): name for name in self.labels.names}
        swapped = ((_SIDE.sub(lambda side: _OTHER_SIDE[side[0]], name), names[name]) for name in names)
        return next(((own, names[other]) for other, own in swapped if other in names and names[other] != own), None)

    @property
    def num_classes(self) -> int:
        """Of the label map or the classifier; 0 for a plain backbone."""
        return len(self.class_names) if self.label_map is None else self.label_map.num_classes

    @property
    def in_channels(self) -> int:
        """Channels of the image."""
        return len(self.mean)

    def check(self, num_classes: int, in_channels: int) -> None:
        """Checks that the metadata fit a network.

        Args:
            num_classes: outputs of the network; 0 for a plain backbone.
            in_channels: input channels of the network.

        Raises:
            UserError: classes, mean or std of another number.
        """
        if self.num_classes != num_classes:
            kind = "class names" if self.label_map is None else "a label map"
            raise UserError(
                f"{kind} of {self.num_classes} classes for a network of {num_classes}: the numbers must match"
            )
        if self.in_channels != in_channels:
            raise UserError(f"mean {list(self.mean)}: give one number for each of {in_channels} channels, and of std")


def reduction(height: int, width: int, max_short_side: int | None) -> int:
    """By which whole factor an image is reduced: the smallest that leaves a shorter side of no more than a limit.

    Args:
        height: of the image, pixels.
        width: of the image, pixels.
        max_short_side: the limit, pixels; None for none.

    Examples:
        >>> reduction(3024, 4032, 540), reduction(360, 4000, 540)
        (6, 1)
    """
    return 1 if max_short_side is None else max(1, -(-min(height, width) // max_short_side))


def check_max_short_side(side: Any) -> None:
    """Checks a limit of the shorter side of images; None is no limit."""
    is_integer = isinstance(side, int) and not isinstance(side, bool)
    if side is not None and not (is_integer and SMALLEST_SHORT_SIDE <= side <= LARGEST_SHORT_SIDE):
        rule = f"an integer from {SMALLEST_SHORT_SIDE} to {LARGEST_SHORT_SIDE}"
        raise UserError(f"max_short_side {side!r:.80}: use {rule}, in pixels; without a limit, leave it out")


def _check_statistics(name: str, values: Sequence[Any], low: float) -> None:
    """Checks the mean or standard deviation of pixel values that are divided by 255."""
    if not isinstance(values, tuple | list) or not 1 <= len(values) <= MAX_CHANNELS:
        raise UserError(f"{name} {values!r:.80}: use one number for each of 1 to {MAX_CHANNELS} channels")
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if numbers and all(low <= value <= 1 for value in values):
        return
    rule = f"{name} {list(values)!r:.200}: pixel values are divided by 255, so each number is from {low:g} to 1"
    if numbers and all(low <= value <= 255 for value in values):
        values = [round(value / 255, 4) for value in values]
        raise UserError(f"{rule}: divide by 255: use {' '.join(map(str, values))}")
    default = IMAGENET_MEAN if name == "mean" else IMAGENET_STD
    raise UserError(f"{rule}: use the numbers that the network was trained with, such as ImageNet's {list(default)}")


def _check_text(what: str, text: Any) -> None:
    if not isinstance(text, str) or not 1 <= len(text) <= MAX_TEXT:
        raise UserError(f"{what} {text!r:.80}: use a text of 1 to {MAX_TEXT} characters")


def imagenet_statistics(in_channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """ImageNet's mean and std; for other than 3 channels, their averages repeated."""
    if in_channels == 3:
        return IMAGENET_MEAN, IMAGENET_STD
    return (sum(IMAGENET_MEAN) / 3,) * in_channels, (sum(IMAGENET_STD) / 3,) * in_channels
