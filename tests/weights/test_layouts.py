"""Everyone's weights against the networks that wrote them: timm's backbone, and the original's decoder by hand."""

import logging
import warnings
from dataclasses import asdict, replace
from functools import cache

import pytest
import timm
import torch
from dlaseg_testing import TINY
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from dlaseg import LabelMap, UserError, create_backbone, create_model, list_models, load_model, save_model
from dlaseg.metadata import MAX_ORIGINS, Origin
from dlaseg.models.dla import DLA, VARIANTS
from dlaseg.models.segmenter import DLASeg
from dlaseg.weights.checkpoints import read_checkpoint
from dlaseg.weights.loading import load_backbone_weights, load_weights

pytestmark = pytest.mark.usefixtures("tiny_variant")

CLASSES = 5

# Trees whose `project` the original makes and never uses, beside it (in channels, out channels)
DEAD = {
    "dla34": {"level3": (64, 128), "level4": (128, 256)},
    "dla46_c": {"level4": (64, 128)},
    "dla46x_c": {"level4": (64, 128)},
    "dla60x_c": {"level4": (64, 128), "level4.tree1": (64, 128)},
    "dla60": {"level3": (128, 256), "level4": (256, 512), "level4.tree1": (256, 512)},
    "dla60x": {"level3": (128, 256), "level4": (256, 512), "level4.tree1": (256, 512)},
    "dla102": {
        "level3": (128, 256),
        "level3.tree1": (128, 256),
        "level4": (256, 512),
        "level4.tree1": (256, 512),
        "level4.tree1.tree1": (256, 512),
    },
    "dla169": {
        "level2": (32, 128),
        "level3": (128, 256),
        "level3.tree1": (128, 256),
        "level4": (256, 512),
        "level4.tree1": (256, 512),
        "level4.tree1.tree1": (256, 512),
        "level4.tree1.tree1.tree1": (256, 512),
    },
}
DEAD["dla102x"] = DEAD["dla102x2"] = DEAD["dla102"]


def all_but(*names):
    """All variants, as slow tests but for the given ones."""
    return [pytest.param(name, marks=() if name in names else [pytest.mark.slow]) for name in DEAD]


WIDTHS = {"dla34": (16, 32, 64, 128, 256, 512), "dla46_c": (16, 32, 64, 64, 128, 256)}
WIDTHS["dla60"] = (16, 32, 128, 256, 512, 1024)


@cache
def theirs(name, in_channels=3, classes=CLASSES):
    """timm's classifier with weights and running statistics of its own."""
    torch.manual_seed(sum(map(ord, name)))
    network = timm.create_model(name, num_classes=classes, in_chans=in_channels).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            scatter(module)
    return network


def scatter(norm):
    nn.init.uniform_(norm.weight, 0.2, 0.7)
    nn.init.normal_(norm.bias, std=0.1)
    norm.running_mean.normal_(std=0.1)
    norm.running_var.uniform_(0.5, 2)
    norm.num_batches_tracked.fill_(7)


def with_dead(name, state):
    """Adds what the original's networks carry along."""
    state = dict(state)
    for tree, (inputs, outputs) in DEAD[name].items():
        project = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        state |= {f"{tree}.project.{key}": tensor for key, tensor in project.state_dict().items()}
    return state


def prefixed(prefix, state):
    return {f"{prefix}{key}": tensor for key, tensor in state.items()}


def images(count=2, height=64, width=96, channels=3):
    return torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(1))


def same(ours, theirs, x):
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs(x), rtol=1e-5, atol=1e-5)


def save_in_2018(state, path):
    """Saves as PyTorch did then: tensors rebuilt by another function, in no zip archive, batch norm not counted."""

    def reduce(tensor, protocol):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # storages with a type are a thing of the past
            parts = tensor.storage(), tensor.storage_offset(), tuple(tensor.shape), tensor.stride()
        return torch._utils._rebuild_tensor, parts

    state = {key: tensor for key, tensor in state.items() if "num_batches_tracked" not in key}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "__reduce_ex__", reduce)
        torch.save(state, path, _use_new_zipfile_serialization=False)


LAYOUTS = {
    "safetensors": lambda name, state, path: save_file(state, path),
    "pickle": lambda name, state, path: torch.save(state, path),
    "old pickle": lambda name, state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "original": lambda name, state, path: torch.save(with_dead(name, state), path),
    "original of 2018": lambda name, state, path: save_in_2018(with_dead(name, state), path),
    "original as safetensors": lambda name, state, path: save_file(with_dead(name, state), path),
    "trainer": lambda name, state, path: torch.save(
        {"epoch": 90, "arch": name, "best_prec1": torch.tensor(75.0), "state_dict": prefixed("module.", state)}, path
    ),
    "model": lambda name, state, path: torch.save({"model": state, "optimizer": {"state": {}}}, path),
    "compiled and distributed": lambda name, state, path: torch.save(
        {"model": {"state_dict": prefixed("module._orig_mod.backbone.", state)}}, path
    ),
}


OF_TWO = ("pickle", "old pickle", "original as safetensors")
"""Layouts of which others here are one half or the other."""


@pytest.mark.parametrize(
    "layout", [pytest.param(name, marks=[pytest.mark.slow] if name in OF_TWO else ()) for name in LAYOUTS]
)
def test_a_classifier_loads_whatever_it_is_wrapped_in(layout, tmp_path):
    network = theirs("dla46_c")
    path = tmp_path / "file"  # its name says nothing
    LAYOUTS[layout]("dla46_c", network.state_dict(), path)
    same(create_backbone("dla46_c", CLASSES, weights=path), network, images())


@pytest.mark.parametrize("name", all_but("dla34"))
def test_every_variant_loads_in_the_originals_layout(name, tmp_path):
    network = theirs(name)
    torch.save(with_dead(name, network.state_dict()), tmp_path / "w.pth")
    same(create_backbone(name, CLASSES, weights=tmp_path / "w.pth"), network, images(1, 64, 64))


@pytest.mark.parametrize("name", all_but("dla46x_c"))
def test_every_variant_loads_in_timms_layout(name, tmp_path):
    network = theirs(name)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    same(create_backbone(name, CLASSES, weights=tmp_path / "w.safetensors"), network, images(1, 64, 64))


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", DEAD)
def test_every_variant_loads_in_every_layout(name, layout, tmp_path):
    network = theirs(name)
    LAYOUTS[layout](name, network.state_dict(), tmp_path / "w")
    same(create_backbone(name, CLASSES, weights=tmp_path / "w"), network, images(1, 64, 64))


def test_the_table_of_dead_tensors_has_every_variant():
    assert sorted(DEAD) == sorted(set(list_models()) - {TINY})


@pytest.fixture
def timm46(tmp_path):
    path = tmp_path / "timm46.safetensors"
    save_file(theirs("dla46_c").state_dict(), path)
    return path


def levels_of(network, x):
    """The six feature maps of timm's network."""
    x = network.base_layer(x)
    maps = []
    for i in range(6):
        x = getattr(network, f"level{i}")(x)
        maps.append(x)
    return maps


def test_a_backbone_without_a_classifier_takes_a_classifiers_levels(timm46):
    x = images()
    with torch.no_grad():
        for ours, level in zip(
            create_backbone("dla46_c", weights=timm46).eval()(x), levels_of(theirs("dla46_c"), x), strict=True
        ):
            torch.testing.assert_close(ours, level, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["dla46_c", pytest.param("dla102", marks=pytest.mark.slow)])
def test_1x1_nodes_become_3x3_nodes_that_compute_the_same(name, tmp_path):
    save_file(theirs(name).state_dict(), tmp_path / "w.safetensors")
    wide = create_backbone(name, CLASSES, root_kernel_size=3, weights=tmp_path / "w.safetensors")
    same(wide, theirs(name), images(1))
    kernels = [tensor for key, tensor in wide.named_parameters() if key.endswith("root.conv.weight")]
    assert kernels
    for kernel in kernels:
        assert kernel.shape[2:] == (3, 3)
        assert kernel.count_nonzero() == kernel[:, :, 1, 1].count_nonzero() > 0


def test_3x3_nodes_can_learn_from_their_neighbours(timm46):
    wide = create_backbone("dla46_c", CLASSES, root_kernel_size=3, weights=timm46).train()
    wide(images()).sum().backward()
    for key, kernel in wide.named_parameters():
        if key.endswith("root.conv.weight"):
            assert kernel.grad[:, :, 0, 0].abs().sum() > 0


# The original's segmentation network, computed from its tensors by its names, on timm's backbone


def original_segmentation(name, stride):
    """A state dict in the layout of the original's `segment.py`."""
    return dict(_original_segmentation(name, stride))


@cache
def _original_segmentation(name, stride):
    torch.manual_seed(3)
    first = {2: 1, 4: 2, 8: 3}[stride]
    widths = WIDTHS[name][first:]
    parts: dict[str, nn.Module] = {}
    inputs = list(widths)
    for i in range(len(widths) - 1):
        at = len(widths) - 2 - i
        out = widths[at]
        for j, width in enumerate(inputs[at:]):
            if j == 0:
                continue
            if width != out:
                parts[f"ida_{i}.proj_{j}"] = nn.Sequential(nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out))
            parts[f"ida_{i}.up_{j}"] = nn.ConvTranspose2d(out, out, 4, 2, 1, groups=out, bias=False)
            parts[f"ida_{i}.node_{j}"] = nn.Sequential(
                nn.Conv2d(2 * out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)
            )
        inputs[at + 1 :] = [out] * (len(inputs) - at - 1)
    state = prefixed("base.", with_dead(name, theirs(name, classes=1000).state_dict()))
    for key, part in parts.items():
        for module in part.modules():
            if isinstance(module, nn.BatchNorm2d):
                scatter(module)
        state |= prefixed(f"dla_up.{key}.", part.state_dict())
    head = nn.Conv2d(widths[0], CLASSES, 1)
    state |= prefixed("fc.0.", head.state_dict())
    tent = 1 - (torch.arange(2 * stride) + 0.5 - stride).abs() / stride
    state["up.weight"] = torch.outer(tent, tent).expand(CLASSES, 1, -1, -1).clone()
    return state


def original_logits(name, stride, state, x):
    """What the original computes, before its LogSoftmax."""

    def conv_bn_relu(key, y, padding):
        y = F.conv2d(y, state[f"{key}.0.weight"], padding=padding)
        norm = (state[f"{key}.1.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.relu(F.batch_norm(y, *norm))

    layers = levels_of(theirs(name, classes=1000), x)[{2: 1, 4: 2, 8: 3}[stride] :]
    for i in range(len(layers) - 1):
        joined = [layers[len(layers) - 2 - i]]
        for j, y in enumerate(layers[len(layers) - 1 - i :], start=1):
            key = f"dla_up.ida_{i}"
            if f"{key}.proj_{j}.0.weight" in state:
                y = conv_bn_relu(f"{key}.proj_{j}", y, 0)
            y = F.conv_transpose2d(y, state[f"{key}.up_{j}.weight"], stride=2, padding=1, groups=y.shape[1])
            joined.append(conv_bn_relu(f"{key}.node_{j}", torch.cat([joined[-1], y], 1), 1))
        layers = layers[: len(layers) - 1 - i] + joined[1:]
    coarse = F.conv2d(layers[-1], state["fc.0.weight"], state["fc.0.bias"])
    return F.conv_transpose2d(coarse, state["up.weight"], stride=stride, padding=stride // 2, groups=CLASSES)


def as_checkpoint(state, name, path):
    torch.save({"epoch": 500, "arch": f"{name}up", "state_dict": prefixed("module.", state), "best_prec1": 74.4}, path)
    return path


@pytest.mark.parametrize(
    ("name", "stride", "root_kernel_size"),
    [
        ("dla46_c", 4, 3),
        ("dla46_c", 8, 1),
        *(pytest.param("dla46_c", *sizes, marks=pytest.mark.slow) for sizes in ((4, 1), (8, 3))),
        *(pytest.param(name, 2, size, marks=pytest.mark.slow) for name in ("dla34", "dla60") for size in (1, 3)),
    ],
)
def test_the_originals_segmentation_network_computes_what_it_did(name, stride, root_kernel_size, tmp_path, caplog):
    state = original_segmentation(name, stride)
    path = as_checkpoint(state, name, tmp_path / "model_best.pth.tar")
    with caplog.at_level(logging.WARNING):
        model = create_model(name, CLASSES, stride, root_kernel_size, weights=path).eval()
    assert "ImageNet's are assumed unless others are set (dlaseg weights convert --mean --std" in caplog.text
    x = images(1, 64, 96)
    with torch.no_grad():
        ours, expected = model(x), original_logits(name, stride, state, x)
    inside = (..., slice(stride, -stride), slice(stride, -stride))
    torch.testing.assert_close(ours[inside], expected[inside], rtol=1e-5, atol=1e-5)
    assert torch.equal(ours.argmax(1), expected.argmax(1))
    assert not torch.allclose(ours, expected, atol=1e-3)  # at the border the original fades to zero


def test_the_originals_segmentation_network_gives_its_backbone(tmp_path):
    path = as_checkpoint(original_segmentation("dla46_c", 2), "dla46_c", tmp_path / "w")
    ours = create_backbone("dla46_c", weights=path).eval()
    x = images(1)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), levels_of(theirs("dla46_c", classes=1000), x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fault", ["kernel", "size", "stray", "missing", "step"])
def test_an_original_segmentation_network_that_is_not_quite_one_is_refused(fault, tmp_path):
    state = original_segmentation("dla46_c", 2)
    if fault == "kernel":
        state["up.weight"] = state["up.weight"].clone()
        state["up.weight"][3, 0, 1, 1] += 0.01
        message = r"up\.weight of shape \(5, 1, 4, 4\) is not bilinear"
    elif fault == "size":
        state["up.weight"] = state["up.weight"][:, :, :2, :2].clone()
        message = r"up\.weight of shape \(5, 1, 2, 2\) is not bilinear"
    elif fault == "stray":
        state["aux.0.weight"] = torch.zeros(1)
        message = r"aux\.0\.weight unexpected"
    elif fault == "missing":
        del state["dla_up.ida_1.node_2.1.running_var"]
        message = r"dla_up\.ida_1\.node_2\.1\.running_var missing"
    else:
        state = {key: tensor for key, tensor in state.items() if not key.startswith("dla_up.ida_3.")}
        message = r"fc\.0\.weight of shape \(5, 32, 1, 1\) instead of \(5, 64, 1, 1\)"
    path = as_checkpoint(state, "dla46_c", tmp_path / "w")
    with pytest.raises(UserError, match=message):
        create_model("dla46_c", CLASSES, 2, 1, weights=path)


def test_stride_16_is_not_ours(tmp_path):
    state = original_segmentation("dla46_c", 8)
    state = {key: tensor for key, tensor in state.items() if not key.startswith("dla_up.ida_1.")}
    with pytest.raises(UserError, match="a decoder of 1 steps, output stride 16: dlaseg has 2, 4 and 8"):
        create_model("dla46_c", CLASSES, 8, 1, weights=as_checkpoint(state, "dla46_c", tmp_path / "w"))


# Ours


@pytest.fixture(scope="module")
def ours(tiny_variant, tmp_path_factory):
    """A segmentation network of ours, and its file."""
    torch.manual_seed(5)
    model = create_model(TINY, 3, stride=4, root_kernel_size=3).eval()
    model.metadata = replace(
        model.metadata,
        label_map=LabelMap(
            ("road", "sky", "car"), ((1, 2, 3), (4, 5, 6), (7, 8, 9)), ((7,), (23,), (26,)), (255,), ((0, 0, 0),)
        ),
    )
    model.metadata = replace(model.metadata, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    path = tmp_path_factory.mktemp("ours") / "best.safetensors"
    save_model(model, path)
    return model, path


def test_our_own_file_loads_as_weights(ours):
    model, path = ours
    again = create_model(TINY, 3, 4, 3, weights=path)
    same(again, model, images(1, 45, 70))
    assert (again.metadata.label_map, again.metadata.mean, again.metadata.std) == (
        model.metadata.label_map,
        model.metadata.mean,
        model.metadata.std,
    )


def test_our_own_state_dict_loads_however_it_was_pickled(ours, tmp_path):
    model, _ = ours
    torch.save({"state_dict": prefixed("module.", model.state_dict())}, tmp_path / "w")
    same(create_model(TINY, 3, 4, 3, weights=tmp_path / "w"), model, images(1))


def test_our_own_network_gives_its_backbone_mean_and_std(ours):
    model, path = ours
    other = create_model(TINY, 7, 2, 3, backbone_weights=path).eval()
    with torch.no_grad():
        torch.testing.assert_close(other.backbone(images(1)), model.backbone(images(1)))
    assert (other.metadata.mean, other.metadata.std, other.metadata.num_classes) == (
        model.metadata.mean,
        model.metadata.std,
        7,
    )


def test_our_own_classifier_starts_a_segmentation_network(tmp_path):
    classifier = create_backbone(TINY, 4, root_kernel_size=3)
    classifier.metadata = replace(classifier.metadata, class_names=tuple("abcd"), mean=(0.5, 0.5, 0.5))
    save_model(classifier, tmp_path / "best.safetensors")
    again = create_backbone(TINY, 4, root_kernel_size=3, weights=tmp_path / "best.safetensors")
    same(again, classifier.eval(), images(1))
    assert (again.metadata.class_names, again.metadata.mean) == (tuple("abcd"), (0.5, 0.5, 0.5))
    model = create_model(TINY, 3, backbone_weights=tmp_path / "best.safetensors").eval()
    with torch.no_grad():
        torch.testing.assert_close(model.backbone(images(1))[-1], classifier.features(images(1))[-1])
    with pytest.raises(UserError, match=r"a classifier's weights: .*backbone_weights"):
        load_model(tmp_path / "best.safetensors")


def test_a_head_of_other_classes_is_randomly_initialised_and_logged(ours, caplog):
    model, path = ours
    torch.manual_seed(0)
    fresh = create_model(TINY, 7, 4, 3)
    torch.manual_seed(0)
    loaded = create_model(TINY, 7, 4, 3, weights=path)
    assert "the head is randomly initialised: 7 classes rather than 3" in caplog.text
    assert torch.equal(loaded.head.weight, fresh.head.weight)
    state = loaded.state_dict()
    for key, tensor in model.state_dict().items():
        if not key.startswith("head."):
            assert torch.equal(state[key], tensor), key


def test_a_classifier_of_other_classes_is_randomly_initialised_and_logged(timm46, caplog):
    torch.manual_seed(0)
    fresh = create_backbone("dla46_c", 7)
    torch.manual_seed(0)
    loaded = create_backbone("dla46_c", 7, weights=timm46)
    assert "the classifier is randomly initialised: 7 classes rather than 5" in caplog.text
    assert torch.equal(loaded.fc.weight, fresh.fc.weight)
    assert not torch.equal(loaded.level5.root.conv.weight, fresh.level5.root.conv.weight)


def test_one_channel_is_the_sum_of_three(timm46, caplog):
    grey = images(channels=1)
    same(create_backbone("dla46_c", CLASSES, in_channels=1, weights=timm46), lambda x: theirs("dla46_c")(
        x.expand(-1, 3, -1, -1)), grey)  # fmt: skip
    assert "the first layer is derived from the one for 3 channels: summed for 1" in caplog.text


@pytest.mark.parametrize("channels", [2, 4, 6, 7])
def test_more_channels_repeat_three_to_the_same_sum(channels, timm46, caplog):
    ours = create_backbone("dla46_c", CLASSES, in_channels=channels, weights=timm46).base_layer[0].weight
    theirs_weight = theirs("dla46_c").base_layer[0].weight
    for channel in range(channels):
        torch.testing.assert_close(ours[:, channel], theirs_weight[:, channel % 3] * 3 / channels)
    assert f"repeated for {channels}, times 3/{channels}" in caplog.text


# What is refused


def refused(match, make, *args, **options):
    with pytest.raises(UserError, match=match) as error:
        make(*args, **options)
    assert "\n" not in str(error.value)


def test_another_variant_is_refused_by_its_name(timm46):
    refused(
        "timm's classification layout, dla46_c, 5 classes: this model is a dla46x_c",
        create_backbone,
        "dla46x_c",
        weights=timm46,
    )


def lose(name):
    return lambda state: state.pop(name)


def put(name, tensor):
    return lambda state: state.update({name: tensor})


CONV = "level1.0.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lose("level5.root.bn.running_mean"), r"nearest to dla46_c, but level5\.root\.bn\.running_mean missing"),
        (put("level9.x", torch.zeros(1)), r"level9\.x unexpected"),
        (put("level4.project.0.weight", torch.zeros(128, 64, 3, 3)), r"level4\.project\.0\.weight unexpected"),
        (put("level2.project.2.weight", torch.zeros(1)), r"level2\.project\.2\.weight unexpected"),
        (put(CONV, torch.zeros(32, 16, 5, 5)), r"of shape \(32, 16, 5, 5\) instead of \(32, 16, 3, 3\)"),
        (put(CONV, torch.zeros(32, 16, 3, 3).int()), r"level1\.0\.weight of torch\.int32"),
        (put(CONV, torch.full((32, 16, 3, 3), float("nan"))), r"level1\.0\.weight holds values that are not finite"),
        (lose("fc.bias"), r"fc\.bias missing"),
        (put("fc.weight", torch.zeros(CLASSES, 256)), r"fc\.weight of shape \(5, 256\) instead of \(5, 256, 1, 1\)"),
    ],
)
def test_what_does_not_match_is_refused_by_its_name_and_changes_nothing(change, message, tmp_path):
    state = dict(theirs("dla46_c").state_dict())
    change(state)
    torch.save(state, tmp_path / "w")
    model = create_model("dla46_c", 3)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    refused(message, load_backbone_weights, model, tmp_path / "w")
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert model.metadata.origin == ()


def test_dead_tensors_of_another_variant_are_refused(tmp_path):
    state = with_dead("dla60", {}) | theirs("dla46_c").state_dict()
    torch.save(state, tmp_path / "w")
    refused(r"level3\.project\.0\.weight", create_backbone, "dla46_c", CLASSES, weights=tmp_path / "w")


@pytest.mark.parametrize(
    ("architecture", "first"),
    [("resnet18", r"conv1\.weight"), pytest.param("convnext_atto", r"stem\.0\.weight", marks=pytest.mark.slow)],
)
def test_another_architecture_is_refused_by_its_first_tensor(architecture, first, tmp_path):
    torch.save(timm.create_model(architecture).state_dict(), tmp_path / "w")
    refused(f"not a DLA: .* tensors, the first is {first}", create_backbone, "dla46_c", weights=tmp_path / "w")


def test_a_classifier_is_no_whole_network(timm46):
    refused("it has no decoder: give it as backbone_weights", create_model, "dla46_c", 5, 2, 1, weights=timm46)


def test_another_stride_is_refused_with_the_remedy(ours):
    refused("this model has stride 2: make it with stride 4", create_model, TINY, 3, 2, 3, weights=ours[1])


def test_3x3_nodes_do_not_go_into_1x1_nodes(ours):
    refused("make it with root_kernel_size 3", create_model, TINY, 3, 4, 1, weights=ours[1])


def test_other_channels_than_3_are_never_adapted(tmp_path):
    torch.save(theirs("dla46_c", in_channels=4).state_dict(), tmp_path / "w")
    refused("this model has 3: use in_channels 4", create_backbone, "dla46_c", weights=tmp_path / "w")


def test_both_kinds_of_weights_at_once_are_refused(ours):
    refused("pass at most one of the two", create_model, TINY, 3, 4, 3, weights=ours[1], backbone_weights=ours[1])
    refused("norm batch: of a file of weights: give weights", create_model, TINY, 3, norm="batch")


def test_what_was_loaded_is_logged_and_kept_with_its_hash(timm46, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        model = create_model("dla46_c", 3, backbone_weights=timm46)
    digest = read_checkpoint(timm46).sha256
    assert digest in caplog.text
    save_model(model, tmp_path / "out.safetensors")
    assert [asdict(origin) for origin in load_model(tmp_path / "out.safetensors").metadata.origin] == [
        {
            "argument": "backbone_weights",
            "source": "timm46.safetensors",
            "layout": "timm's classification layout, dla46_c, 5 classes",
            "sha256": digest,
        }
    ]


def test_a_file_of_ours_whose_meaning_is_damaged_changes_nothing(ours, tmp_path):
    save_file(ours[0].state_dict(), tmp_path / "w", {"format": "dlaseg-1", "model": "{"})
    other = create_model(TINY, 3, 4, 3)
    before = {key: tensor.clone() for key, tensor in other.state_dict().items()}
    for load in (load_weights, load_backbone_weights):
        refused("broken or no weights file", load, other, tmp_path / "w")
    assert all(torch.equal(tensor, before[key]) for key, tensor in other.state_dict().items())


@pytest.mark.parametrize("load", [load_weights, load_backbone_weights])
def test_a_network_that_was_assembled_by_hand_takes_all_or_nothing(load, ours):
    by_hand = DLASeg(DLA(*VARIANTS["dla46x_c"], root_kernel_size=3), 3, stride=4)
    before = {key: tensor.clone() for key, tensor in by_hand.state_dict().items()}
    refused("tensors do not fit this model, first .*: make the model by create_model", load, by_hand, ours[1])
    assert all(torch.equal(tensor, before[key]) for key, tensor in by_hand.state_dict().items())
    assert by_hand.metadata.origin == ()
    fitting = DLASeg(DLA(*VARIANTS[TINY], root_kernel_size=3), 3, stride=4)
    load(fitting, ours[1])
    with torch.no_grad():
        torch.testing.assert_close(fitting.eval().backbone(images(1)), ours[0].backbone(images(1)))


def test_a_moving_average_beside_the_weights_is_told(tmp_path, caplog):
    state = theirs("dla46_c").state_dict()
    torch.save({"state_dict": state, "state_dict_ema": {"x": torch.ones(1)}, "epoch": 3}, tmp_path / "w")
    with caplog.at_level(logging.WARNING, "dlaseg"):
        same(create_backbone("dla46_c", CLASSES, weights=tmp_path / "w"), theirs("dla46_c"), images(1))
    assert caplog.messages == [
        f"weights {tmp_path / 'w'}: state_dict is used, not its moving average state_dict_ema: to use that, save "
        "torch.load(FILE)['state_dict_ema'] by torch.save and load the result"
    ]
    caplog.clear()
    torch.save({"state_dict": state, "state_dict_ema": None}, tmp_path / "w")
    with caplog.at_level(logging.WARNING, "dlaseg"):
        create_backbone("dla46_c", CLASSES, weights=tmp_path / "w")
    assert caplog.messages == []


def test_the_state_of_torchs_averaged_model_loads(tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(theirs("dla46_c"))
    for content in (averaged.state_dict(), {"state_dict": averaged.state_dict()}):
        torch.save(content, tmp_path / "w")
        same(create_backbone("dla46_c", CLASSES, weights=tmp_path / "w"), theirs("dla46_c"), images(1))


@pytest.mark.parametrize("argument", ["weights", "backbone_weights"])
def test_the_mean_of_three_channels_does_not_go_to_one(ours, argument):
    _, path = ours
    grey = create_model(TINY, 3, 4, 3, in_channels=1, **{argument: path})
    assert grey.metadata.mean == create_model(TINY, 3, 4, 3, in_channels=1).metadata.mean


def test_the_label_map_of_other_classes_does_not_come_with_the_weights(ours):
    _, path = ours
    loaded = create_model(TINY, 7, 4, 3, weights=path)
    assert loaded.metadata.num_classes == 7


def test_of_a_long_history_the_oldest_origins_are_dropped(ours, tmp_path):
    model, _ = ours
    earlier = tuple(Origin("weights", f"{i}.safetensors", "dlaseg", "0" * 64) for i in range(MAX_ORIGINS))
    model.metadata = replace(model.metadata, origin=earlier)
    save_model(model, tmp_path / "a.safetensors")
    for argument in ("weights", "backbone_weights"):
        loaded = create_model(TINY, 3, 4, 3, **{argument: tmp_path / "a.safetensors"})
        assert loaded.metadata.origin[1:] == earlier[:-1]


def test_the_class_names_of_a_classifier_of_other_classes_do_not_come_with_it(tmp_path):
    classifier = create_backbone(TINY, 4)
    classifier.metadata = replace(classifier.metadata, class_names=tuple("abcd"))
    save_model(classifier, tmp_path / "a.safetensors")
    other = create_backbone(TINY, 7, weights=tmp_path / "a.safetensors")
    assert len(other.metadata.class_names) == 7
