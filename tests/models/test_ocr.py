"""The head with object-contextual representations computes its formulas, written here as plain loops."""

import math

import pytest
import torch
from torch import nn

from dlaseg import create_model
from dlaseg.models.ocr import ObjectAttention, ObjectContextHead


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@torch.no_grad()
def test_objects_are_means_by_soft_regions_and_pixels_attend_to_them():
    head, x = ObjectContextHead(32, 3).eval(), torch.randn(2, 32, 2, 3)
    head.initialize()  # with smaller weights, each pixel would attend to all objects alike
    pixels, regions = head.pixels(x), head.regions(x)
    attention: ObjectAttention = head.attention
    objects = torch.zeros(2, 256, 3, 1)
    for n in range(2):
        for k in range(3):
            whole = sum(math.exp(float(regions[n, k, i, j])) for i in range(2) for j in range(3))
            for i in range(2):
                for j in range(3):
                    objects[n, :, k, 0] += math.exp(float(regions[n, k, i, j])) / whole * pixels[n, :, i, j]
    queries, keys, values = attention.pixel(pixels), attention.object(objects), attention.down(objects)
    context = torch.zeros(2, 128, 2, 3)
    for n in range(2):
        for i in range(2):
            for j in range(3):
                scores = [float(queries[n, :, i, j] @ keys[n, :, k, 0]) / math.sqrt(128) for k in range(3)]
                whole = sum(map(math.exp, scores))
                for k in range(3):
                    context[n, :, i, j] += math.exp(scores[k]) / whole * values[n, :, k, 0]
    features = head.join(torch.cat((attention.up(context), pixels), 1))
    outputs = head.outputs(x)
    torch.testing.assert_close(outputs.features, features, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs.logits, head.classifier(features), rtol=1e-4, atol=1e-5)
    assert torch.equal(head(x), outputs.logits)
    ((auxiliary, weight),) = outputs.auxiliary
    assert torch.equal(auxiliary, regions)
    assert weight == 0.4


def test_the_head_starts_with_the_spread_of_its_inputs_and_drops_a_twentieth():
    head = ObjectContextHead(32, 3)
    head.initialize()
    for conv in (module for module in head.modules() if isinstance(module, nn.Conv2d)):
        tolerance = 5 / math.sqrt(2 * conv.weight.numel())  # five times the relative error of a spread
        assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / conv.weight[0].numel()), rel=tolerance)
        assert conv.bias is None or not conv.bias.any()
    assert head.dropout.share == 0.05
    head.dropout.share = 1.0
    assert not head.train().outputs(torch.randn(2, 32, 4, 6)).features.any()


def test_the_plain_decoder_takes_the_head_and_every_parameter_learns():
    model = create_model("dla46_c", 5, 4, head="ocr").train()
    assert model.logit_layers() == [model.head.classifier, model.head.regions.classifier]
    outputs = model.training_outputs(torch.randn(2, 3, 64, 96))
    assert [(tuple(output.logits.shape), output.stride, output.weight) for output in outputs.auxiliary] == [
        ((2, 5, 16, 24), 4, 0.4)
    ]
    outputs.auxiliary[0].logits.square().mean().backward(retain_graph=True)
    assert model.backbone.base_layer[0].weight.grad.any()
    (outputs.logits.square().mean() + outputs.auxiliary[0].logits.square().mean()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
