"""Houses: a box with a roof; its walls are textures."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from dlaseg.synthetic.appearance import CLOTHES, GLASS, MIRRORED, Colour, pick_colour, smooth_noise
from dlaseg.synthetic.canvas import Canvas, Pixels, label_id, wall_corners

DOORS = ((86, 54, 40), (44, 66, 60), (60, 60, 70))
PLASTERS = ((226, 214, 190), (212, 186, 140), (210, 168, 148), (196, 198, 196), (232, 230, 224), (186, 198, 176),
            (178, 192, 206), (204, 196, 176))  # fmt: skip
BRICKS = ((150, 84, 66), (168, 108, 82), (126, 92, 78), (176, 142, 108))
ROOFS = ((140, 74, 56), (120, 66, 54), (84, 84, 90), (104, 88, 80))


@dataclass(frozen=True)
class _Sheet:
    """A texture; coordinates are metres from its lower left corner."""

    pixels: Pixels  # (h, w, 3) RGB
    height: float
    density: float  # pixels per metre

    def paint(self, x0: float, y0: float, x1: float, y1: float, tint: Colour) -> None:
        """Fills a rectangle, as far as it is inside."""
        left, top = max(0, round(x0 * self.density)), max(0, round((self.height - y1) * self.density))
        right, bottom = max(0, round(x1 * self.density)), max(0, round((self.height - y0) * self.density))
        self.pixels[top:bottom, left:right] = tint

    def paste(self, x0: float, y1: float, tile: Pixels) -> None:
        """Copies a smaller texture; its upper left corner is at (x0, y1)."""
        left, top = max(0, round(x0 * self.density)), max(0, round((self.height - y1) * self.density))
        part = self.pixels[top : top + len(tile), left : left + tile.shape[1]]
        part[:] = tile[: len(part), : part.shape[1]]


def _paint_window(
    rng: np.random.Generator, width: float, height: float, density: float, frame: Colour, sill: Colour, curtain: Colour
) -> Pixels:
    """A window, (h, w, 3), with a frame of 0.12 m around it; the upper pane mirrors the sky."""
    wide, tall = width + 0.24, height + 0.24
    sheet = _Sheet(np.empty((round(tall * density), round(wide * density), 3), np.uint8), tall, density)
    left, right, low, high, tone = 0.12, width + 0.12, 0.14, height + 0.14, rng.uniform(0.7, 1.25)
    sheet.pixels[:] = frame
    sheet.paint(0, 0, wide, low, sill)
    sheet.paint(left, low, right, high, np.multiply(GLASS, tone))
    sheet.paint(left, low + height * rng.uniform(0.3, 0.7), right, high, np.multiply(MIRRORED, tone))
    if rng.random() < 0.4:
        sheet.paint(left, high - height * rng.uniform(0.15, 0.6), right, high, curtain)
    sheet.paint(left, high - 0.1, right, high, np.multiply(GLASS, 0.6))
    sheet.paint(wide / 2 - 0.04, low, wide / 2 + 0.04, high, frame)
    return sheet.pixels


def _paint_shop(rng: np.random.Generator, sheet: _Sheet, length: float, bays: int, door: int, frame: Colour) -> None:
    """Paints shop windows, one of them a door, and the sign above."""
    sheet.paint(0.25, 0.4, length - 0.25, 2.6, np.multiply(frame, 0.5))
    for column in range(bays):
        left, right = length * column / bays + 0.4, length * (column + 1) / bays - 0.4
        sheet.paint(left, 0.05 if column == door else 0.6, right, 2.5, GLASS)
        sheet.paint(left, 1.5, right, 2.5, MIRRORED)
        sheet.paint(left + 0.2, 0.7, right - 0.2, rng.uniform(1.0, 1.5), pick_colour(rng, CLOTHES))
    sheet.paint(0.15, 2.55, length - 0.15, 3.1, pick_colour(rng, CLOTHES))
    sheet.paint(length * 0.3, 2.72, length * 0.7, 2.93, (240, 236, 220))


def paint_facade(
    rng: np.random.Generator,
    length: float,
    height: float,
    density: float,
    colour: Colour,
    brick: bool = False,
    shop: bool = False,
    blank: float = 0.0,
) -> Pixels:
    """A texture of a house front.

    Args:
        rng: source of randomness.
        length: metres.
        height: metres, about 3 per storey.
        density: texture pixels per metre.
        colour: of the wall, RGB in 0-255.
        brick: bricks instead of plaster.
        shop: shop windows on the ground floor instead of a door.
        blank: share of bays without a window; above 0 there is no door either.

    Returns:
        (h, w, 3) uint8 RGB, not lit yet.
    """
    rows, columns = round(height * density), round(length * density)
    stains = 0.93 + 0.1 * smooth_noise(rng, rows, columns, 1.5 * density)
    if brick:
        bricks = rng.uniform(0.84, 1.1, (max(1, round(height / 0.16)), max(1, round(length / 0.4)))).repeat(2, 1)
        bricks[1::2] = np.roll(bricks[1::2], 1, 1)
        stains = stains * cv2.resize(bricks.astype(np.float32), (columns, rows), interpolation=cv2.INTER_NEAREST)
    plain = cv2.merge([cv2.convertScaleAbs(stains, alpha=float(c)) for c in colour])
    wall = _Sheet(plain.astype(np.uint8, copy=False), height, density)

    frame = (230, 228, 222) if rng.random() < 0.7 else (74, 62, 54)
    curtain = pick_colour(rng, ((224, 218, 204), (206, 198, 190), (170, 130, 110)))
    storeys, bays = max(1, round(height / 3.1)), max(1, round(length / rng.uniform(2.2, 3.2)))
    storey, bay = height / storeys, length / bays
    wide, tall = min(0.8 * bay, rng.uniform(1.0, 1.5)), rng.uniform(1.35, 1.7)
    windows = [_paint_window(rng, wide, tall, density, frame, np.multiply(colour, 0.72), curtain) for _ in range(3)]
    door = int(rng.integers(bays))
    for floor in range(int(shop), storeys):
        for column in range(bays):
            centre = (column + 0.5) * bay
            if not floor and column == door and not blank:
                wall.paint(centre - 0.65, 0, centre + 0.65, 2.4, frame)
                wall.paint(centre - 0.52, 0, centre + 0.52, 2.25, pick_colour(rng, DOORS))
                wall.paint(centre - 0.35, 1.3, centre + 0.35, 2.1, GLASS)
            elif rng.random() >= blank:
                wall.paste(centre - wide / 2 - 0.12, floor * storey + 1.05 + tall, windows[int(rng.integers(3))])
        if floor:
            wall.paint(0, floor * storey - 0.08, length, floor * storey + 0.06, np.multiply(colour, 0.88))
    wall.paint(0, 0, length, 0.45, np.multiply(colour, 0.62))
    if shop:
        _paint_shop(rng, wall, length, bays, door, frame)
    wall.paint(0, height - 0.35, length, height, np.minimum(np.multiply(colour, 1.1), 255))
    wall.paint(0, height - 0.45, length, height - 0.35, np.multiply(colour, 0.6))
    return wall.pixels


def draw_building(
    canvas: Canvas,
    rng: np.random.Generator,
    side: int,
    front: float,
    near: float,
    far: float,
    height: float,
    exposed: bool,
) -> None:
    """A house along the street.

    Args:
        canvas: to paint on.
        rng: source of randomness.
        side: -1 left of the road, 1 right of it.
        front: distance of its front from the camera's path, metres.
        near: its near end, metres ahead.
        far: its far end, metres ahead.
        height: of its eaves, metres.
        exposed: whether the house before it leaves its wall towards the camera visible.
    """
    code, brick = label_id("building"), bool(rng.random() < 0.4)
    colour, roof = pick_colour(rng, BRICKS if brick else PLASTERS), pick_colour(rng, ROOFS)
    # Nearer parts are outside the picture and need no sharp texture
    first_seen = front * canvas.focal / (0.58 * canvas.codes.shape[1])
    density = float(np.clip(0.6 * canvas.focal / (max(near, first_seen) + 0.3 * (far - near)), 5, 72))
    depth = 9.0
    x, ridge, back = side * front, side * (front + depth / 2), side * (front + depth)
    rise = rng.uniform(2.2, 3.6) if rng.random() < 0.65 else 0.0
    top = height + rise
    if rise:
        toward, eave = (-side * math.sin(0.9), math.cos(0.9), 0.0), side * (front - 0.35)
        canvas.face(
            [(eave, height, near), (eave, height, far), (ridge, top, far), (ridge, top, near)], roof, toward, code
        )
        for row in np.arange(0.15, 1, 0.14):
            tiles = canvas.project([(eave + (ridge - eave) * row, height + rise * row, z) for z in (near, far)])
            canvas.stroke(tiles, 1, canvas.shade(roof * 0.8, toward, far))
    if exposed and canvas.in_view(min(x, back), max(x, back), near):
        wall = paint_facade(rng, depth, height, density, colour * 0.96, brick, blank=0.6)
        canvas.texture(wall, wall_corners((x, near), (back, near), 0, height, side), (0, 0, -1), code)
    if rise:
        gable = [(x, height, near), (ridge, top, near), (back, height, near)]
        canvas.face(gable, colour * 0.96, (0, 0, -1), code)
    if rise and rng.random() < 0.7:
        at, brickwork = rng.uniform(near + 1, far - 1), (140, 88, 72)
        left, right, inner = ridge - 0.4, ridge + 0.4, ridge - side * 0.4
        canvas.face(wall_corners((left, at), (right, at), top - 0.5, top + 0.9), brickwork, (0, 0, -1), code)
        canvas.face(wall_corners((inner, at), (inner, at + 0.8), top - 0.5, top + 0.9), brickwork, (-side, 0, 0), code)
    if canvas.in_view(x, x, far):
        wall = paint_facade(rng, far - near, height, density, colour, brick, shop=bool(rng.random() < 0.45))
        canvas.texture(wall, wall_corners((x, far), (x, near), 0, height, side), (-side, 0, 0), code)
