"""Batch norm whose batch is that of all processes together: torch's own on CUDA, ours where torch has none."""

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def local_moments(x: Tensor) -> Tensor:
    """Mean and variance of every channel in this process, and how many values they are of.

    Args:
        x: (N, C, H, W), any float type.

    Returns:
        (2 C + 1,): C means, C variances (biased), one count; float64 of float64, otherwise float32, in which counts
        above 2**24 are rounded (by less than 1e-7 of them).
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    channels = x.shape[1]
    # The running statistics are there for their type, which the result takes: without, bfloat16 gives bfloat16
    rough, variance = torch.batch_norm_update_stats(
        x, x.new_zeros(channels, dtype=dtype), x.new_ones(channels, dtype=dtype), 0
    )
    mean = x.mean((0, 2, 3), dtype=dtype)
    # In channels_last the first mean is a plain running sum: of 42 000 float32 values 1e4 +- 1 it is off by 0.1 to 5,
    # and the variance is taken about it. This one is a sum of partial sums; moving the centre changes the variance so:
    variance = variance - (mean - rough) ** 2
    return torch.cat((mean, variance, mean.new_full((1,), x.numel() // channels)))


def joint_moments(x: Tensor) -> tuple[Tensor, Tensor, float]:
    """The same of all processes' values together; a collective call.

    Groups are joined by their deviations from their own means (Chan, Golub, LeVeque, "Updating formulae and a pairwise
    algorithm for computing sample variances", 1979): E[x^2] - E[x]^2 would lose all digits where the mean is large.

    Args:
        x: this process's (N, C, H, W); N, H and W may differ between the processes.

    Returns:
        Mean (C,), biased variance (C,), both the same to the last bit in every process, and the count.
    """
    local = local_moments(x)
    everyone = local.new_empty(distributed.get_world_size(), len(local))
    distributed.all_gather(list(everyone), local)
    means, variances, counts = everyone.split((x.shape[1], x.shape[1], 1), dim=1)  # (P, C), (P, C), (P, 1)
    count = counts.sum()
    shares = counts / count
    mean = (shares * means).sum(0)
    variance = (shares * (variances + (means - mean) ** 2)).sum(0)
    return mean, variance, count.item()


class _Normalize(Function):
    """weight * (x - mean) / sqrt(variance + eps) + bias, with mean and variance functions of all processes' x.

    Its gradient is written with two sums over all processes' values, of the output's gradient g and of g * xhat, xhat
    being the normalised x (Ioffe, Szegedy, 2015, sec. 3): dx = weight / std * (g - mean(g) - xhat * mean(g * xhat)).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        count: float,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.count, ctx.eps = count, eps
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        # Of another layout than x, the sums would be taken value by value
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        grad = grad.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        # Told that the statistics are fixed, it gives the two sums of this process: of g * xhat and of g
        _, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, None, mean, variance, None, None, False, ctx.eps, [False, True, True]
        )
        grad_x = None
        if wants_x:
            sums = torch.stack((grad_weight, grad_bias))  # (2, C)
            distributed.all_reduce(sums)
            scale = torch.rsqrt(variance + ctx.eps)
            if weight is not None:
                scale = scale * weight
            slope, offset = sums / -ctx.count * scale  # (C,) each
            # -scale * (xhat * mean(g * xhat) + mean(g)) is a batch norm of x; scale * g is added in place
            grad_x = F.batch_norm(x, mean, variance, slope, offset, eps=ctx.eps).addcmul_(grad, scale.view(1, -1, 1, 1))
        return grad_x, grad_weight if wants_weight else None, grad_bias if wants_bias else None, None, None, None, None


class SynchronizedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all processes of the default group, for CPU tensors, which torch's own refuses.

    In training, every process gets what `nn.BatchNorm2d` would give it for all batches joined to one: the output, the
    running statistics, the input's gradient. The gradients of weight and bias are this process's share, to be added
    up as those of all other parameters are. In eval mode it is `nn.BatchNorm2d`, whose arguments and state dict it
    has. Forward and backward each wait for all other processes, so all must run the same layers in the same order, and
    none may come with an empty batch.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (N, C, H, W), any float type, into the same shape, type and layout.

        Raises:
            ValueError: one value per channel in all processes together, as in `nn.BatchNorm2d`.
        """
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        with torch.no_grad():
            mean, variance, count = joint_moments(x)
            if count == 1:
                raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.shape}")
            if self.track_running_stats:
                self._track(mean, variance * (count / (count - 1)))
        # Parameters of bfloat16 are computed with as float32, as the moments are
        weight, bias = (None if tensor is None else tensor.to(mean.dtype) for tensor in (self.weight, self.bias))
        return _Normalize.apply(x, weight, bias, mean, variance, count, self.eps)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        """Moves the running statistics; `variance` unbiased."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.mul_(1 - momentum).add_(mean, alpha=momentum)
        self.running_var.mul_(1 - momentum).add_(variance, alpha=momentum)


def synchronize(model: nn.Module, device: torch.device) -> nn.Module:
    """Makes every batch norm of a network one over all processes.

    Args:
        model: to be trained by more than one process; changed in place. Parameters, buffers and flags stay the very
            same objects, the names in the state dict too.
        device: where it is trained. On CUDA, `nn.BatchNorm2d` becomes `nn.SyncBatchNorm`, elsewhere
            `SynchronizedBatchNorm2d`.

    Returns:
        The model; on CUDA another module if the model itself is a batch norm.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SynchronizedBatchNorm2d  # they differ in nothing but what they do
    return model
