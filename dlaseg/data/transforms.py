"""What is done to a training image and its label map, and to the images of a classifier."""

import math
import os
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dlaseg.config import AugmentConfig, PretrainAugmentConfig
from dlaseg.labels import IGNORE_INDEX

# Importing albumentations asks the network for a newer release unless this is set.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A


class Augmentation:
    """Random scale, rotation, crop, colour and flip of a training image; its label map follows with nearest neighbour.

    The paper's recipe (sec. 5.3): scale 0.5 to 2, rotation up to 10 degrees, colour jitter, flip.

    Args:
        config: the strengths.
        fill: RGB, 0 to 255, of what lies outside the image; there the label is 255.
    """

    def __init__(self, config: AugmentConfig, fill: Sequence[float]):
        height, width = config.crop_size
        outside = {"border_mode": cv2.BORDER_CONSTANT, "fill": tuple(fill), "fill_mask": IGNORE_INDEX}
        transforms: list[A.BasicTransform | A.BaseCompose] = []
        if tuple(config.scale) != (1.0, 1.0):
            low, high = config.scale
            least = math.ceil(1 / low)  # pixels that a side needs for one to be left
            transforms.append(A.PadIfNeeded(least, least, **outside))
            # Area interpolation where the image shrinks, since linear would skip pixels. Exact: plain nearest takes a
            # pixel's corner where the image's interpolation takes its middle.
            resize = {"mask_interpolation": cv2.INTER_NEAREST_EXACT, "area_for_downscale": "image"}
            transforms.append(A.RandomScale((low - 1, high - 1), p=1, **resize))
        if config.rotation:
            # Rotate a crop with just enough margin that its corners stay inside the image where the image has them
            above, beside = (
                _turned(side, other, math.radians(config.rotation))
                for side, other in ((height, width), (width, height))
            )
            transforms += [
                A.RandomCrop(above, beside, pad_if_needed=True, pad_position="random", **outside),
                A.Rotate(config.rotation, mask_interpolation=cv2.INTER_NEAREST, p=1, **outside),
                A.CenterCrop(height, width),
            ]
        else:
            transforms.append(A.RandomCrop(height, width, pad_if_needed=True, pad_position="random", **outside))
        self._compose = A.Compose(transforms + _colour_and_flip(config.jitter, config.flip))

    def __call__(
        self, image: NDArray[np.uint8], target: NDArray[np.uint8], seed: Sequence[int]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Transforms one sample.

        Args:
            image: (H, W, 3) uint8 RGB.
            target: (H, W) uint8 train ids.
            seed: such as (seed, epoch, index); all the randomness there is.

        Returns:
            Image and target of the crop's size.
        """
        _reseed(self._compose, seed)
        result = self._compose(image=image, mask=target)
        return result["image"], result["mask"]


class CropAugmentation:
    """Random resized crop, colour and flip of an image that a classifier is trained on.

    The recipe of the paper (sec. 5.1): 8 % to all of the area, aspect 3/4 to 4/3, flip, no colour.

    Args:
        config: the strengths.
    """

    def __init__(self, config: PretrainAugmentConfig):
        size = (config.crop_size, config.crop_size)
        crop = A.RandomResizedCrop(size, tuple(config.area), tuple(config.aspect), area_for_downscale="image")
        self._compose = A.Compose([crop, *_colour_and_flip(config.jitter, config.flip)])

    def __call__(self, image: NDArray[np.uint8], target: int, seed: Sequence[int]) -> tuple[NDArray[np.uint8], int]:
        """Transforms one sample.

        Args:
            image: (H, W, 3) uint8 RGB.
            target: class id, handed through.
            seed: such as (seed, epoch, index); all the randomness there is.

        Returns:
            The crop, (crop_size, crop_size, 3) uint8, and the target.
        """
        _reseed(self._compose, seed)
        return self._compose(image=image)["image"], target


class CenterCrop:
    """What a classifier is validated on: the shorter side scaled to `resize`, then the middle.

    Args:
        config: `resize` and `crop_size`.
    """

    def __init__(self, config: PretrainAugmentConfig):
        shorter = A.SmallestMaxSize(config.resize, area_for_downscale="image")
        self._compose = A.Compose([shorter, A.CenterCrop(config.crop_size, config.crop_size)])

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB of any size to (crop_size, crop_size, 3)."""
        return self._compose(image=image)["image"]


def _colour_and_flip(jitter: float, flip: float) -> list[Any]:
    transforms: list[Any] = []
    if jitter:
        factors = (1 - jitter, 1 + jitter)
        sharper, blurrier = (jitter / 2, jitter), (0.1, 2 * jitter + 0.1)
        transforms += [
            A.ColorJitter(factors, factors, saturation=(1, 1), hue=(0, 0), p=1),
            A.OneOf([A.Sharpen(sharper, lightness=(1, 1)), A.GaussianBlur(sigma_limit=blurrier)], p=0.5),
        ]
    if flip:
        transforms.append(A.HorizontalFlip(p=flip))
    return transforms


def _reseed(compose: A.Compose, seed: Sequence[int]) -> None:
    # Compose.set_random_seed gives every transform the same stream, so that, say, only dark images were flipped.
    seeds = np.random.SeedSequence(tuple(seed)).generate_state(len(compose.transforms))
    for transform, own in zip(compose.transforms, seeds, strict=True):
        transform.set_random_seed(int(own))


def _turned(side: int, other: int, angle: float) -> int:
    """How far a rectangle turned by up to `angle` (radians) reaches along `side`, pixels."""
    worst = min(angle, math.atan2(other, side))
    return math.ceil(side * math.cos(worst) + other * math.sin(worst))
