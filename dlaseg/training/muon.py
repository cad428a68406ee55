"""Muon: the updates of weight matrices are orthogonalised, so that every direction of a layer learns equally fast."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
RMS = 0.2
"""Root mean square of an update's numbers at learning rate 1, which is about AdamW's."""


class Muon(AdamW):
    """Muon for the groups that name their matrices, AdamW for the others.

    Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
    https://kellerjordan.github.io/posts/muon/: the momentum of a weight matrix is replaced by the nearest matrix whose
    singular values are all about 1. A convolution's matrix has a row per output channel and a column per input channel
    and position in the kernel. Scaled like AdamW's updates (Liu et al., "Muon is scalable for LLM training", 2025,
    https://arxiv.org/abs/2502.16982, sec. 2.2), so that one learning rate serves both.

    Args:
        param_groups: as for AdamW. A group with `matrices` gets Muon: so many matrices are stored in each of its
            parameters one after the other, the groups of a convolution.
        lr: learning rate.
        fused: for AdamW's groups.
    """

    def __init__(self, param_groups: Iterable[dict[str, Any]], lr: float | Tensor, fused: bool = False):
        super().__init__([{"matrices": 0, **group} for group in param_groups], lr, fused=fused)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Takes one step; parameters without a gradient stay as they are."""
        groups = self.param_groups
        try:
            self.param_groups = [group for group in groups if not group["matrices"]]
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["matrices"]:
                self._step_matrices(group)
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> None:
        weights = [weight for weight in group["params"] if weight.grad is not None]
        if not weights:
            return
        gradients = [weight.grad for weight in weights]
        for weight in weights:
            if not self.state[weight]:
                self.state[weight].update(step=weight.new_zeros(()), momentum=torch.zeros_like(weight))
        torch._foreach_add_([self.state[weight]["step"] for weight in weights], 1)  # AdamW reads a state's step
        averages = [self.state[weight]["momentum"] for weight in weights]
        torch._foreach_lerp_(averages, gradients, 1 - MOMENTUM)
        directions = torch._foreach_lerp(gradients, averages, MOMENTUM)  # Nesterov's look ahead
        shapes: dict[torch.Size, list[int]] = {}
        for i, weight in enumerate(weights):
            shapes.setdefault(weight.shape, []).append(i)
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        for shape, indices in shapes.items():
            rows = shape[0] // group["matrices"]
            matrices = torch.stack([directions[i] for i in indices]).reshape(-1, rows, shape[1:].numel())
            scale = RMS * max(matrices.shape[1:]) ** 0.5
            updates = orthogonalize(matrices).mul_(-group["lr"] * scale).view(-1, *shape)
            torch._foreach_add_([weights[i] for i in indices], list(updates))


def orthogonalize(matrices: Tensor) -> Tensor:
    """Moves all singular values to between 0.7 and 1.2 by five Newton-Schulz iterations; singular vectors stay.

    Args:
        matrices: (N, rows, columns) float.

    Returns:
        (N, rows, columns) of the same dtype; computed in bfloat16 on a GPU.
    """
    linear, cubic, quintic = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices  # (N, m, n) with m <= n
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    if x.is_cuda:
        x = x.bfloat16()
    if x.is_cuda or x.shape[2] <= 3 * x.shape[1]:
        for _ in range(ITERATIONS):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=cubic, alpha=quintic), x, beta=linear)
    else:  # the same by m x m matrices: half the multiplications for a 3x3 kernel, but it needs float32
        gram, product = x @ x.mT, None
        for _ in range(ITERATIONS):
            factor = torch.baddbmm(gram, gram, gram, beta=cubic, alpha=quintic)
            factor.diagonal(dim1=1, dim2=2).add_(linear)
            product = factor if product is None else factor @ product
            gram = factor @ gram @ factor  # of factor @ x: all of these are symmetric and commute
        x = product @ x
    return (x.mT if tall else x).to(matrices.dtype).contiguous()
