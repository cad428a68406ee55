"""From an image to its label map."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dlaseg.data.tensors import normalize
from dlaseg.errors import UserError
from dlaseg.factory import load_model
from dlaseg.inference.backends.torch import BACKENDS
from dlaseg.models.base import argmax_logits
from dlaseg.models.segmenter import DLASeg


class Predictor:
    """A network ready for use: preprocess, backend, decode.

    Args:
        weights: a `.safetensors` file, or a model. A model is copied: training it further changes nothing here.
        backend: what computes; `torch`.
        device: `auto` (the first of cuda, mps, cpu that this machine has), or a device's name.

    Attributes:
        label_map: what the classes are.
        arguments: what `create_model` was called with.

    Raises:
        UserError: no such weights, backend or device, or a network that does not take three channels.

    Example:
        >>> from dlaseg.factory import create_model
        >>> predictor = Predictor(create_model("dla46_c", num_classes=19), device="cpu")
        >>> predictor(np.zeros((33, 50, 3), np.uint8)).shape
        (33, 50)
    """

    def __init__(self, weights: str | Path | DLASeg, backend: str = "torch", device: str = "auto"):
        if backend not in BACKENDS:
            raise UserError(f"backend {backend!r}: unknown; use one of {', '.join(BACKENDS)}")
        model = weights if isinstance(weights, DLASeg) else load_model(weights)
        if model.metadata.in_channels != 3:
            raise UserError(f"a network of {model.metadata.in_channels} input channels: RGB images need one of 3")
        self.label_map = model.metadata.labels
        self.arguments = dict(model.metadata.architecture)
        self._mean, self._std, self._stride = model.metadata.mean, model.metadata.std, model.stride
        self._backend = BACKENDS[backend](model, device)

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Predicts the class of every pixel.

        Args:
            image: (H, W, 3) uint8, RGB, any H and W from 1 upwards; see `dlaseg.images.read_image`.

        Returns:
            (H, W) uint8 train ids, 0 to C - 1.

        Raises:
            UserError: an image of another shape or type.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise UserError(f"image of shape {image.shape}, {image.dtype}: a predictor takes (H, W, 3) uint8, RGB")
        height, width = image.shape[:2]
        # torch takes neither reversed nor read-only arrays; these, and only these, are copied
        pixels = torch.from_numpy(np.require(image, requirements=("C", "W")))  # (H, W, 3)
        images = pixels.to(self._backend.device).permute(2, 0, 1)[None]  # (1, 3, H, W)
        coarse = self._backend(normalize(images, self._mean, self._std))  # (1, C, h, w)
        return argmax_logits(coarse, self._stride, height, width)[0].cpu().numpy()  # (H, W)
