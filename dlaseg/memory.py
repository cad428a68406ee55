"""Memory of this process: settings of the allocator, and peak use."""

import ctypes
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def keep_freed_memory() -> bool:
    """Makes the C library keep freed memory for reuse instead of returning it to the system.

    A CPU training step allocates and frees the same hundreds of megabytes again and again. By default glibc maps large
    blocks anew each time, and the page faults cost more time than many layers.

    Returns:
        Whether the setting took effect: True on Linux with glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
    return bool(mallopt(mmap_max, 0) and mallopt(trim_threshold, 2**31 - 1) and mallopt(top_pad, 1 << 26))


def peak_memory(device: "torch.device") -> int:
    """Peak memory of this process so far, in bytes: GPU memory for a CUDA device, else main memory; 0 on Windows."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB elsewhere
