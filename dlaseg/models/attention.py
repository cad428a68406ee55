"""Attentive feature aggregation: which of two feature maps counts where, and for which channels.

Yang, Huang, Sun, Rota Bulo, Kontschieder, Yu, "Dense Prediction with Attentive Feature Aggregation", WACV 2023,
https://arxiv.org/abs/2111.00770, sec. 3.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlaseg.models.layers import conv_level, initialize_fan_in

GATE_GAIN = 0.03
"""What the last layer of an attention begins with, relative to `initialize_fan_in`."""

REDUCTION = 16
"""How many channels of the input a hidden channel of the channel attention stands for."""


class SpatialScore(nn.Module):
    """A number for each pixel: two 3x3 convolutions with batch norm and ReLU, a 1x1 convolution.

    Args:
        channels: of the input.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = conv_level(channels, channels)
        self.conv2 = conv_level(channels, channels)
        self.final = nn.Conv2d(channels, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, 1, H, W)."""
        return self.final(self.conv2(self.conv1(x)))


class SpatialAttention(SpatialScore):
    """How much each pixel counts: the sigmoid of a `SpatialScore`."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, 1, H, W), 0 to 1."""
        return super().forward(x).sigmoid()


class ChannelAttention(nn.Module):
    """How much each channel counts: its maximum and its mean over the image, each through the same two layers.

    Args:
        channels: of the input, `REDUCTION` or more.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.reduce = conv_level(channels, channels // REDUCTION, 1)
        self.expand = nn.Conv2d(channels // REDUCTION, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, channels, 1, 1), 0 to 1."""
        largest, mean = largest_of_image(x, self.training), x.mean((2, 3), keepdim=True)
        # In this order: training updates the statistics of the norm by the one, then by the other
        return (self.expand(self.reduce(largest)) + self.expand(self.reduce(mean))).sigmoid()


def largest_of_image(x: Tensor, differentiable: bool) -> Tensor:
    """The maximum of each channel; its gradient goes to one pixel.

    amax shares its gradient among the pixels that equal the maximum. torch.compile computes them again in its backward
    pass, in float32 where they were rounded to bfloat16: then none equals it, and the gradient is NaN.

    Args:
        x: (N, C, H, W).
        differentiable: whether a gradient is needed.

    Returns:
        (N, C, 1, 1).
    """
    if not differentiable:
        return x.amax((2, 3), keepdim=True)
    if torch.are_deterministic_algorithms_enabled():  # adaptive_max_pool2d refuses it on GPUs
        return x.flatten(2).max(2, keepdim=True).values[..., None]
    return F.adaptive_max_pool2d(x, 1)


def initialize_attention(network: nn.Module) -> None:
    """Initialises every attention in a network, and nothing else: by `initialize_fan_in`, its last layer smaller.

    So every gate begins at a half. By `initialize_fan_in` alone, gates differ from pixel to pixel and from batch to
    batch before they have learned anything, and from random weights the network learns much more slowly.
    """
    for module in network.modules():
        if isinstance(module, SpatialAttention | ChannelAttention):
            initialize_fan_in(module)
            last = module.final if isinstance(module, SpatialAttention) else module.expand
            with torch.no_grad():
                last.weight.mul_(GATE_GAIN)


def choose(share: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Blends: share * one + (1 - share) * other, in few passes over memory; `one` is overwritten.

    `torch.lerp` has fewer still, but is exported as eight operations.
    """
    return torch.addcmul(other, share, one.sub_(other))


class AttentiveNode(nn.Module):
    """Aggregation node of the decoder: S(x) (1 - C(d)) x + (1 - S(x)) C(d) d, without a convolution after it.

    Args:
        channels: of either input and of the output.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.spatial = SpatialAttention(channels)
        self.channel = ChannelAttention(channels)

    def forward(self, x: Tensor, deeper: Tensor) -> Tensor:
        """Joins two feature maps as `ConcatNode` does.

        Args:
            x: (N, channels, H, W), the running finer one, whose pixels are weighed.
            deeper: (N, channels, H, W), the coarser one, projected and upsampled, whose channels are weighed.

        Returns:
            (N, channels, H, W).
        """
        spatial, channel = self.spatial(x), self.channel(deeper)
        return choose(spatial, (1 - channel) * x, channel * deeper)


class LevelFusion(nn.Module):
    """Joins the decoder's outputs of several strides: sum_i S_i C_i F_i prod_{k > i} (1 - S_k) (1 - C_k).

    i runs from the coarsest to the finest. S and C are one spatial and one channel attention for all levels.

    Args:
        channels: widths of the inputs, the coarsest first, each of half the stride of the one before it.
    """

    def __init__(self, channels: Sequence[int]):
        super().__init__()
        *coarser, width = channels
        self.proj = nn.ModuleList(conv_level(c, width, 1) for c in coarser)
        self.spatial = SpatialAttention(width)
        self.channel = ChannelAttention(width)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Joins the levels.

        Args:
            levels: the coarsest first, each twice as high and wide as the one before it.

        Returns:
            (N, width, H, W), of the size of the finest.
        """
        *coarser, finest = levels
        joined: Tensor | None = None
        for number, level in enumerate(levels):
            x = finest
            if number < len(coarser):
                factor = float(2 ** (len(coarser) - number))
                x = F.interpolate(self.proj[number](level), scale_factor=factor, mode="bilinear")
            spatial, channel = self.spatial(x), self.channel(x)
            weighed = channel * x
            joined = spatial * weighed if joined is None else choose(spatial, weighed, (1 - channel) * joined)
        assert joined is not None
        return joined
