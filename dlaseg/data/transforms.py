"""What is done to a training image and its label map."""

import math
import os
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from dlaseg.config import AugmentConfig
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
        if config.jitter:
            factors = (1 - config.jitter, 1 + config.jitter)
            sharper, blurrier = (config.jitter / 2, config.jitter), (0.1, 2 * config.jitter + 0.1)
            transforms += [
                A.ColorJitter(factors, factors, saturation=(1, 1), hue=(0, 0), p=1),
                A.OneOf([A.Sharpen(sharper, lightness=(1, 1)), A.GaussianBlur(sigma_limit=blurrier)], p=0.5),
            ]
        if config.flip:
            transforms.append(A.HorizontalFlip(p=config.flip))
        self._compose = A.Compose(transforms)

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
        # Compose.set_random_seed gives every transform the same stream, so that, say, only dark images were flipped.
        seeds = np.random.SeedSequence(tuple(seed)).generate_state(len(self._compose.transforms))
        for transform, own in zip(self._compose.transforms, seeds, strict=True):
            transform.set_random_seed(int(own))
        result = self._compose(image=image, mask=target)
        return result["image"], result["mask"]


def _turned(side: int, other: int, angle: float) -> int:
    """How far a rectangle turned by up to `angle` (radians) reaches along `side`, pixels."""
    worst = min(angle, math.atan2(other, side))
    return math.ceil(side * math.cos(worst) + other * math.sin(worst))
