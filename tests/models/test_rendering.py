"""Scale-space rendering computes its formulas, written here as plain loops over a network of one scale."""

import math

import numpy as np
import pytest
import torch
from dlaseg_testing import TINY
from torch.nn import functional as F

from dlaseg import Predictor, UserError, create_model, load_model, save_model
from dlaseg.models.rendering import RenderedAttentiveDLASeg, RenderedDLASeg, _scaled
from dlaseg.models.resizing import mirror, round_up

pytestmark = pytest.mark.usefixtures("tiny_variant")

SCALES = (0.5, 1.0, 1.5)


def pair(head="linear", decoder="plain", scales=SCALES):
    """A network that blends, and the one of one scale with the same weights; with statistics of some noise."""
    torch.manual_seed(0)
    blending = create_model(TINY, 3, 4, decoder=decoder, head=head, scales=scales).train()
    with torch.no_grad():
        for _ in range(4):
            blending.training_outputs(torch.randn(2, 3, 64, 64))
        blending.rendering.final.weight *= 0.2  # so that no scale hides all others
    single = create_model(TINY, 3, 4, decoder=decoder, head=head)
    state = blending.state_dict()
    single.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith("rendering.")})
    return blending.eval(), single.eval()


def weights_of(blending, features, grid):
    """By scale, (1, 1, h, w) each, with scalars alone."""
    phi = {scale: blending.rendering(F.interpolate(y, grid, mode="bilinear")).abs() for scale, y in features.items()}
    weights = {}
    for scale in features:
        weights[scale] = torch.zeros_like(phi[scale])
        for i in range(grid[0]):
            for j in range(grid[1]):
                visible = 1.0
                for smaller in (s for s in features if s < scale):
                    visible *= math.exp(-float(phi[smaller][0, 0, i, j]))
                weights[scale][0, 0, i, j] = visible * (1 - math.exp(-float(phi[scale][0, 0, i, j])))
    return weights


@pytest.mark.parametrize("head", [pytest.param("linear", marks=pytest.mark.slow), "ocr"])
@torch.no_grad()
def test_scores_are_blended_by_what_is_visible(head):
    blending, single = pair(head)
    x = torch.randn(1, 3, 64, 128)
    outputs = {}
    for scale in SCALES:
        scaled = F.interpolate(x, scale_factor=scale, mode="bilinear")
        outputs[scale] = single.head.outputs(single.decoder(single.features(scaled)))
    weights = weights_of(blending, {scale: output.features for scale, output in outputs.items()}, (16, 32))
    expected = torch.zeros(1, 3, 64, 128)
    for scale, output in outputs.items():
        scores = output.logits
        if head == "linear":
            scores = F.interpolate(scores, scale_factor=4, mode="bilinear").log_softmax(1)
        scores = F.interpolate(scores, (64, 128), mode="bilinear")
        expected += F.interpolate(weights[scale], (64, 128), mode="bilinear") * scores
    total = sum(weights.values())
    assert 0 < float(total.min()) < 0.9  # they are not divided by their sum
    torch.testing.assert_close(blending(x), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


@torch.no_grad()
def test_a_single_scale_is_multiplied_too():
    blending, single = pair(scales=(1.0,))
    x = torch.randn(1, 3, 64, 64)
    phi = blending.rendering(single.decoder(single.features(x))).abs()
    weight = F.interpolate(1 - (-phi).exp(), (64, 64), mode="bilinear")
    torch.testing.assert_close(blending(x), weight * single(x).log_softmax(1), rtol=0, atol=1e-5)


@torch.no_grad()
def test_training_sees_every_scale_and_blends_what_is_auxiliary():
    blending, single = pair("ocr", "afa", (0.5, 1.0))
    x = torch.randn(2, 3, 64, 64)
    outputs = blending.training_outputs(x)
    assert torch.equal(outputs.logits, blending.coarse_logits(x))
    assert {(output.stride, tuple(output.logits.shape)) for output in outputs.auxiliary} == {(1, (2, 3, 64, 64))}
    # A loss for each scale, each output of the decoder at strides 16, 8 and 4, and the soft regions
    assert [output.weight for output in outputs.auxiliary] == [0.05] * 5 + [0.4]
    weights, of_scale = {}, {}
    for scale in (0.5, 1.0):
        of_scale[scale] = single.training_outputs(F.interpolate(x, scale_factor=scale, mode="bilinear"))
    features = {}
    for scale in (0.5, 1.0):
        steps = single.decoder.steps(single.features(F.interpolate(x, scale_factor=scale, mode="bilinear")))
        features[scale] = single.head.outputs(single.join(steps)).features
    phi = {s: blending.rendering(F.interpolate(y, (16, 16), mode="bilinear")).abs() for s, y in features.items()}
    weights[0.5] = 1 - (-phi[0.5]).exp()
    weights[1.0] = (1 - (-phi[1.0]).exp()) * (-phi[0.5]).exp()
    for number, scale in enumerate((0.5, 1.0)):
        own = F.interpolate(of_scale[scale].logits, (64, 64), mode="bilinear")
        torch.testing.assert_close(outputs.auxiliary[number].logits, own, rtol=0, atol=1e-4 * float(own.abs().max()))
    for number in range(4):
        expected = torch.zeros(2, 3, 64, 64)
        for scale in (0.5, 1.0):
            part = of_scale[scale].auxiliary[number]
            if number < 3:
                full = F.interpolate(part.logits, scale_factor=part.stride, mode="bilinear").log_softmax(1)
                part = F.interpolate(full, (64, 64), mode="bilinear")
            else:
                part = F.interpolate(part.logits, (64, 64), mode="bilinear")
            expected += part * F.interpolate(weights[scale], (64, 64), mode="bilinear")
        found = outputs.auxiliary[2 + number].logits
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(("decoder", "head"), [("plain", "linear"), ("afa", "ocr")])
def test_every_parameter_learns(decoder, head):
    model = create_model(TINY, 3, 4, decoder=decoder, head=head, scales=(0.5, 1)).train()
    assert type(model) is (RenderedAttentiveDLASeg if decoder == "afa" else RenderedDLASeg)
    assert model.smallest_batch == (2 if decoder == "afa" else 1)
    outputs = model.training_outputs(torch.randn(2, 3, 64, 64))
    sum(output.logits.square().mean() for output in (outputs, *outputs.auxiliary)).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize(
    ("scales", "multiple"),
    [
        ((1,), 32),
        ((0.5, 1), 64),
        ((0.75, 1.5), 128),
        ((0.3, 1), 128),
        pytest.param((0.25, 4), 128, marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_any_size_and_any_scales(scales, multiple):
    model = create_model(TINY, 3, 8, scales=scales).eval()
    assert (model.multiple, model.stride, model.decoder_stride) == (multiple, 1, 8)
    for height, width in ((1, 1), (33, 70)):
        x = torch.randn(1, 3, height, width)
        scores = model(x)
        assert scores.shape == (1, 3, height, width)
        assert scores.isfinite().all()
        mirrored = mirror(x, *(round_up(side, multiple) for side in (height, width)))
        for logits in (model(mirrored), model.training_outputs(x).logits):
            assert torch.equal(logits[..., :height, :width], scores)


def test_a_side_at_a_scale_is_the_nearest_multiple_of_32():
    assert [_scaled(256, scale) for scale in (0.25, 0.3, 1 / 3, 0.7, 1.5)] == [64, 64, 96, 192, 384]
    assert _scaled(3200, 0.99) == 3168


def test_other_scales_share_the_weights(tmp_path):
    model = create_model(TINY, 3, 4, scales=[1, 0.5])
    other = model.with_scales([2, 0.75])
    assert (model.scales, other.scales) == ((0.5, 1.0), (0.75, 2.0))
    assert (model.multiple, other.multiple) == (64, 128)
    assert other.head.weight is model.head.weight
    save_model(other, tmp_path / "w.safetensors")
    assert load_model(tmp_path / "w.safetensors").scales == (0.75, 2.0)
    assert model.metadata.architecture["scales"] == [0.5, 1.0]
    with pytest.raises(UserError, match="this network blends none: use one that does"):
        create_model(TINY, 3, 4).with_scales([1])


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ([0.1, 1], "0.1: the network blends numbers from 0.25 to 4.0: use such ones"),
        ([True, 2], "True: the network blends"),
        (["1"], "'1': the network blends"),
        ([1, 1], "give 1 to 8 different ones, such as 0.5 1"),
        ([1 + i / 10 for i in range(9)], "give 1 to 8 different ones"),
        (1, "give a list of numbers"),
        ([[1]], r"\[1\]: the network blends"),
    ],
)
def test_scales_that_are_none_are_refused(scales, message):
    with pytest.raises(UserError, match=message):
        create_model(TINY, 3, 4, scales=scales)


@torch.no_grad()
def test_a_predictor_blends_and_averages_scores_over_mirror_images(tmp_path):
    blending, _ = pair(scales=(0.5, 1.0))
    save_model(blending, tmp_path / "w.safetensors")
    image = np.random.default_rng(0).integers(256, size=(40, 70, 3), dtype=np.uint8)
    x = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (blending.metadata.mean, blending.metadata.std))
    x = (x - mean) / std
    predictor = Predictor(tmp_path / "w.safetensors", "torch", "cpu")
    assert predictor.scales == (0.5, 1.0)
    probabilities = torch.from_numpy(predictor.probabilities(image))
    torch.testing.assert_close(probabilities, blending(x).softmax(1)[0], rtol=0, atol=1e-4)
    mirrored = Predictor(tmp_path / "w.safetensors", "torch", "cpu", scales=[1.5, 1], flip=True)
    assert mirrored.scales == (1.0, 1.5)
    other = blending.with_scales([1, 1.5])
    scores = (other(x) + other(x.flip(3)).flip(3)) / 2
    probabilities = torch.from_numpy(mirrored.probabilities(image))
    torch.testing.assert_close(probabilities, scores.softmax(1)[0], rtol=0, atol=1e-4)


def test_memory_counts_the_largest_scale():
    small, large = (Predictor(create_model(TINY, 3, 4, scales=[s]), "torch", "cpu").memory for s in (1, 2))
    assert 2.5 * small.needed(1000, 1000) < large.needed(1000, 1000)
    assert large.streams <= small.streams


def test_tiles_of_a_large_image_are_blended_at_its_size():
    blending, _ = pair(scales=(0.5, 1.0))
    image = np.random.default_rng(0).integers(256, size=(150, 1400, 3), dtype=np.uint8)
    predictor = Predictor(blending, "torch", "cpu")
    tiled = Predictor(blending, "torch", "cpu")
    tiled.memory.grid = lambda height, width, *_, **__: tiled.memory._split(896, height, width)
    grid = tiled.memory.grid(150, 1400)
    assert grid.columns.margin == 256  # twice that of one scale, as half the scale sees twice as far
    assert all(start % 64 == 0 for start, _ in grid.columns.spans + grid.rows.spans)
    assert len(grid.columns.spans) == 3
    assert (tiled(image) == predictor(image)).mean() > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_engines_compute_it(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DLASEG_CACHE", str(tmp_path / "cache"))
    blending, _ = pair("ocr", "afa", (0.5, 1.0))
    save_model(blending, tmp_path / "w.safetensors")
    image = np.random.default_rng(0).integers(256, size=(97, 70, 3), dtype=np.uint8)
    for scales in (None, [1.0, 1.5]):
        expected = Predictor(tmp_path / "w.safetensors", "torch", "cpu", scales=scales)
        predictor = Predictor(tmp_path / "w.safetensors", name, "cpu", scales=scales)
        assert predictor.scales == expected.scales
        np.testing.assert_allclose(predictor.probabilities(image), expected.probabilities(image), atol=2e-3)
