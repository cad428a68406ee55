"""The canvas: picture, labels and camera in one, and the ways to paint on it.

World coordinates are metres: x to the right, y up from the road, z ahead of the camera at (0, camera_height, 0).
Canvas coordinates are pixels of the supersampled picture.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from cityscapesscripts.helpers.labels import name2label
from numpy.typing import ArrayLike, NDArray

from dlaseg.synthetic.appearance import Colour, Floats, Light

FAR = 125.0  # metres to the row of houses where the street ends
SUPERSAMPLING = 2  # the picture is painted at twice its size and averaged down, which smooths edges
_FRACTION_BITS = 4  # OpenCV takes polygon corners as fixed-point numbers, here in sixteenths of a pixel

Pixels = NDArray[np.uint8]


def label_id(name: str) -> int:
    """The Cityscapes label id of a class name."""
    return int(name2label[name].id)


@dataclass
class Canvas:
    """The picture, its label codes and the camera.

    A code is a pixel of a Cityscapes instanceIds file: the label id, or id * 1000 + k for the k-th object of a class
    with instances.
    """

    image: Pixels  # (SUPERSAMPLING * H, SUPERSAMPLING * W, 3) RGB
    codes: NDArray[np.uint16]  # (SUPERSAMPLING * H, SUPERSAMPLING * W)
    focal: float  # canvas pixels
    vanishing_point: tuple[float, float]  # canvas x, y; the end of a straight road at infinity
    camera_height: float  # metres
    curvature: float  # the road leaves its tangent by curvature * z**2 metres
    light: Light
    min_pole_width: float  # canvas pixels
    sunlit: float = 1.0  # the object being painted: 1 in the sun, 0 in a shadow
    counts: dict[int, int] = field(default_factory=dict)  # last k of each label id

    def new_instance(self, name: str) -> int:
        """The code of a new object of a class with instances."""
        label = label_id(name)
        self.counts[label] = self.counts.get(label, -1) + 1
        return label * 1000 + self.counts[label]

    def project(self, points: ArrayLike) -> Floats:
        """Projects (..., 3) metres, z > 0, to (..., 2) canvas x, y."""
        world = np.asarray(points, np.float64)
        z = world[..., 2]
        scale = self.focal / z
        projected = np.empty((*world.shape[:-1], 2))
        projected[..., 0] = self.vanishing_point[0] + (world[..., 0] + self.curvature * z * z) * scale
        projected[..., 1] = self.vanishing_point[1] + (self.camera_height - world[..., 1]) * scale
        return projected

    def shade(self, colour: Colour, normal: Sequence[float], depth: float) -> tuple[float, float, float]:
        """The colour of a surface of the object being painted, seen from `depth` metres away."""
        return self.light.shade(colour, normal, depth, self.sunlit)

    def fill(self, corners: Floats, colour: Colour, code: int | None = None) -> None:
        """Fills a polygon, (N, 2) canvas x, y. Without a code the labels stay: for details on a surface."""
        fixed = (corners * (1 << _FRACTION_BITS) + 0.5).astype(np.int32)
        cv2.fillPoly(self.image, [fixed], tuple(colour), cv2.LINE_8, _FRACTION_BITS)
        if code is not None:
            cv2.fillPoly(self.codes, [fixed], (code,), cv2.LINE_8, _FRACTION_BITS)

    def fill_transparent(self, corners: Floats, colour: Colour, opacity: float, code: int) -> None:
        """Fills a polygon, (N, 2) canvas x, y, with an opacity of 0 to 1."""
        low, high = np.maximum(corners.min(0).astype(int) - 1, 0), np.maximum(corners.max(0).astype(int) + 2, 0)
        part = self.image[low[1] : high[1], low[0] : high[0]]
        before = part.copy()
        self.fill(corners, colour, code)
        if part.size:
            part[:] = cv2.addWeighted(part, opacity, before, 1 - opacity, 0)

    def stroke(
        self, corners: Floats, width: float, colour: Colour, code: int | None = None, closed: bool = False
    ) -> None:
        """Paints a line through (N, 2) canvas x, y with round ends, `width` canvas pixels wide."""
        fixed = (corners * (1 << _FRACTION_BITS) + 0.5).astype(np.int32)
        thickness = max(1, round(width))
        cv2.polylines(self.image, [fixed], closed, tuple(colour), thickness, cv2.LINE_8, _FRACTION_BITS)
        if code is not None:
            cv2.polylines(self.codes, [fixed], closed, (code,), thickness, cv2.LINE_8, _FRACTION_BITS)

    def face(self, points: ArrayLike, colour: Colour, normal: Sequence[float], code: int | None = None) -> None:
        """Fills a flat polygon, (N, 3) metres, of this colour under the scene's light."""
        world = np.asarray(points, np.float64)
        self.fill(self.project(world), self.shade(colour, normal, float(world[:, 2].sum()) / len(world)), code)

    def paste(self, pixels: Pixels, mask: Pixels, top: int, left: int, code: int) -> None:
        """Copies (h, w, 3) pixels where the (h, w) mask is set, as far as they are inside the canvas."""
        y, x = max(0, -top), max(0, -left)
        target = self.image[top + y : top + len(mask), left + x : left + mask.shape[1]]
        if top + len(mask) <= 0 or left + mask.shape[1] <= 0 or not target.size:
            return
        height, width = target.shape[:2]
        part = np.s_[y : y + height, x : x + width]
        cv2.copyTo(pixels[part], mask[part], target)
        codes = self.codes[top + y : top + y + height, left + x : left + x + width]
        cv2.copyTo(np.full_like(codes, code), mask[part], codes)

    def in_view(self, left: float, right: float, far: float) -> bool:
        """Whether objects between x = left and x = right, up to `far` metres ahead, may be in the picture."""
        shift, scale = self.curvature * far * far, self.focal / far
        return (
            self.vanishing_point[0] + (left + shift) * scale < self.codes.shape[1]
            and self.vanishing_point[0] + (right + shift) * scale > 0
        )

    def texture(self, pixels: Pixels, points: ArrayLike, normal: Sequence[float], code: int) -> None:
        """Maps a texture, (h, w, 3), to a quadrilateral, (4, 3) metres clockwise, and lights it."""
        world = np.asarray(points, np.float64)
        corners = self.project(world)
        low = np.clip(np.floor(corners.min(0)).astype(int), 0, (self.codes.shape[1], self.codes.shape[0]))
        high = np.clip(np.ceil(corners.max(0)).astype(int) + 1, 0, (self.codes.shape[1], self.codes.shape[0]))
        width, height = int(high[0] - low[0]), int(high[1] - low[1])
        if width < 1 or height < 1:
            return
        clear = math.exp(-float(world[:, 2].sum()) / len(world) / self.light.visibility)
        slope, haze = np.multiply(self.light.gain(normal, self.sunlit), clear), np.multiply(self.light.haze, 1 - clear)
        table = np.clip(np.arange(256)[:, None] * slope + haze, 0, 255).astype(np.uint8)[None]
        h, w = pixels.shape[:2]
        source = np.array([[0, 0], [w, 0], [w, h], [0, h]], np.float32) - 0.5
        matrix = cv2.getPerspectiveTransform(source, (corners - low).astype(np.float32))
        lit = cv2.LUT(pixels, table)
        warped = cv2.warpPerspective(lit, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
        mask = np.zeros((height, width), np.uint8)
        fixed = np.rint((corners - low) * (1 << _FRACTION_BITS)).astype(np.int32)
        cv2.fillPoly(mask, [fixed], (1,), cv2.LINE_8, _FRACTION_BITS)
        self.paste(warped.astype(np.uint8), mask, int(low[1]), int(low[0]), code)


def wall_corners(
    start: tuple[float, float], end: tuple[float, float], low: float, high: float, side: int = 1
) -> list[tuple[float, float, float]]:
    """The corners of a wall between two (x, z) points, clockwise as seen from the road. `side`: of the road."""
    (x0, z0), (x1, z1) = (start, end) if side > 0 else (end, start)
    return [(x0, high, z0), (x1, high, z1), (x1, low, z1), (x0, low, z0)]
