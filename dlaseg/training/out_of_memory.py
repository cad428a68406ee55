"""The error message when a step runs out of memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dlaseg.config.segmentation import Config
from dlaseg.device import reduced_precision
from dlaseg.errors import UserError
from dlaseg.memory import is_out_of_memory, peak_memory
from dlaseg.training.distributed import DistributedContext
from dlaseg.training.task import RunConfig


@contextmanager
def oom_hints(config: RunConfig, dist: DistributedContext) -> Iterator[None]:
    """Converts an out-of-memory error to a UserError that names the config fields that reduce memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise UserError(oom_message(config, dist)) from error
        raise


def oom_message(config: RunConfig, dist: DistributedContext) -> str:
    """One line: the measured memory, and the fields to change; those that cost no accuracy come first."""
    train = config.train
    images = train.batch_size // (dist.world_size * train.grad_accum_steps)
    crop = config.augment.crop_size
    height, width = (crop, crop) if isinstance(crop, int) else crop
    changes = []
    smallest = 2 if isinstance(config, Config) and config.model.decoder == "afa" else 1  # see `smallest_batch`
    splits = next((n for n in range(2, images // smallest + 1) if images % n == 0), None)
    if splits is not None:
        changes.append(
            f"train.grad_accum_steps {train.grad_accum_steps * splits} (micro-batches of {images // splits})"
        )
    if reduced_precision(train.precision, dist.device) is None:
        changes.append("train.precision bfloat16")
    changes.append(f"a smaller augment.crop_size ({height} x {width})")
    if isinstance(config, Config) and config.model.stride < 8:
        changes.append(f"model.stride {config.model.stride * 2}")
    if images > 1:
        changes.append(f"a smaller train.batch_size ({train.batch_size})")
    gib = 1 << 30
    if dist.device.type == "cuda":
        total = torch.cuda.get_device_properties(dist.device).total_memory
        usage = f"peak memory {peak_memory(dist.device) / gib:.2f} GiB of the {total / gib:.2f} GiB of {dist.device}"
    else:
        usage = f"peak memory {peak_memory(dist.device) / gib:.2f} GiB in this process"
    return (
        f"out of memory: a micro-batch of {images} crops of {height} x {width} does not fit; {usage}: "
        f"use {', or '.join(changes)}"
    )
