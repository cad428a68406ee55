"""Training in several processes: torch.distributed, started by torchrun."""

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

Value = TypeVar("Value")


@dataclass(frozen=True)
class DistributedContext:
    """The place of this process in the process group.

    Attributes:
        rank: of this process, from 0; only rank 0 writes files.
        world_size: number of processes.
        device: of this process.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process has rank 0."""
        return self.rank == 0

    def all_reduce_sum_(self, values: Tensor) -> Tensor:
        """Replaces a tensor by its sum over all processes, in place."""
        if self.world_size > 1:
            distributed.all_reduce(values)
        return values

    def broadcast(self, value: Value) -> Value:
        """Returns rank 0's value in every process; plain values and tensors."""
        if self.world_size == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, device=self.device if self.device.type == "cuda" else None)
        return values[0]

    def all_gather(self, value: Value) -> list[Value]:
        """The values of all processes, by rank; plain values."""
        values = [value] * self.world_size
        if self.world_size > 1:
            distributed.all_gather_object(values, value)
        return values

    def run_on_rank0(self, action: Callable[[], Value]) -> Value:
        """Calls a function in rank 0 and returns its result in every process.

        Raises:
            UserError: in rank 0, what the function raised; the other processes exit with code 2 and print nothing.
        """
        result: tuple[Any, str | None] = (None, None)
        if self.is_main:
            try:
                result = (action(), None)
            except UserError as error:
                result = (None, str(error))
        value, message = self.broadcast(result)
        if message is not None:
            raise UserError(message) if self.is_main else SystemExit(2)
        return value


@contextmanager
def distributed_context(device: str) -> Iterator[DistributedContext]:
    """Joins the process group if torchrun started this process, and destroys the group at the end.

    Args:
        device: as for `pick_device`; with `auto` and `cuda`, each process takes the GPU of its local rank.

    Raises:
        UserError: several processes cannot share the device, or the environment is not as torchrun sets it.
    """
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes == "1":
        yield DistributedContext(0, 1, pick_device(device))
        return
    local_device = _local_device(device)
    # torchrun's store outlives a restart. A prefix for each attempt keeps the new processes from reading the old ones'
    # entries (torch 2.14: connections to addresses that no longer exist).
    try:
        store, rank, world_size = next(rendezvous("env://"))
    except ValueError as error:
        reason = str(error).rpartition("rendezvous: ")[2]
        raise UserError(
            f"WORLD_SIZE {processes}: {reason}: start the processes by torchrun, or unset WORLD_SIZE"
        ) from error
    store = distributed.PrefixStore(f"attempt_{_restart_count()}", store)
    backend = "nccl" if local_device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=world_size)
    yield DistributedContext(rank, world_size, local_device)
    distributed.destroy_process_group()  # not after an error: the other processes may never get here


def is_main_process() -> bool:
    """Whether this process has rank 0, before the process group exists."""
    return os.environ.get("RANK", "0") == "0"


def torchrun_job_id() -> str | None:
    """Identifies one call of torchrun: its run id, else its process on this machine; None without torchrun."""
    run_id = os.environ.get("TORCHELASTIC_RUN_ID")
    return f"{platform.node()} {os.getppid()}" if run_id == "none" else run_id


def restarted_by_torchrun(output: Path) -> bool:
    """Whether torchrun restarted the processes after the same call of torchrun began the run in this folder.

    A folder that already held a run when torchrun first started the processes does not count.
    """
    if _restart_count() == 0:
        return False
    try:
        return RunFolder.read(output).environment.get("job") == torchrun_job_id()
    except UserError:
        return False


def _restart_count() -> int:
    """How often torchrun has restarted the processes."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _local_device(name: str) -> torch.device:
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and torch.cuda.is_available():
        count = torch.cuda.device_count()
        if local_rank >= count:
            raise UserError(
                f"local rank {local_rank}: this machine has {count} GPUs, and each process needs one: start torchrun "
                f"with --nproc-per-node {count}"
            )
        name = f"cuda:{local_rank}"
        torch.cuda.set_device(local_rank)
    device = pick_device(name)
    if device.type == "mps" or (device.type == "cuda" and device.index != local_rank):
        raise UserError(f"train.device {name}: several processes cannot share it: use auto, cuda or cpu")
    return device
