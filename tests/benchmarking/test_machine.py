import os
from types import SimpleNamespace

import pytest
import torch
from dlaseg_testing import CPU

from dlaseg.benchmarking import machine
from dlaseg.benchmarking.child import in_new_process
from dlaseg.benchmarking.machine import fingerprint, limited_cores, matrix_product
from dlaseg.errors import UserError
from dlaseg.files import sha256
from dlaseg.memory import peak_memory
from dlaseg.processor import cores


def test_the_fingerprint_names_what_speed_depends_on(monkeypatch):
    found = fingerprint(CPU)
    assert found["threads"] == torch.get_num_threads()
    assert found["cores"] == cores()
    assert torch.__version__.startswith(found["versions"]["torch"])
    assert found["gpu"] is None
    monkeypatch.setattr(machine, "PACKAGES", ("torch", "no_such_package"))
    assert list(fingerprint(CPU)["versions"]) == ["torch"]


def test_cores_are_limited_for_a_while():
    torch.set_num_threads(2)
    before = cores()
    with limited_cores(1):
        assert torch.get_num_threads() == 1
        if hasattr(os, "sched_getaffinity"):
            assert cores() == 1
    assert (cores(), torch.get_num_threads()) == (before, 2)


@pytest.mark.parametrize("threads", [0, -1, 10**6])
def test_cores_that_do_not_exist_are_refused(threads):
    with pytest.raises(UserError, match=f"--threads {threads}: use 1 to {cores()}"), limited_cores(threads):
        pass


def test_the_peak_is_that_of_a_matrix_product(monkeypatch):
    monkeypatch.setattr(machine, "MATRIX", {"cpu": 8})
    products = []
    monkeypatch.setattr(torch, "mm", lambda a, b: products.append((tuple(a.shape), a.dtype)))
    multiply, flops = matrix_product("bfloat16", CPU)
    multiply()
    assert products == [((8, 8), torch.bfloat16)]
    assert flops == 2 * 8**3


def test_the_memory_of_a_new_process_is_its_own():
    """getrusage would begin with that of this process, which has imported torch."""
    device = SimpleNamespace(type="cpu")
    assert 1 << 20 < in_new_process(peak_memory, device) < peak_memory(device) / 2


def test_a_process_that_is_killed_is_reported():
    with pytest.raises(UserError, match="the system ended the process, probably because memory ran out"):
        in_new_process(os._exit, 9)


def test_errors_of_the_process_are_raised_here(tmp_path):
    with pytest.raises(FileNotFoundError):
        in_new_process(sha256, tmp_path / "none")
