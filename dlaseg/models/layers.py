"""Convolutions with their norm, as backbone, decoder and heads have them, and what their weights begin with."""

import math

from torch import nn


def project(in_channels: int, out_channels: int) -> nn.Sequential:
    """1x1 convolution and batch norm: the shortcut of a block that changes the width."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))


def conv_level(
    in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, bias: bool = False
) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=bias),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def initialize(network: nn.Module) -> None:
    """As the original: convolutions normal with std sqrt(2 / (k * k * out_channels)), batch norm 1 and 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def initialize_fan_in(network: nn.Module) -> None:
    """Convolutions normal with std sqrt(2 / fan_in), batch norm 1 and 0; for attention and the OCR head.

    By fan_out, as in `initialize`, the one channel of a `SpatialScore` would begin so large that it is saturated and
    passes no gradient. The original (https://github.com/SysCV/dla-afa, `mynn.py`) has the same
    convolutions, and draws batch norm's scales from 0 to 1.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=math.sqrt(2 / module.weight[0].numel()))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
