"""Where a training crop lies in its image, and how its pixels are fetched from there."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dlaseg.labels import IGNORE_INDEX


class RandomPlacement:
    """Random scale, place and rotation of a crop of an image and its label map.

    Distributed as if the whole image were scaled, a window of it cut out, turned about its middle, and the crop taken
    from the middle of that; but only the pixels that the crop shows are computed, which is several times as fast. The
    scale and the angle are uniform. The window is the crop with just enough margin that turning uncovers nothing
    outside it. Its place is uniform over the whole pixels where it lies inside the scaled image; along a side that is
    too short for that, over those where it holds the image.

    The image is averaged over areas where it shrinks, since linear interpolation would skip pixels, and interpolated
    linearly where it grows; labels are those of the nearest pixel. A crop pixel whose middle lies outside the image is
    the fill and 255; no other takes anything from the fill.

    Args:
        crop_size: height and width, pixels.
        scale: range.
        rotation: largest angle in degrees, either way.
        fill: RGB, 0 to 255.
    """

    def __init__(self, crop_size: tuple[int, int], scale: tuple[float, float], rotation: float, fill: Sequence[float]):
        height, width = crop_size
        self.crop_size, self.scale, self.rotation = (height, width), scale, rotation
        angle = math.radians(rotation)
        self._window = (_turned(height, width, angle), _turned(width, height, angle))
        self._empty = np.full((height, width, 3), np.rint(fill), np.uint8)

    def __call__(
        self, image: NDArray[np.uint8], target: NDArray[np.uint8], rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Draws a placement and cuts out what it shows.

        Args:
            image: (H, W, 3) uint8 RGB.
            target: (H, W) uint8 train ids.
            rng: all the randomness there is.

        Returns:
            Image and target of the crop's size.
        """
        size = np.array(target.shape)
        scaled, to_image = self._draw(size, rng)
        first, last, uncovered = self._needed(to_image, size, size / scaled)
        part = tuple(slice(*ends) for ends in zip(first, last, strict=True))
        image, target = image[part], target[part]
        to_part = _affine((1, 1), -first) @ to_image
        labels = self._fetch(target, to_part, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT, IGNORE_INDEX)
        to_pixels = to_part
        if (scaled < size).any():
            large = last - first
            small = np.maximum(1, np.rint(large * scaled / size)).astype(int)
            image = np.asarray(cv2.resize(image, small[::-1].tolist(), interpolation=cv2.INTER_AREA), np.uint8)
            to_pixels = _affine(small / large) @ to_part
        pixels = self._fetch(image, to_pixels, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE)
        if uncovered:
            inside = self._fetch(np.ones_like(target), to_part, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT)
            pixels = np.asarray(cv2.copyTo(pixels, inside, self._empty.copy()), np.uint8)
        return pixels, labels

    def _draw(self, size: NDArray[np.intp], rng: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """The scaled image's height and width, and the matrix from the crop's pixels to the image's."""
        scaled = np.maximum(1, np.rint(size * rng.uniform(*self.scale))).astype(int)
        angle = math.radians(rng.uniform(-self.rotation, self.rotation))
        room = scaled - self._window
        window = rng.integers(np.minimum(room, 0), np.maximum(room, 0), endpoint=True)
        corner = window + np.subtract(self._window, self.crop_size) / 2
        y, x = (np.array(self.crop_size) - 1) / 2  # the crop's middle
        cos, sin = math.cos(angle), math.sin(angle)
        turn = np.array([[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y], [0, 0, 1]])
        return scaled, _affine(size / scaled) @ _affine((1, 1), corner) @ turn

    def _needed(
        self, to_image: NDArray[np.float64], size: NDArray[np.intp], step: NDArray[np.float64]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], bool]:
        """The part of the image that the crop is computed from, and whether the crop may show what lies outside.

        Args:
            to_image: from the crop's pixels to the image's.
            size: the image's height and width.
            step: pixels of the image to one of the crop, along both.

        Returns:
            The part's first row and column, those after its last ones, whether.
        """
        height, width = self.crop_size
        corners = np.array([[0, width - 1, 0, width - 1], [0, 0, height - 1, height - 1], [1, 1, 1, 1]])
        columns, rows, _ = to_image @ corners
        reach = np.ceil(2 * step)  # an averaged area, and its neighbour's for the interpolation
        first = np.floor([rows.min(), columns.min()]) - reach
        last = np.ceil([rows.max(), columns.max()]) + reach + 1
        uncovered = bool((first < 0).any() or (last > size).any())
        if not self.rotation and (step > 1).any():
            # The whole image's areas lie on the crop's own grid then, so that nothing is interpolated a second time
            return np.zeros_like(size), size, uncovered
        first = np.clip(first, 0, size - 1).astype(int)
        return first, np.clip(last, first + 1, size).astype(int), uncovered

    def _fetch(
        self, source: NDArray[np.uint8], matrix: NDArray[np.float64], interpolation: int, border: int, value: int = 0
    ) -> NDArray[np.uint8]:
        flags = interpolation | cv2.WARP_INVERSE_MAP
        size = self.crop_size[::-1]
        return np.asarray(cv2.warpAffine(source, matrix[:2], size, None, flags, border, value), np.uint8)


def _affine(factor: ArrayLike, shift: ArrayLike = (0, 0)) -> NDArray[np.float64]:
    """Scales and then moves, along height and width; from (column, row, 1) of a pixel's middle to the same."""
    (down, across), (below, beside) = np.asarray(factor), np.asarray(shift)
    return np.array([[across, 0, across / 2 - 0.5 + beside], [0, down, down / 2 - 0.5 + below], [0, 0, 1]])


def _turned(side: int, other: int, angle: float) -> int:
    """How far a rectangle turned by up to `angle` (radians) reaches along `side`, pixels."""
    worst = min(angle, math.atan2(other, side))
    return math.ceil(side * math.cos(worst) + other * math.sin(worst))
