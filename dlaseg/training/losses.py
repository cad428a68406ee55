"""The loss: cross-entropy of every pixel, at the size of the labels."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from dlaseg.models.segmenter import upsample_logits


def pixel_cross_entropy(
    coarse: Tensor, target: Tensor, stride: int, class_weights: Tensor | None = None, ignore_index: int = 255
) -> Tensor:
    """Cross-entropy of bilinearly upsampled logits, the (weighted) mean over the pixels that are not ignored.

    The same as `cross_entropy(upsample_logits(coarse, ...), target, class_weights)`, image by image, the gradient taken
    on the way: only logits of the decoder's size outlive the call, a full-size tensor of one image at a time.

    Args:
        coarse: (N, C, h, w) float, the decoder's logits.
        target: (N, H, W) int64 train ids; H <= h * stride, W <= w * stride.
        stride: how much finer the target is.
        class_weights: (C,) float, or None for equal weights.
        ignore_index: the id of pixels that do not count.

    Returns:
        A scalar; 0 where every pixel is ignored.
    """
    return _PixelCrossEntropy.apply(coarse, target, stride, class_weights, ignore_index)


class _PixelCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, coarse: Tensor, target: Tensor, stride: int, class_weights: Tensor | None, ignore_index: int
    ) -> Tensor:
        scored = target[target != ignore_index]
        weight_sum = class_weights[scored].sum() if class_weights is not None else torch.tensor(float(scored.numel()))
        norm = weight_sum.to(coarse.device).clamp(min=torch.finfo(torch.float32).tiny)
        needs_grad = ctx.needs_input_grad[0]
        grad = torch.empty_like(coarse) if needs_grad else None
        total = torch.zeros((), device=coarse.device)
        for i in range(len(coarse)):
            with torch.set_grad_enabled(needs_grad):
                image = coarse[i : i + 1].detach().float().requires_grad_(needs_grad)
                logits = upsample_logits(image, stride, *target.shape[1:])
                loss = F.cross_entropy(
                    logits, target[i : i + 1], class_weights, ignore_index=ignore_index, reduction="sum"
                )
                loss = loss / norm
                if grad is not None:
                    grad[i : i + 1] = torch.autograd.grad(loss, image)[0]
            total += loss.detach()
        ctx.grad = grad
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None, None]:
        return ctx.grad * grad_output, None, None, None, None
