"""Trial steps of a run: its own loader, network and loss, but nothing is written."""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

from dlaseg.data.loading import batches
from dlaseg.device import reduced_precision, synchronize
from dlaseg.memory import peak_memory
from dlaseg.training.out_of_memory import oom_hints
from dlaseg.training.run import Run
from dlaseg.training.step import MicroBatch, StepResult
from dlaseg.training.trainer import skip_recorder


def load_batches(run: Run, count: int) -> Iterator[list[MicroBatch]]:
    """Yields batches from the run's loader, over as many epochs as needed.

    The loader loads no more than these: after the last one its processes are idle.

    Args:
        run: its sampler moves on to the next epoch.
        count: number of batches.
    """
    sampler, remaining = run.sampler, count
    while remaining > 0:
        sampler.epoch += 1
        sampler.first = -remaining % sampler.batches  # the incomplete epoch comes first
        remaining -= sampler.batches - sampler.first
        loaded = batches(run.loader, on_skip=skip_recorder(run.state, run.dist.is_main))
        while micro_batches := list(islice(loaded, sampler.shard.micro_batches)):
            yield micro_batches


def discard(loaded: Iterator[object], count: int | None = None) -> None:
    """Loads and discards `count` batches, or all remaining ones."""
    for _ in islice(loaded, count):
        pass


def prefetched(run: Run) -> int:
    """Number of batches that the loader prefetches, rounded up."""
    return -(-run.loader.num_workers * (run.loader.prefetch_factor or 0) // run.sampler.shard.micro_batches)


def take_step(run: Run, micro_batches: Sequence[MicroBatch]) -> StepResult:
    """Takes a step of the run; returns before the device has finished it.

    Raises:
        UserError: out of memory.
    """
    run.state.step = 0  # there may be more trial steps than the schedule has
    with oom_hints(run.task.config, run.dist):
        return run.step(micro_batches)


def barrier(run: Run) -> None:
    """Waits until all processes are here and their devices are idle."""
    synchronize(run.dist.device)
    run.dist.all_reduce_sum_(torch.zeros(1, device=run.dist.device))
    synchronize(run.dist.device)


def precision(run: Run) -> str:
    """The dtype that the network computes in, such as `bfloat16`."""
    dtype = reduced_precision(run.task.config.train.precision, run.dist.device)
    return str(dtype or torch.float32).removeprefix("torch.")


def shape_text(tensor: Tensor) -> str:
    """A shape for people, such as `4 x 3 x 256 x 352`."""
    return " x ".join(map(str, tensor.shape))


def memory(run: Run) -> str:
    """The peak memory so far, and whose it is."""
    device = run.dist.device
    kind = "of the GPU" if device.type == "cuda" else "of this process, without its loading processes"
    return f"{peak_memory(device) / (1 << 30):.2f} GiB {kind}"


def device_name(device: torch.device) -> str:
    """A device for people, with its model or number of threads."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)
