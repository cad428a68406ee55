"""How this process treats the memory it frees."""

import ctypes
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def keep_freed_memory() -> bool:
    """Tells the C library to keep freed memory for reuse rather than hand it back to the system.

    A CPU training step allocates and frees the same hundreds of megabytes over and over; by default glibc maps large
    blocks afresh each time, and the page faults cost more than many of the layers that fill them.

    Returns:
        Whether the setting took: on Linux with glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
    return bool(mallopt(mmap_max, 0) and mallopt(trim_threshold, 2**31 - 1) and mallopt(top_pad, 1 << 26))


def peak_memory(device: "torch.device") -> int:
    """The most bytes that this process held so far: of the GPU's memory, else of the machine's."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, KiB elsewhere
