"""Convolutions that train faster on CPUs without AVX-512; `convert` applies them to a network.

In channels_last, oneDNN's forward pass and input gradient run near the peak of such a CPU, but its weight gradient
runs at a third of it. This module computes the weight gradient by matrix products. Wide layers use the algorithm of
`dlaseg.training.cpu.winograd`, with half the multiplications. `benchmarks/training_step.py` measures the gain.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from dlaseg.training.cpu.winograd import convolve, weight_gradient

_MIN_CHANNELS = 32  # with fewer channels, the matrix products are too small to gain
_MIN_WINOGRAD_CHANNELS = 128  # input plus output channels; with fewer, moving data costs what multiplications save


class FastConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` with a faster forward and backward pass for some shapes; equal up to rounding."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H', W')."""
        if self._use_fast_path(x):
            return (_Conv3x3 if self.stride == (1, 1) else _StridedConv3x3).apply(x, self.weight)
        return super().forward(x)

    def _use_fast_path(self, x: Tensor) -> bool:
        return (
            x.device.type == "cpu"
            and x.dtype == torch.float32
            and torch.is_grad_enabled()
            and self.weight.requires_grad
            and self.kernel_size == (3, 3)
            and self.dilation == self.padding == (1, 1)
            and self.stride in ((1, 1), (2, 2))
            and self.groups == 1
            and self.padding_mode == "zeros"
            and self.bias is None
            and min(self.in_channels, self.out_channels) >= _MIN_CHANNELS
            and x.is_contiguous(memory_format=torch.channels_last)
            and not x.is_contiguous()  # a 1 x 1 map is both, and does not gain
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
            and torch.backends.cpu.get_cpu_capability() == "AVX2"
        )


def convert(model: nn.Module) -> None:
    """Converts every `nn.Conv2d` of a network to a `FastConv2d`, in place.

    Parameters and state dict names stay the same.
    """
    for module in model.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = FastConv2d  # the classes differ in `forward` alone


class _Conv3x3(torch.autograd.Function):
    """3x3 convolution with stride 1, padding 1, no bias; channels_last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        # The input's gradient is a convolution with the rotated kernel.
        grad_x = _convolve(grad, weight.flip(2, 3).transpose(0, 1)) if ctx.needs_input_grad[0] else None
        return grad_x, weight_gradient(x, grad)


def _convolve(x: Tensor, weight: Tensor) -> Tensor:
    if sum(weight.shape[:2]) >= _MIN_WINOGRAD_CHANNELS:
        return convolve(x, weight)
    return F.conv2d(x, weight.contiguous(memory_format=torch.channels_last), padding=1)


class _StridedConv3x3(torch.autograd.Function):
    """3x3 convolution with stride 2, padding 1, no bias; channels_last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, stride=2, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_x = None
        if ctx.needs_input_grad[0]:
            only_input = [True, False, False]
            grad_x = torch.ops.aten.convolution_backward(
                grad, x, weight, None, [2, 2], [1, 1], [1, 1], False, [0, 0], 1, only_input
            )[0]
        return grad_x, strided_weight_gradient(x, grad)


def strided_weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """The weight gradient of a 3x3 convolution (stride 2, padding 1), as one matrix product with the input windows.

    Args:
        x: the convolution's input, (N, C, H, W) float, channels_last.
        grad: the gradient of its output, (N, K, ceil(H / 2), ceil(W / 2)) float, channels_last.

    Returns:
        (K, C, 3, 3).
    """
    outputs = grad.shape[1]
    padded = F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1)  # (N, H + 2, W + 2, C)
    windows = padded.unfold(1, 3, 2).unfold(2, 3, 2)  # (N, h, w, C, 3, 3)
    inputs = windows.permute(0, 1, 2, 4, 5, 3).reshape(-1, 9 * x.shape[1])  # (pixels, 9 C)
    gradients = grad.permute(0, 2, 3, 1).reshape(-1, outputs)  # (pixels, K)
    return (gradients.t() @ inputs).view(outputs, 3, 3, -1).permute(0, 3, 1, 2)
