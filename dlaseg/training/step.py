"""The training step: forward, loss, backward, update; or none, if a number on the way is not finite."""

import contextlib
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from dlaseg.data.tensors import normalize
from dlaseg.device import gains_from_bfloat16, memory_format
from dlaseg.errors import UserError
from dlaseg.training.distributed import Processes
from dlaseg.training.optimizers import train_mode
from dlaseg.training.schedules import learning_rate
from dlaseg.training.state import TrainState
from dlaseg.training.task import Criterion, Task

Part = tuple[Tensor, Tensor]
"""Images (N, 3, H, W) uint8 and targets, integers as the task's loader gives them."""


@dataclass(frozen=True)
class Outcome:
    """Of a step.

    Attributes:
        loss: of the whole batch, over all processes and parts.
        gradient: its L2 norm, before it is clipped.
        lr: the learning rate.
        updated: whether the weights were: not if loss or gradient is no finite number.
        stop: whether any process was asked to stop.
    """

    loss: float
    gradient: float
    lr: float
    updated: bool
    stop: bool


Step = Callable[..., Outcome]


class _Logits(nn.Module):
    """What is computed in parallel and compiled: a module, since that is what both take."""

    def __init__(self, task: Task[Any, Any], model: nn.Module):
        super().__init__()
        self.model = model
        self.compute = task.logits

    def forward(self, inputs: Tensor) -> Tensor:
        return self.compute(self.model, inputs)


def step_function(
    task: Task[Any, Any], state: TrainState, criterion: Criterion, batches_per_epoch: int, processes: Processes
) -> Step:
    """Makes the training step.

    Args:
        task: the network's output and the record.
        state: its model and optimizer are updated, its step counted.
        criterion: the loss.
        batches_per_epoch: for the schedule.
        processes: those that each compute their share of a batch.

    Returns:
        A function from the parts of a batch, and what tells whether this process was asked to stop, to the `Outcome`.
        One update is made of all parts of all processes.

    Raises:
        UserError: a precision that the device does not have.
    """
    model, optimizer, train, device = state.model, state.optimizer, task.config.train, processes.device
    train_mode(model, train.freeze)
    lower = reduced_precision(train.precision, device)
    dtype = next(model.parameters()).dtype
    forward: Any = _Logits(task, model)
    together = processes.world_size > 1
    if together:
        # Every process computes the same statistics, so there are no buffers to send; the option's name is torch's
        known = inspect.signature(DistributedDataParallel).parameters
        option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        options: dict[str, Any] = {option: False}
        forward = DistributedDataParallel(forward, **options)
    apart = forward.no_sync if together else contextlib.nullcontext
    compute = torch.compile(forward) if train.compile else forward
    statistics = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    before = [buffer.clone() for buffer in statistics]
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def step(parts: Sequence[Part], stop: Callable[[], bool] = lambda: False) -> Outcome:
        lr = learning_rate(train, state.step, batches_per_epoch)
        for group in optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        torch._foreach_copy_(before, statistics)
        optimizer.zero_grad(set_to_none=True)
        moved = [targets.to(device, non_blocking=True) for _, targets in parts]
        norms = processes.sum_(torch.stack([criterion.norms(targets) for targets in moved]).sum(0))
        total = torch.zeros((), device=device, dtype=norms.dtype)
        for i, ((images, _), targets) in enumerate(zip(parts, moved, strict=True)):
            with contextlib.nullcontext() if i == len(parts) - 1 else apart():
                inputs = normalize(images.to(device, non_blocking=True), model.metadata.mean, model.metadata.std)
                inputs = inputs.to(dtype).contiguous(memory_format=memory_format(device))
                with torch.autocast(device.type, lower or torch.bfloat16, enabled=lower is not None):
                    logits = compute(inputs)
                loss = criterion(logits, targets, norms)
                # The processes' gradients are averaged, where those of the shares of one mean add up
                state.scaler.scale(loss * processes.world_size).backward()
            total += loss.detach()
        if state.scaler.is_enabled():
            state.scaler.unscale_(optimizer)
        gradients = [parameter.grad for parameter in learnt if parameter.grad is not None]
        norm = get_total_norm(gradients)
        value, gradient, stops = processes.sum_(torch.stack([total, norm.to(total), total.new_tensor(stop())])).tolist()
        gradient /= processes.world_size
        finite = math.isfinite(value) and math.isfinite(gradient)
        if finite:
            if train.clip_grad_norm is not None:
                clip_grads_with_norm_(learnt, train.clip_grad_norm, norm)
            state.scaler.step(optimizer)
            if state.average is not None:
                state.average.update_parameters(model)
        else:  # batch norm has seen what must not be learnt
            torch._foreach_copy_(statistics, before)
        if state.scaler.is_enabled():
            state.scaler.update()
        state.step += 1
        state.skipped = 0 if finite else state.skipped + 1
        return Outcome(value, gradient, lr, finite, stops > 0)

    return step


def reduced_precision(precision: str, device: torch.device) -> torch.dtype | None:
    """What autocast computes in, None for float32.

    Raises:
        UserError: float16 where there is no GPU.
    """
    if precision == "float16":
        if device.type == "cpu":
            raise UserError("train.precision float16: for GPUs alone, a CPU computes it slowly: use auto or bfloat16")
        return torch.float16
    if precision == "bfloat16" or (precision == "auto" and gains_from_bfloat16(device)):
        return torch.bfloat16
    return None
