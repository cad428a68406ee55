"""Images as tensors. Apart from `transforms`, so that inference does not import albumentations."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlaseg.errors import UserError


def to_tensor(image: NDArray[np.uint8]) -> Tensor:
    """(..., H, W, 3) uint8 RGB to (..., 3, H, W) uint8; shares the memory where torch can."""
    # torch takes neither reversed nor read-only arrays; these alone are copied
    return torch.from_numpy(np.require(image, requirements=("C", "W"))).movedim(-1, -3)


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pixel values to network input: (images / 255 - mean) / std per channel.

    The only normalisation in the package, on whatever device the images are, for training, scoring and inference.

    Args:
        images: (N, C, H, W) uint8.
        mean: per channel, in units of 255.
        std: per channel, in units of 255.

    Returns:
        (N, C, H, W) float32, in the memory format of the input.

    Raises:
        UserError: another type: floats could mean several things.
    """
    if images.dtype != torch.uint8:
        raise UserError(f"images of type {images.dtype}: normalize takes uint8, 0 to 255: use images as they are read")
    return normalize_(images.float(), mean, std)


def normalize_(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """As `normalize`, of (N, C, H, W) float32 from 0 to 255, which are overwritten."""
    shape = (1, -1, 1, 1)
    offset = torch.tensor([m * 255 for m in mean], dtype=torch.float32, device=pixels.device).view(shape)
    factor = torch.tensor([1 / (s * 255) for s in std], dtype=torch.float32, device=pixels.device).view(shape)
    return pixels.sub_(offset).mul_(factor)
