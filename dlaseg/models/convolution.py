"""The 3x3 convolution, with a weight gradient that is fast on CPUs without AVX-512.

In channels_last, oneDNN's forward pass and input gradient run near the peak of such a CPU, its weight gradient at a
third of it (`benchmarks/training_step.py`). As three matrix products it comes out two to three times as fast.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_WIDE_ENOUGH = 32  # below so many channels the matrix products are too thin to gain


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d`, the same numbers to rounding."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H', W')."""
        if self._gains(x):
            return _Conv3x3.apply(x, self.weight)
        return super().forward(x)

    def _gains(self, x: Tensor) -> bool:
        return (
            x.device.type == "cpu"
            and x.dtype == torch.float32
            and torch.is_grad_enabled()
            and self.weight.requires_grad
            and self.kernel_size == (3, 3)
            and self.stride == self.dilation == self.padding == (1, 1)
            and self.groups == 1
            and self.bias is None
            and min(self.in_channels, self.out_channels) >= _WIDE_ENOUGH
            and x.is_contiguous(memory_format=torch.channels_last)
            and not x.is_contiguous()  # a 1 x 1 map is both, and gains nothing
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
            and torch.backends.cpu.get_cpu_capability() == "AVX2"
        )


class _Conv3x3(torch.autograd.Function):
    """Stride 1, padding 1, no bias; channels_last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_x = None
        if ctx.needs_input_grad[0]:
            ones = [1, 1]
            only_input = [True, False, False]
            grad_x = torch.ops.aten.convolution_backward(
                grad, x, weight, None, ones, ones, ones, False, [0, 0], 1, only_input
            )[0]
        return grad_x, weight_gradient(x, grad)


def weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """The gradient of a 3x3 convolution's weight (stride 1, padding 1).

    For each row of the kernel one product of (C, pixels) with (pixels, 3 K): the output's gradient stands there three
    times side by side, once for each column of the kernel, shifted as that tap shifts it.

    Args:
        x: the convolution's input, (N, C, H, W) float, channels_last.
        grad: the gradient of its output, (N, K, H, W) float, channels_last.

    Returns:
        (K, C, 3, 3).
    """
    pixels, gradient = x.permute(0, 2, 3, 1), grad.permute(0, 2, 3, 1)  # (N, H, W, C) and (N, H, W, K)
    batch, height, width, outputs = gradient.shape
    shifted = grad.new_empty(batch, height, width, 3, outputs)
    shifted[:, :, :-1, 0], shifted[:, :, -1, 0] = gradient[:, :, 1:], 0
    shifted[:, :, :, 1] = gradient
    shifted[:, :, 1:, 2], shifted[:, :, 0, 2] = gradient[:, :, :-1], 0
    shifted = shifted.view(batch, height, width, 3 * outputs)
    rows = []
    for down in (-1, 0, 1):  # the tap's row: the pixel lies so far below the output
        seen = pixels[:, max(down, 0) : height + min(down, 0)].flatten(1, 2)  # (N, pixels, C)
        answered = shifted[:, max(-down, 0) : height + min(-down, 0)].flatten(1, 2)  # (N, pixels, 3 K)
        rows.append(torch.bmm(seen.transpose(1, 2), answered).sum(0))  # (C, 3 K)
    return torch.stack(rows).view(3, x.shape[1], 3, outputs).permute(3, 1, 0, 2).contiguous()  # (K, C, 3, 3)
