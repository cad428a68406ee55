"""The training step: forward, loss, backward and update; a step with a non-finite loss or gradient makes no update."""

import contextlib
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from dlaseg.data.tensors import normalize
from dlaseg.device import memory_format, reduced_precision
from dlaseg.errors import UserError
from dlaseg.memory import is_out_of_memory
from dlaseg.models.base import TrainingOutputs
from dlaseg.models.dropout import image_dropouts
from dlaseg.training.distributed import DistributedContext
from dlaseg.training.optimizers import Network, train_mode
from dlaseg.training.schedules import learning_rate
from dlaseg.training.state import TrainState
from dlaseg.training.task import Criterion, Task

MicroBatch = tuple[Tensor, Tensor]
"""Images (N, 3, H, W) uint8 and targets, integers as the task's loader gives them."""


@dataclass(frozen=True)
class StepResult:
    """The result of a step.

    Attributes:
        loss: of the whole batch, over all processes and micro-batches.
        gradient: L2 norm of the gradient before clipping.
        lr: learning rate.
        updated: whether the step updated the weights; False if the loss or the gradient is not finite.
        stop: whether any process received a stop request.
    """

    loss: float
    gradient: float
    lr: float
    updated: bool
    stop: bool


Step = Callable[..., StepResult]


class _TrainingForward(nn.Module):
    """Calls `training_outputs`: DistributedDataParallel and torch.compile take a module's forward."""

    def __init__(self, model: Network):
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> TrainingOutputs:
        return self.model.training_outputs(inputs)


def _compiled(forward: nn.Module) -> Callable[[Tensor], TrainingOutputs]:
    """A module by `torch.compile`, which builds it in the first call.

    Raises:
        UserError: in that call, the machine has no compiler.
    """
    compute = torch.compile(forward)

    def call(inputs: Tensor) -> TrainingOutputs:
        try:
            return compute(inputs)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            if is_out_of_memory(error):
                raise
            reason = str(error.inner_exception).strip().partition("\n")[0]
            raise UserError(
                f"train.compile true: {reason}: install a C++ compiler, such as g++, or use false"
            ) from error

    return call


def image_seeds(seed: int, step: int, first: int, count: int) -> list[int]:
    """Seeds of some images of a batch, which do not depend on how it is split."""
    numbers = range(first, first + count)
    return [int(np.random.SeedSequence((seed, step, number)).generate_state(1)[0]) for number in numbers]


def step_function(
    task: Task[Any, Any], state: TrainState, criterion: Criterion, batches_per_epoch: int, dist: DistributedContext
) -> Step:
    """Builds the training step.

    Args:
        task: its config is read.
        state: the step updates its model and optimizer, and increments its step.
        criterion: the loss.
        batches_per_epoch: for the learning rate schedule.
        dist: the processes that share each batch.

    Returns:
        A function of this process's micro-batches and of `stop_requested`, which tells whether this process received a
        stop request. It makes one update from all micro-batches of all processes and returns a `StepResult`.

    Raises:
        UserError: the device does not support the precision; in the first step, no compiler for `train.compile`.
    """
    model, optimizer, train, device = state.model, state.optimizer, task.config.train, dist.device
    train_mode(model, train.freeze)
    autocast_dtype = reduced_precision(train.precision, device)
    model_dtype = next(model.parameters()).dtype
    forward: Any = _TrainingForward(model)
    distributed = dist.world_size > 1
    if distributed:
        # All processes compute the same batch norm statistics, so DDP need not send buffers. The name of the option
        # depends on the version of torch.
        known = inspect.signature(DistributedDataParallel).parameters
        option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        options: dict[str, Any] = {option: False}
        forward = DistributedDataParallel(forward, **options)
    no_sync = forward.no_sync if distributed else contextlib.nullcontext
    compute = _compiled(forward) if train.compile else forward
    statistics = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    saved_statistics = [buffer.clone() for buffer in statistics]
    dropouts = image_dropouts(model)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def step(micro_batches: Sequence[MicroBatch], stop_requested: Callable[[], bool] = lambda: False) -> StepResult:
        lr = learning_rate(train, state.step, batches_per_epoch)
        for group in optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        if statistics:  # _foreach_copy_ refuses empty lists
            torch._foreach_copy_(saved_statistics, statistics)
        optimizer.zero_grad(set_to_none=True)
        all_targets = [targets.to(device, non_blocking=True) for _, targets in micro_batches]
        normalizers = torch.stack([criterion.normalizers(targets) for targets in all_targets]).sum(0)
        dist.all_reduce_sum_(normalizers)
        total_loss = torch.zeros((), device=device, dtype=normalizers.dtype)
        for i, ((images, _), targets) in enumerate(zip(micro_batches, all_targets, strict=True)):
            with contextlib.nullcontext() if i == len(micro_batches) - 1 else no_sync():
                inputs = normalize(images.to(device, non_blocking=True), model.metadata.mean, model.metadata.std)
                inputs = inputs.to(model_dtype).contiguous(memory_format=memory_format(device))
                first = (i * dist.world_size + dist.rank) * len(images)  # its number in the whole batch
                for dropout in dropouts:
                    dropout.draw(image_seeds(train.seed, state.step, first, len(images)))
                # Within another autocast, such as that of `own_defaults`, torch keeps the weights that it has converted
                torch.clear_autocast_cache()
                with torch.autocast(device.type, autocast_dtype or torch.bfloat16, enabled=autocast_dtype is not None):
                    outputs = compute(inputs)
                loss = criterion(outputs, targets, normalizers)
                # DDP averages the gradients over the processes. The processes' losses are shares of one mean, so their
                # gradients must be summed: the factor turns the average into a sum.
                state.scaler.scale(loss * dist.world_size).backward()
            total_loss += loss.detach()
        for dropout in dropouts:
            dropout.draw([])  # whoever gets the network may have other batches
        if state.scaler.is_enabled():
            state.scaler.unscale_(optimizer)
        gradients = [parameter.grad for parameter in trainable if parameter.grad is not None]
        norm = get_total_norm(gradients)
        sums = torch.stack([total_loss, norm.to(total_loss), total_loss.new_tensor(stop_requested())])
        loss_sum, norm_sum, stop_requests = dist.all_reduce_sum_(sums).tolist()
        mean_norm = norm_sum / dist.world_size  # every process has the same gradient
        finite = math.isfinite(loss_sum) and math.isfinite(mean_norm)
        if finite:
            if train.clip_grad_norm is not None:
                clip_grads_with_norm_(trainable, train.clip_grad_norm, norm)
            state.scaler.step(optimizer)
            if state.average is not None:
                state.average.update_parameters(model)
        elif statistics:  # undo the forward pass's update of batch norm's running statistics
            torch._foreach_copy_(statistics, saved_statistics)
        if state.scaler.is_enabled():
            state.scaler.update()
        state.step += 1
        state.skipped = 0 if finite else state.skipped + 1
        return StepResult(loss_sum, mean_norm, lr, finite, stop_requests > 0)

    return step
