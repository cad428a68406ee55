"""Devices, precisions and memory formats of this machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from dlaseg.errors import UserError
from dlaseg.processor import computes_bfloat16

PRECISIONS = ("auto", "float32", "bfloat16", "float16")


def pick_device(name: str) -> torch.device:
    """The device of that name.

    Args:
        name: `auto` for the first available of CUDA, MPS and CPU, or a torch device such as `cpu` or `cuda:1`.

    Raises:
        UserError: no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):  # such as meta, which computes nothing
            raise RuntimeError(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name!r}: not on this machine: use auto or cpu") from error
    return device


def gains_from_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 arithmetic is faster than float32: CUDA from Ampere on, CPUs as `computes_bfloat16` says."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and computes_bfloat16()


def reduced_precision(precision: str, device: torch.device, argument: str = "train.precision") -> torch.dtype | None:
    """The dtype that autocast computes in; None for float32.

    Args:
        precision: `float32`, `bfloat16`, `float16`, or `auto`: bfloat16 where the device gains from it.
        device: to compute on.
        argument: the name of the argument that `precision` comes from, for the message.

    Raises:
        UserError: an unknown precision, or float16 on a CPU.
    """
    if precision not in PRECISIONS:
        raise UserError(f"{argument} {precision!r}: use one of {', '.join(PRECISIONS)}")
    if precision == "float16":
        if device.type == "cpu":
            raise UserError(f"{argument} float16: GPUs only, a CPU computes it slowly: use auto, float32 or bfloat16")
        return torch.float16
    if precision == "bfloat16" or (precision == "auto" and gains_from_bfloat16(device)):
        return torch.bfloat16
    return None


def memory_format(device: torch.device) -> torch.memory_format:
    """channels_last where convolutions gain from it, CPU and CUDA; else contiguous."""
    return torch.channels_last if device.type in ("cpu", "cuda") else torch.contiguous_format


def synchronize(device: torch.device) -> None:
    """Waits until the device is idle."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@contextmanager
def own_defaults() -> Iterator[None]:
    """Torch as it is by default, whatever the caller has set: gradients, no autocast, float32 on the CPU."""
    changed = torch.get_default_device().type != "cpu"  # the context costs time in every call of torch
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with (
            torch.inference_mode(False),
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False),
            torch.device("cpu") if changed else nullcontext(),
        ):
            yield
    finally:
        torch.set_default_dtype(dtype)


@contextmanager
def reproducible(wanted: bool) -> Iterator[None]:
    """Uses only deterministic algorithms inside the `with` block, if wanted."""
    if not wanted:
        yield
        return
    os.environ.setdefault(
        "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
    )  # without it cuBLAS is not deterministic, and torch refuses it
    before, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
