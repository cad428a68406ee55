"""What the processor is, and by how many threads a network is computed, without torch and as torch says."""

import os
import re
import subprocess
import sys

import pytest
import torch

from dlaseg import processor as processors
from dlaseg.processor import computes_bfloat16, cores, num_threads, processor, set_num_threads

TWO_CORES = "\n\n".join(
    f"processor : {n}\nmodel name : Fast CPU\nflags : fpu avx2 amx_tile sse\nphysical id : 0\ncore id : {n // 2}"
    for n in range(4)
)
TWO_SOCKETS = re.sub(r"physical id : 0\ncore id : (\d)", r"physical id : \1\ncore id : 0", TWO_CORES)


def test_the_processor_is_what_the_system_says(tmp_path):
    (tmp_path / "cpuinfo").write_text(TWO_CORES)
    assert processor(tmp_path / "cpuinfo") == ("Fast CPU", ["avx2", "amx_tile"])
    (tmp_path / "cpuinfo").write_text("model name : Fast CPU\n\nmodel name : Slow CPU\n")
    assert processor(tmp_path / "cpuinfo")[0] == "Fast CPU"
    (tmp_path / "arm").write_text("processor : 0\nFeatures : fp asimd bf16\n")
    assert processor(tmp_path / "arm")[1] == ["asimd", "bf16"]
    name, flags = processor(tmp_path / "none")
    assert name
    assert flags == []


@pytest.mark.parametrize(("flags", "expected"), [("avx2", False), ("avx512_bf16", True), ("amx_tile amx_bf16", True)])
def test_bfloat16_is_computed_by_processors_that_have_instructions_for_it(tmp_path, monkeypatch, flags, expected):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : fpu {flags}\n")
    monkeypatch.setattr(processors, "CPUINFO", tmp_path / "cpuinfo")
    assert computes_bfloat16() is expected
    monkeypatch.setattr(processors, "CPUINFO", tmp_path / "none")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: expected)
    assert computes_bfloat16() is expected


def test_on_this_machine_torch_says_the_same():
    assert computes_bfloat16() == (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def without_torch(monkeypatch, **variables):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_threads_are_those_of_torch_where_it_is_imported(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert num_threads() == 7


@pytest.mark.parametrize("cpuinfo", [TWO_CORES, TWO_SOCKETS])
@pytest.mark.parametrize(("variable", "expected"), [("3", 3), ("5,2", 5), ("0", 2), ("many", 2), ("", 2)])
def test_threads_are_the_cores_of_which_each_may_have_two_hardware_threads(
    tmp_path, monkeypatch, cpuinfo, variable, expected
):
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    without_torch(monkeypatch, OMP_NUM_THREADS=variable)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    assert num_threads(tmp_path / "cpuinfo") == expected
    if expected == 2:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
        assert num_threads(tmp_path / "cpuinfo") == 1
    (tmp_path / "cpuinfo").write_text("processor : 0\n\nprocessor : 1\n")  # does not say which cores
    assert num_threads(tmp_path / "cpuinfo") == (cores() if expected == 2 else expected)


@pytest.mark.slow
def test_a_new_process_has_the_threads_of_torch():
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    code = "from dlaseg.processor import num_threads; print(num_threads()); import torch; print(num_threads())"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    alone, with_torch = done.stdout.split()
    assert alone == with_torch


def test_threads_that_are_set_are_those_of_torch_too(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "9")
    before = torch.get_num_threads()
    try:
        set_num_threads(1)
        assert num_threads() == torch.get_num_threads() == 1
        monkeypatch.setitem(sys.modules, "torch", None)
        assert num_threads() == 1
    finally:
        monkeypatch.undo()
        torch.set_num_threads(before)
