import pytest
import torch

from dlaseg import device as devices
from dlaseg.device import gains_from_bfloat16, memory_format, pick_device, reduced_precision, reproducible
from dlaseg.errors import UserError


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(False, False, "cpu"), (False, True, "mps"), (True, True, "cuda")]
)
def test_auto_takes_the_first_available_device(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch, "empty", lambda *size, device: None)
    assert pick_device("auto").type == expected


def test_cpu_is_the_cpu():
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["nonsense", "", "cpu:x", "cuda:99", "CPU", "xpu", "meta"])
def test_an_unavailable_device_is_refused_and_named(name):
    with pytest.raises(UserError) as caught:
        pick_device(name)
    assert str(caught.value) == f"device {name!r}: not on this machine: use auto or cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is available")
def test_cuda_is_refused_where_it_is_unavailable():
    with pytest.raises(UserError, match="device 'cuda': not on this machine"):
        pick_device("cuda")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("cpu", torch.channels_last), ("cuda", torch.channels_last), ("mps", torch.contiguous_format)],
)
def test_memory_format_is_channels_last_where_convolutions_gain_from_it(name, expected):
    assert memory_format(torch.device(name)) is expected


@pytest.mark.parametrize("computes", [True, False])
def test_a_cpu_gains_from_bfloat16_just_if_it_computes_in_it(monkeypatch, computes):
    monkeypatch.setattr(devices, "computes_bfloat16", lambda: computes)
    assert gains_from_bfloat16(torch.device("cpu")) is computes


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_cuda_gains_from_bfloat16_from_ampere_on(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert gains_from_bfloat16(torch.device("cuda")) is expected


def test_other_devices_do_not_gain_from_bfloat16(monkeypatch):
    monkeypatch.setattr(devices, "computes_bfloat16", lambda: True)
    assert not gains_from_bfloat16(torch.device("mps"))


@pytest.mark.parametrize(
    ("precision", "device", "gains", "expected"),
    [
        ("auto", "cpu", True, torch.bfloat16),
        ("auto", "cpu", False, None),
        ("auto", "cuda", True, torch.bfloat16),
        ("float32", "cuda", True, None),
        ("bfloat16", "cpu", False, torch.bfloat16),
        ("float16", "cuda", True, torch.float16),
    ],
)
def test_the_dtype_of_a_precision(monkeypatch, precision, device, gains, expected):
    monkeypatch.setattr(devices, "gains_from_bfloat16", lambda _: gains)
    assert reduced_precision(precision, torch.device(device), "precision") is expected


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        ("float16", "train.precision float16: GPUs only, a CPU computes it slowly: use auto, float32 or bfloat16"),
        ("half", "train.precision 'half': use one of auto, float32, bfloat16, float16"),
    ],
)
def test_an_unsuitable_precision_is_refused_in_one_line(precision, message):
    with pytest.raises(UserError) as caught:
        reduced_precision(precision, torch.device("cpu"), "train.precision")
    assert str(caught.value) == message


@pytest.mark.parametrize("before", [True, False])
def test_algorithms_are_deterministic_inside_the_block_alone(monkeypatch, before):
    def settings():
        warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
        return torch.are_deterministic_algorithms_enabled(), warn_only, torch.backends.cudnn.benchmark

    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    original = settings()
    try:
        torch.use_deterministic_algorithms(before, warn_only=before)
        torch.backends.cudnn.benchmark = not before
        with reproducible(False):
            assert settings() == (before, before, not before)
        with reproducible(True):
            assert settings() == (True, False, False)
        assert settings() == (before, before, not before)
    finally:
        torch.use_deterministic_algorithms(original[0], warn_only=original[1])
        torch.backends.cudnn.benchmark = original[2]
