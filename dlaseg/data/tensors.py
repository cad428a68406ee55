"""Conversion of images to normalised tensors; not in `transforms`, so that inference does not import albumentations."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_tensor(image: NDArray[np.uint8]) -> Tensor:
    """Converts an image, (H, W, 3) uint8 RGB, to a tensor, (3, H, W) uint8; both share memory if it is contiguous."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalises images: (images / 255 - mean) / std per channel.

    Training, scoring and inference all normalise with this function, on the device of the images.

    Args:
        images: (N, C, H, W) uint8.
        mean: per channel, in units of 255.
        std: per channel, in units of 255.

    Returns:
        (N, C, H, W) float32, in the memory format of the input.
    """
    shape = (1, -1, 1, 1)
    offset = torch.tensor([m * 255 for m in mean], device=images.device).view(shape)
    factor = torch.tensor([1 / (s * 255) for s in std], device=images.device).view(shape)
    return images.float().sub_(offset).mul_(factor)
