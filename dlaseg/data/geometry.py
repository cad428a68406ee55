"""The geometric part of the augmentation: random scale, rotation and crop in one resampling step."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dlaseg.labels import IGNORE_INDEX
from dlaseg.metadata import reduction


class RandomAffineCrop:
    """Random scale, rotation and crop of an image and its label map.

    The result has the same distribution as these steps: scale the whole image, cut a window out of it, rotate the
    window about its centre, and crop its centre. But only the pixels of the crop are computed, which is several times
    as fast. Scale and angle are uniform. The window is just large enough that the rotation leaves no part of the crop
    outside it. Its position is uniform over the whole pixels at which it lies inside the scaled image, or, along a
    side on which it is larger than the scaled image, over those at which it contains the image.

    For a given pixel of the image, the position is instead uniform over those at which the crop, before its rotation,
    contains the pixel in the scaled image; then the window is moved into the image (or, where it is larger, over the
    image), as far as the crop still contains the pixel. So a rotation may leave corners of the crop outside the image.

    The image is averaged over areas where it shrinks, since linear interpolation would skip pixels, and interpolated
    linearly where it grows. Labels are those of the nearest pixel. A crop pixel whose centre lies outside the image
    becomes the fill colour and label 255; the fill colour affects no other pixel.

    Args:
        crop_size: height and width, pixels.
        scale: smallest and largest scale.
        rotation: largest angle in degrees, in either direction.
        fill: RGB, 0 to 255.
        max_short_side: an image whose shorter side is longer, in pixels, counts as one of 1/2, 1/3, ... of its size,
            see `reduction`, as it does in `Predictor`; None for no limit.
    """

    def __init__(
        self,
        crop_size: tuple[int, int],
        scale: tuple[float, float],
        rotation: float,
        fill: Sequence[float],
        max_short_side: int | None = None,
    ):
        height, width = crop_size
        self.crop_size, self.scale, self.rotation = (height, width), scale, rotation
        self.max_short_side = max_short_side
        angle = math.radians(rotation)
        self._window = (_rotated_extent(height, width, angle), _rotated_extent(width, height, angle))
        self._background = np.full((height, width, 3), np.rint(fill), np.uint8)

    def __call__(
        self,
        image: NDArray[np.uint8],
        target: NDArray[np.uint8],
        rng: np.random.Generator,
        point: tuple[int, int] | None = None,
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Samples a scale, an angle and a position, and computes the crop.

        Args:
            image: (H, W, 3) uint8 RGB.
            target: (H, W) uint8 train ids.
            rng: the only source of randomness.
            point: row and column of a pixel that the crop contains before its rotation; None for a crop anywhere.

        Returns:
            Image, (crop height, crop width, 3) uint8, and target, (crop height, crop width) uint8.
        """
        size = np.array(target.shape)
        scaled_size, crop_to_image = self._sample(size, rng, point)
        start, stop, exceeds_image = self._source_region(crop_to_image, size, size / scaled_size)
        region = tuple(slice(*bounds) for bounds in zip(start, stop, strict=True))
        image, target = image[region], target[region]
        crop_to_target = _affine((1, 1), -start) @ crop_to_image
        crop_target = self._warp(target, crop_to_target, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT, IGNORE_INDEX)
        crop_to_pixels = crop_to_target
        if (scaled_size < size).any():
            region_size = stop - start
            small = np.maximum(1, np.rint(region_size * scaled_size / size)).astype(int)
            image = np.asarray(cv2.resize(image, small[::-1].tolist(), interpolation=cv2.INTER_AREA), np.uint8)
            crop_to_pixels = _affine(small / region_size) @ crop_to_target
        crop = self._warp(image, crop_to_pixels, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE)
        if exceeds_image:
            inside = self._warp(np.ones_like(target), crop_to_target, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT)
            crop = np.asarray(cv2.copyTo(crop, inside, self._background.copy()), np.uint8)
        return crop, crop_target

    def _sample(
        self, size: NDArray[np.intp], rng: np.random.Generator, point: tuple[int, int] | None
    ) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """The scaled image's height and width, and the matrix from coordinates in the crop to those in the image."""
        height, width = size.tolist()
        scale = rng.uniform(*self.scale) / reduction(height, width, self.max_short_side)
        scaled_size = np.maximum(1, np.rint(size * scale)).astype(int)
        angle = math.radians(rng.uniform(-self.rotation, self.rotation))
        margin = scaled_size - self._window
        border = np.subtract(self._window, self.crop_size)  # on both sides of the crop together
        lowest, highest = np.minimum(margin, 0), np.maximum(margin, 0)
        if point is None:
            window = rng.integers(lowest, highest, endpoint=True)
        else:
            pixel = (2 * np.array(point) + 1) * scaled_size // (2 * size)  # of the scaled image
            first, last = pixel - border // 2 - self.crop_size + 1, pixel - (border + 1) // 2
            window = rng.integers(first, last, endpoint=True).clip(lowest, highest).clip(first, last)
        corner = window + border / 2
        y, x = (np.array(self.crop_size) - 1) / 2  # centre of the crop
        cos, sin = math.cos(angle), math.sin(angle)
        rotation = np.array([[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y], [0, 0, 1]])
        return scaled_size, _affine(size / scaled_size) @ _affine((1, 1), corner) @ rotation

    def _source_region(
        self, crop_to_image: NDArray[np.float64], size: NDArray[np.intp], step: NDArray[np.float64]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], bool]:
        """The region of the image that the crop is computed from.

        Args:
            crop_to_image: matrix from coordinates in the crop to those in the image.
            size: the image's height and width.
            step: image pixels per crop pixel, vertically and horizontally.

        Returns:
            First row and column of the region, the row and column after its last ones, and whether the crop may extend
            beyond the image.
        """
        height, width = self.crop_size
        corners = np.array([[0, width - 1, 0, width - 1], [0, 0, height - 1, height - 1], [1, 1, 1, 1]])
        columns, rows, _ = crop_to_image @ corners
        reach = np.ceil(2 * step)  # an averaged area, and the next one for the interpolation
        start = np.floor([rows.min(), columns.min()]) - reach
        stop = np.ceil([rows.max(), columns.max()]) + reach + 1
        exceeds_image = bool((start < 0).any() or (stop > size).any())
        if not self.rotation and (step > 1).any():
            # The averaged areas of the whole image lie on the crop's grid then, which avoids a second interpolation
            return np.zeros_like(size), size, exceeds_image
        start = np.clip(start, 0, size - 1).astype(int)
        return start, np.clip(stop, start + 1, size).astype(int), exceeds_image

    def _warp(
        self, source: NDArray[np.uint8], matrix: NDArray[np.float64], interpolation: int, border: int, value: int = 0
    ) -> NDArray[np.uint8]:
        flags = interpolation | cv2.WARP_INVERSE_MAP
        size = self.crop_size[::-1]
        return np.asarray(cv2.warpAffine(source, matrix[:2], size, None, flags, border, value), np.uint8)


def _affine(factors: ArrayLike, shifts: ArrayLike = (0, 0)) -> NDArray[np.float64]:
    """The matrix, (3, 3), that scales and then shifts (column, row, 1) of a pixel's centre; arguments are (y, x)."""
    (scale_y, scale_x), (dy, dx) = np.asarray(factors), np.asarray(shifts)
    return np.array([[scale_x, 0, scale_x / 2 - 0.5 + dx], [0, scale_y, scale_y / 2 - 0.5 + dy], [0, 0, 1]])


def _rotated_extent(side: int, other: int, angle: float) -> int:
    """Largest extent along `side`, in pixels, of a rectangle that is rotated by up to `angle` (radians)."""
    worst = min(angle, math.atan2(other, side))
    return math.ceil(side * math.cos(worst) + other * math.sin(worst))
