"""Muon: the updates of weight matrices are orthogonalised, so that every direction of a layer learns equally fast."""

from collections.abc import Callable, Iterable, Sequence
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
        stacks = [
            torch.stack([directions[i] for i in indices]).reshape(-1, shape[0] // group["matrices"], shape[1:].numel())
            for shape, indices in shapes.items()
        ]
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        for (shape, indices), update in zip(shapes.items(), orthogonalize(stacks), strict=True):
            scale = RMS * max(update.shape[1:]) ** 0.5
            updates = update.mul_(-group["lr"] * scale).view(-1, *shape)
            torch._foreach_add_([weights[i] for i in indices], list(updates))


def orthogonalize(stacks: Sequence[Tensor]) -> list[Tensor]:
    """Moves all singular values to between 0.7 and 1.2 by five Newton-Schulz iterations; singular vectors stay.

    Args:
        stacks: of matrices, each (N, rows, columns) float.

    Returns:
        As many, of the same shapes and dtypes; computed in bfloat16 on a GPU.
    """
    wide = [stack.mT if _is_tall(stack) else stack for stack in stacks]  # (N, m, n) with m <= n
    wide = [x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7) for x in wide]
    if all(x.is_cuda for x in wide):
        wide = [_iterate(x.bfloat16()) for x in wide]
    else:
        for m in {x.shape[1] for x in wide}:
            members = [i for i, x in enumerate(wide) if x.shape[1] == m]
            factors = _factors(torch.cat([wide[i] @ wide[i].mT for i in members]))
            for i, factor in zip(members, factors.split([len(wide[i]) for i in members]), strict=True):
                wide[i] = factor @ wide[i]
    return [
        (x.mT if _is_tall(stack) else x).to(stack.dtype).contiguous() for x, stack in zip(wide, stacks, strict=True)
    ]


def _is_tall(stack: Tensor) -> bool:
    return stack.shape[1] > stack.shape[2]


def _iterate(x: Tensor) -> Tensor:
    """x, (N, m, n), with other singular values: x <- a x + b (x x') x + c (x x')^2 x."""
    linear, cubic, quintic = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=cubic, alpha=quintic), x, beta=linear)
    return x


def _factors(gram: Tensor) -> Tensor:
    """The (N, m, m) that `_iterate` multiplies x by, from x x', in a third of the time for a 3x3 kernel.

    Needs float32: its entries vary more than those of x. All matrices here are symmetric and commute.
    """
    product = factor = _polynomial(gram)
    for _ in range(ITERATIONS - 1):
        gram = factor @ gram @ factor
        factor = _polynomial(gram)
        product = factor @ product
    return product


def _polynomial(gram: Tensor) -> Tensor:
    """The iteration's a + b gram + c gram^2."""
    linear, cubic, quintic = COEFFICIENTS
    result = torch.baddbmm(gram, gram, gram, beta=cubic, alpha=quintic)
    result.diagonal(dim1=1, dim2=2).add_(linear)
    return result
