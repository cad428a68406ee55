"""Memory of this process: settings of the allocator, peak use, what is available, limits, errors of allocation."""

import ctypes
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MAX_PIXELS = 256_000_000
"""Pixels of the largest image that is decoded by default: 768 MB of RGB."""


def keep_freed_memory() -> bool:
    """Makes the C library keep freed memory for reuse instead of returning it to the system.

    A CPU training step allocates and frees the same hundreds of megabytes again and again. By default glibc maps large
    blocks anew each time, and the page faults cost more time than many layers.

    Returns:
        Whether the setting took effect: True on Linux with glibc.
    """
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
    return _set_malloc({mmap_max: 0, trim_threshold: 2**31 - 1, top_pad: 1 << 26})


def share_freed_memory() -> bool:
    """Makes threads that are started from now on reuse what others freed.

    By default glibc gives each thread memory of its own and keeps what is freed for it: inference on images of two
    megapixels then takes 50 MB more, and is not faster.

    Returns:
        Whether the setting took effect: True on Linux with glibc.
    """
    arena_max = -8  # malloc.h
    return _set_malloc({arena_max: 1})


def _set_malloc(options: Mapping[int, int]) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(option, value) for option, value in options.items())


def peak_memory(device: "str | torch.device") -> int:
    """Peak memory of this process so far, in bytes: GPU memory for a CUDA device, else main memory; 0 on Windows.

    On Linux it is VmHWM of `/proc/self/status`, which begins anew with every program. `getrusage` does not: a child
    process begins with the memory of the one that started it.
    """
    if str(device).startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device)
    return peak_memory_of_process()


def peak_memory_of_process() -> int:
    """Most main memory that this process has held so far, in bytes; 0 on Windows."""
    if sys.platform == "win32":
        return 0
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return next(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass  # another system
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB elsewhere


def used_memory() -> int:
    """Memory that this process holds now, in bytes; on other systems than Linux, the most that it has held so far."""
    try:
        resident = Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]
    except OSError:
        return peak_memory_of_process()
    return int(resident) * os.sysconf("SC_PAGE_SIZE")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be allocated.

    GPUs raise torch.OutOfMemoryError; on CPUs torch's allocator, oneDNN, the C++ library and OpenCV have messages of
    their own.
    """
    known = ("not enough memory", "can't allocate memory", "bad_alloc", "could not create a memory object")
    message = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(text in message for text in (*known, "out of memory", "insufficient memory"))
    )


def available_memory(root: Path = Path("/")) -> int | None:
    """Main memory in bytes that this process can still allocate without swapping or being killed.

    On Linux, it is what the machine has available, or what a container's limit (cgroup, version 1 or 2) leaves if that
    is less. On other systems it is not known: None.

    Args:
        root: of the file system, where `proc` and `sys` are.
    """
    try:
        lines = (root / "proc/meminfo").read_text(encoding="utf-8").splitlines()
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    amounts = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    for line in groups:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            mount, limit, usage, cache = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            mount, limit, usage = "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        top = root / mount
        for folder in (top / group.lstrip("/"), *(top / group.lstrip("/")).parents):
            amounts += _left_in_cgroup(folder, limit, usage, cache)
            if folder == top:
                break
    return min(amounts, default=None)


def _left_in_cgroup(folder: Path, limit: str, usage: str, cache: str) -> list[int]:
    """What the limit of a control group leaves, in bytes; nothing if it has none.

    https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files. Cached files count as usage, but the
    system drops them when memory is needed.
    """
    try:
        most, used = ((folder / name).read_text(encoding="utf-8").strip() for name in (limit, usage))
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines())
        return [max(0, int(most) - int(used) + int(statistics.get(cache, 0)))]
    except (OSError, ValueError):  # no such file, or the limit `max`
        return []
