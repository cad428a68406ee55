import mmap
import subprocess
import sys

import pytest

from dlaseg import memory
from dlaseg.memory import (
    available_memory,
    is_out_of_memory,
    keep_freed_memory,
    peak_memory_of_process,
    share_freed_memory,
    used_memory,
)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone has mallopt")
@pytest.mark.parametrize("setting", ["keep_freed_memory", "share_freed_memory"])
def test_the_allocator_is_set_on_linux(setting):
    # In a process of its own, for it stays so as long as the process runs
    code = f"from dlaseg.memory import {setting} as setting; print(setting())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone has mallopt")
def test_threads_share_one_pool_of_memory(tmp_path):
    code = """
import ctypes, sys, threading
from dlaseg.memory import share_freed_memory
if sys.argv[2:]:
    share_freed_memory()
barrier = threading.Barrier(4)
def allocate():
    block = bytes(100_000)
    barrier.wait()
threads = [threading.Thread(target=allocate) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""
    pools = []
    for words in ([], ["shared"]):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "info.xml"), *words], check=True)
        pools.append((tmp_path / "info.xml").read_text(encoding="utf-8").count("<heap nr="))
    assert pools[0] > 1
    assert pools[1] == 1


def test_memory_in_use_grows_with_what_is_held():
    before = used_memory()
    assert 10_000_000 < before < 1.1 * peak_memory_of_process()
    with mmap.mmap(-1, 200_000_000) as held:  # new memory, not what earlier tests left to this process
        held.write(b"1" * 200_000_000)
        assert 150_000_000 < used_memory() - before < 450_000_000


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_freed_memory_is_left_alone_elsewhere(monkeypatch, platform):
    monkeypatch.setattr(memory.sys, "platform", platform)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: pytest.fail("the C library was opened"))
    assert keep_freed_memory() is share_freed_memory() is False


def test_a_c_library_without_mallopt_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    assert keep_freed_memory() is share_freed_memory() is False


def write(root, **files):
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


GIB = 2**30
MACHINE = {"proc__meminfo": "MemTotal:  99999999 kB\nMemAvailable:  8388608 kB\n", "proc__self__cgroup": "0::/\n"}


def group(folder, limit, usage, cache=0, version=2):
    """The files of a control group."""
    if version == 1:
        names, stat = ("memory.limit_in_bytes", "memory.usage_in_bytes"), f"cache 5\ntotal_inactive_file {cache}\n"
    else:
        names, stat = ("memory.max", "memory.current"), f"anon 5\ninactive_file {cache}\n"
    files = dict(zip(names, (f"{limit}\n", f"{usage}\n"), strict=True)) | {"memory.stat": stat}
    return {f"{folder}__{name}": content for name, content in files.items()}


def test_available_memory_is_that_of_the_machine_or_what_a_container_leaves(tmp_path):
    def of(name, **files):
        return available_memory(write(tmp_path / name, **files))

    assert of("machine", **MACHINE) == 8 * GIB
    top = "sys__fs__cgroup"
    assert of("no limit", **MACHINE, **group(top, "max", GIB)) == 8 * GIB
    assert of("limit", **MACHINE, **group(top, 4 * GIB, 3 * GIB, GIB // 2)) == 3 * GIB // 2
    assert of("large limit", **MACHINE, **group(top, 64 * GIB, GIB)) == 8 * GIB
    assert of("full", **MACHINE, **group(top, GIB, 2 * GIB)) == 0
    inside = MACHINE | {"proc__self__cgroup": "0::/a/b\n"}
    assert of("parent's limit", **inside, **group(f"{top}__a", 2 * GIB, GIB), **group(f"{top}__a__b", "max", 0)) == GIB
    first = MACHINE | {"proc__self__cgroup": "5:cpu:/a\n4:memory:/a\n0::/\n"}
    assert of("version 1", **first, **group(f"{top}__memory__a", 3 * GIB, GIB, GIB, version=1)) == 3 * GIB
    unlimited = group(f"{top}__memory", 9223372036854771712, GIB, version=1)
    assert of("version 1 without limit", **first, **unlimited) == 8 * GIB


def test_available_memory_is_unknown_elsewhere(tmp_path):
    assert available_memory(tmp_path) is None


def test_errors_of_allocation_are_known():
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(type("OutOfMemoryError", (Exception,), {})("without a word"))
    for message in (
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes",
        "std::bad_alloc",
        "could not create a memory object",
        "CUDA error: out of memory",
        "(-4:Insufficient memory) Failed to allocate 9 bytes",
    ):
        assert is_out_of_memory(RuntimeError(message))
    assert not is_out_of_memory(RuntimeError("shapes differ"))
