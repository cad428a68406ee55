import os
import runpy
import sys

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms import functional as F

from dlaseg.config.pretraining import PretrainAugmentConfig
from dlaseg.config.segmentation import AugmentConfig
from dlaseg.data import transforms
from dlaseg.data.tensors import normalize, to_tensor
from dlaseg.data.transforms import Augmentation, CenterCrop, CropAugmentation
from dlaseg.errors import UserError

FILL = (124.0, 116.0, 104.0)


def augmentation(**strengths):
    """Does nothing but what is asked for."""
    still = {"scale": (1.0, 1.0), "crop_size": (32, 32), "rotation": 0.0, "jitter": 0.0, "flip": 0.0}
    return Augmentation(AugmentConfig(**{**still, **strengths}), FILL)


def everything(crop_size=(32, 32)):
    return augmentation(scale=(0.5, 2.0), crop_size=crop_size, rotation=10.0, jitter=0.4, flip=0.5)


def sample(height=48, width=64):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    return image, rng.choice(np.array([3, 7, 18, 255], np.uint8), (height, width))


@pytest.mark.parametrize("size", [(16, 16), (20, 90), (90, 20), (64, 96), (33, 65)])
@pytest.mark.parametrize("crop_size", [(32, 32), (32, 96)])
def test_the_output_has_the_crops_size_and_eight_bits(size, crop_size):
    augment = everything(crop_size)
    for seed in range(8):
        image, target = augment(*sample(*size), (seed,))
        assert image.shape == (*crop_size, 3)
        assert target.shape == crop_size
        assert image.dtype == target.dtype == np.uint8


@pytest.mark.parametrize("rotation", [10.0, 45.0, 180.0])
@pytest.mark.parametrize("crop_size", [(32, 128), (128, 32)])
def test_an_elongated_crop_keeps_its_size_at_any_rotation(crop_size, rotation):
    _, target = augmentation(crop_size=crop_size, rotation=rotation)(*sample(200, 200), (0,))
    assert target.shape == crop_size


def test_labels_are_never_blended():
    augment = everything()
    seen = set()
    for seed in range(30):
        seen.update(np.unique(augment(*sample(), (seed,))[1]).tolist())
    assert seen == {3, 7, 18, 255}


def test_outside_the_image_the_label_is_255_and_the_pixel_the_fill():
    image, target = augmentation()(np.zeros((20, 24, 3), np.uint8), np.zeros((20, 24), np.uint8), (0,))
    assert (target == 255).sum() == 32 * 32 - 20 * 24
    assert np.unique(image[target == 255], axis=0).tolist() == [list(FILL)]
    assert not image[target == 0].any()


def test_a_pixel_that_the_crop_shall_contain_is_in_it_whatever_else_is_random():
    augment = augmentation(scale=(1.0, 2.0), jitter=0.4, flip=0.5)
    target = np.zeros((80, 90), np.uint8)
    target[70, 5] = 1
    crops = [augment(np.zeros((80, 90, 3), np.uint8), target, (seed,), point=(70, 5))[1] for seed in range(20)]
    assert all((crop == 1).any() for crop in crops)
    assert not all((augment(np.zeros((80, 90, 3), np.uint8), target, (seed,))[1] == 1).any() for seed in range(20))


def test_corners_that_a_rotation_uncovers_are_255_and_the_fill():
    augment = augmentation(rotation=45.0)
    image, target = augment(np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.uint8), (1,))
    far = cv2.erode((target == 255).astype(np.uint8), np.ones((5, 5)), borderValue=1) > 0
    assert far.any()
    assert np.unique(image[far], axis=0).tolist() == [list(FILL)]


def test_a_rotated_crop_inside_a_large_image_uncovers_nothing():
    augment = augmentation(rotation=30.0)
    for seed in range(20):
        assert not augment(np.zeros((96, 96, 3), np.uint8), np.zeros((96, 96), np.uint8), (seed,))[1].any()


def test_the_same_seed_gives_the_same_sample_whatever_came_before():
    first, second = everything(), everything()
    expected = first(*sample(), (1, 2, 3))
    second(*sample(), (9, 9, 9))
    again = second(*sample(), (1, 2, 3))
    assert all(np.array_equal(a, b) for a, b in zip(expected, again, strict=True))


@pytest.mark.parametrize("other", [(2, 0, 0), (0, 2, 0), (0, 0, 2), (0, 1, 1)])
def test_every_part_of_the_seed_matters(other):
    augment = everything()
    assert not np.array_equal(augment(*sample(), (1, 0, 0))[0], augment(*sample(), other)[0])
    assert not np.array_equal(augment(*sample(), (0, 1, 0))[0], augment(*sample(), (0, 0, 1))[0])


def test_the_callers_arrays_are_left_as_they_are():
    image, target = sample()
    before = image.copy(), target.copy()
    everything()(image, target, (0,))
    assert np.array_equal(image, before[0])
    assert np.array_equal(target, before[1])


def test_scale_brightness_and_flip_are_independent_of_one_another():
    augment = augmentation(scale=(1.0, 2.0), jitter=0.4, flip=0.5)
    image = np.full((64, 128, 3), 100, np.uint8)
    columns = np.tile(np.arange(128, dtype=np.uint8), (64, 1))
    drawn = []
    for seed in range(200):
        out, labels = augment(image, columns, (0, 0, seed))
        row = labels[16].astype(int)
        drawn.append((len(np.unique(row)), out.mean(), row[0] > row[-1]))
    correlation = np.corrcoef(np.array(drawn, float).T)
    assert np.abs(correlation[np.triu_indices(3, 1)]).max() < 0.25


def test_strengths_span_their_ranges():
    augment = augmentation(scale=(1.0, 2.0), jitter=0.4, flip=0.25)
    image = np.full((64, 128, 3), 100, np.uint8)
    columns = np.tile(np.arange(128, dtype=np.uint8), (64, 1))
    outputs = [augment(image, columns, (seed,)) for seed in range(200)]
    counts = [len(np.unique(labels[16])) for _, labels in outputs]
    brightness = [out.mean() for out, _ in outputs]
    flipped = [int(labels[16, 0]) > int(labels[16, -1]) for _, labels in outputs]
    assert 15 <= min(counts) < 18 < 29 < max(counts) <= 32
    assert 59 <= min(brightness) < 65 < 135 < max(brightness) <= 141
    assert 0.15 < np.mean(flipped) < 0.35


def test_sharpening_and_blur_span_their_ranges():
    augment = augmentation(crop_size=(32, 64), jitter=0.4)
    image, target = np.full((32, 64, 3), 90, np.uint8), np.zeros((32, 64), np.uint8)
    image[:, 32:] = 130
    rows = [augment(image, target, (seed,))[0][16, :, 0].astype(int) for seed in range(400)]
    # How far the pixel at the edge differs from its own side, per step of the edge
    changes = np.array([(row[0] - row[31]) / (row[-1] - row[0]) for row in rows])
    assert 0.4 < np.mean(np.abs(changes) < 0.01) < 0.65  # half of the images, and the faintest blurs
    sharpened = changes[changes > 0.4]  # 3 times the alpha of 0.2 to 0.4, as the edge has 3 of a pixel's 8 neighbours
    assert 0.5 < sharpened.min() < 0.7 < 1.1 < sharpened.max() < 1.3
    assert -0.3 < changes.min() < -0.25  # 0.28 leaks over an edge at sigma 0.9, and 0.11 at 0.5


@pytest.mark.parametrize("scale", [(1.0, 1.0), (1.0, 2.0), (0.5, 1.0)])
@pytest.mark.parametrize("axis", [0, 1])
def test_image_and_label_stay_aligned(axis, scale):
    augment = augmentation(scale=scale, crop_size=(64, 64), rotation=20.0, flip=0.5)
    position = np.indices((120, 120))[axis].astype(np.uint8)
    image = np.repeat(2 * position[..., None], 3, axis=2)
    for seed in range(20):
        out, labels = augment(image, position, (seed,))
        inside = cv2.erode((labels != 255).astype(np.uint8), np.ones((7, 7)), borderValue=0) > 0
        apart = out[..., 0][inside] / 2 - labels[inside]  # in pixels of the original
        assert inside.sum() > 200
        assert abs(apart.mean()) < 0.1
        assert np.abs(apart).max() <= 2


def test_the_identity_changes_nothing():
    image, target = sample(32, 64)
    out, labels = augmentation(crop_size=(32, 64))(image, target, (5,))
    assert np.array_equal(out, image)
    assert np.array_equal(labels, target)


def test_a_flip_mirrors_image_and_label():
    image, target = sample(32, 64)
    out, labels = augmentation(crop_size=(32, 64), flip=1.0)(image, target, (5,))
    assert np.array_equal(out, image[:, ::-1])
    assert np.array_equal(labels, target[:, ::-1])


def test_jitter_changes_the_image_and_leaves_the_label():
    image, target = sample(32, 64)
    out, labels = augmentation(crop_size=(32, 64), jitter=0.4)(image, target, (5,))
    assert not np.array_equal(out, image)
    assert np.array_equal(labels, target)


@pytest.mark.parametrize(
    ("strengths", "lowest", "highest"),
    [
        ({"gamma": 0.4}, 255 * (100 / 255) ** 1.4, 255 * (100 / 255) ** 0.6),
        ({"color_cast": 0.15}, 85, 115),
    ],
)
def test_tone_and_cast_span_their_ranges(strengths, lowest, highest):
    augment = augmentation(crop_size=(32, 64), **strengths)
    image, target = np.full((32, 64, 3), 100, np.uint8), np.zeros((32, 64), np.uint8)
    drawn = np.array([augment(image, target, (seed,))[0][0, 0] for seed in range(200)], float)
    assert lowest - 2 <= drawn.min() < lowest + 3
    assert highest - 3 < drawn.max() <= highest + 2
    same = (drawn == drawn[:, :1]).all()
    assert same if "gamma" in strengths else not same  # a cast differs between the channels


@pytest.mark.parametrize("strengths", [{"saturation": 0.4}, {"hue": 0.1}])
def test_saturation_and_hue_change_colours_and_leave_grey(strengths):
    augment = augmentation(crop_size=(32, 64), **strengths)
    target = np.zeros((32, 64), np.uint8)
    grey, red = np.full((32, 64, 3), 100, np.uint8), np.full((32, 64, 3), (180, 60, 60), np.uint8)
    drawn = [augment(red, target, (seed,))[0][0, 0].astype(int) for seed in range(100)]
    assert np.abs(augment(grey, target, (0,))[0].astype(int) - 100).max() <= 1
    if "saturation" in strengths:
        spread = [pixel.max() - pixel.min() for pixel in drawn]
        assert 70 <= min(spread) < 78 < 160 < max(spread) <= 170  # 120 times 0.6 to 1.4
    else:
        assert {int(pixel.argmin()) for pixel in drawn} == {1, 2}  # towards yellow, and towards magenta
        assert all(abs(pixel.max() - 180) <= 2 for pixel in drawn)


def test_to_tensor_puts_the_channels_first():
    image, _ = sample()
    tensor = to_tensor(image[:, ::-1])
    assert tensor.dtype == torch.uint8
    assert np.array_equal(tensor.numpy(), image[:, ::-1].transpose(2, 0, 1))


def test_normalize_is_the_formula():
    images = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    column = (1, 3, 1, 1)
    expected = (images.numpy() / 255 - np.reshape(mean, column)) / np.reshape(std, column)
    result = normalize(images, mean, std)
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.numpy(), expected, rtol=0, atol=2e-6)


def test_normalize_refuses_floats_and_leaves_them():
    images = torch.full((1, 3, 2, 2), 0.5)
    with pytest.raises(UserError, match=r"^images of type torch\.float32: normalize takes uint8, 0 to 255"):
        normalize(images, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
    assert (images == 0.5).all()


def test_normalize_leaves_its_input_and_memory_format():
    images = torch.full((2, 3, 5, 7), 9, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    result = normalize(images, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
    assert (images == 9).all()
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_importing_keeps_albumentations_from_asking_the_network(monkeypatch):
    seen = []

    class Witness:
        def find_spec(self, name, *rest):
            if name == "albumentations":
                seen.append(os.environ.get("NO_ALBUMENTATIONS_UPDATE"))
                raise ImportError("witnessed")

    monkeypatch.delenv("NO_ALBUMENTATIONS_UPDATE", raising=False)
    monkeypatch.delitem(sys.modules, "albumentations")
    monkeypatch.setattr(sys, "meta_path", [Witness(), *sys.meta_path])
    with pytest.raises(ImportError, match="witnessed"):
        runpy.run_path(transforms.__file__)
    assert seen == ["1"]


def crops(**strengths):
    return PretrainAugmentConfig(**{"crop_size": 32, "resize": 40, "jitter": 0.4, **strengths})


SHAPES = [(1, 1), (1, 50), (50, 1), (20, 90), (33, 65), (64, 64), (200, 150)]


@pytest.mark.parametrize("size", SHAPES)
def test_classifiers_see_crops_of_one_size_whatever_the_image(size):
    image, _ = sample(*size)
    for crop in (CropAugmentation(crops())(image, 3, (0,))[0], CenterCrop(crops())(image)):
        assert crop.shape == (32, 32, 3)
        assert crop.dtype == np.uint8


def test_a_classifiers_crop_comes_from_its_seed_alone():
    image, _ = sample()
    one, other = CropAugmentation(crops()), CropAugmentation(crops())
    other(image, 0, (9, 9, 9))
    assert np.array_equal(one(image, 0, (1, 2, 3))[0], other(image, 0, (1, 2, 3))[0])
    pictures = {one(image, 0, seed)[0].tobytes() for seed in ((1, 2, 3), (0, 2, 3), (1, 0, 3), (1, 2, 0))}
    assert len(pictures) == 4


def test_a_classifiers_target_is_handed_through():
    assert CropAugmentation(crops())(sample()[0], 7, (0,))[1] == 7


def ramps(height, width):
    """Red says the column, green the row, linearly: a resized crop then shows what it was cut from."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns, rows, np.zeros_like(rows)], 2).astype(np.uint8)


def test_areas_and_aspects_of_random_crops_fill_the_ranges_of_the_record():
    augment = CropAugmentation(crops(area=(0.25, 0.5), aspect=(0.5, 2.0), jitter=0, flip=0))
    image = ramps(240, 240)
    areas, aspects = [], []
    for seed in range(200):
        crop = augment(image, 0, (seed,))[0].astype(float)
        # centres of the outer pixels are 31 / 32 of the crop apart
        width = (crop[:, -1, 0].mean() - crop[:, 0, 0].mean()) * 32 / 31
        height = (crop[-1, :, 1].mean() - crop[0, :, 1].mean()) * 32 / 31
        areas.append(width * height / 240**2)
        aspects.append(width / height)
    assert 0.24 < min(areas) < 0.27
    assert 0.48 < max(areas) < 0.51
    assert 0.49 < min(aspects) < 0.55
    assert 1.8 < max(aspects) < 2.04


def test_flips_of_a_classifiers_images_are_as_frequent_as_asked():
    augment = CropAugmentation(crops(area=(1, 1), aspect=(1, 1), jitter=0, flip=0.25))
    flips = [augment(ramps(64, 64), 0, (seed,))[0][0, 0, 0] > 30 for seed in range(400)]
    assert 0.18 < np.mean(flips) < 0.32


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (80, 120), (50, 75)])
def test_the_centre_crop_shows_what_torchvisions_does(size):
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    image = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)  # smooth: interpolations hardly differ
    config = PretrainAugmentConfig(crop_size=64, resize=72)
    theirs = F.center_crop(F.resize(torch.from_numpy(image).permute(2, 0, 1), 72, antialias=True), [64, 64])
    difference = CenterCrop(config)(image).astype(int) - theirs.permute(1, 2, 0).numpy().astype(int)
    assert np.abs(difference).mean() < 1.5


def test_an_image_of_the_crops_size_is_left_as_it_is():
    image, _ = sample(64, 64)
    assert np.array_equal(CenterCrop(PretrainAugmentConfig(crop_size=64, resize=64))(image), image)


def chequered(side=250):
    """Black and white pixels in turn: grey, unless a reduction skips pixels."""
    return np.repeat((np.indices((side, side)).sum(0) % 2 * 255).astype(np.uint8)[..., None], 3, 2)


def test_a_classifiers_images_are_averaged_where_they_shrink():
    whole = CropAugmentation(crops(area=(1, 1), aspect=(1, 1), jitter=0, flip=0))
    for crop in (whole(chequered(), 0, (0,))[0], CenterCrop(crops())(chequered())):
        assert np.abs(crop.astype(int) - 127.5).max() < 26


def test_tone_and_cast_change_every_image():
    image, target = sample(32, 32)
    for strengths in ({"gamma": 0.5}, {"color_cast": 0.5}, {"jitter": 0.5}):
        config = AugmentConfig(crop_size=(32, 32), scale=(1, 1), rotation=0, flip=0, **{"jitter": 0, **strengths})
        augment = Augmentation(config, FILL)
        assert all((augment(image, target, (seed,))[0] != image).any() for seed in range(20))
