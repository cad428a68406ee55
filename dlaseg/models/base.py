"""The contract of a segmentation network, and the step from its coarse logits to pixels."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlaseg.metadata import ModelMetadata
from dlaseg.models.resizing import crop

_AT_A_TIME = 1 << 20
"""Logits that are interpolated at a time, so that they stay in the processor's cache."""


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


class SegmentationModel(nn.Module, ABC):
    """The contract that training, scoring, inference and export rely on; they ask for nothing else.

    A subclass implements `coarse_logits`; one with auxiliary heads overrides `training_outputs`.

    Attributes:
        metadata: architecture, classes, mean and std.
        stride: output stride, input pixels per coarse logit.
        num_classes: channels of the logits.
        multiple: moving an image by so many pixels moves its coarse logits and changes them at the border alone: the
            deepest stride. Tiles of a large image begin at multiples of it; `stride` divides it.
    """

    metadata: ModelMetadata
    stride: int
    num_classes: int
    multiple: int = 32

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


def argmax_logits(coarse: Tensor, stride: int, height: int, width: int) -> Tensor:
    """The predicted class of every pixel: `upsample_logits(...).argmax(1)`, computed where that needs it.

    Between four neighbours in the grid of logits, every class is interpolated with the same weights, so a class that is
    the largest at all four is the largest between them. Logits are interpolated where the four differ, 5 to 10 % of a
    photograph.

    Args:
        coarse: (N, C, h, w) float, as for `upsample_logits`; faster if its memory is in the order (N, h, w, C).
        stride: the factor.
        height: of the result, pixels.
        width: of the result, pixels.

    Returns:
        (N, height, width) uint8 train ids. Where two logits differ by rounding alone, either class.
    """
    count, classes, h, w = coarse.shape
    logits = coarse.permute(0, 2, 3, 1).reshape(-1, classes)
    best = logits.argmax(1).to(torch.uint8).view(count, h, w)
    if stride == 1:
        return best[:, :height, :width]
    # Cell i is the pixels between the centres of the logits i - 1 and i; beyond the first and last logit, they repeat
    rows = torch.arange(-1, (height - 1 + stride // 2) // stride + 1, device=coarse.device).clamp_(0, h - 1)
    columns = torch.arange(-1, (width - 1 + stride // 2) // stride + 1, device=coarse.device).clamp_(0, w - 1)
    best = best[:, rows[:, None], columns]
    first = best[:, :-1, :-1]
    labels = first[:, :, None, :, None].repeat(1, 1, stride, 1, stride)  # (N, cells, stride, cells, stride)
    mixed = (first != best[:, :-1, 1:]) | (first != best[:, 1:, :-1]) | (first != best[:, 1:, 1:])
    cells = torch.stack(mixed.nonzero(as_tuple=True))

    second = (torch.arange(stride, device=coarse.device) + 0.5 - stride // 2) / stride + 0.5
    weights = torch.stack((1 - second, second), 1)
    weights = (weights[:, None, :, None] * weights[:, None, :]).view(stride**2, 4)
    for n, i, j in (part.unbind() for part in cells.split(max(1, _AT_A_TIME // (stride**2 * classes)), 1)):
        above, below = (n * h + rows[i]) * w, (n * h + rows[i + 1]) * w
        left, right = columns[j], columns[j + 1]
        corners = logits[torch.stack((above + left, above + right, below + left, below + right))]
        between = weights @ corners.float().view(4, -1)  # (stride^2, cells * C)
        found = between.view(stride**2, -1, classes).argmax(2).to(torch.uint8)
        labels[n, i, :, j] = found.t().reshape(-1, stride, stride)
    skip = stride // 2
    whole = labels.view(count, len(rows) * stride - stride, -1)
    return whole[:, skip : skip + height, skip : skip + width].contiguous()
