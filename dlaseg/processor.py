"""The processor: its name and instructions, its cores, and the threads that compute; does not import torch."""

import os
import platform
import sys
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")

FLAGS = (
    *("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "avx512_fp16", "avx_vnni"),
    *("amx_tile", "amx_bf16", "amx_int8"),
    *("asimd", "asimddp", "bf16", "i8mm", "sve", "sve2"),
)
"""Names in `/proc/cpuinfo` of what makes convolutions faster; the last row is ARM's."""


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor(cpuinfo: Path = CPUINFO) -> tuple[str, list[str]]:
    """Name and `FLAGS` of the processor."""
    facts = {key: value for entry in reversed(_entries(cpuinfo)) for key, value in entry.items()}
    words = f"{facts.get('flags', '')} {facts.get('Features', '')}".split()
    name = facts.get("model name") or platform.processor() or platform.machine()
    return name, [flag for flag in FLAGS if flag in words]


def computes_bfloat16() -> bool:
    """Whether bfloat16 arithmetic is faster than float32 here: with AMX or AVX512_BF16.

    Other processors compute bfloat16 by way of float32, more slowly than float32 itself.
    """
    if CPUINFO.is_file():
        return not {"amx_bf16", "avx512_bf16"}.isdisjoint(processor(CPUINFO)[1])
    import torch  # knows it on other systems

    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def num_threads(cpuinfo: Path = CPUINFO) -> int:
    """Threads that a network is computed by: those that torch computes by, whether it is imported or not.

    That is what `torch.set_num_threads` was called with, or the variable OMP_NUM_THREADS, or one per core: two hardware
    threads of a core share its arithmetic.
    """
    if torch := sys.modules.get("torch"):
        return int(torch.get_num_threads())
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    entries = [entry for entry in _entries(cpuinfo) if int(entry.get("processor", -1)) in usable]
    distinct = {(entry.get("physical id"), entry.get("core id")) for entry in entries}
    return cores() if not distinct or any(None in core for core in distinct) else len(distinct)


def set_num_threads(threads: int) -> None:
    """Sets what `num_threads` gives, for torch as well."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)


def _entries(cpuinfo: Path) -> list[dict[str, str]]:
    """Facts of each logical processor, in the order of the file; empty on other systems than Linux."""
    try:
        text = cpuinfo.read_text(encoding="utf-8")
    except OSError:
        return []
    lines = [[line.partition(":")[::2] for line in block.splitlines()] for block in text.strip().split("\n\n")]
    return [{key.strip(): value.strip() for key, value in block} for block in lines]
