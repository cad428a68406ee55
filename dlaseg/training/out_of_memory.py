"""What to do when a step does not fit into memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dlaseg.config import Config
from dlaseg.errors import UserError
from dlaseg.memory import peak_memory
from dlaseg.training.distributed import Processes
from dlaseg.training.step import reduced_precision
from dlaseg.training.task import Record


@contextmanager
def oom_hints(config: Record, own: Processes) -> Iterator[None]:
    """Turns the allocator's complaint into a UserError that says what takes the memory and what would take less."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch.OutOfMemoryError on GPUs; elsewhere the allocator's, oneDNN's and the C++ library's own words
        words = ("not enough memory", "can't allocate memory", "bad_alloc", "could not create a memory object")
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(word in str(error) for word in words):
            raise UserError(out_of_memory(config, own)) from error
        raise


def out_of_memory(config: Record, own: Processes) -> str:
    """The message: the figure measured, and the fields to change, those that cost no accuracy first."""
    train = config.train
    images = train.batch_size // (own.world_size * train.grad_accum_steps)
    crop = config.augment.crop_size
    height, width = (crop, crop) if isinstance(crop, int) else crop
    changes = []
    if images > 1:
        parts = next(n for n in range(2, images + 1) if images % n == 0)
        changes.append(
            f"train.grad_accum_steps {train.grad_accum_steps * parts} (a {_ORDINALS.get(parts, f'1/{parts}')} of it)"
        )
    if reduced_precision(train.precision, own.device) is None:
        changes.append("train.precision bfloat16")
    changes.append(f"a smaller augment.crop_size ({height} x {width})")
    if isinstance(config, Config) and config.model.stride < 8:
        changes.append(f"model.stride {config.model.stride * 2}")
    if images > 1:
        changes.append(f"a smaller train.batch_size ({train.batch_size})")
    gib = 1 << 30
    if own.device.type == "cuda":
        total = torch.cuda.get_device_properties(own.device).total_memory
        figure = f"{peak_memory(own.device) / gib:.2f} GiB were taken of the {total / gib:.2f} GiB of {own.device}"
    else:
        figure = f"{peak_memory(own.device) / gib:.2f} GiB were taken by this process"
    return (
        f"out of memory: {images} crops of {height} x {width} at a time do not fit; {figure}: "
        f"use {', or '.join(changes)}"
    )


_ORDINALS = {2: "half", 3: "third"}
