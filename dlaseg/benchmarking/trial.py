"""Steps that are taken to be looked at: of a run's own loader, network and loss, with nothing written."""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

from dlaseg.data.loading import batches
from dlaseg.device import reduced_precision
from dlaseg.memory import peak_memory
from dlaseg.training.out_of_memory import oom_hints
from dlaseg.training.state import Progress
from dlaseg.training.step import MicroBatch, StepResult
from dlaseg.training.trainer import Run, broken_counter


def draw(run: Run, count: int) -> Iterator[list[MicroBatch]]:
    """So many batches from the run's loader, through as many epochs as that takes.

    The loader is asked for no more than these: once the last one is drawn, its processes have nothing to do.

    Args:
        run: its sampler goes on to the next epoch.
        count: batches.
    """
    sampler, left = run.sampler, count
    while left > 0:
        sampler.epoch += 1
        sampler.first = -left % sampler.batches  # an epoch that is not needed whole comes first
        left -= sampler.batches - sampler.first
        drawn = batches(run.loader, on_skip=broken_counter(Progress()))
        while parts := list(islice(drawn, sampler.shard.micro_batches)):
            yield parts


def skip(drawn: Iterator[object], count: int | None = None) -> None:
    """Draws so many and leaves them, all that are left if no count is given."""
    for _ in islice(drawn, count):
        pass


def queued(run: Run) -> int:
    """Batches that the loader's processes load ahead, rounded up."""
    return -(-run.loader.num_workers * (run.loader.prefetch_factor or 0) // run.sampler.shard.micro_batches)


def take_step(run: Run, parts: Sequence[MicroBatch]) -> StepResult:
    """A step of the run, which the device may still be at work on.

    Raises:
        UserError: out of memory.
    """
    run.state.step = 0  # the schedule ends with the run, and there may be more steps here than it has
    with oom_hints(run.task.config, run.dist):
        return run.step(parts)


def synchronize(device: torch.device) -> None:
    """Returns when the device has done what it was told."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def wait(run: Run) -> None:
    """Returns when all processes have come here, and their devices are at rest."""
    synchronize(run.dist.device)
    run.dist.all_reduce_sum_(torch.zeros(1, device=run.dist.device))
    synchronize(run.dist.device)


def precision(run: Run) -> str:
    """What the network computes in."""
    lower = reduced_precision(run.task.config.train.precision, run.dist.device)
    return str(lower or torch.float32).removeprefix("torch.")


def shape(tensor: Tensor) -> str:
    """Such as `4 x 3 x 256 x 352`."""
    return " x ".join(map(str, tensor.shape))


def memory(run: Run) -> str:
    """The most that was held so far, and of what."""
    device = run.dist.device
    kind = "of the GPU" if device.type == "cuda" else "of this process, without those that load"
    return f"{peak_memory(device) / (1 << 30):.2f} GiB {kind}"


def hardware(device: torch.device) -> str:
    """A device as people know it."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)
