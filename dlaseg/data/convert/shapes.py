"""Draws polygons and ellipses. A pixel belongs to a shape if its centre lies inside.

Coordinates are in pixels, x to the right and y down; the image covers 0 to W and 0 to H, so the centre of the first
pixel is (0.5, 0.5). All formats mean this, COCO, CVAT and LabelMe in pixels, YOLO and Label Studio in parts of W and H.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dlaseg.data.convert.annotations import Patch
from dlaseg.data.convert.run_lengths import counts_of_string, patch_of_counts
from dlaseg.errors import UserError

LARGEST = 1e6
"""Coordinates beyond are refused; the rasteriser counts in 32 bits."""

LONGEST = 5_000_000
"""An outline of more pixels is refused; the rasteriser needs 80 bytes for each."""


# Overflows of absurd numbers give infinity, which is refused by name
_quiet = np.errstate(over="ignore", invalid="ignore")


@_quiet
def draw_polygons(parts: Sequence[ArrayLike], height: int, width: int, scale: tuple[float, float] = (1, 1)) -> Patch:
    """Draws an object of one or several polygons as pycocotools does, to the pixel.

    An object is the union of its parts. Where a part crosses itself, even-odd decides. Vertices are rounded to a fifth
    of a pixel.

    Args:
        parts: the corners (x, y) of each polygon, (N, 2). A part with fewer than three corners covers nothing.
        height: of the image, in pixels.
        width: of the image, in pixels.
        scale: factors by which x and y become pixels.

    Raises:
        UserError: a coordinate that is not finite or absurd, or an outline that is too long to be meant.
    """
    from pycocotools import mask as coco

    outlines = []
    for part in parts:
        points = np.asarray(part, np.float64).reshape(-1, 2) * scale
        _check_finite(points)
        length = np.abs(np.diff(points, axis=0, append=points[:1])).max(axis=1).sum() if len(points) else 0
        if length > LONGEST:
            raise UserError(f"an outline of {length:.0f} pixels; up to {LONGEST} are drawn: export it as a mask")
        if len(points) >= 3:
            outlines.append(points.ravel().tolist())
    if not outlines:
        return Patch(np.zeros((0, 0), bool))
    # Not coco.decode, whose use of NumPy is deprecated since NumPy 2
    counts = counts_of_string(coco.merge(coco.frPyObjects(outlines, height, width))["counts"].decode())
    return patch_of_counts(counts, height, width)


def draw_rectangle(
    x: float, y: float, box: tuple[float, float], height: int, width: int, degrees: float = 0, about_corner: bool = True
) -> Patch:
    """Draws a rectangle.

    Args:
        x: left side, before rotation.
        y: upper side, before rotation.
        box: height and width of the rectangle, in pixels; 0 or more.
        height: of the image, in pixels.
        width: of the image, in pixels.
        degrees: rotation, clockwise.
        about_corner: whether the upper left corner stays in place, rather than the centre.

    Raises:
        UserError: a negative side, or coordinates as in `draw_polygons`.
    """
    _check_finite(np.array([x, y, *box, degrees]))
    if min(box) < 0:
        raise UserError(f"a rectangle of height {box[0]:g} and width {box[1]:g}: sides are 0 or longer: correct it")
    corners = np.array([(0, 0), (box[1], 0), (box[1], box[0]), (0, box[0])], np.float64)
    pivot = np.zeros(2) if about_corner else np.array([box[1] / 2, box[0] / 2])
    points = (corners - pivot) @ _rotation(degrees) + pivot + (x, y)
    return draw_polygons([points.tolist()], height, width)


@_quiet
def draw_ellipse(
    center: tuple[float, float], radii: tuple[float, float], height: int, width: int, degrees: float = 0
) -> Patch:
    """Draws an ellipse.

    Args:
        center: x and y.
        radii: along x and along y, before rotation, in pixels; 0 or more.
        height: of the image, in pixels.
        width: of the image, in pixels.
        degrees: rotation about the centre, clockwise.

    Raises:
        UserError: a negative radius, or a number that is not finite or absurd.
    """
    _check_finite(np.array([*center, *radii, degrees]))
    if min(radii) < 0:
        raise UserError(f"an ellipse with radii {radii[0]:g} and {radii[1]:g}: radii are 0 or longer: correct it")
    # The box around its circle holds every pixel of it
    left, top = (max(0, math.floor(c - max(radii))) for c in center)
    right, bottom = (min(end, math.ceil(c + max(radii))) for c, end in zip(center, (width, height), strict=True))
    if left >= right or top >= bottom or min(radii) == 0:
        return Patch(np.zeros((0, 0), bool))
    x, y = np.arange(left, right) + 0.5 - center[0], np.arange(top, bottom)[:, None] + 0.5 - center[1]
    (cos, sin), _ = _rotation(degrees)
    return Patch(((x * cos + y * sin) / radii[0]) ** 2 + ((y * cos - x * sin) / radii[1]) ** 2 <= 1, top, left)


def _rotation(degrees: float) -> NDArray[np.float64]:
    """The matrix that rotates rows (x, y) clockwise, since y points down."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cos, sin], [-sin, cos]])


def _check_finite(numbers: NDArray[np.float64]) -> None:
    wrong = numbers[~(np.abs(numbers) <= LARGEST)]  # true for NaN, too
    if wrong.size:
        raise UserError(f"coordinate {wrong[0]:g}: use finite numbers from {-LARGEST:g} to {LARGEST:g}")
