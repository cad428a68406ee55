import dataclasses

import pytest

from dlaseg import LabelMap, UserError, create_backbone, create_model
from dlaseg.metadata import ModelMetadata, imagenet_statistics

LABELS = LabelMap(("leaf", "stem"), ((1, 2, 3), (4, 5, 6)), ((0,), (1,)))


def test_a_network_carries_its_architecture_classes_and_imagenets_statistics():
    model = create_model("dla46_c", num_classes=2, stride=4)
    assert model.metadata.architecture["name"] == "dla46_c"
    assert model.metadata.labels.names == ("class 0", "class 1")
    assert (model.metadata.mean, model.metadata.std) == imagenet_statistics(3)
    assert (model.metadata.num_classes, model.metadata.in_channels) == (2, 3)
    classifier = create_backbone("dla46_c", num_classes=3)
    assert classifier.metadata.class_names == ("class 0", "class 1", "class 2")
    assert create_backbone("dla46_c").metadata.num_classes == 0


def test_metadata_are_replaced_as_a_whole():
    # A network's metadata cannot be changed by whoever else holds them, such as a copy of the network
    model = create_model("dla46_c", num_classes=2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.metadata.mean = (0.0, 0.0, 0.0)
    before = model.metadata
    model.metadata = dataclasses.replace(before, label_map=LABELS)
    assert before.labels.names == ("class 0", "class 1")
    assert model.metadata.labels is LABELS


def test_a_classifier_has_no_label_map():
    with pytest.raises(UserError, match="segmentation network"):
        _ = create_backbone("dla46_c", num_classes=2).metadata.labels


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_other_than_three_channels_have_the_average_of_imagenets(channels):
    mean, std = imagenet_statistics(channels)
    assert mean == (pytest.approx((0.485 + 0.456 + 0.406) / 3),) * channels
    assert std == (pytest.approx((0.229 + 0.224 + 0.225) / 3),) * channels


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_map": LabelMap.numbered(3)}, "a label map of 3 classes for a network of 2"),
        ({"label_map": None, "class_names": ("a",)}, "class names of 1 classes for a network of 2"),
        ({"mean": (0.5,), "std": (0.5,)}, r"mean \[0\.5\]: give one number for each of 3 channels"),
    ],
)
def test_what_does_not_fit_the_network_is_refused(change, message):
    metadata = dataclasses.replace(ModelMetadata.for_segmentation(2, 3), **change)
    with pytest.raises(UserError, match=message):
        metadata.check(num_classes=2, in_channels=3)


def test_mean_and_std_are_of_the_same_channels():
    with pytest.raises(UserError, match=r"^mean \[0\.5\], std \[0\.5, 0\.5\]: give one number of both for each"):
        ModelMetadata(mean=(0.5,), std=(0.5, 0.5))


def label_map(*names: str) -> LabelMap:
    return dataclasses.replace(LabelMap.numbered(len(names)), names=names)


@pytest.mark.parametrize(
    ("names", "sides"),
    [
        (("skin", "l_eye", "r_eye"), ("l_eye", "r_eye")),
        (("face", "Right-arm", "Left-arm"), ("Right-arm", "Left-arm")),
        (("lane", "lane RIGHT", "lane left"), ("lane RIGHT", "lane left")),
        (("road", "car r", "car"), None),
        (("bright", "blight", "road", "load"), None),
        (("left turn", "straight on"), None),
        (("Left", "left"), None),
    ],
)
def test_classes_that_a_mirror_exchanges_are_known_by_their_names(names, sides):
    assert ModelMetadata(label_map=label_map(*names)).mirrored_classes == sides
