"""The contract of a backend."""

from typing import Protocol

import torch
from torch import Tensor

from dlaseg.metadata import ModelMetadata


class Backend(Protocol):
    """Computes coarse logits; built from a model, or from an exported file that carries its metadata.

    Safe to call from several threads.

    Attributes:
        name: such as `torch`.
        precision: what it computes in: `float32`, `bfloat16` or `float16`.
        device: where results are; images that are there already are not moved.
        metadata: of the model.
        stride: of the model, input pixels per coarse logit.
        multiple: of the model, what the starts of tiles are multiples of.
    """

    name: str
    precision: str
    device: torch.device
    metadata: ModelMetadata
    stride: int
    multiple: int

    def run(self, images: Tensor) -> Tensor:
        """Runs the network.

        Args:
            images: (N, C, H, W), uint8 pixel values, which are normalised here, or float32, normalised already; any H
                and W from 1 upwards.

        Returns:
            (N, num_classes, h, w) float32 on `device`, as from `SegmentationModel.coarse_logits`.
        """
        ...
