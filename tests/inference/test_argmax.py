"""The classes of pixels are those of the upsampled logits, by NumPy as by torch."""

import pytest
import torch
from dlaseg_testing import TINY

from dlaseg import create_model
from dlaseg.inference import argmax
from dlaseg.inference.argmax import argmax_logits
from dlaseg.models.base import upsample_logits


@pytest.mark.parametrize(
    ("stride", "at_a_time"),
    [
        *((stride, at_a_time) for stride in (1, 2, 3, 4, 8) for at_a_time in (1000, 1 << 20)),
        *((stride, 1) for stride in (1, 3)),
        *(pytest.param(stride, 1, marks=pytest.mark.slow) for stride in (2, 4, 8)),
    ],
)
@pytest.mark.parametrize("values", ["noise", "patches", "ties"])
def test_the_argmax_equals_that_of_the_upsampled_logits(monkeypatch, at_a_time, stride, values):
    monkeypatch.setattr(argmax, "_AT_A_TIME", at_a_time)
    torch.manual_seed(0)
    coarse = torch.randn(2, 6, 16, 12)
    if values == "patches":
        coarse = torch.randn(2, 6, 4, 3).repeat_interleave(4, 2).repeat_interleave(4, 3) + 0.01 * coarse
    if values == "ties":
        coarse = coarse.round()
    for rows, columns in ((16, 12), (15.3, 10.8), (0.5, 0.2), (8.3, 12)):
        height, width = max(1, round(stride * rows)), max(1, round(stride * columns))
        logits = upsample_logits(coarse, stride, height, width)
        for memory_format in (torch.contiguous_format, torch.channels_last):
            ordered = coarse.contiguous(memory_format=memory_format)
            tensor = argmax_logits(ordered, stride, height, width)
            array = torch.from_numpy(argmax_logits(ordered.numpy(), stride, height, width))
            for got in (tensor, array):
                assert got.dtype == torch.uint8
                torch.testing.assert_close(logits.gather(1, got[:, None].long())[:, 0], logits.amax(1))
                if stride != 3:  # weights of thirds are rounded, which decides ties
                    assert torch.equal(got.long(), logits.argmax(1))


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_the_argmax_is_that_of_the_models_logits(stride):
    torch.manual_seed(0)
    model, images = create_model(TINY, 5, stride).eval(), torch.randn(1, 3, 75, 41)
    with torch.no_grad():
        expected = model(images).argmax(1)
        coarse = model.coarse_logits(images)
    assert torch.equal(argmax_logits(coarse, stride, 75, 41).long(), expected)
    assert (argmax_logits(coarse.numpy(), stride, 75, 41) == expected.numpy()).all()
