"""A backend that reduces images first, so that things are as large in them as in those of the training."""

import logging
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dlaseg.inference.argmax import namespace
from dlaseg.inference.backends.base import Backend
from dlaseg.metadata import SMALLEST_SHORT_SIDE, check_max_short_side

if TYPE_CHECKING:
    from dlaseg.inference.backends.base import Images

logger = logging.getLogger(__name__)

LARGEST_SCALE = 10
"""Of `Predictor`."""


class ReducedBackend:
    """Runs a backend on images of 1 / factor of the size.

    A pixel of the reduced image is the mean of `factor` x `factor` pixels; beyond the right and the lower border, the
    last pixels repeat. What it gives is of the whole image, as from a network whose stride is `factor` times as large.
    For the attributes, see `Backend`.

    Args:
        backend: runs the network.
        factor: 2 or more.
    """

    def __init__(self, backend: Backend, factor: int):
        self._backend, self._factor = backend, factor
        self.name, self.precision, self.device = backend.name, backend.precision, backend.device
        self.arrays, self.metadata, self.scales = backend.arrays, backend.metadata, backend.scales
        self.input, self.output = backend.input, backend.output
        self.stride = backend.stride * (1 if backend.output == "labels" else factor)
        self.multiple = backend.multiple * factor
        self.max_streams = backend.max_streams

    @property
    def streams(self) -> int:
        """See `Backend`."""
        return self._backend.streams

    @streams.setter
    def streams(self, count: int) -> None:
        self._backend.streams = count

    def run(self, images: "Images") -> "Images":
        """See `Backend`; one label for `factor` x `factor` pixels, of a backend that gives labels."""
        found: Any = self._backend.run(self._reduce(images))
        if self.output != "labels":
            return found
        height, width = images.shape[-2:]
        xp, factor = namespace(found), self._factor
        repeated = xp.broadcast_to(found[:, :, None, :, None], (*found.shape[:2], factor, found.shape[2], factor))
        return repeated.reshape(len(found), found.shape[1] * factor, -1)[:, :height, :width]

    def _reduce(self, images: "Images") -> "Images":
        if isinstance(images, np.ndarray):
            return _reduced(images, self._factor)
        import torch

        return torch.from_numpy(_reduced(images.cpu().numpy(), self._factor)).to(images.device)

    def memory_needed(self) -> tuple[float, int]:
        """See `Backend`."""
        per_pixel, fixed = self._backend.memory_needed()
        return per_pixel / self._factor**2, fixed


def tell_of_size(height: int, width: int, training_side: int, can_reduce: bool) -> bool:
    """Tells of an image that has twice the size of those of the training or more, or half of it or less.

    `camvid` loses 2 and 8 points of mIoU at these sizes, and more beyond them (docs/large_images.md).

    Args:
        height: of the image as it is computed, pixels.
        width: of the image as it is computed, pixels.
        training_side: `ModelMetadata.training_short_side`.
        can_reduce: whether no limit of the shorter side is set.

    Returns:
        Whether there was something to tell.
    """
    side = min(height, width)
    if side >= 2 * training_side and can_reduce:
        limit = max(SMALLEST_SHORT_SIDE, round(1.5 * training_side))
        logger.warning(
            "%d x %d pixels, and the images of the training have a shorter side of about %d: if things are larger here "
            "than there, --max-short-side %d computes images at a smaller size; --max-short-side 0 ends this message",
            height, width, training_side, limit,
        )  # fmt: skip
        return True
    if 2 * side <= training_side:
        scale = min(LARGEST_SCALE, round(training_side / side))
        logger.warning(
            "%d x %d pixels, and the images of the training have a shorter side of about %d: if things are smaller "
            "here than there, enlarge images, as --scales %d does with a weights file; --max-short-side 0 ends this "
            "message",
            height, width, training_side, scale,
        )  # fmt: skip
        return True
    return False


def check_limit(max_short_side: Any) -> None:
    """Checks a limit as `Predictor` takes it: None, 0 or what `ModelMetadata` takes.

    Raises:
        UserError: another one.
    """
    if max_short_side is not None and max_short_side != 0:
        check_max_short_side(max_short_side)


def reduce(image: NDArray[Any], factor: int) -> NDArray[Any]:
    """The image that the network gets, (h, w, 3), of an image (H, W, 3), uint8 or float32; see `ReducedBackend`."""
    if factor == 1:
        return image
    image = np.ascontiguousarray(image)
    rows, columns = (-side % factor for side in image.shape[:2])
    if rows or columns:
        image = cv2.copyMakeBorder(image, 0, rows, 0, columns, cv2.BORDER_REPLICATE)
    return cv2.resize(image, (image.shape[1] // factor, image.shape[0] // factor), interpolation=cv2.INTER_AREA)


def _reduced(images: NDArray[Any], factor: int) -> NDArray[Any]:
    """(N, C, H, W) uint8 or float32 -> (N, C, h, w), in memory in the order (N, h, w, C)."""
    return np.stack([reduce(image, factor) for image in images.transpose(0, 2, 3, 1)]).transpose(0, 3, 1, 2)
