import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from dlaseg.training.cpu.winograd import convolve, input_products, output_gradients, outputs, weight_gradient


def channels_last(*shape):
    return torch.randn(shape, dtype=torch.float64).contiguous(memory_format=torch.channels_last)


sizes = given(
    batch=st.integers(1, 3),
    inputs=st.integers(1, 5),
    outs=st.integers(1, 5),
    height=st.integers(1, 9),
    width=st.integers(1, 17),
)


@sizes
def test_the_convolution_equals_torchs(batch, inputs, outs, height, width):
    x, weight = channels_last(batch, inputs, height, width), channels_last(outs, inputs, 3, 3)
    result = convolve(x, weight)
    torch.testing.assert_close(result, F.conv2d(x, weight, padding=1))
    assert result.is_contiguous(memory_format=torch.channels_last)


@sizes
def test_the_weight_gradient_equals_torchs(batch, inputs, outs, height, width):
    x, weight = channels_last(batch, inputs, height, width), channels_last(outs, inputs, 3, 3).requires_grad_()
    grad = channels_last(batch, outs, height, width)
    F.conv2d(x, weight, padding=1).backward(grad)
    torch.testing.assert_close(weight_gradient(x, grad), weight.grad)


def test_output_gradients_are_the_transpose_of_outputs():
    products = [channels_last(2, 3, 4, 5).requires_grad_() for _ in range(6)]  # each (N, H, T, K)
    grad = channels_last(2, 5, 3, 16)
    outputs_by_hand(products).backward(grad)
    expected = torch.stack([p.grad for p in products])
    torch.testing.assert_close(output_gradients(grad), expected)
    torch.testing.assert_close(outputs([p.detach() for p in products]), outputs_by_hand(products).detach())


def outputs_by_hand(products):
    """Column j of a tile: the sum of the products' values at the points 0, 1, -1, 2, -2, to the power of j."""
    first, a, b, c, d, last = products
    columns = [point_sum(first if j == 0 else 0, (a, b, c, d), j) + (last if j == 3 else 0) for j in range(4)]
    return torch.stack(columns, dim=3).flatten(2, 3).permute(0, 3, 1, 2)


def point_sum(start, values, power):
    return start + sum(v * point**power for v, point in zip(values, (1, -1, 2, -2), strict=True))


@pytest.mark.parametrize("width", [1, 4, 6])
def test_a_map_ends_in_zeros(width):
    x = channels_last(1, 2, 3, width)
    wider = F.pad(x, (4, 12 - width))
    inside = input_products(wider)[:, :, :, 1 : 1 + -(-width // 4)]
    torch.testing.assert_close(input_products(x), inside)


def test_single_precision_is_as_good_as_a_direct_convolutions_to_two_bits():
    torch.manual_seed(0)
    x, weight = channels_last(2, 128, 12, 16), channels_last(64, 128, 3, 3)
    exact = F.conv2d(x, weight, padding=1)
    direct = (F.conv2d(x.float(), weight.float(), padding=1) - exact).abs().mean()
    ours = (convolve(x.float(), weight.float()) - exact).abs().mean()
    assert ours < 4 * direct
