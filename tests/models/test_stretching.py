"""Stretching the image, as the original does, against interpolations written here."""

import pytest
import torch
from dlaseg_testing import TINY
from torch.nn import functional as F

from dlaseg import create_model
from dlaseg.models.stretching import StretchedDLASeg

pytestmark = pytest.mark.usefixtures("tiny_variant")


def network(**options):
    torch.manual_seed(0)
    model = create_model(TINY, 3, 4, **options).train()
    with torch.no_grad():
        for _ in range(4):
            model.training_outputs(torch.randn(2, 3, 64, 64))
    return model.eval()


@pytest.mark.parametrize(
    ("head", "scales"),
    [("linear", ()), ("ocr", ()), ("linear", (0.5, 1)), pytest.param("ocr", (0.5, 1), marks=pytest.mark.slow)],
)
@torch.no_grad()
def test_scores_are_those_of_the_stretched_image_at_the_images_size(head, scales):
    model, x = network(head=head, scales=scales), torch.randn(1, 3, 100, 150)
    stretched = F.interpolate(x, (128, 256), mode="bilinear")
    scores = StretchedDLASeg(model)(x)
    assert scores.shape == (1, 3, 100, 150)
    if scales:
        # At a size of such multiples, blending at that size; what is blended is resized to the image's size before
        assert torch.equal(StretchedDLASeg(model)(stretched), model(stretched))
        whole = F.interpolate(model(stretched), (100, 150), mode="bilinear")
        assert (scores - whole).abs().mean() < 0.1 * whole.abs().mean()
        return
    logits = model.coarse_logits(stretched)
    if head == "linear":
        logits = F.interpolate(logits, (128, 256), mode="bilinear").log_softmax(1)
    expected = F.interpolate(logits, (100, 150), mode="bilinear")
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_it_blends_other_scales_too():
    stretched = StretchedDLASeg(network(scales=(0.5, 1))).with_scales([1, 2])
    assert (stretched.scales, stretched.multiple) == ((1.0, 2.0), 128)
