"""The decoder: iterative deep aggregation that upsamples (sec. 4.2 and fig. 4 of https://arxiv.org/abs/1707.06484)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlaseg.models.layers import conv_level


class BilinearUpsample(nn.ConvTranspose2d):
    """Learned depthwise upsampling, bilinear interpolation to begin with.

    A transposed convolution of kernel 2f, stride f and padding f/2: inside the border it equals bilinear interpolation
    with `align_corners=False`, outside it fades to zero.

    Args:
        channels: of the input and the output.
        factor: f, even.
    """

    def __init__(self, channels: int, factor: int = 2):
        if factor < 2 or factor % 2:
            raise ValueError(f"factor {factor}: padding f/2 and kernel 2f need an even factor from 2 upwards")
        super().__init__(
            channels, channels, 2 * factor, stride=factor, padding=factor // 2, groups=channels, bias=False
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets every channel's kernel to the triangle that interpolates."""
        factor = self.stride[0]
        triangle = 1 - (torch.arange(2 * factor) - (factor - 0.5)).abs() / factor  # (2f,)
        with torch.no_grad():
            self.weight.copy_(torch.outer(triangle, triangle))  # (C, 1, 2f, 2f)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(N, C, H, W) -> (N, C, f H, f W).

        On CPUs bfloat16 is computed in float32, in a fifth of the time: oneDNN has no fast kernel for it.
        """
        if x.device.type != "cpu" or x.dtype != torch.bfloat16:
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            weight, factor = self.weight.float(), self.stride[0]
            return F.conv_transpose2d(x.float(), weight, None, factor, factor // 2, groups=self.groups).to(x.dtype)


class ConcatNode(nn.Sequential):
    """Aggregation node: both inputs concatenated, 3x3 convolution, batch norm, ReLU.

    Args:
        channels: of either input and of the output.
    """

    def __init__(self, channels: int):
        super().__init__(*conv_level(2 * channels, channels))

    def forward(self, x: Tensor, deeper: Tensor) -> Tensor:  # type: ignore[override]
        """Joins two feature maps.

        Args:
            x: (N, channels, H, W), the running finer one.
            deeper: (N, channels, H, W), the coarser one, projected and upsampled.

        Returns:
            (N, channels, H, W).
        """
        return super().forward(torch.cat((x, deeper), dim=1))


NodeBuilder = Callable[[int], nn.Module]
"""Builds an aggregation node from its width; the node is called as `ConcatNode` is."""


class IDAUp(nn.Module):
    """Brings feature maps to the first one's width and resolution, joining them one by one: I(I(x1, x2), ..., xn).

    Args:
        channels: widths of the inputs, the finest first.
        out_channels: width of the outputs; the first input has it already.
        node: builds the aggregation nodes.
    """

    def __init__(self, channels: Sequence[int], out_channels: int, node: NodeBuilder = ConcatNode):
        super().__init__()
        later = channels[1:]
        self.proj = nn.ModuleList(conv_level(c, out_channels, 1) if c != out_channels else nn.Identity() for c in later)
        self.up = nn.ModuleList(BilinearUpsample(out_channels) for _ in later)
        self.node = nn.ModuleList(node(out_channels) for _ in later)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Joins what is deeper into what is finer.

        Args:
            features: the finest (N, C_0, H, W), the others (N, C_i, H / 2, W / 2).

        Returns:
            The n - 1 nodes' outputs, each (N, out_channels, H, W), the last one being the join of all.
        """
        x = features[0]
        joined = []
        for feature, proj, up, node in zip(features[1:], self.proj, self.up, self.node, strict=True):
            x = node(x, up(proj(feature)))
            joined.append(x)
        return joined


class DLAUp(nn.Module):
    """Applies `IDAUp` from the deepest pair outwards, each time over one more level, until the finest is reached.

    Args:
        channels: widths of the feature maps, the finest first, each half the resolution of the one before it.
        node: builds the aggregation nodes.
    """

    def __init__(self, channels: Sequence[int], node: NodeBuilder = ConcatNode):
        super().__init__()
        idas = []
        widths = list(channels)
        for first in reversed(range(len(channels) - 1)):
            idas.append(IDAUp(widths[first:], channels[first], node))
            widths[first:] = [channels[first]] * (len(channels) - first)
        self.ida = nn.ModuleList(idas)

    def steps(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Joins all feature maps, from the deepest pair outwards.

        Args:
            features: level i is (N, channels[i], H / 2**i, W / 2**i).

        Returns:
            What each `IDAUp` joins all of its maps into, the coarsest first; the last is (N, channels[0], H, W).
        """
        levels, joined = list(features), []
        for i, ida in enumerate(self.ida):
            first = len(levels) - 2 - i
            levels[first + 1 :] = ida(levels[first:])
            joined.append(levels[-1])
        return joined

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """The last of the `steps`, which all feature maps are joined into."""
        return self.steps(features)[-1]
