"""Batch norm over the batches of all processes: torch's SyncBatchNorm on CUDA, ours on other devices."""

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def local_moments(x: Tensor) -> Tensor:
    """Mean and variance of each channel in this process, and the number of values per channel.

    Args:
        x: (N, C, H, W), any float type.

    Returns:
        (2 C + 1,): C means, C variances (biased), one count; float64 for float64 input, else float32, which rounds
        counts above 2**24 (relative error below 1e-7).
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    channels = x.shape[1]
    # The result takes the dtype of the running statistics: without them, bfloat16 input would give bfloat16
    rough_mean, variance = torch.batch_norm_update_stats(
        x, x.new_zeros(channels, dtype=dtype), x.new_ones(channels, dtype=dtype), 0
    )
    mean = x.mean((0, 2, 3), dtype=dtype)
    # In channels_last, torch computes the first mean as a plain running sum: for 42 000 float32 values 1e4 +- 1 it is
    # off by 0.1 to 5, and the variance is taken around it. `mean` is a sum of partial sums and more exact; moving the
    # centre changes the variance by the square of the shift.
    variance = variance - (mean - rough_mean) ** 2
    return torch.cat((mean, variance, mean.new_full((1,), x.numel() // channels)))


def joint_moments(x: Tensor) -> tuple[Tensor, Tensor, float]:
    """Mean and variance over the values of all processes; a collective call.

    The moments are combined from the deviations within and between the processes (Chan, Golub, LeVeque, "Updating
    formulae and a pairwise algorithm for computing sample variances", 1979). E[x^2] - E[x]^2 would lose all digits if
    the mean is large.

    Args:
        x: this process's (N, C, H, W); N, H and W may differ between the processes.

    Returns:
        Mean (C,), biased variance (C,), both bitwise equal in every process, and the count.
    """
    local = local_moments(x)
    gathered = local.new_empty(distributed.get_world_size(), len(local))
    distributed.all_gather(list(gathered), local)
    means, variances, counts = gathered.split((x.shape[1], x.shape[1], 1), dim=1)  # (P, C), (P, C), (P, 1)
    count = counts.sum()
    fractions = counts / count
    mean = (fractions * means).sum(0)
    variance = (fractions * (variances + (means - mean) ** 2)).sum(0)
    return mean, variance, count.item()


class _Normalize(Function):
    """weight * (x - mean) / sqrt(variance + eps) + bias, with mean and variance functions of all processes' x.

    The gradient needs two sums over all processes' values: of the output's gradient g and of g * xhat, with xhat the
    normalised x (Ioffe, Szegedy, 2015, sec. 3): dx = weight / std * (g - mean(g) - xhat * mean(g * xhat)).
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
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        # If its layout differed from that of x, torch would compute the sums value by value
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        grad = grad.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        # In eval mode (train=False) torch returns the two sums of this process: of g * xhat and of g
        _, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, None, mean, variance, None, None, False, ctx.eps, [False, True, True]
        )
        grad_x = None
        if needs_x:
            sums = torch.stack((grad_weight, grad_bias))  # (2, C)
            distributed.all_reduce(sums)
            scale = torch.rsqrt(variance + ctx.eps)
            if weight is not None:
                scale = scale * weight
            slope, offset = sums / -ctx.count * scale  # (C,) each
            # -scale * (xhat * mean(g * xhat) + mean(g)) is a batch norm of x; scale * g is added in place
            grad_x = F.batch_norm(x, mean, variance, slope, offset, eps=ctx.eps).addcmul_(grad, scale.view(1, -1, 1, 1))
        return grad_x, grad_weight if needs_weight else None, grad_bias if needs_bias else None, None, None, None, None


class SynchronizedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all processes of the default group, for CPU tensors, which torch does not support.

    In training mode, the output, the running statistics and the input's gradient equal those of `nn.BatchNorm2d` on the
    concatenated batches. The gradients of weight and bias are this process's share; they must be summed over the
    processes like those of all other parameters. In eval mode it equals `nn.BatchNorm2d`. Arguments and state dict are
    the same. Forward and backward pass each wait for all other processes: all processes must run the same layers in the
    same order, and no batch may be empty.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (N, C, H, W) of any float type; keeps shape, dtype and layout.

        Raises:
            ValueError: all processes together have one value per channel, as in `nn.BatchNorm2d`.
        """
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        with torch.no_grad():
            mean, variance, count = joint_moments(x)
            if count == 1:
                raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.shape}")
            if self.track_running_stats:
                self._update_running_statistics(mean, variance * (count / (count - 1)))
        # bfloat16 parameters are converted to float32, the dtype of the moments
        weight, bias = (None if tensor is None else tensor.to(mean.dtype) for tensor in (self.weight, self.bias))
        return _Normalize.apply(x, weight, bias, mean, variance, count, self.eps)

    def _update_running_statistics(self, mean: Tensor, variance: Tensor) -> None:
        """Updates the running statistics with mean (C,) and unbiased variance (C,)."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.mul_(1 - momentum).add_(mean, alpha=momentum)
        self.running_var.mul_(1 - momentum).add_(variance, alpha=momentum)


def synchronize(model: nn.Module, device: torch.device) -> nn.Module:
    """Converts every batch norm of a network to batch norm over all processes.

    Args:
        model: changed in place. Parameters, buffers, flags and state dict names stay the same.
        device: of the training. On CUDA, `nn.BatchNorm2d` becomes `nn.SyncBatchNorm`, elsewhere
            `SynchronizedBatchNorm2d`.

    Returns:
        The model; on CUDA a new module if the model itself is a batch norm.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SynchronizedBatchNorm2d  # the classes differ in their methods alone
    return model
