"""`dlaseg doctor`: planted faults of machine and installation are found, with what to do about them."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from dlaseg.benchmarking import doctor
from dlaseg.benchmarking.doctor import Fact, examine
from dlaseg.cli import main
from dlaseg.inference.backends import choice
from dlaseg.inference.backends.choice import make_backend
from dlaseg.inference.backends.torch import TorchBackend


def facts(part) -> dict[str, Fact]:
    return {fact.name: fact for fact in part()}


@pytest.fixture
def required(monkeypatch):
    """Sets what dlaseg requires."""

    def set_(*lines):
        monkeypatch.setattr(doctor, "requires", lambda name: list(lines))

    return set_


@pytest.mark.slow
def test_this_machine_has_no_problem_and_every_part_is_examined():
    found = examine()
    assert [fact for fact in found if fact.status == "problem"] == []
    names = {fact.name for fact in found}
    assert {"dlaseg", "python", "packages", "opencv", "torch", "torchvision", "cores", "bfloat16", "memory", "cache",
            "backend torch", "backend openvino", "backend onnxruntime", "[export]"} <= names  # fmt: skip
    assert all(fact.remedy for fact in found if fact.status == "note" and fact.name == "cuda")


def test_a_package_that_is_missing_or_too_old_is_named_with_the_command_that_installs_it(required):
    required("numpy>=2.0", "torch>=99", "no-such-package>=1.5", "nobody; python_version < '3'", "x; extra == 'export'")
    found = facts(doctor._packages)
    assert found.keys() == {"torch", "no-such-package"}
    assert found["torch"].status == found["no-such-package"].status == "problem"
    assert found["torch"].value.endswith(", torch>=99 is required")
    assert found["torch"].remedy == "pip install 'torch>=99'"
    assert found["no-such-package"].value == "not installed, no-such-package>=1.5 is required"
    required("numpy>=2.0")
    assert facts(doctor._packages)["packages"].status == "ok"


def test_sources_that_are_not_installed_are_noted(monkeypatch):
    def missing(name):
        raise doctor.PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "requires", missing)
    assert facts(doctor._packages)["packages"].status == "note"
    assert list(doctor._extras()) == []


def test_an_extra_is_installed_as_a_whole_or_named_with_what_is_missing(required):
    required("numpy>=99", "onnx>=1; extra == 'export'", "nowhere>=2; extra == 'export'", "onnx; extra == 'openvino'")
    found = facts(doctor._extras)
    assert found["[export]"].value == "nowhere missing: dlaseg export"
    assert found["[export]"].remedy == "pip install 'dlaseg[export]'"
    assert found["[openvino]"].status == "ok"


def test_two_opencv_wheels_that_lie_over_each_other_are_a_problem(monkeypatch):
    both = ("opencv-python", "opencv-python-headless")
    monkeypatch.setattr(doctor, "_is_installed", lambda name: name in both)
    (fact,) = doctor._opencv()
    assert fact.status == "problem"
    assert fact.remedy == f"pip uninstall -y {' '.join(both)} && pip install opencv-python-headless"


@pytest.mark.parametrize(("module", "part"), [("cv2", "_opencv"), ("torchvision", "_torchvision")])
def test_what_cannot_be_imported_is_a_problem_with_a_remedy(monkeypatch, module, part):
    monkeypatch.setitem(sys.modules, module, None)
    (fact,) = getattr(doctor, part)()
    assert fact.status == "problem"
    assert "cannot be imported" in fact.value
    assert "--force-reinstall" in fact.remedy


def test_a_driver_without_a_gpu_for_torch_is_a_problem(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert facts(doctor._torch)["cuda"].status == "note"
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert facts(doctor._torch)["cuda"].status == "problem"
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "cuda" not in facts(doctor._torch)


def test_the_limit_of_a_container_is_below_its_cores(monkeypatch, tmp_path):
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert doctor._core_limit(tmp_path) == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert doctor._core_limit(tmp_path) is None
    assert doctor._core_limit(tmp_path / "none") is None
    monkeypatch.setattr(doctor, "_core_limit", lambda groups: 0.5)
    fact = facts(doctor._cores)["cores"]
    assert (fact.status, fact.remedy.split(":")[0]) == ("note", "set OMP_NUM_THREADS=1")


def test_little_memory_shared_memory_and_disk(monkeypatch):
    monkeypatch.setattr(doctor, "available_memory", lambda: 1 << 30)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(total=64 << 20, free=1 << 20))
    found = facts(doctor._memory)
    assert found["memory"].status == "note"
    assert found["shared memory"].status == "problem"
    assert "--shm-size" in found["shared memory"].remedy
    assert facts(doctor._folders)["temporary files"].status == "note"


@pytest.mark.parametrize(
    ("gains", "seconds", "status", "text"),
    [
        (False, None, "ok", "computed by way of float32, more slowly: use float32"),
        (True, {"float32": 0.02, "bfloat16": 0.005}, "ok", "use --precision bfloat16"),
        (True, {"float32": 0.005, "bfloat16": 0.02}, "note", "times as fast as float32 in matrix products"),
    ],
)
def test_bfloat16_is_measured_where_the_processor_has_it(monkeypatch, gains, seconds, status, text):
    now = [0.0]

    def product(precision, device):
        assert gains, "measured, which takes half a minute on such a processor"
        return lambda: now.append(now.pop() + seconds[precision]), 0

    monkeypatch.setattr(doctor, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr("dlaseg.device.gains_from_bfloat16", lambda device: gains)
    monkeypatch.setattr("dlaseg.benchmarking.machine.matrix_product", product)
    (fact,) = doctor._bfloat16()
    assert fact.status == status
    assert fact.value.endswith(text)
    assert (fact.remedy is None) == (status == "ok")


def test_a_folder_that_cannot_be_written_to_is_a_problem(monkeypatch):
    monkeypatch.setenv("DLASEG_CACHE", "/proc/dlaseg")
    fact = facts(doctor._folders)["cache"]
    assert fact.status == "problem"
    assert "DLASEG_CACHE" in fact.remedy


def test_a_user_without_a_home_folder_is_told_to_choose_a_cache(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(doctor.Path, "home", no_home)
    monkeypatch.delenv("DLASEG_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    found = facts(doctor._folders)
    assert found["cache"].status == "problem"
    assert "no home folder" in found["cache"].value
    assert found["this folder"].value.endswith(" GiB free")


def test_a_disk_without_room_for_temporary_files_hides_no_other_folder(monkeypatch):
    def fail():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(doctor.tempfile, "gettempdir", fail)
    found = facts(doctor._folders)
    temporary = found["temporary files"]
    assert (temporary.value, temporary.status) == ("No usable temporary directory found", "problem")
    assert "TMPDIR" in temporary.remedy
    assert found["this folder"].value.endswith(" GiB free")


def test_a_backend_that_fails_or_computes_other_logits_is_a_problem(monkeypatch):
    def make(name, *arguments):
        if name == "openvino":
            raise RuntimeError("no such instruction")
        backend = make_backend("torch", *arguments)
        if name == "onnxruntime":
            backend.run = lambda images: TorchBackend.run(backend, images) + 1
        return backend

    monkeypatch.setattr(choice, "make_backend", make)
    found = facts(doctor._backends)
    assert found["backend openvino"].value == "fails: no such instruction"
    assert found["backend onnxruntime"].value == "runs, with other logits than torch"
    assert {name: fact.status for name, fact in found.items()} == {
        "backend torch": "ok", "backend openvino": "problem", "backend onnxruntime": "problem"
    }  # fmt: skip


def test_what_cannot_be_examined_is_a_problem_and_hides_nothing(monkeypatch, capsys):
    def broken():
        raise OSError("a broken library")

    monkeypatch.setattr(doctor, "_torch", broken)
    monkeypatch.setattr(doctor, "_backends", lambda: iter(()))
    broken.__name__ = "_torch"
    assert main(["doctor", "--json"]) == 1
    content = json.loads(capsys.readouterr().out)
    by_name = {fact["name"]: fact for fact in content["facts"]}
    assert by_name["torch"]["value"] == "OSError: a broken library"
    assert by_name["torch"]["status"] == "problem"
    assert by_name["cores"]["status"] == "ok"


def test_the_command_prints_a_line_and_a_remedy_for_each(monkeypatch, capsys):
    some = [Fact("a", "fine"), Fact("longer", "bad", "problem", "mend it")]
    monkeypatch.setattr(doctor, "examine", lambda: some)
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "ok       a       fine",
        "problem  longer  bad",
        "                 -> mend it",
    ]
    monkeypatch.setattr(doctor, "examine", lambda: some[:1])
    assert main(["doctor"]) == 0
