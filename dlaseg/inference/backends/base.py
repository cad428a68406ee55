"""The contract of a backend; does not import torch."""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from dlaseg.errors import UserError
from dlaseg.metadata import ModelMetadata

if TYPE_CHECKING:
    from torch import Tensor

    from dlaseg.inference.backends.graph import Graph

    Images = TypeVar("Images", NDArray[Any], Tensor)

SMALL = 1 << 20
"""Most pixels of an image that is computed beside others; for larger ones, that gains little and takes much memory."""


UNKNOWN_PER_PIXEL = 500
"""Bytes per pixel of a network whose memory only its engine knows. OpenVINO and ONNX Runtime were measured to take 420
and 430 with dla34 at stride 2; with the factor of `MemoryBudget`, more than the largest variant needs."""


class Backend(Protocol):
    """Runs a network; built from a model, or from an exported file that carries its metadata.

    Safe to call from several threads.

    Attributes:
        name: such as `torch`.
        precision: what it computes in: `float32`, `bfloat16` or `float16`.
        device: where tensors that are results are; images that are there already are not moved. Such as `cpu`.
        arrays: whether it computes from arrays to arrays, without torch; otherwise from tensors to tensors. The other
            kind is converted.
        metadata: of the model.
        stride: input pixels per logit or label: that of the model for coarse logits, otherwise 1.
        multiple: of the model, what the starts of tiles are multiples of.
        scales: of the image that the model blends itself, ascending; None for a model of one scale.
        input: `normalized`, or `pixels` for an exported file that normalises itself, so that `run` takes uint8 alone.
        output: of `run`: `coarse_logits`; for exported files also `logits` of every pixel, or `labels`.
        max_streams: most small images (`SMALL`) that can be computed at a time, if several threads call `run`.
        streams: how many of them are, each by a part of the cores. 1 at first, since more are slower for one thread;
            may be set at any time.
    """

    name: str
    precision: str
    device: str
    arrays: bool
    metadata: ModelMetadata
    stride: int
    multiple: int
    scales: tuple[float, ...] | None
    input: str
    output: str
    max_streams: int
    streams: int

    def run(self, images: "Images") -> "Images":
        """Runs the network.

        Args:
            images: array or tensor (N, C, H, W), uint8 pixel values, which are normalised here, or float32, normalised
                already; any H and W from 1 upwards.

        Returns:
            Of the same kind: coarse logits (N, num_classes, h, w) float32, as from `SegmentationModel.coarse_logits`;
            or logits (N, num_classes, H, W) float32, or labels (N, H, W) uint8, as `output` says.
        """
        ...

    def memory_needed(self) -> tuple[float, int]:
        """Bytes per pixel of an image, for what is computed from it, and bytes that do not depend on the image."""
        ...


def unknown_per_pixel(backend: Backend) -> int:
    """`UNKNOWN_PER_PIXEL`, and more for a network that blends scales: the largest one, and five scores of a pixel."""
    if backend.scales is None:
        return UNKNOWN_PER_PIXEL
    return round(UNKNOWN_PER_PIXEL * max(1.0, *backend.scales) ** 2) + 5 * 4 * backend.metadata.num_classes


def check_gives_logits(backend: "Backend | Graph", what: str) -> None:
    """Refuses an exported file that gives labels alone.

    Args:
        backend: that runs it, or the file.
        what: needs logits, for the message.

    Raises:
        UserError: it does.
    """
    if backend.output == "labels":
        raise UserError(
            f"{what} logits, and this file gives labels alone: export the weights with --output logits or coarse_logits"
        )


def takes_tensors(run: Callable[[Any, NDArray[Any]], NDArray[Any]]) -> Callable[[Any, "Images"], "Images"]:
    """Lets a `run` that computes from an array to an array take a tensor as well, and give a tensor then."""

    @wraps(run)
    def run_either(self: Any, images: Any) -> Any:
        if isinstance(images, np.ndarray):
            return run(self, images)
        import torch

        return torch.from_numpy(run(self, images.cpu().numpy()))

    return run_either
