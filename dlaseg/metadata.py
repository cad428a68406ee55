"""The metadata of a network: all that is needed to rebuild and use it, besides its tensors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dlaseg.errors import UserError
from dlaseg.labels import LabelMap

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of the channels red, green, blue on ImageNet, in units of 255."""

IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of the same."""


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

    Immutable: `model.metadata = dataclasses.replace(model.metadata, label_map=...)` changes a network's.

    Attributes:
        architecture: arguments of `create_model`, or for a classifier or backbone of `create_backbone`; empty for a
            network that was assembled by hand, which cannot be saved.
        label_map: of a segmentation network, else None.
        class_names: of a classifier's outputs; empty for a segmentation network and a plain backbone.
        mean: per input channel, in units of 255; the network expects images normalised with it.
        std: per input channel, in units of 255.
        origin: the weights that training or the user started from.
    """

    architecture: Mapping[str, Any] = field(default_factory=dict)
    label_map: LabelMap | None = None
    class_names: tuple[str, ...] = ()
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    origin: tuple[Origin, ...] = ()

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
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != in_channels or not all(isinstance(value, float | int) for value in values):
                raise UserError(f"{name} {list(values)}: give one number for each of {in_channels} channels")


def imagenet_statistics(in_channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """ImageNet's mean and std; for other than 3 channels, their averages repeated."""
    if in_channels == 3:
        return IMAGENET_MEAN, IMAGENET_STD
    return (sum(IMAGENET_MEAN) / 3,) * in_channels, (sum(IMAGENET_STD) / 3,) * in_channels
