from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from dlaseg_testing import TINY
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from dlaseg import UserError, create_backbone, create_model, list_models
from dlaseg.models.cost import PUBLISHED_TOP1, Cost, classifier_cost, network_cost, segmentation_costs

ROOT = Path(__file__).resolve().parents[2]

# Of timm: GMACs and activations (M) at 224 x 224 from results/benchmark-infer-fp32-nchw-pt240-cpu-i9_10940x-dynamo.csv,
# top-1 from hfdocs/source/models/dla.mdx
PUBLISHED = {
    "dla34": (3.07, 5.02, 74.632),
    "dla46_c": (0.58, 4.50, 64.880),
    "dla46x_c": (0.54, 5.66, 66.008),
    "dla60x_c": (0.59, 6.01, 67.928),
    "dla60": (4.26, 10.16, 77.036),
    "dla60x": (3.54, 13.80, 78.234),
    "dla102": (7.19, 14.18, 78.016),
    "dla102x": (5.89, 19.42, 78.516),
    "dla102x2": (9.34, 29.91, 79.448),
    "dla169": (11.60, 20.20, 78.702),
}


def multiply_adds(layer, x, y):
    """For every weight, as many as there are pixels: of the output, or of a transposed convolution's input."""
    across = x if isinstance(layer, nn.ConvTranspose2d) else y
    inputs = layer.in_channels // layer.groups
    return len(x) * across.shape[2] * across.shape[3] * layer.out_channels * inputs * layer.kernel_size[0] ** 2


def counted_for_real(network, height, width):
    """The cost by a forward pass with numbers."""
    counts = []

    def count(layer, inputs, output):
        counts.append((multiply_adds(layer, inputs[0], output), output.numel()))

    hooks = [
        layer.register_forward_hook(count)
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    ]
    with torch.no_grad():
        network(torch.zeros(1, 3, height, width))
    for hook in hooks:
        hook.remove()
    macs, activations = map(sum, zip(*counts, strict=True))
    return Cost(sum(parameter.numel() for parameter in network.parameters()), macs, activations)


def without_memory(make, *args, **options):
    with torch.device("meta"):
        return make(*args, **options).eval()


class OneLayer(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize(
    ("layer", "macs", "activations"),
    [
        (nn.Conv2d(4, 8, 3, padding=1), 8 * 4 * 9 * 60, 8 * 60),
        (nn.Conv2d(4, 8, 3, stride=2, padding=1), 8 * 4 * 9 * 15, 8 * 15),
        (nn.Conv2d(4, 8, 1, bias=False), 8 * 4 * 60, 8 * 60),
        (nn.Conv2d(4, 8, 3, padding=1, groups=2), 8 * 2 * 9 * 60, 8 * 60),
        (nn.Conv2d(4, 4, 3, padding=1, groups=4), 4 * 9 * 60, 4 * 60),
        (nn.ConvTranspose2d(4, 8, 4, stride=2, padding=1), 4 * 8 * 16 * 60, 8 * 240),
        (nn.ConvTranspose2d(4, 8, 4, stride=2, padding=1, groups=2), 4 * 4 * 16 * 60, 8 * 240),
        (nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1, groups=4), 4 * 16 * 60, 4 * 240),
    ],
)
def test_a_layer_costs_what_one_counts_by_hand(layer, macs, activations):
    cost = network_cost(OneLayer(layer), 6, 10, in_channels=4)
    assert cost == Cost(sum(parameter.numel() for parameter in layer.parameters()), macs, activations)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_classifier_costs_what_timm_and_our_page_publish(name):
    cost = classifier_cost(name, 1000, 224, 224)
    gmacs, activations, top1 = PUBLISHED[name]
    # timm counts two operations per output of a batch norm as well; one follows each convolution but the last
    assert round((cost.macs + 2 * (cost.activations - 1000)) / 1e9, 2) == gmacs
    assert round(cost.activations / 1e6, 2) == activations
    assert PUBLISHED_TOP1[name] == round(top1, 2)
    row = f"| `{name}` | {cost.parameters / 1e6:.2f} | {cost.macs / 1e9:.2f} | {top1:.2f} |"
    assert row in (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name", ["dla34", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dla46x_c", "dla102x2"))]
)
def test_a_classifier_costs_as_much_as_timms(name):
    theirs = without_memory(timm.create_model, name)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        theirs(torch.empty(1, 3, 224, 224, device="meta"))
    cost = classifier_cost(name, 1000, 224, 224)
    assert cost.macs == counter.get_total_flops() / 2
    assert cost.parameters == sum(parameter.numel() for parameter in theirs.parameters())


def test_segmentation_networks_cost_what_forward_passes_do(tiny_variant):
    costs = segmentation_costs(TINY, 5, 40, 64)
    assert list(costs) == [(2, 1), (2, 3), (4, 1), (4, 3), (8, 1), (8, 3)]
    for (stride, size), cost in costs.items():
        network = create_model(TINY, 5, stride, root_kernel_size=size).eval()
        assert cost == network_cost(network, 40, 64) == counted_for_real(network, 40, 64)


def test_costs_are_those_of_the_decoder_and_the_head(tiny_variant, monkeypatch):
    monkeypatch.setattr("dlaseg.models.cost.STRIDES", (8,))
    network = without_memory(create_model, TINY, 5, 8, decoder="afa", head="ocr")
    assert segmentation_costs(TINY, 5, 64, 64, "afa", "ocr")[8, 3] == network_cost(network, 64, 64)


def test_a_classifier_costs_what_a_forward_pass_does():
    assert classifier_cost("dla60x_c", 7, 45, 61) == counted_for_real(create_backbone("dla60x_c", 7).eval(), 45, 61)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (TINY, {"stride": 8, "head": "ocr", "scales": [0.5, 1]}),
        pytest.param("dla102x2", {}, marks=pytest.mark.slow),
    ],
)
def test_the_counter_of_torch_finds_the_same_multiply_adds(tiny_variant, name, options):
    network = without_memory(create_model, name, 19, **options)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, 1024, 2048, device="meta"))
    assert network_cost(network, 1024, 2048).macs == counter.get_total_flops() / 2


@pytest.mark.parametrize("in_channels", [1, 4])
def test_an_image_has_as_many_channels_as_the_network_takes(tiny_variant, in_channels):
    for make in (create_backbone, partial(create_model, num_classes=2)):
        more = (
            network_cost(make(TINY, in_channels=in_channels), 32, 32, in_channels).macs
            - network_cost(make(TINY), 32, 32).macs
        )
        assert more == (in_channels - 3) * 8 * 7 * 7 * 32 * 32  # the first layer: 7 x 7, 8 channels


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_network_is_left_as_it_is(tiny_variant, training, dtype):
    torch.manual_seed(0)
    network = create_model(TINY, 2).to(dtype).train(training)
    network.backbone.base_layer[1].eval()
    modes = [module.training for module in network.modules()]
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    network_cost(network, 64, 96)
    assert [module.training for module in network.modules()] == modes
    after = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    assert all(after[name] is tensor for name, tensor in tensors.items())
    assert all(torch.equal(tensor, copies[name]) for name, tensor in after.items())
    assert all(tensor.grad is None for tensor in network.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_no_hook_is_left_after_an_error():
    network = create_backbone("dla46_c")
    with pytest.raises(RuntimeError):
        network_cost(network, 0, 32)
    assert not any(module._forward_hooks for module in network.modules())


def test_a_normal_forward_pass_is_normal_again():
    network_cost(create_backbone("dla46_c"), 32, 32)
    x = torch.randn(4, 3, 8, 8)
    assert not torch.equal(F.batch_norm(x, None, None, training=True), x)
    assert create_backbone("dla46_c").base_layer[0].weight.std() > 0


def test_every_variant_has_a_published_accuracy():
    assert list(PUBLISHED_TOP1) == [name for name in list_models() if name != TINY]


@pytest.mark.parametrize("count", [classifier_cost, segmentation_costs])
@pytest.mark.parametrize(("name", "classes", "part"), [("dla35", 2, "'dla35'"), ("dla34", 0, "num_classes 0")])
def test_an_unknown_name_or_a_wrong_number_is_refused(count, name, classes, part):
    with pytest.raises(UserError, match=part):
        count(name, classes, 32, 32)
