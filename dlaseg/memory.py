"""How this process treats the memory it frees."""

import ctypes
import sys


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
