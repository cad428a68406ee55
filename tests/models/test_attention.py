"""The attentive decoder computes its formulas, written here as plain loops."""

from dataclasses import replace

import pytest
import torch
from dlaseg_testing import TINY, assert_same_tensors, log_rows, no_report, tiny_config, with_train, write_camvid
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from dlaseg import UserError, create_model, load_model, save_model
from dlaseg.config.segmentation import TrainConfig
from dlaseg.inference.backends.choice import LARGEST_ERROR, make_backend
from dlaseg.inference.predictor import Predictor
from dlaseg.models.attention import (
    AttentiveNode,
    ChannelAttention,
    LevelFusion,
    SpatialAttention,
    initialize_attention,
    largest_of_image,
)
from dlaseg.models.layers import conv_level
from dlaseg.models.segmenter import AUXILIARY_WEIGHT, AttentiveDLASeg
from dlaseg.training.optimizers import make_optimizer
from dlaseg.training.segmentation import Segmentation
from dlaseg.training.trainer import fit
from dlaseg.weights.checkpoints import read_checkpoint
from dlaseg.weights.entries import encode_metadata
from dlaseg.weights.loading import load_weights
from dlaseg.weights.recognition import recognize

pytestmark = pytest.mark.usefixtures("tiny_variant")


def randomized(module):
    """In eval mode, with norms that change something."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.5, 0.5)
            nn.init.uniform_(part.running_mean, -0.5, 0.5)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    return module.eval()


def conv_norm_relu(level, x):
    conv, norm = level[0], level[1]
    x = F.conv2d(x, conv.weight, None, padding=conv.weight.shape[-1] // 2)
    view = (1, -1, 1, 1)
    x = (x - norm.running_mean.view(view)) / (norm.running_var.view(view) + norm.eps).sqrt()
    return (x * norm.weight.view(view) + norm.bias.view(view)).clamp(min=0)


def spatial(module, x):
    inner = conv_norm_relu(module.conv2, conv_norm_relu(module.conv1, x))
    logits = (inner * module.final.weight).sum(1, keepdim=True)
    return 1 / (1 + torch.exp(-logits))


def channel(module, x):
    logits = torch.zeros(x.shape[:2])
    for n in range(len(x)):
        for pooled in (x[n].flatten(1).max(1).values, x[n].flatten(1).mean(1)):
            hidden = conv_norm_relu(module.reduce, pooled.view(1, -1, 1, 1)).flatten()
            for c in range(x.shape[1]):
                logits[n, c] += (module.expand.weight[c].flatten() * hidden).sum()
    return (1 / (1 + torch.exp(-logits)))[..., None, None]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@torch.no_grad()
def test_attentions_are_those_of_the_formulas():
    x = torch.randn(2, 32, 5, 7)
    for module, plain in ((SpatialAttention(32), spatial), (ChannelAttention(32), channel)):
        torch.testing.assert_close(randomized(module)(x), plain(module, x), rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_node_lets_attention_choose_between_its_inputs():
    node, x, deeper = randomized(AttentiveNode(32)), torch.randn(2, 32, 5, 7), torch.randn(2, 32, 5, 7)
    s, c = spatial(node.spatial, x), channel(node.channel, deeper)
    expected = torch.empty_like(x)
    for n in range(2):
        for k in range(32):
            for i in range(5):
                for j in range(7):
                    of_x, of_deeper = s[n, 0, i, j] * (1 - c[n, k, 0, 0]), (1 - s[n, 0, i, j]) * c[n, k, 0, 0]
                    expected[n, k, i, j] = of_x * x[n, k, i, j] + of_deeper * deeper[n, k, i, j]
    torch.testing.assert_close(node(x, deeper), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3])
@torch.no_grad()
def test_levels_are_joined_as_the_sum_over_products(count):
    widths = [48, 64, 32][-count:]
    fusion = randomized(LevelFusion(widths))
    levels = [torch.randn(2, c, 2 * 2**i, 3 * 2**i) for i, c in enumerate(widths)]
    size = levels[-1].shape[-2:]
    coarser = zip(fusion.proj, levels[:-1], strict=True)
    maps = [F.interpolate(conv_norm_relu(proj, level), size, mode="bilinear") for proj, level in coarser]
    maps.append(levels[-1])
    expected = torch.zeros_like(levels[-1])
    for i, level in enumerate(maps):
        term = spatial(fusion.spatial, level) * channel(fusion.channel, level) * level
        for finer in maps[i + 1 :]:
            term = term * (1 - spatial(fusion.spatial, finer)) * (1 - channel(fusion.channel, finer))
        expected += term
    torch.testing.assert_close(fusion(levels), expected, rtol=0, atol=1e-6)


def test_the_norm_of_the_channel_attention_sees_the_maxima_first():
    module, x = ChannelAttention(32).train(), torch.randn(4, 32, 5, 7)
    norm = module.reduce[1]
    expected = torch.zeros(2)
    for pooled in (x.amax((2, 3)), x.mean((2, 3))):
        hidden = pooled @ module.reduce[0].weight.flatten(1).t()
        expected = 0.9 * expected + 0.1 * hidden.mean(0).detach()
    module(x)
    torch.testing.assert_close(norm.running_mean, expected)
    assert int(norm.num_batches_tracked) == 2


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_every_output_of_the_decoder_is_trained_and_every_parameter_learns(stride):
    model = create_model(TINY, 5, stride, decoder="afa").train()
    outputs = model.training_outputs(torch.randn(2, 3, 64, 96))
    assert [output.stride for output in outputs.auxiliary] == [s for s in (16, 8, 4, 2) if s >= stride]
    assert {output.weight for output in outputs.auxiliary} == {AUXILIARY_WEIGHT}
    for output in (*outputs.auxiliary, outputs.auxiliary[-1]._replace(logits=outputs.logits)):
        assert output.logits.shape == (2, 5, 64 // output.stride, 96 // output.stride)
    sum(output.logits.square().mean() for output in outputs.auxiliary + (outputs,)).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@torch.no_grad()
def test_gates_begin_at_a_half_and_features_as_large_as_a_plain_decoders():
    model, plain = (create_model("dla46_c", 5, decoder=decoder).train() for decoder in ("afa", "plain"))
    gates = [module for module in model.modules() if isinstance(module, SpatialAttention | ChannelAttention)]
    assert model.gates() == gates
    assert len(gates) == 2 * (1 + 2 + 3 + 4 + 1)  # of all nodes, and of the fusion
    found = []
    for module in gates:
        module.register_forward_hook(lambda module, inputs, output: found.append((output - 0.5).abs().max()))
    x = torch.randn(4, 3, 64, 64)
    sizes = {}
    for network in (model, plain):
        steps = network.decoder.steps(network.features(x))
        sizes[network] = [float(y.std()) for y in (*steps, network.head(network.join(steps)))]
    assert max(found) < 0.1
    for ours, theirs in zip(sizes[model], sizes[plain], strict=True):
        assert 0.4 < ours / theirs < 2.5


def test_fusion_and_auxiliary_heads_start_with_the_originals_spread():
    model = create_model("dla46_c", 19, decoder="afa")
    for conv in (*(proj[0] for proj in model.fusion.proj), *model.auxiliary):
        assert conv.weight.std().item() == pytest.approx((2 / conv.out_channels) ** 0.5, rel=0.15)
        assert conv.bias is None or not conv.bias.any()


@torch.no_grad()
def test_scale_space_rendering_begins_with_every_scale_in_sight():
    phi = []
    model = create_model("dla46_c", 5, decoder="afa", scales=[0.5, 1]).train()
    model.rendering.register_forward_hook(lambda module, inputs, output: phi.append(float(output.abs().mean())))
    model.training_outputs(torch.randn(2, 3, 64, 64))
    assert all(0.1 < value < 3 for value in phi)
    for conv in (model.rendering.conv1[0], model.rendering.conv2[0]):
        assert conv.weight.std().item() == pytest.approx((2 / conv.weight[0].numel()) ** 0.5, rel=0.05)
    assert model.gates()[-1] is model.rendering


@torch.no_grad()
def test_scores_are_the_main_ones_of_training():
    model = create_model(TINY, 5, 4, decoder="afa").eval()
    x = torch.randn(1, 3, 64, 96)
    assert torch.equal(model.coarse_logits(x), model.training_outputs(x).logits)
    assert not hasattr(create_model(TINY, 5, 4), "fusion")


def test_a_file_says_which_decoder_it_is_of(tmp_path):
    model = create_model(TINY, 5, 4, decoder="afa")
    save_model(model, tmp_path / "afa.safetensors")
    loaded = load_model(tmp_path / "afa.safetensors")
    assert type(loaded) is AttentiveDLASeg
    state = model.state_dict()
    assert_same_tensors(loaded.state_dict(), state)
    recognized = recognize(read_checkpoint(tmp_path / "afa.safetensors"))
    assert (recognized.options, recognized.stride, recognized.num_classes) == ({"decoder": "afa"}, 4, 5)
    assert "stride 4, decoder afa" in str(recognized)

    other = create_model(TINY, 7, 4, decoder="afa")
    heads = {name: tensor.clone() for name, tensor in other.state_dict().items() if name.startswith(("head", "aux"))}
    load_weights(other, tmp_path / "afa.safetensors")
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, heads.get(name, state[name])), name

    plain = create_model(TINY, 5, 4)
    with pytest.raises(UserError, match=r"decoder afa, .*: this model has decoder plain: make it with decoder afa, or"):
        load_weights(plain, tmp_path / "afa.safetensors")
    save_model(plain, tmp_path / "plain.safetensors")
    with pytest.raises(UserError, match="this model has decoder afa: make it with decoder plain"):
        load_weights(model, tmp_path / "plain.safetensors")
    model.metadata = replace(model.metadata, architecture={**plain.metadata.architecture})
    save_file(model.state_dict(), tmp_path / "wrong.safetensors", encode_metadata(model.metadata))
    with pytest.raises(UserError, match="its metadata have decoder plain, its tensors decoder afa"):
        load_weights(create_model(TINY, 5, 4, decoder="afa"), tmp_path / "wrong.safetensors")


def test_attention_learns_at_a_rate_of_its_own():
    model = create_model(TINY, 5, 4, decoder="afa")
    optimizer = make_optimizer(model, TrainConfig(optimizer="muon", attention_lr_factor=0.1), torch.device("cpu"))
    factors = {id(parameter): group["factor"] for group in optimizer.param_groups for parameter in group["params"]}
    gates = {id(parameter) for gate in model.gates() for parameter in gate.parameters()}
    assert all(factors[id(p)] == (0.1 if id(p) in gates else 1) for p in model.parameters())
    # Muon orthogonalises no layer that writes logits
    matrices = {id(p) for group in optimizer.param_groups if group["matrices"] for p in group["params"]}
    layers = model.logit_layers()
    assert [layer.out_channels for layer in layers] == [5] * 4
    assert not matrices & {id(layer.weight) for layer in layers}
    assert id(model.fusion.proj[0][0].weight) in matrices
    assert id(model.fusion.spatial.final.weight) not in matrices  # nor one of a single row
    with pytest.raises(UserError, match=r"attention_lr_factor 0\.1: this network has no attention: use 1"):
        make_optimizer(create_model(TINY, 5), TrainConfig(attention_lr_factor=0.1), torch.device("cpu"))


@pytest.mark.parametrize(
    ("argument", "known"), [("decoder", "plain, afa"), ("head", "linear, ocr"), ("activation", "relu, leaky_relu")]
)
def test_a_part_that_there_is_not_is_refused(argument, known):
    with pytest.raises(UserError, match=f"{argument} 'fpn': unknown; use one of {known}$"):
        create_model("dla46_c", 5, **{argument: "fpn"})


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_of_a_maximum_goes_to_one_of_the_pixels_that_have_it(layout, deterministic, monkeypatch):
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: deterministic)
    x = torch.randint(3, (2, 4, 5, 6)).float().to(memory_format=layout).requires_grad_()
    largest = largest_of_image(x, differentiable=True)
    assert torch.equal(largest, largest_of_image(x, differentiable=False))
    largest.backward(torch.full_like(largest, 2))
    assert torch.equal((x.grad == 2).sum((2, 3)), torch.ones(2, 4))
    assert x.grad.count_nonzero() == 8
    assert torch.all(x[x.grad > 0] == largest.flatten())


@pytest.mark.slow
def test_compiled_in_bfloat16_its_gradients_are_numbers():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.node = conv_level(3, 16), AttentiveNode(16)
            initialize_attention(self)

        def forward(self, x):
            features = self.conv(x)
            return self.node(features, (1.1 * features).relu())

    network = Network()
    with torch.autocast("cpu", torch.bfloat16):
        out = torch.compile(network, dynamic=False)(torch.randn(4, 3, 32, 48))
    out.float().square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_engines_compute_it(name):
    model = create_model("dla46_c", 5, 4, decoder="afa")
    for _ in range(30):  # without statistics, numbers grow from layer to layer, and sigmoids become steps
        model.training_outputs(torch.randn(4, 3, 64, 96))
    model.eval()
    images = torch.randint(256, (2, 3, 65, 97), dtype=torch.uint8)
    expected = make_backend("torch", model, "cpu", "float32").run(images)
    logits = make_backend(name, model, "cpu", "float32").run(images)
    # In float32, torch itself is 1e-4 off double precision
    assert (logits - expected).abs().max() < LARGEST_ERROR["float32"] * expected.abs().max()


@pytest.mark.slow
def test_one_word_in_the_config_trains_it(tmp_path):
    config = tiny_config(write_camvid(tmp_path / "data"))
    config = replace(with_train(config, batch_size=4, grad_accum_steps=2), model=replace(config.model, decoder="afa"))
    fit(Segmentation(config), tmp_path / "run", report=no_report)
    assert log_rows(tmp_path / "run")[-1]["miou"] is not None
    predictor = Predictor(tmp_path / "run/best.safetensors", "torch", device="cpu")
    assert predictor.metadata.architecture["decoder"] == "afa"
    config = with_train(config, batch_size=2)
    with pytest.raises(UserError, match=r"train.batch_size 2: this network needs 2 images at a time .*: use 4 or more"):
        fit(Segmentation(config), tmp_path / "few", report=no_report)
    assert not (tmp_path / "few/last.ckpt").exists()
