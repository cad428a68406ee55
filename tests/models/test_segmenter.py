from copy import deepcopy
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from dlaseg import UserError, create_backbone, create_model, list_models
from dlaseg.models.base import SegmentationModel, upsample_logits
from dlaseg.models.segmenter import STRIDES, DLASeg


@cache
def small_model(stride=2):
    torch.manual_seed(0)
    return create_model("dla46_c", num_classes=5, stride=stride).eval()


def answer(model, images):
    with torch.no_grad():
        return model(images)


@given(height=st.integers(1, 70), width=st.integers(1, 70), stride=st.sampled_from(STRIDES))
@settings(max_examples=15)
def test_logits_have_the_images_size_whatever_it_is(height, width, stride):
    logits = answer(small_model(stride), torch.randn(2, 3, height, width))
    assert logits.shape == (2, 5, height, width)
    assert logits.isfinite().all()


@pytest.mark.parametrize("stride", STRIDES)
def test_coarse_logits_have_the_padded_size_divided_by_the_stride(stride):
    with torch.no_grad():
        coarse = small_model(stride).coarse_logits(torch.randn(1, 3, 33, 50))
    assert coarse.shape == (1, 5, 64 // stride, 64 // stride)


@pytest.mark.parametrize("stride", STRIDES)
def test_a_multiple_of_32_is_not_padded(stride):
    torch.manual_seed(0)
    model, images = small_model(stride), torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        features = model.backbone.features(images)
        coarse = model.head(model.decoder(features[model.first_level :]))
        expected = F.interpolate(coarse, scale_factor=stride, mode="bilinear", align_corners=False)
        assert torch.equal(model(images), expected)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (33, 50), (32, 31), (65, 64)])
def test_an_odd_size_equals_padding_by_hand_and_cropping(height, width):
    torch.manual_seed(0)
    images = torch.randn(2, 3, height, width)
    rows, columns = (
        [i if i < side else max(0, 2 * (side - 1) - i) for i in range(-(-side // 32) * 32)] for side in (height, width)
    )  # mirrored
    padded = images[:, :, rows][:, :, :, columns]
    assert torch.equal(answer(small_model(), images), answer(small_model(), padded)[:, :, :height, :width])


def test_the_size_of_the_input_may_differ_from_call_to_call():
    torch.manual_seed(0)
    images = torch.randn(1, 3, 40, 40)
    before = answer(small_model(), images)
    answer(small_model(), torch.randn(1, 3, 90, 33))
    assert torch.equal(answer(small_model(), images), before)


@pytest.mark.parametrize("size", [(64, 64), (37, 50)])
def test_channels_last_gives_the_same(size):
    torch.manual_seed(0)
    images = torch.randn(2, 3, *size)
    expected = answer(small_model(), images)
    model = deepcopy(small_model()).to(memory_format=torch.channels_last)
    got = answer(model, images.contiguous(memory_format=torch.channels_last))
    # Fresh weights make large logits: the tolerance is relative to their spread
    assert (got - expected).abs().max() <= 1e-4 * expected.std()


def test_by_default_a_network_trains_its_coarse_logits_and_its_last_convolution_writes_them():
    model, images = small_model(4), torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        outputs = SegmentationModel.training_outputs(model, images)
        assert torch.equal(outputs.logits, model.coarse_logits(images))
    assert outputs.auxiliary == ()
    assert SegmentationModel.logit_layers(model) == [model.head]


def test_upsampling_keeps_the_top_left():
    coarse = torch.randn(1, 2, 4, 4)
    assert torch.equal(upsample_logits(coarse, 2, 5, 3), upsample_logits(coarse, 2, 8, 8)[:, :, :5, :3])


def test_a_model_has_stride_2_and_3x3_roots_by_default():
    model = create_model("dla46_c", num_classes=3)
    assert model.stride == 2
    assert model.backbone.level2.root.conv.kernel_size == (3, 3)
    assert model.metadata.architecture == {
        "name": "dla46_c",
        "num_classes": 3,
        "stride": 2,
        "root_kernel_size": 3,
        "in_channels": 3,
    }


def test_a_model_of_its_arguments_has_the_same_layout():
    model = create_model("dla46_c", 4, stride=8, root_kernel_size=1, in_channels=2)
    again = create_model(**model.metadata.architecture)
    shapes = [{key: tensor.shape for key, tensor in m.state_dict().items()} for m in (model, again)]
    assert shapes[0] == shapes[1]


def test_the_activation_is_that_of_decoder_and_head_alone():
    model = create_model("dla46_c", 3, decoder="afa", head="ocr", scales=[0.5, 1], activation="leaky_relu")
    activations = [item for item in model.named_modules() if isinstance(item[1], nn.ReLU | nn.LeakyReLU)]
    kinds = {(name.split(".")[0], type(module)) for name, module in activations}
    leaky = {(part, nn.LeakyReLU) for part in ("decoder", "fusion", "head", "rendering")}
    assert kinds == {("backbone", nn.ReLU)} | leaky


def test_a_backbone_has_1x1_roots_and_no_classifier_by_default():
    backbone = create_backbone("dla46_c")
    assert backbone.fc is None
    assert backbone.level2.root.conv.kernel_size == (1, 1)


def test_the_list_of_models_is_the_callers_to_change():
    list_models().clear()
    assert len(list_models()) == 10


@pytest.mark.parametrize("make", [create_backbone, lambda name: create_model(name, 3)])
@pytest.mark.parametrize("name", ["dla35", "DLA34", ""])
def test_an_unknown_name_is_refused_with_the_known_ones(make, name):
    with pytest.raises(UserError) as refusal:
        make(name)
    assert repr(name) in str(refusal.value)
    assert all(known in str(refusal.value) for known in list_models())


@pytest.mark.parametrize("stride", [0, 1, 3, 16, 32, -2])
def test_a_stride_other_than_2_4_8_is_refused(stride):
    with pytest.raises(UserError, match=f"stride {stride}: .*2, 4 or 8"):
        create_model("dla46_c", 3, stride)


@pytest.mark.parametrize(
    ("option", "value"),
    [("num_classes", 1), ("num_classes", 0), ("num_classes", -1), ("root_kernel_size", 2), ("in_channels", 0)],
)
def test_a_value_out_of_range_is_refused_by_its_name(option, value):
    with pytest.raises(UserError, match=f"{option} {value}"):
        create_model("dla46_c", **{"num_classes": 3, option: value})


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 33, 50), (1, 4, 33, 50), (33, 50)])
def test_an_input_of_another_shape_is_refused_with_the_shape_that_was_given(shape):
    with pytest.raises(UserError) as refusal:
        small_model()(torch.zeros(shape))
    assert str(shape) in str(refusal.value)


def test_other_than_three_input_channels_share_one_mean_and_std():
    backbone = create_backbone("dla46_c", in_channels=2)
    model = DLASeg(backbone, num_classes=3)
    assert model.metadata.mean == pytest.approx((0.449, 0.449), abs=1e-3)
    assert model.metadata.std == pytest.approx((0.226, 0.226), abs=1e-3)
    backbone.metadata = replace(backbone.metadata, mean=(0.1, 0.2), std=(0.3, 0.4))
    model = DLASeg(backbone, num_classes=3)
    assert (model.metadata.mean, model.metadata.std) == ((0.1, 0.2), (0.3, 0.4))


def test_decoder_and_head_start_with_the_originals_spread():
    torch.manual_seed(0)
    model = create_model("dla34", num_classes=19)
    for node in model.decoder.ida[0].node:
        conv, norm = node[0], node[1]
        assert conv.weight.std().item() == pytest.approx((2 / (9 * conv.out_channels)) ** 0.5, rel=0.02)
        assert (norm.weight == 1).all()
    assert (model.head.bias == 0).all()


def test_initialization_leaves_the_upsampling_bilinear():
    for ida in create_model("dla46_c", num_classes=3).decoder.ida:
        for up in ida.up:
            expected = torch.tensor([0.25, 0.75, 0.75, 0.25])
            assert torch.equal(up.weight, torch.outer(expected, expected).expand_as(up.weight))
