"""The contract of a segmentation network, and the upsampling of its coarse logits to pixels."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

from dlaseg.errors import UserError
from dlaseg.metadata import ModelMetadata
from dlaseg.models.resizing import crop


class AuxiliaryOutput(NamedTuple):
    """Logits that are trained beside the main ones and dropped afterwards.

    Attributes:
        logits: (N, C, h, w) float.
        stride: of the logits, input pixels per logit.
        weight: factor of their loss.
    """

    logits: Tensor
    stride: int
    weight: float


class TrainingOutputs(NamedTuple):
    """What the loss is computed from.

    Attributes:
        logits: the main logits: (N, C, h, w) of a segmentation network, (N, C) of a classifier.
        auxiliary: further logits and their weights; empty for most networks.
    """

    logits: Tensor
    auxiliary: tuple[AuxiliaryOutput, ...] = ()


ModelT = TypeVar("ModelT", bound="SegmentationModel")


class SegmentationModel(nn.Module, ABC):
    """The contract that training, scoring, inference and export rely on; they ask for nothing else.

    A subclass implements `coarse_logits`; one with auxiliary heads overrides `training_outputs`.

    Attributes:
        metadata: architecture, classes, mean and std.
        stride: output stride, input pixels per coarse logit.
        num_classes: channels of the logits.
        smallest_batch: images that training needs at a time: 1, or 2 where batch norm sees one value for each image.
        multiple: moving an image by so many pixels moves its coarse logits and changes them at the border alone: the
            deepest stride. Tiles of a large image begin at multiples of it; `stride` divides it.
        scales: of the image, ascending, whose scores the network blends itself; None for a network of one scale.
    """

    metadata: ModelMetadata
    stride: int
    num_classes: int
    multiple: int = 32
    smallest_batch: int = 1
    scales: tuple[float, ...] | None = None

    @abstractmethod
    def coarse_logits(self, x: Tensor) -> Tensor:
        """Logits at the decoder's resolution, before upsampling.

        Args:
            x: (N, in_channels, H, W) float, normalised; any H and W from 1 upwards.

        Returns:
            (N, num_classes, h, w) float with h * stride >= H and w * stride >= W.
        """

    def training_outputs(self, x: Tensor) -> TrainingOutputs:
        """The main coarse logits, and auxiliary ones where the network has them.

        Args:
            x: as for `coarse_logits`.
        """
        return TrainingOutputs(self.coarse_logits(x))

    def logit_layers(self) -> list[nn.Module]:
        """The layers that write logits, of auxiliary outputs, too; by default the last convolution alone."""
        layers: list[nn.Module] = [module for module in self.modules() if isinstance(module, nn.Conv2d)]
        return layers[-1:]

    def gates(self) -> list[nn.Module]:
        """The modules of attention, whose outputs others are multiplied with; by default none."""
        return []

    def with_scales(self: ModelT, scales: Sequence[float]) -> ModelT:
        """The same network, weights shared, that blends the scores of other scales.

        Raises:
            UserError: the network blends none, or scales that it does not take.
        """
        raise UserError(f"scales {list(scales)}: this network blends none: use one that does, or average over them")

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every pixel.

        Args:
            x: as for `coarse_logits`.

        Returns:
            (N, num_classes, H, W) float, unnormalised log-probabilities (no softmax).
        """
        return upsample_logits(self.coarse_logits(x), self.stride, x.shape[-2], x.shape[-1])


def upsample_logits(coarse: Tensor, stride: int, height: int, width: int) -> Tensor:
    """Bilinear upsampling (align_corners=False) by `stride`, cropped to the top left `height` x `width`.

    Args:
        coarse: (N, C, h, w) float with h * stride >= height and w * stride >= width.
        stride: the factor.
        height: rows to keep, pixels.
        width: columns to keep, pixels.

    Returns:
        (N, C, height, width) float.
    """
    full = F.interpolate(coarse, scale_factor=float(stride), mode="bilinear", align_corners=False)
    return crop(full, height, width)
