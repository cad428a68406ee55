"""More than one process: torch.distributed, started by torchrun."""

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.rendezvous import rendezvous

from dlaseg.device import pick_device
from dlaseg.errors import UserError
from dlaseg.run_folder import RunFolder

Content = TypeVar("Content")


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes:
        rank: from 0; process 0 alone writes.
        world_size: how many there are.
        device: what this one computes on.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def sum_(self, values: Tensor) -> Tensor:
        """Replaces a tensor by its sum over all processes, in place."""
        if self.world_size > 1:
            distributed.all_reduce(values)
        return values

    def broadcast(self, content: Content) -> Content:
        """What process 0 gave: plain values and tensors."""
        if self.world_size == 1:
            return content
        box = [content]
        distributed.broadcast_object_list(box, device=self.device if self.device.type == "cuda" else None)
        return box[0]

    def run_on_rank0(self, action: Callable[[], Content]) -> Content:
        """What process 0's action returns, in all processes.

        Raises:
            UserError: what process 0 refuses; the others end without a word.
        """
        outcome: tuple[Any, str | None] = (None, None)
        if self.is_main:
            try:
                outcome = (action(), None)
            except UserError as error:
                outcome = (None, str(error))
        content, refusal = self.broadcast(outcome)
        if refusal is not None:
            raise UserError(refusal) if self.is_main else SystemExit(2)
        return content


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """Joins the others that torchrun started, if it did, and leaves them in the end.

    Args:
        device: as for `pick_device`; `auto` and `cuda` take the GPU of the process's number on its machine.

    Raises:
        UserError: a device that cannot be shared so.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Processes(0, 1, pick_device(device))
        return
    place = _own_device(device)
    # What the processes of an attempt told each other must not be what those of the next one read: torchrun's store
    # outlives them (torch 2.14: connections to addresses that are gone)
    store, rank, world_size = next(rendezvous("env://"))
    store = distributed.PrefixStore(f"attempt_{_attempt()}", store)
    distributed.init_process_group(
        "nccl" if place.type == "cuda" else "gloo", store=store, rank=rank, world_size=world_size
    )
    yield Processes(rank, world_size, place)
    distributed.destroy_process_group()  # not after an error, when the others may never come to it


def first_process() -> bool:
    """Whether this is the process that writes and speaks, among those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def job() -> str | None:
    """What tells one call of torchrun from another, None without it: its own id, else its process on this machine."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    return f"{platform.node()} {os.getppid()}" if name == "none" else name


def restarted(output: Path) -> bool:
    """Whether torchrun has started the processes again, after they had begun the run in this folder.

    A folder that was another's when torchrun started it for the first time still is.
    """
    if _attempt() == 0:
        return False
    try:
        return RunFolder.read(output).environment.get("job") == job()
    except UserError:
        return False


def _attempt() -> int:
    """How often torchrun has started the processes again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _own_device(name: str) -> torch.device:
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and torch.cuda.is_available():
        count = torch.cuda.device_count()
        if local >= count:
            raise UserError(
                f"process {local} of this machine: it has {count} GPUs: start torchrun with --nproc-per-node {count}"
            )
        name = f"cuda:{local}"
        torch.cuda.set_device(local)
    device = pick_device(name)
    if device.type == "mps" or (device.type == "cuda" and device.index != local):
        raise UserError(f"train.device {name}: several processes cannot share it: use auto, cuda or cpu")
    return device
