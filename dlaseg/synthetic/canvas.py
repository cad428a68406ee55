"""What everything is painted on: the picture, its labels and the camera, in one.

World coordinates are metres: x to the right, y up from the road, z ahead of the camera, which stands at
(0, camera_height, 0). Canvas coordinates are pixels of the supersampled picture.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from cityscapesscripts.helpers.labels import name2label
from numpy.typing import ArrayLike, NDArray

from dlaseg.synthetic.light import Light
from dlaseg.synthetic.palette import Colour, Floats

SUPERSAMPLING = 2  # the picture is painted at twice its size and averaged down; that is its anti-aliasing
_FRACTION_BITS = 4  # OpenCV takes polygon corners as fixed-point numbers: sixteenths of a pixel

Pixels = NDArray[np.uint8]


def code_of(name: str) -> int:
    """The Cityscapes label id of a class name."""
    return int(name2label[name].id)


@dataclass
class Canvas:
    """The picture, its label codes and the camera that looks at the street.

    A code is what a Cityscapes instanceIds file holds: the label id, or id * 1000 + k for the k-th of a counted class.
    """

    image: Pixels  # (SUPERSAMPLING * H, SUPERSAMPLING * W, 3) RGB
    codes: NDArray[np.uint16]  # (SUPERSAMPLING * H, SUPERSAMPLING * W)
    focal: float  # canvas pixels
    vanishing: tuple[float, float]  # canvas x, y of the point where a straight road would end
    camera_height: float
    bend: float  # the road leaves its tangent by bend * z ** 2 metres
    light: Light
    smallest: float  # canvas pixels; poles are painted no thinner
    sunlit: float = 1.0  # of the object being painted: 1 in the sun, 0 in the shadow of a house
    counts: dict[int, int] = field(default_factory=dict)

    def instance(self, name: str) -> int:
        """A fresh code for one more object of a counted class."""
        label = code_of(name)
        self.counts[label] = self.counts.get(label, -1) + 1
        return label * 1000 + self.counts[label]

    def project(self, points: ArrayLike) -> Floats:
        """(..., 3) metres, z > 0 -> (..., 2) canvas x, y."""
        world = np.asarray(points, np.float64)
        z = world[..., 2]
        scale = self.focal / z
        seen = np.empty((*world.shape[:-1], 2))
        seen[..., 0] = self.vanishing[0] + (world[..., 0] + self.bend * z * z) * scale
        seen[..., 1] = self.vanishing[1] + (self.camera_height - world[..., 1]) * scale
        return seen

    def seen(self, colour: Colour, normal: Sequence[float], depth: float) -> tuple[float, float, float]:
        """The colour of a surface of the object being painted, as it looks from `depth` metres away."""
        return self.light.seen(colour, normal, depth, self.sunlit)

    def fill(self, corners: Floats, colour: Colour, code: int | None = None) -> None:
        """Fills a polygon, (N, 2) canvas x, y. Without a code the labels stay: a detail on a surface."""
        fixed = (corners * (1 << _FRACTION_BITS) + 0.5).astype(np.int32)
        cv2.fillPoly(self.image, [fixed], tuple(colour), cv2.LINE_8, _FRACTION_BITS)
        if code is not None:
            cv2.fillPoly(self.codes, [fixed], (code,), cv2.LINE_8, _FRACTION_BITS)

    def veil(self, corners: Floats, colour: Colour, opacity: float, code: int) -> None:
        """Fills a polygon, (N, 2) canvas x, y, so that what is behind shines through. `opacity` is 0 to 1."""
        low, high = np.maximum(corners.min(0).astype(int) - 1, 0), np.maximum(corners.max(0).astype(int) + 2, 0)
        part = self.image[low[1] : high[1], low[0] : high[0]]
        before = part.copy()
        self.fill(corners, colour, code)
        if part.size:
            part[:] = cv2.addWeighted(part, opacity, before, 1 - opacity, 0)

    def stroke(
        self, corners: Floats, width: float, colour: Colour, code: int | None = None, closed: bool = False
    ) -> None:
        """A round-ended line through (N, 2) canvas x, y, `width` canvas pixels wide."""
        fixed = (corners * (1 << _FRACTION_BITS) + 0.5).astype(np.int32)
        thickness = max(1, round(width))
        cv2.polylines(self.image, [fixed], closed, tuple(colour), thickness, cv2.LINE_8, _FRACTION_BITS)
        if code is not None:
            cv2.polylines(self.codes, [fixed], closed, (code,), thickness, cv2.LINE_8, _FRACTION_BITS)

    def face(self, points: ArrayLike, colour: Colour, normal: Sequence[float], code: int | None = None) -> None:
        """Fills a flat polygon of the world, (N, 3) metres, in its own colour under this light."""
        world = np.asarray(points, np.float64)
        self.fill(self.project(world), self.seen(colour, normal, float(world[:, 2].sum()) / len(world)), code)

    def stamp(self, pixels: Pixels, mask: Pixels, top: int, left: int, code: int) -> None:
        """Copies (h, w, 3) pixels where the (h, w) mask is set; what leaves the canvas is cut off."""
        y, x = max(0, -top), max(0, -left)
        target = self.image[top + y : top + len(mask), left + x : left + mask.shape[1]]
        if top + len(mask) <= 0 or left + mask.shape[1] <= 0 or not target.size:
            return
        height, width = target.shape[:2]
        part = np.s_[y : y + height, x : x + width]
        cv2.copyTo(pixels[part], mask[part], target)
        codes = self.codes[top + y : top + y + height, left + x : left + x + width]
        cv2.copyTo(np.full_like(codes, code), mask[part], codes)

    def shows(self, left: float, right: float, far: float) -> bool:
        """Whether anything between two lines along the road, up to `far` metres ahead, may be within the picture."""
        shift, scale = self.bend * far * far, self.focal / far
        return (
            self.vanishing[0] + (left + shift) * scale < self.codes.shape[1]
            and self.vanishing[0] + (right + shift) * scale > 0
        )

    def texture(self, pixels: Pixels, points: ArrayLike, normal: Sequence[float], code: int) -> None:
        """Hangs a texture, (h, w, 3) in its own colours, on the quadrilateral (4, 3): its corners clockwise."""
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
        self.stamp(warped.astype(np.uint8), mask, int(low[1]), int(low[0]), code)


def upright(
    start: tuple[float, float], end: tuple[float, float], low: float, high: float, side: int = 1
) -> list[tuple[float, float, float]]:
    """The corners of a wall between two (x, z) points, clockwise as seen from a road that it stands at this side of."""
    (x0, z0), (x1, z1) = (start, end) if side > 0 else (end, start)
    return [(x0, high, z0), (x1, high, z1), (x1, low, z1), (x0, low, z0)]
