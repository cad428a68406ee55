"""Attentive networks in the original's layout, against the original's formulas on the tensors by their names."""

import argparse
import collections
import logging
import os
from functools import cache
from pathlib import PurePosixPath

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from dlaseg import UserError, create_model, load_model
from dlaseg.cli import main
from dlaseg.factory import model_from_checkpoint
from dlaseg.models.skip_init import SkipInit
from dlaseg.models.stretching import StretchedDLASeg
from dlaseg.weights.attentive_layout import from_attentive, to_attentive
from dlaseg.weights.checkpoints import read_checkpoint
from dlaseg.weights.inspection import inspect_weights
from dlaseg.weights.loading import load_backbone_weights, load_weights
from dlaseg.weights.recognition import recognize

CLASSES = 5
WIDTHS = {"dla34": (32, 64, 128, 256, 512), "dla46_c": (32, 64, 64, 128, 256)}
OCR = "ocr.ocr_distri_head."
CONTEXT = f"{OCR}object_context_block."
SCALES = (0.5, 1.0, 1.5)


def scattered(shape):
    """(weight, bias, running_mean, running_var) of a norm; some weights are negative."""
    weight = torch.empty(shape).uniform_(0.3, 1.2) * torch.randint(0, 2, (shape,)).mul(2).sub(1)
    return weight, torch.randn(shape) * 0.1, torch.randn(shape) * 0.1, torch.empty(shape).uniform_(0.5, 2)


class Maker:
    """A state dict by the original's names."""

    def __init__(self):
        self.state = {}

    def conv(self, name, inputs, outputs, size, bias=False):
        self.state[f"{name}.weight"] = torch.randn(outputs, inputs, size, size) * (1.5 / (inputs * size**2)) ** 0.5
        if bias:
            self.state[f"{name}.bias"] = torch.randn(outputs) * 0.1

    def norm(self, name, width):
        for part, tensor in zip(("weight", "bias", "running_mean", "running_var"), scattered(width), strict=True):
            self.state[f"{name}.{part}"] = tensor
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def level(self, name, inputs, outputs, size, first="0", norm="1.0", bias=False):
        self.conv(f"{name}.{first}", inputs, outputs, size, bias)
        self.norm(f"{name}.{norm}", outputs)

    def spatial(self, name, width):
        self.level(f"{name}.conv", width, width, 3)
        self.level(f"{name}.conv_inner", width, width, 3)
        self.conv(f"{name}.final.0", width, 1, 1)

    def channel(self, name, width):
        self.level(f"{name}.conv1", width, width // 16, 1)
        self.conv(f"{name}.conv2.0", width // 16, width, 1)

    def up(self, name, channels, factor, noise=0.0):
        ramp = 1 - (torch.arange(2 * factor) - (factor - 0.5)).abs() / factor
        self.state[f"{name}.weight"] = torch.outer(ramp, ramp).repeat(channels, 1, 1, 1)
        self.state[f"{name}.weight"] += noise * torch.randn(channels, 1, 2 * factor, 2 * factor)


@cache
def classifier(name):
    torch.manual_seed(3)
    network = timm.create_model(name, num_classes=CLASSES).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            weight, bias, mean, var = scattered(module.num_features)
            module.load_state_dict(
                {"weight": weight.abs(), "bias": bias, "running_mean": mean, "running_var": var}, strict=False
            )
    return network


@cache
def original(name, ocr, rendering):
    """What a checkpoint of the original holds."""
    made, widths = Maker(), WIDTHS[name]
    made.state |= {f"backbone.base.{key}": tensor for key, tensor in classifier(name).state_dict().items()}
    torch.manual_seed(4)
    dead = {"dla34": ("level3", 64, 128), "dla46_c": ("level4", 64, 128)}[name]
    made.level(f"backbone.base.{dead[0]}.project", *dead[1:], 1, norm="1")
    running = list(widths)
    for ida in range(4):
        width = widths[3 - ida]
        for i, inputs in enumerate(running[3 - ida :]):
            prefix = f"backbone.afa_dla_up.afa_ida_{ida}"
            if i == 0:
                continue
            if inputs != width:
                made.level(f"{prefix}.proj_{i}", inputs, width, 1)
            made.up(f"{prefix}.up_{i}", width, 2, 0.02)
            made.spatial(f"{prefix}.sa_{i}", width)
            made.channel(f"{prefix}.ca_{i}", width)
        running[4 - ida :] = [width] * (ida + 1)
    made.spatial("backbone.level_sa", widths[0])
    made.channel("backbone.level_ca", widths[0])
    made.level("backbone.proj_1", widths[2], widths[0], 1)
    made.level("backbone.proj_2", widths[1], widths[0], 1)
    for number, width in enumerate(reversed(widths[:4]), 1):
        made.conv(f"fc_{number}.0", width, CLASSES, 1, bias=True)
        made.up(f"up_{number}", CLASSES, 2 ** (5 - number))
    if not ocr:
        made.conv("fc.0", widths[0], CLASSES, 1, bias=True)
        made.up("up", CLASSES, 2)
    else:
        made.level("ocr.conv3x3_ocr", widths[0], 256, 3, bias=True)
        made.level("ocr.aux_head", widths[0], widths[0], 1, bias=True)
        made.conv("ocr.aux_head.2", widths[0], CLASSES, 1, bias=True)
        for part in ("f_pixel", "f_object"):
            made.level(f"{CONTEXT}{part}", 256, 128, 1)
            made.level(f"{CONTEXT}{part}", 128, 128, 1, "2", "3.0")
        made.level(f"{CONTEXT}f_down", 256, 128, 1)
        made.level(f"{CONTEXT}f_up", 128, 256, 1)
        made.level(f"{OCR}conv_bn_dropout", 512, 256, 1)
        made.conv("ocr.cls_head", 256, CLASSES, 1, bias=True)
    if rendering:
        made.spatial("scale_space_attn", 256 if ocr else widths[0])
    return made.state


class Oracle:
    """The original's forward pass on the tensors by their names.

    Args:
        name: of the backbone.
        state: tensors.
        inplace: whether norms outside of the backbone are in-place ones.
    """

    def __init__(self, name, state, inplace):
        self.name, self.state, self.inplace = name, state, inplace

    def conv(self, name, x):
        weight = self.state[f"{name}.weight"]
        return F.conv2d(x, weight, self.state.get(f"{name}.bias"), padding=weight.shape[-1] // 2)

    def norm(self, name, x):
        weight, bias, mean, var = (
            self.state[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = weight.abs() + 1e-5 if self.inplace else weight
        y = (x - mean) / (var + 1e-5).sqrt() * scale + bias
        return torch.where(y > 0, y, (0.01 if self.inplace else 0) * y)

    def level(self, name, x, first="0", norm="1.0"):
        return self.norm(f"{name}.{norm}", self.conv(f"{name}.{first}", x))

    def score(self, name, x):
        return self.conv(f"{name}.final.0", self.level(f"{name}.conv_inner", self.level(f"{name}.conv", x)))

    def channel(self, name, x):
        pooled = (x.amax((2, 3), keepdim=True), x.mean((2, 3), keepdim=True))
        return sum(self.conv(f"{name}.conv2.0", self.level(f"{name}.conv1", y)) for y in pooled).sigmoid()

    def up(self, name, x, factor=2):
        kernel = self.state[f"{name}.weight"]
        return F.conv_transpose2d(x, kernel, stride=factor, padding=factor // 2, groups=len(kernel))

    def backbone(self, x):
        network = classifier(self.name)
        levels, x = [], network.base_layer(x)
        for level in range(6):
            x = getattr(network, f"level{level}")(x)
            levels.append(x)
        layers, joined = levels[1:], []
        for ida in range(4):
            prefix, inputs = f"backbone.afa_dla_up.afa_ida_{ida}", layers[3 - ida :]
            y, outputs = inputs[0], []
            for i, deeper in enumerate(inputs[1:], 1):
                if f"{prefix}.proj_{i}.0.weight" in self.state:
                    deeper = self.level(f"{prefix}.proj_{i}", deeper)
                deeper = self.up(f"{prefix}.up_{i}", deeper)
                s, c = self.score(f"{prefix}.sa_{i}", y).sigmoid(), self.channel(f"{prefix}.ca_{i}", deeper)
                y = s * (1 - c) * y + (1 - s) * c * deeper
                outputs.append(y)
            layers[4 - ida :] = outputs
            joined.append(y)
        size = joined[3].shape[-2:]
        maps = [
            F.interpolate(self.level(f"backbone.proj_{i}", joined[i]), size, mode="bilinear") for i in (1, 2)
        ] + joined[3:]
        s = [self.score("backbone.level_sa", y).sigmoid() for y in maps]
        c = [self.channel("backbone.level_ca", y) for y in maps]
        fused = 0
        for i in range(3):
            weight = s[i] * c[i]
            for k in range(i + 1, 3):
                weight = weight * (1 - s[k]) * (1 - c[k])
            fused = fused + weight * maps[i]
        return fused

    def ocr(self, x):
        pixels, regions = self.level("ocr.conv3x3_ocr", x), self.conv("ocr.aux_head.2", self.level("ocr.aux_head", x))
        shares = regions.flatten(2).softmax(2)
        objects = torch.einsum("nkp,ncp->nck", shares, pixels.flatten(2))[..., None]
        query, key = (
            self.level(f"{CONTEXT}{part}", self.level(f"{CONTEXT}{part}", y), "2", "3.0")
            for part, y in (("f_pixel", pixels), ("f_object", objects))
        )
        value = self.level(f"{CONTEXT}f_down", objects)
        attention = torch.einsum("nchw,nck->nkhw", query, key[..., 0]).mul(128**-0.5).softmax(1)
        context = self.level(f"{CONTEXT}f_up", torch.einsum("nkhw,nck->nchw", attention, value[..., 0]))
        features = self.level(f"{OCR}conv_bn_dropout", torch.cat([context, pixels], 1))
        return self.conv("ocr.cls_head", features), features

    def coarse(self, x):
        fused = self.backbone(x)
        return self.ocr(fused) if "ocr.cls_head.weight" in self.state else (self.conv("fc.0", fused), fused)

    def rendered(self, x, scales, size=None):
        size = size or x.shape[-2:]
        scores, features = {}, {}
        for scale in scales:
            logits, features[scale] = self.coarse(F.interpolate(x, scale_factor=scale, mode="bilinear"))
            if "up.weight" in self.state:
                logits = self.up("up", logits).log_softmax(1)
            scores[scale] = F.interpolate(logits, size, mode="bilinear")
        grid = [side // 2 for side in x.shape[-2:]]
        phi = {
            s: self.score("scale_space_attn", F.interpolate(y, grid, mode="bilinear")).abs()
            for s, y in features.items()
        }
        blended = 0
        for number, scale in enumerate(scales):
            weight = 1 - torch.exp(-phi[scale])
            for smaller in scales[:number]:
                weight = weight * torch.exp(-phi[smaller])
            blended = blended + F.interpolate(weight, size, mode="bilinear") * scores[scale]
        return blended


def as_lightning(state, path, hyper_parameters=None):
    content = {"epoch": 375, "pytorch-lightning_version": "1.6.5"}
    content["state_dict"] = {f"net.{key}": tensor for key, tensor in state.items()}
    if hyper_parameters is not None:
        content["hyper_parameters"] = hyper_parameters
    torch.save(content, path)
    return path


def image(height=64, width=64):
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("ocr", "rendering", "norm"),
    [
        (True, True, "inplace"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (False, False, "batch"),
                (False, False, "inplace"),
                (False, True, "batch"),
                (False, True, "inplace"),
                (True, False, "batch"),
                (True, False, "inplace"),
                (True, True, "batch"),
            )
        ),
    ],
)
@torch.no_grad()
def test_a_published_network_computes_what_it_did(ocr, rendering, norm, tmp_path, caplog):
    name = "dla46_c" if rendering else "dla34"
    state = original(name, ocr, rendering)
    hyper_parameters = {"arch": "afa", "n_scales_inference": ",".join(map(str, SCALES))}
    path = as_lightning(state, tmp_path / "afa.ckpt", hyper_parameters)
    with caplog.at_level(logging.WARNING):
        model = model_from_checkpoint(path, norm).eval()
    assert "ImageNet's are assumed" in caplog.text
    oracle, x = Oracle(name, state, norm == "inplace"), image()
    if not rendering:
        joined = model.join(model.decoder.steps(model.features(x)))
        outputs, (logits, features) = model.head.outputs(joined), oracle.coarse(x)
        for ours, theirs in ((joined, oracle.backbone(x)), (outputs.features, features), (outputs.logits, logits)):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * float(theirs.abs().max()))
        assert torch.equal(model.coarse_logits(x), outputs.logits)
        return
    expected, scores = oracle.rendered(x, SCALES), model(x)
    if not ocr:  # at the border, the original's upsampling fades to zero: two pixels of the smallest scale
        expected, scores = (tensor[..., 4:-4, 4:-4] for tensor in (expected, scores))
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.slow
@torch.no_grad()
def test_a_published_network_may_see_the_image_stretched_as_it_did(tmp_path):
    state = original("dla46_c", ocr=True, rendering=True)
    model = model_from_checkpoint(as_lightning(state, tmp_path / "afa.ckpt"), "batch").eval()
    stretched = F.interpolate(image(100, 120), (128, 128), mode="bilinear")
    expected = Oracle("dla46_c", state, inplace=False).rendered(stretched, (0.5, 1.0), (100, 120))
    scores = StretchedDLASeg(model)(image(100, 120))
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    assert not torch.allclose(model(image(100, 120)), expected, atol=1e-2)


@torch.no_grad()
def test_a_backbone_whose_widths_repeat_has_fewer_projections(tmp_path):
    state = original("dla46_c", ocr=False, rendering=False)
    model = model_from_checkpoint(as_lightning(state, tmp_path / "afa.ckpt"), "batch").eval()
    expected = Oracle("dla46_c", state, inplace=False).coarse(image(64, 96))[0]
    torch.testing.assert_close(model.coarse_logits(image(64, 96)), expected, rtol=0, atol=1e-4)


def test_every_tensor_has_one_name_in_either_layout():
    for name in original("dla34", True, True) | original("dla34", False, True):
        ours = from_attentive(name)
        assert (ours is None) == (name.startswith("backbone.base.fc.") or name.startswith("up"))
        assert ours is None or to_attentive(ours) == name


def test_shapes_are_those_of_the_published_dla102x():
    with SkipInit():
        model = create_model("dla102x", 19, 2, 1, decoder="afa", head="ocr", scales=[0.5, 1])
    shapes = {to_attentive(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    ida = "backbone.afa_dla_up.afa_ida"
    assert shapes[f"{ida}_0.proj_1.0.weight"] == (512, 1024, 1, 1)
    assert shapes[f"{ida}_0.sa_1.conv.0.weight"] == (512, 512, 3, 3)
    assert shapes[f"{ida}_3.ca_1.conv1.0.weight"] == (2, 32, 1, 1)
    assert shapes[f"{ida}_3.up_4.weight"] == (32, 1, 4, 4)
    assert shapes["backbone.proj_1.0.weight"] == (32, 256, 1, 1)
    assert shapes["fc_1.0.weight"] == (19, 512, 1, 1)
    assert shapes["scale_space_attn.conv.1.0.running_var"] == (256,)
    assert shapes["ocr.ocr_distri_head.conv_bn_dropout.0.weight"] == (256, 512, 1, 1)
    assert all(from_attentive(name) is not None for name in shapes)


def test_a_file_that_does_not_tell_its_norm_is_not_loaded_without_it(tmp_path):
    path = as_lightning(original("dla46_c", ocr=False, rendering=False), tmp_path / "afa.ckpt")
    with pytest.raises(UserError, match=r"does not say whether .* have batch norm or in-place norm, .*: set norm"):
        model_from_checkpoint(path)
    assert "norm unknown" in inspect_weights(path)[0]
    with pytest.raises(UserError, match="norm 'layer': use one of batch, inplace"):
        model_from_checkpoint(path, "layer")
    load_backbone_weights(create_model("dla46_c", 7, root_kernel_size=1), path)  # always batch norm


@pytest.mark.parametrize("inplace", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_hyper_parameters_tell_the_norm_and_the_scales(inplace, tmp_path):
    state = original("dla46_c", ocr=False, rendering=True)
    Stranger = collections.namedtuple("Stranger", "x")
    Stranger.__module__ = "argparse"  # where no such class is
    argparse.Stranger = Stranger
    hyper_parameters = argparse.Namespace(
        inplace_abn=inplace, n_scales_inference="1.0,0.5,1.5", root=PurePosixPath("/x"), other=Stranger(1), gpus={1, 2}
    )
    path = as_lightning(state, tmp_path / "afa.ckpt", hyper_parameters)
    del argparse.Stranger
    recognized = recognize(read_checkpoint(path))
    assert recognized.options.get("activation", "relu") == ("leaky_relu" if inplace else "relu")
    assert recognized.options["scales"] == [0.5, 1.0, 1.5]
    assert "hyper_parameters.n_scales_inference: 1.0,0.5,1.5" in inspect_weights(path)[0]
    with pytest.raises(UserError, match=r"its hyper-parameters say (inplace|batch): leave it out"):
        recognize(read_checkpoint(path), "batch" if inplace else "inplace")


def test_hyper_parameters_run_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    state = original("dla46_c", ocr=False, rendering=False)
    path = as_lightning(state, tmp_path / "afa.ckpt", {"inplace_abn": False, "evil": Evil()})
    assert model_from_checkpoint(path).num_classes == CLASSES
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
@torch.no_grad()
def test_a_converted_file_keeps_activation_and_scales(tmp_path):
    state = original("dla46_c", ocr=True, rendering=True)
    path = as_lightning(state, tmp_path / "afa.ckpt")
    assert main(["weights", "convert", str(path), str(tmp_path / "afa.safetensors"), "--norm", "inplace"]) == 0
    model = load_model(tmp_path / "afa.safetensors")
    assert model.metadata.architecture["activation"] == "leaky_relu"
    assert model.scales == (0.5, 1.0)
    expected = Oracle("dla46_c", state, inplace=True).rendered(image(), (0.5, 1.0))
    torch.testing.assert_close(model(image()), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    again = create_model(
        "dla46_c", CLASSES, root_kernel_size=1, decoder="afa", head="ocr", scales=[0.5, 2], activation="leaky_relu"
    )
    load_weights(again, tmp_path / "afa.safetensors")
    assert again.scales == (0.5, 2.0)
    with pytest.raises(UserError, match="this model has activation relu: make it with activation leaky_relu"):
        create_model(
            "dla46_c", CLASSES, 2, 1, decoder="afa", head="ocr", scales=[1], weights=tmp_path / "afa.safetensors"
        )


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("stray", r"ocr\.extra\.weight unexpected"),
        ("missing", r"backbone\.afa_dla_up\.afa_ida_3\.sa_2\.conv_inner\.1\.0\.bias missing"),
        ("shape", r"scale_space_attn\.final\.0\.weight of shape \(2, 256, 1, 1\) instead of \(1, 256, 1, 1\)"),
        ("decoder", r"backbone\.proj_1\.0\.weight missing"),
    ],
)
def test_a_network_that_is_not_quite_one_is_refused_by_the_originals_names(fault, message, tmp_path):
    state = dict(original("dla46_c", ocr=True, rendering=True))
    if fault == "stray":
        state["ocr.extra.weight"] = torch.zeros(1)
    elif fault == "missing":
        del state["backbone.afa_dla_up.afa_ida_3.sa_2.conv_inner.1.0.bias"]
    elif fault == "shape":
        state["scale_space_attn.final.0.weight"] = torch.zeros(2, 256, 1, 1)
    else:
        state = {key: tensor for key, tensor in state.items() if not key.startswith("backbone.proj_1")}
    with pytest.raises(UserError, match=message):
        model_from_checkpoint(as_lightning(state, tmp_path / "afa.ckpt"), "batch")
