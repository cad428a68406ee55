"""One trace by torch.export serves all heights and widths."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dlaseg import create_backbone, create_model, list_models
from dlaseg.inference.backends import conversion
from dlaseg.inference.backends.conversion import CoarseLogits
from dlaseg.models.resizing import crop, max_pool, mirror, pad, round_up

SIZES = ((1, 1, 1), (2, 32, 32), (1, 31, 200), (1, 65, 97), (2, 64, 96), (1, 33, 64), (3, 90, 47))


def trace(model: nn.Module, height: int, width: int) -> nn.Module:
    return conversion.trace(model, torch.randn(2, 3, height, width)).module()


def assert_equal_on(sizes, traced: nn.Module, model: nn.Module) -> None:
    for batch, height, width in sizes:
        images = torch.randn(batch, 3, height, width)
        with torch.no_grad():
            assert torch.equal(traced(images), model(images)), (batch, height, width)


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(65, 97), pytest.param(64, 96, marks=pytest.mark.slow)])
def test_one_trace_of_a_network_serves_all_sizes(height, width):
    model = create_model("dla46_c", num_classes=5).eval()
    assert_equal_on(SIZES, trace(model, height, width), model)


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(65, 97), (64, 96)])
@pytest.mark.parametrize("name", list_models())
def test_one_trace_of_every_variant_serves_all_sizes(name, height, width):
    model = create_model(name, num_classes=5, stride=4).eval()
    assert_equal_on(SIZES, trace(model, height, width), model)
    assert_equal_on(SIZES, trace(CoarseLogits(model), height, width), CoarseLogits(model))


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_one_trace_of_every_classifier_serves_all_sizes(name):
    model = create_backbone(name, num_classes=7).eval()
    assert_equal_on(SIZES, trace(model, 65, 97), model)


@pytest.mark.parametrize(("height", "width"), [(5, 6), (4, 8), (1, 1)])
def test_pad_repeats_the_border_and_crop_removes_it(height, width):
    x = torch.randn(2, 3, height, width)
    padded = pad(x, 8, 8)
    rows, columns = (torch.arange(8).clamp(max=side - 1) for side in (height, width))
    assert torch.equal(padded, x[:, :, rows][:, :, :, columns])
    assert torch.equal(crop(padded, height, width), x)


@pytest.mark.parametrize(("height", "width"), [(5, 6), (7, 8), (8, 8), (3, 2), (1, 1), (4, 1), (3, 8)])
def test_mirror_turns_back_at_the_last_row_and_column(height, width):
    x = torch.randn(2, 3, height, width)

    def index(i, side):  # a plain walk
        return i if i < side else max(0, 2 * (side - 1) - i)

    expected = x[:, :, [index(i, height) for i in range(8)]][..., [index(i, width) for i in range(8)]]
    assert torch.equal(mirror(x, 8, 8), expected)
    if height > 4 and width > 4:
        assert torch.equal(mirror(x, 8, 8), F.pad(x, (0, 8 - width, 0, 8 - height), mode="reflect"))


def test_what_has_the_size_is_not_copied():
    x = torch.randn(1, 3, 8, 16)
    assert mirror(x, 8, 16) is x
    assert pad(x, 8, 16) is x
    assert crop(x, 8, 16).data_ptr() == x.data_ptr()


@pytest.mark.parametrize("size", [(5, 6), (4, 8), (7, 7)])
def test_max_pool_rounds_up_like_a_strided_convolution(size):
    x = torch.randn(1, 3, *size)
    pooled = max_pool(x, 2)
    assert pooled.shape == F.conv2d(x, torch.ones(1, 3, 3, 3), stride=2, padding=1).expand(1, 3, -1, -1).shape
    assert torch.equal(pooled, max_pool(pad(x, *(round_up(side, 2) for side in size)), 2))


def test_round_up():
    assert [round_up(size, 32) for size in (1, 31, 32, 33, 64, 65)] == [32, 32, 32, 64, 64, 96]
