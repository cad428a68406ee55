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

    With the image padded by one pixel and its rows laid end to end, a shift by a tap of the kernel is a shift of the
    row index. So every row of taps is one product of (C, pixels) with (pixels, 3 * K), the three taps side by side.

    Args:
        x: the convolution's input, (N, C, H, W) float, channels_last.
        grad: the gradient of its output, (N, K, H, W) float, channels_last.

    Returns:
        (K, C, 3, 3).
    """
    batch, channels, height, width = x.shape
    outputs = grad.shape[1]
    pixels = F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1).reshape(-1, channels)  # (N (H+2) (W+2), C)
    shifted = grad.new_zeros(batch, height + 2, width + 2, 3, outputs)
    for tap in range(3):
        shifted[:, :height, tap : tap + width, tap] = grad.permute(0, 2, 3, 1)
    shifted = shifted.view(-1, 3 * outputs)  # (N (H+2) (W+2), 3 K)
    # The last two rows of the last image have no gradient, so the shifted products may end there.
    count = len(pixels) - 2 * (width + 2)
    threads = torch.get_num_threads()
    share = count // threads  # one product per thread: the sum runs over pixels, which MKL does not split by itself
    rows = []
    for tap in range(3):
        row = pixels[tap * (width + 2) :]
        product = torch.bmm(
            row[: share * threads].view(threads, share, channels).transpose(1, 2),
            shifted[: share * threads].view(threads, share, 3 * outputs),
        ).sum(0)
        rest = slice(share * threads, count)
        rows.append(product.addmm_(row[rest].t(), shifted[rest]))  # (C, 3 K)
    return torch.stack(rows).view(3, channels, 3, outputs).permute(3, 1, 0, 2).contiguous()  # (K, C, 3, 3)
