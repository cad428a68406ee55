"""The contract of a backend."""

from typing import Protocol

import torch
from torch import Tensor

from dlaseg.metadata import ModelMetadata

SMALL = 1 << 20
"""Most pixels of an image that is computed beside others; for larger ones, that gains little and takes much memory."""


class Backend(Protocol):
    """Runs a network; built from a model, or from an exported file that carries its metadata.

    Safe to call from several threads.

    Attributes:
        name: such as `torch`.
        precision: what it computes in: `float32`, `bfloat16` or `float16`.
        device: where results are; images that are there already are not moved.
        metadata: of the model.
        stride: input pixels per logit or label: that of the model for coarse logits, otherwise 1.
        multiple: of the model, what the starts of tiles are multiples of.
        input: `normalized`, or `pixels` for an exported file that normalises itself, so that `run` takes uint8 alone.
        max_streams: most small images (`SMALL`) that can be computed at a time, if several threads call `run`.
        streams: how many of them are, each by a part of the cores. 1 at first, since more are slower for one thread;
            may be set at any time.
        output: of `run`: `coarse_logits`; for exported files also `logits` of every pixel, or `labels`.
    """

    name: str
    precision: str
    device: torch.device
    metadata: ModelMetadata
    stride: int
    multiple: int
    input: str
    output: str
    max_streams: int
    streams: int

    def run(self, images: Tensor) -> Tensor:
        """Runs the network.

        Args:
            images: (N, C, H, W), uint8 pixel values, which are normalised here, or float32, normalised already; any H
                and W from 1 upwards.

        Returns:
            On `device`: coarse logits (N, num_classes, h, w) float32, as from `SegmentationModel.coarse_logits`; or
            logits (N, num_classes, H, W) float32, or labels (N, H, W) uint8, as `output` says.
        """
        ...
