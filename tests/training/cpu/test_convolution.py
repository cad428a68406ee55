from contextlib import contextmanager
from copy import deepcopy

import pytest
import torch
from dlaseg_testing import SINGLE_PROCESS, TINY, tiny_config, write_camvid
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from dlaseg import create_model
from dlaseg.models.ida import BilinearUpsample
from dlaseg.training.cpu import convolution
from dlaseg.training.cpu.convolution import FastConv2d, convert, strided_weight_gradient
from dlaseg.training.cpu.winograd import weight_gradient
from dlaseg.training.run import build
from dlaseg.training.segmentation import Segmentation


@contextmanager
def a_cpu_with(capability):
    """Makes any machine look like one with that instruction set; yields the list of fast gradients' input shapes."""
    calls = []

    def spy_on(function):
        def spy(x, grad):
            calls.append(tuple(x.shape))
            return function(x, grad)

        return spy

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        for function in (weight_gradient, strided_weight_gradient):
            patch.setattr(convolution, function.__name__, spy_on(function))
        yield calls


@contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def channels_last(*shape):
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def output_and_gradients(conv, x, grad):
    """(output, gradient of the input, gradient of the weight)."""
    x = x.detach().requires_grad_()
    conv.zero_grad()
    output = conv(x)
    output.backward(grad)
    return output.detach(), x.grad, conv.weight.grad


def assert_equals_torchs(ours, x):
    theirs = nn.Conv2d(ours.in_channels, ours.out_channels, 3, ours.stride, padding=1, bias=False)
    theirs.load_state_dict(ours.state_dict())
    grad = torch.randn(theirs(x).shape)
    expected = output_and_gradients(theirs, x, grad)
    for got, want in zip(output_and_gradients(ours, x, grad), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=5e-4)


def test_a_converted_network_keeps_its_parameters_and_the_names_in_its_state_dict():
    model = create_model(TINY, num_classes=5)
    names, parameters = list(model.state_dict()), list(model.parameters())
    plain = sum(type(module) is nn.Conv2d for module in model.modules())
    convert(model)
    assert list(model.state_dict()) == names
    assert all(after is before for after, before in zip(model.parameters(), parameters, strict=True))
    assert sum(type(module) is FastConv2d for module in model.modules()) == plain > 0
    assert not any(type(module) is nn.Conv2d for module in model.modules())
    assert any(type(module) is BilinearUpsample for module in model.modules())  # other classes stay


def test_weights_go_from_a_converted_network_to_a_plain_one_and_back():
    converted, plain = create_model(TINY, num_classes=5), create_model(TINY, num_classes=5)
    convert(converted)
    plain.load_state_dict(converted.state_dict())
    converted.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(converted.eval()(x), plain.eval()(x))


def test_a_copy_of_a_converted_network_is_converted_and_independent():
    model = create_model(TINY, num_classes=5)
    convert(model)
    copy = deepcopy(model)
    assert [type(module) for module in copy.modules()] == [type(module) for module in model.modules()]
    for ours, theirs in zip(model.parameters(), copy.parameters(), strict=True):
        assert ours is not theirs
        assert torch.equal(ours, theirs)


def test_the_trainer_converts_the_network_on_a_cpu(tmp_path):
    task = Segmentation(tiny_config(write_camvid(tmp_path)))
    run = build(task, SINGLE_PROCESS, *task.open_splits())
    kinds = {type(module) for module in run.state.model.modules()}
    assert FastConv2d in kinds
    assert nn.Conv2d not in kinds


@given(
    batch=st.integers(1, 3),
    channels=st.sampled_from([(32, 32), (33, 40), (48, 32), (64, 64), (32, 128), (130, 37)]),  # narrow, and wide
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    stride=st.sampled_from([1, 2]),
    count=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=30)
def test_output_and_gradients_equal_torchs(batch, channels, height, width, stride, count, seed):
    torch.manual_seed(seed)
    ours = FastConv2d(*channels, 3, stride, padding=1, bias=False)
    x = channels_last(batch, channels[0], height, width)
    with a_cpu_with("AVX2") as calls, threads(count):
        assert_equals_torchs(ours, x)
    assert calls == ([tuple(x.shape)] if height * width > 1 else [])


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
def test_the_weight_gradient_does_not_depend_on_the_number_of_threads(monkeypatch, count):
    torch.manual_seed(0)
    x, grad = channels_last(2, 33, 3, 2), channels_last(2, 32, 3, 2)
    weight = torch.zeros(32, 33, 3, 3, requires_grad=True)
    F.conv2d(x, weight, padding=1).backward(grad)
    monkeypatch.setattr(torch, "get_num_threads", lambda: count)
    torch.testing.assert_close(weight_gradient(x, grad), weight.grad, rtol=1e-4, atol=1e-4)


def test_a_frozen_input_gets_no_gradient():
    conv = FastConv2d(32, 32, 3, padding=1, bias=False)
    x = channels_last(1, 32, 4, 4)
    with a_cpu_with("AVX2") as calls:
        conv(x).sum().backward()
    assert len(calls) == 1
    assert x.grad is None
    assert conv.weight.grad is not None


def test_a_gradient_that_is_not_channels_last_is_taken_too():
    torch.manual_seed(0)
    x, grad = channels_last(2, 32, 5, 4), torch.randn(2, 32, 5, 4)
    conv = FastConv2d(32, 32, 3, padding=1, bias=False)
    with a_cpu_with("AVX2") as calls:
        fast = output_and_gradients(conv, x, grad)[2].clone()
        same = output_and_gradients(conv, x, grad.contiguous(memory_format=torch.channels_last))[2]
    assert len(calls) == 2
    torch.testing.assert_close(fast, same)


def test_a_training_steps_gradients_are_as_exact_as_the_plain_paths():
    """Batch norm over few pixels amplifies rounding, so both are held against double precision."""
    torch.manual_seed(0)
    model = create_model("dla46_c", num_classes=5, stride=4).to(memory_format=torch.channels_last)
    convert(model)
    images, target = channels_last(2, 3, 64, 64), torch.randint(0, 5, (2, 64, 64))
    gradients = {}
    for capability, dtype in (("AVX2", torch.float32), ("DEFAULT", torch.float32), ("DEFAULT", torch.float64)):
        network = deepcopy(model).to(dtype)
        convert(network)
        with a_cpu_with(capability) as calls:
            F.cross_entropy(network(images.to(dtype)), target).backward()
        assert bool(calls) == (capability == "AVX2")
        gradients[capability, dtype] = [p.grad.double() for p in network.parameters()]
    fast, plain, exact = gradients.values()
    assert mean_error(fast, exact) < 2 * mean_error(plain, exact)
    assert mean_error(fast, exact) < 0.05


def mean_error(gradients, exact):
    errors = [(g - e).norm() / e.norm() for g, e in zip(gradients, exact, strict=True)]
    return sum(errors) / len(errors)


def test_the_fast_path_needs_a_cpu_that_gains_from_it():
    with a_cpu_with("AVX512") as calls:
        FastConv2d(32, 32, 3, padding=1, bias=False)(channels_last(1, 32, 4, 4)).sum().backward()
    assert calls == []


@pytest.mark.parametrize(
    "conv",
    [
        FastConv2d(32, 32, 3, stride=3, padding=1, bias=False),
        FastConv2d(32, 32, 3, stride=(1, 2), padding=1, bias=False),
        FastConv2d(64, 64, 3, padding=1, groups=2, bias=False),
        FastConv2d(32, 32, 1, bias=False),
        FastConv2d(32, 32, 3, bias=False),
        FastConv2d(32, 32, 3, padding=2, dilation=2, bias=False),
        FastConv2d(32, 32, 3, padding=1),
        FastConv2d(31, 32, 3, padding=1, bias=False),
        FastConv2d(32, 31, 3, padding=1, bias=False),
        FastConv2d(32, 32, (3, 1), padding=(1, 0), bias=False),
        FastConv2d(32, 32, 3, padding=1, bias=False, padding_mode="reflect"),
    ],
    ids=str,
)
def test_another_convolution_is_torchs_own(conv):
    theirs = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
        conv.bias is not None,
        conv.padding_mode,
    )
    theirs.load_state_dict(conv.state_dict())
    x = channels_last(1, conv.in_channels, 6, 7)
    with a_cpu_with("AVX2") as calls:
        output = conv(x)
        output.sum().backward()
    theirs(x).sum().backward()
    assert calls == []
    torch.testing.assert_close(output, theirs(x))
    torch.testing.assert_close(conv.weight.grad, theirs.weight.grad)


@pytest.mark.parametrize("x", [torch.randn(1, 32, 4, 4), channels_last(1, 32, 4, 8)[..., ::2]])
def test_an_input_that_is_not_channels_last_is_torchs_own(x):
    with a_cpu_with("AVX2") as calls:
        FastConv2d(32, 32, 3, padding=1, bias=False)(x).sum().backward()
    assert calls == []


def test_double_precision_is_torchs_own():
    with a_cpu_with("AVX2") as calls:
        FastConv2d(32, 32, 3, padding=1, bias=False).double()(channels_last(1, 32, 4, 4).double()).sum().backward()
    assert calls == []


def test_autocast_is_torchs_own():
    conv = FastConv2d(32, 32, 3, padding=1, bias=False)
    with a_cpu_with("AVX2") as calls:
        with torch.autocast("cpu", torch.bfloat16):
            output = conv(channels_last(1, 32, 4, 4))
        output.sum().backward()
    assert output.dtype == torch.bfloat16
    assert calls == []


def test_a_compiled_convolution_is_torchs_own(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with a_cpu_with("AVX2") as calls:
        FastConv2d(32, 32, 3, padding=1, bias=False)(channels_last(1, 32, 4, 4)).sum().backward()
    assert calls == []


def test_no_gradient_is_torchs_own(monkeypatch):
    monkeypatch.setattr(convolution, "_Conv3x3", None)  # whoever takes the fast path fails
    conv, x = FastConv2d(32, 32, 3, padding=1, bias=False), channels_last(1, 32, 4, 4)
    with a_cpu_with("AVX2"):
        with torch.no_grad():
            assert conv(x).shape == x.shape
        with pytest.raises(AttributeError):
            conv(x)


def test_a_frozen_weight_is_torchs_own(monkeypatch):
    monkeypatch.setattr(convolution, "_Conv3x3", None)
    conv = FastConv2d(32, 32, 3, padding=1, bias=False).requires_grad_(False)
    x = channels_last(1, 32, 4, 4).requires_grad_()
    with a_cpu_with("AVX2"):
        conv(x).sum().backward()
    assert x.grad is not None
