"""Augmentation of training images and their targets, and the validation transform of a classifier."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlaseg.config.pretraining import PretrainAugmentConfig
from dlaseg.config.segmentation import AugmentConfig
from dlaseg.data.geometry import RandomAffineCrop

# Unless this is set, albumentations checks the network for a newer release when it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A


class Augmentation:
    """Random scale, rotation, crop, colour changes and flip of a training image and its label map.

    The paper's recipe (sec. 5.3): scale 0.5 to 2, rotation up to 10 degrees, colour jitter, flip. Labels are resampled
    with nearest neighbour. See `RandomAffineCrop` for the geometry.

    Args:
        config: the strengths.
        fill: RGB, 0 to 255, of pixels outside the image; their label is 255.
        max_short_side: of images that count as they are, see `RandomAffineCrop`.
    """

    def __init__(self, config: AugmentConfig, fill: Sequence[float], max_short_side: int | None = None):
        self._crop = RandomAffineCrop(config.crop_size, config.scale, config.rotation, fill, max_short_side)
        color = _color(config.jitter, config.saturation, config.hue, config.gamma, config.color_cast)
        self._compose = A.Compose([*color, *_flip(config.flip)])

    def __call__(
        self,
        image: NDArray[np.uint8],
        target: NDArray[np.uint8],
        seed: Sequence[int],
        point: tuple[int, int] | None = None,
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Transforms one sample.

        Args:
            image: (H, W, 3) uint8 RGB.
            target: (H, W) uint8 train ids.
            seed: such as (seed, epoch, index); the only source of randomness.
            point: row and column of a pixel that the crop contains, see `RandomAffineCrop`; None for a crop anywhere.

        Returns:
            Image, (crop height, crop width, 3) uint8, and target, (crop height, crop width) uint8.
        """
        crop_seed, color_seed = np.random.SeedSequence(tuple(seed)).spawn(2)
        image, target = self._crop(image, target, np.random.default_rng(crop_seed), point)
        _reseed(self._compose, color_seed)
        result = self._compose(image=image, mask=target)
        return result["image"], result["mask"]


class CropAugmentation:
    """Random resized crop, colour jitter and flip of a training image of a classifier.

    The recipe of the paper (sec. 5.1): 8 % to all of the area, aspect 3/4 to 4/3, flip, no colour jitter.

    Args:
        config: the strengths.
    """

    def __init__(self, config: PretrainAugmentConfig):
        size = (config.crop_size, config.crop_size)
        crop = A.RandomResizedCrop(size, tuple(config.area), tuple(config.aspect), area_for_downscale="image")
        self._compose = A.Compose([crop, *_color(config.jitter), *_flip(config.flip)])

    def __call__(self, image: NDArray[np.uint8], target: int, seed: Sequence[int]) -> tuple[NDArray[np.uint8], int]:
        """Transforms one sample.

        Args:
            image: (H, W, 3) uint8 RGB.
            target: class id, returned unchanged.
            seed: such as (seed, epoch, index); the only source of randomness.

        Returns:
            The crop, (crop_size, crop_size, 3) uint8, and the target.
        """
        _reseed(self._compose, np.random.SeedSequence(tuple(seed)))
        return self._compose(image=image)["image"], target


class CenterCrop:
    """Validation transform of a classifier: scales the shorter side to `resize`, then crops the centre.

    Args:
        config: `resize` and `crop_size`.
    """

    def __init__(self, config: PretrainAugmentConfig):
        shorter = A.SmallestMaxSize(config.resize, area_for_downscale="image")
        self._compose = A.Compose([shorter, A.CenterCrop(config.crop_size, config.crop_size)])

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Transforms an image, (H, W, 3) uint8 RGB of any size, to (crop_size, crop_size, 3)."""
        return self._compose(image=image)["image"]


def _color(
    jitter: float, saturation: float = 0.0, hue: float = 0.0, gamma: float = 0.0, color_cast: float = 0.0
) -> list[Any]:
    transforms: list[Any] = []
    if jitter or saturation or hue:
        transforms.append(A.ColorJitter(*map(_around_1, (jitter, jitter, saturation)), hue=(-hue, hue), p=1))
    if gamma:
        transforms.append(A.RandomGamma((100 * (1 - gamma), 100 * (1 + gamma)), p=1))  # exponents in per cent
    if color_cast:
        transforms.append(A.MultiplicativeNoise(_around_1(color_cast), per_channel=True, elementwise=False, p=1))
    if jitter:
        sharpen_alpha, blur_sigma = (jitter / 2, jitter), (0.1, 2 * jitter + 0.1)
        transforms.append(
            A.OneOf([A.Sharpen(sharpen_alpha, lightness=(1, 1)), A.GaussianBlur(sigma_limit=blur_sigma)], p=0.5)
        )
    return transforms


def _around_1(strength: float) -> tuple[float, float]:
    return 1 - strength, 1 + strength


def _flip(probability: float) -> list[Any]:
    return [A.HorizontalFlip(p=probability)] if probability else []


def _reseed(compose: A.BaseCompose, seed: np.random.SeedSequence) -> None:
    # set_random_seed gives all transforms inside the same stream. Then, for example, only dark images were flipped, and
    # as OneOf acts if its first number is below 0.5, what it picks drew from the lower half of its range alone.
    seeds = seed.generate_state(len(compose.transforms)).tolist()
    for transform, transform_seed in zip(compose.transforms, seeds, strict=True):
        transform.set_random_seed(transform_seed)
        if isinstance(transform, A.BaseCompose):
            _reseed(transform, np.random.SeedSequence(transform_seed))
