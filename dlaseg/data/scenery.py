"""What stands in a synthetic street: each object paints itself on a canvas, in colour and in labels at once.

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

SUPERSAMPLING = 2  # the picture is painted at twice its size and averaged down; that is its anti-aliasing
_FRACTION_BITS = 4  # OpenCV takes polygon corners as fixed-point numbers: sixteenths of a pixel

Floats = NDArray[np.float64]
Colour = Sequence[float] | Floats
Pixels = NDArray[np.uint8]

TYRE, GLASS, MIRRORED, STEEL = (28, 28, 30), (44, 54, 66), (96, 112, 130), (112, 116, 120)
DOORS = ((86, 54, 40), (44, 66, 60), (60, 60, 70))
SKINS = ((236, 196, 168), (214, 164, 130), (160, 112, 80), (104, 72, 54))
CLOTHES = ((40, 46, 66), (150, 40, 44), (70, 92, 130), (196, 190, 178), (58, 58, 60), (92, 104, 70), (204, 160, 60),
           (120, 84, 120), (226, 226, 228), (38, 96, 104))  # fmt: skip
PLASTERS = ((226, 214, 190), (212, 186, 140), (210, 168, 148), (196, 198, 196), (232, 230, 224), (186, 198, 176),
            (178, 192, 206), (204, 196, 176))  # fmt: skip
BRICKS = ((150, 84, 66), (168, 108, 82), (126, 92, 78), (176, 142, 108))
ROOFS = ((140, 74, 56), (120, 66, 54), (84, 84, 90), (104, 88, 80))
PAINTS = ((176, 180, 184), (226, 228, 230), (34, 36, 40), (96, 102, 110), (140, 30, 34), (38, 64, 116), (60, 70, 84),
          (196, 178, 140), (30, 84, 74))  # fmt: skip


def code_of(name: str) -> int:
    """The Cityscapes label id of a class name."""
    return int(name2label[name].id)


def choose(rng: np.random.Generator, options: Sequence[Colour]) -> Floats:
    """One of the colours, a little varied. Returns (3,) float64 RGB in 0-255."""
    base = np.asarray(options[int(rng.integers(len(options)))], np.float64)
    return np.minimum(base * rng.uniform(0.9, 1.08) + rng.uniform(-3, 3, 3), 250)


def smooth_noise(rng: np.random.Generator, height: int, width: int, cell: float) -> NDArray[np.float32]:
    """Noise whose bumps are about `cell` pixels wide. Returns (height, width) float32, most of it in 0-1."""
    grid = rng.random((max(2, round(height / cell)), max(2, round(width / cell))), dtype=np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR)  # type: ignore[return-value]


@dataclass(frozen=True)
class Light:
    """Time of day and weather. Gains are (3,) RGB factors on a surface's own colour."""

    sun: tuple[float, float, float]  # unit vector towards the sun
    sunshine: Colour
    ambient: Colour
    haze: Colour  # RGB in 0-255
    visibility: float  # metres after which 63 % of a colour has become haze

    def gain(self, normal: Sequence[float], sunlit: float = 1.0) -> tuple[float, float, float]:
        """The RGB factor for a surface with this unit normal."""
        direct = sunlit * max(0.0, normal[0] * self.sun[0] + normal[1] * self.sun[1] + normal[2] * self.sun[2])
        sky = 0.82 + 0.18 * normal[1]
        (a0, a1, a2), (s0, s1, s2) = self.ambient, self.sunshine
        return a0 * sky + s0 * direct, a1 * sky + s1 * direct, a2 * sky + s2 * direct

    def seen(
        self, colour: Colour, normal: Sequence[float], depth: float, sunlit: float = 1.0
    ) -> tuple[float, float, float]:
        """The colour, in 0-255, of a surface as it looks from `depth` metres away."""
        clear = math.exp(-depth / self.visibility)
        (g0, g1, g2), (h0, h1, h2), (c0, c1, c2) = self.gain(normal, sunlit), self.haze, colour
        red, green, blue = (
            c0 * g0 * clear + h0 * (1 - clear),
            c1 * g1 * clear + h1 * (1 - clear),
            c2 * g2 * clear + h2 * (1 - clear),
        )
        return min(255.0, float(red)), min(255.0, float(green)), min(255.0, float(blue))


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

    def fill(self, corners: Floats, colour: Colour, code: int | None = None, opacity: float = 1.0) -> None:
        """Fills a polygon, (N, 2) canvas x, y. Without a code the labels stay: a detail on a surface."""
        fixed = (corners * (1 << _FRACTION_BITS) + 0.5).astype(np.int32)
        low = np.maximum(corners.min(0).astype(int) - 1, 0) if opacity < 1 else np.zeros(2, int)
        high = np.maximum(corners.max(0).astype(int) + 2, 0) if opacity < 1 else low
        part = self.image[low[1] : high[1], low[0] : high[0]]
        before = part.copy()
        cv2.fillPoly(self.image, [fixed], tuple(colour), cv2.LINE_8, _FRACTION_BITS)
        if part.size:
            part[:] = cv2.addWeighted(part, opacity, before, 1 - opacity, 0)
        if code is not None:
            cv2.fillPoly(self.codes, [fixed], (code,), cv2.LINE_8, _FRACTION_BITS)

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


def _upright(
    start: tuple[float, float], end: tuple[float, float], low: float, high: float, side: int = 1
) -> list[tuple[float, float, float]]:
    """The corners of a wall between two (x, z) points, clockwise as seen from a road that it stands at this side of."""
    (x0, z0), (x1, z1) = (start, end) if side > 0 else (end, start)
    return [(x0, high, z0), (x1, high, z1), (x1, low, z1), (x0, low, z0)]


@dataclass(frozen=True)
class _Sheet:
    """A texture under work, addressed in metres from its lower left corner."""

    pixels: Pixels  # (h, w, 3) RGB
    height: float
    density: float  # pixels per metre

    def paint(self, x0: float, y0: float, x1: float, y1: float, tint: Colour) -> None:
        """Fills a rectangle; what lies outside is cut off."""
        left, top = max(0, round(x0 * self.density)), max(0, round((self.height - y1) * self.density))
        right, bottom = max(0, round(x1 * self.density)), max(0, round((self.height - y0) * self.density))
        self.pixels[top:bottom, left:right] = tint

    def paste(self, x0: float, y1: float, tile: Pixels) -> None:
        """Lays a smaller texture with its upper left corner at (x0, y1)."""
        left, top = max(0, round(x0 * self.density)), max(0, round((self.height - y1) * self.density))
        part = self.pixels[top : top + len(tile), left : left + tile.shape[1]]
        part[:] = tile[: len(part), : part.shape[1]]


def _paint_window(
    rng: np.random.Generator, width: float, height: float, density: float, frame: Colour, sill: Colour, curtain: Colour
) -> Pixels:
    """A window with a frame of 0.12 m around it, (h, w, 3); the upper pane mirrors the sky."""
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
    """Shop windows, a door among them, and the board above."""
    sheet.paint(0.25, 0.4, length - 0.25, 2.6, np.multiply(frame, 0.5))
    for column in range(bays):
        left, right = length * column / bays + 0.4, length * (column + 1) / bays - 0.4
        sheet.paint(left, 0.05 if column == door else 0.6, right, 2.5, GLASS)
        sheet.paint(left, 1.5, right, 2.5, MIRRORED)
        sheet.paint(left + 0.2, 0.7, right - 0.2, rng.uniform(1.0, 1.5), choose(rng, CLOTHES))
    sheet.paint(0.15, 2.55, length - 0.15, 3.1, choose(rng, CLOTHES))
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
    """A house front seen straight on.

    Args:
        rng: where the variation comes from.
        length: metres.
        height: metres; a storey has about 3 of them.
        density: texture pixels per metre.
        colour: of the wall, RGB in 0-255.
        brick: a brick pattern rather than plaster.
        shop: shop windows on the ground floor rather than a door.
        blank: the share of bays without a window; any above 0 leaves out the door too.

    Returns:
        (h, w, 3) uint8 RGB, in the surfaces' own colours.
    """
    rows, columns = max(4, round(height * density)), max(4, round(length * density))
    stains = 0.93 + 0.1 * smooth_noise(rng, rows, columns, 1.5 * density)
    if brick:
        bricks = rng.uniform(0.84, 1.1, (max(1, round(height / 0.16)), max(1, round(length / 0.4)))).repeat(2, 1)
        bricks[1::2] = np.roll(bricks[1::2], 1, 1)
        stains = stains * cv2.resize(bricks.astype(np.float32), (columns, rows), interpolation=cv2.INTER_NEAREST)
    plain = cv2.merge([cv2.convertScaleAbs(stains, alpha=float(c)) for c in colour])
    wall = _Sheet(plain.astype(np.uint8, copy=False), height, density)

    frame = (230, 228, 222) if rng.random() < 0.7 else (74, 62, 54)
    curtain = choose(rng, ((224, 218, 204), (206, 198, 190), (170, 130, 110)))
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
                wall.paint(centre - 0.52, 0, centre + 0.52, 2.25, choose(rng, DOORS))
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
        rng: where the variation comes from.
        side: -1 left of the road, 1 right of it.
        front: distance of its front from the camera's path, metres.
        near: where it begins, metres ahead.
        far: where it ends.
        height: of its eaves.
        exposed: whether its wall towards the camera can be seen past the house before it.
    """
    code, brick = code_of("building"), bool(rng.random() < 0.4)
    colour, roof = choose(rng, BRICKS if brick else PLASTERS), choose(rng, ROOFS)
    # what lies nearer than this is beside the picture, and needs no sharp texture
    first_seen = front * canvas.focal / (0.58 * canvas.codes.shape[1])
    density = float(np.clip(0.8 * canvas.focal / (max(near, first_seen) + 0.3 * (far - near)), 5, 72))
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
            canvas.stroke(tiles, 1, canvas.seen(roof * 0.8, toward, far))
    if exposed and canvas.shows(min(x, back), max(x, back), near):
        wall = paint_facade(rng, depth, height, density, colour * 0.96, brick, blank=0.6)
        canvas.texture(wall, _upright((x, near), (back, near), 0, height, side), (0, 0, -1), code)
    if rise:
        gable = [(x, height, near), (ridge, top, near), (back, height, near)]
        canvas.face(gable, colour * 0.96, (0, 0, -1), code)
    if rise and rng.random() < 0.7:
        at, brickwork = rng.uniform(near + 1, far - 1), (140, 88, 72)
        left, right, inner = ridge - 0.4, ridge + 0.4, ridge - side * 0.4
        canvas.face(_upright((left, at), (right, at), top - 0.5, top + 0.9), brickwork, (0, 0, -1), code)
        canvas.face(_upright((inner, at), (inner, at + 0.8), top - 0.5, top + 0.9), brickwork, (-side, 0, 0), code)
    if canvas.shows(x, x, far):
        wall = paint_facade(rng, far - near, height, density, colour, brick, shop=bool(rng.random() < 0.45))
        canvas.texture(wall, _upright((x, far), (x, near), 0, height, side), (-side, 0, 0), code)


def draw_fence(canvas: Canvas, side: int, front: float, near: float, far: float, colour: Colour) -> None:
    """A panel of a picket fence along the street, 1.15 m high."""
    density = float(np.clip(1.5 * canvas.focal / near, 8, 64))
    rows, columns = round(1.15 * density), max(4, round((far - near) * density))
    picket = np.mod(np.arange(columns) / density, 0.16) < 0.11
    panel = np.repeat(np.where(picket[:, None], colour, np.multiply(colour, 0.4)).astype(np.uint8)[None], rows, 0)
    for y in (0.22, 0.82):
        panel[round(y * density) : round((y + 0.09) * density)] = np.multiply(colour, 0.86)
    corners = _upright((side * front, far), (side * front, near), 0.08, 1.2, side)
    canvas.texture(panel, corners, (-side, 0, 0), code_of("fence"))


def draw_foliage(
    canvas: Canvas,
    rng: np.random.Generator,
    x: float,
    y: float,
    z: float,
    width: float,
    height: float,
    colour: Colour,
) -> None:
    """A crown or a bush of leaves, centred at (x, y, z), `width` by `height` metres."""
    scale = canvas.focal / z
    columns, rows = max(3, round(width * scale)), max(3, round(height * scale))
    shrink = min(1.0, 440 / max(columns, rows))
    w, h = max(3, round(columns * shrink)), max(3, round(rows * shrink))
    # lumps: the field is positive inside any of them, and the nearest lump says where the surface turns to the sun
    angle, reach = rng.uniform(0, 2 * math.pi, 18), np.sqrt(rng.uniform(0, 1, 18)) * 0.62
    radius = rng.uniform(0.22, 0.42, 18).astype(np.float32)
    lump_x = (np.cos(angle) * reach).astype(np.float32)[:, None, None]
    lump_y = (np.sin(angle) * reach).astype(np.float32)[:, None, None]
    small_h, small_w = min(h, 36), min(w, 36)
    grid_y = np.linspace(-1.1, 1.1, small_h, dtype=np.float32)[:, None]
    grid_x = np.linspace(-1.1, 1.1, small_w, dtype=np.float32)[None]
    field = 1 - ((grid_x - lump_x) ** 2 + (grid_y - lump_y) ** 2) / radius[:, None, None] ** 2
    nearest = field.argmax(0)
    turn = (lump_y[nearest, 0, 0] - grid_y) + np.sign(canvas.light.sun[0]) * 0.7 * (grid_x - lump_x[nearest, 0, 0])
    shade = 0.72 + 0.5 * turn / radius[nearest] * 0.6 - 0.2 * grid_y
    coarse, fine = (
        smooth_noise(rng, h, w, max(2.0, 0.22 * scale * shrink)),
        smooth_noise(rng, h, w, max(1.2, 0.07 * scale * shrink)),
    )
    leaves = 0.5 * coarse + 0.5 * fine
    mask = cv2.resize(field.max(0), (w, h)) + 0.9 * (leaves - 0.5) > 0.08
    tone = cv2.resize(shade, (w, h)) * (0.55 + 0.9 * leaves)
    tone = np.clip(tone, 0.25, 1.5)
    haze = canvas.seen((0, 0, 0), (0, 1, 0), z)
    pixels = cv2.merge([cv2.convertScaleAbs(tone, alpha=full - least, beta=least)
                        for full, least in zip(canvas.seen(colour, (0, 1, 0), z), haze, strict=True)])  # fmt: skip
    sized = cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    chosen = cv2.resize(mask.astype(np.uint8), (columns, rows), interpolation=cv2.INTER_NEAREST).astype(np.uint8)
    left, top = canvas.project((x, y, z)) - (columns / 2, rows / 2)
    canvas.stamp(sized, chosen, round(top), round(left), code_of("vegetation"))


def draw_tree(canvas: Canvas, rng: np.random.Generator, x: float, z: float, height: float, colour: Colour) -> None:
    """A street tree; its trunk is vegetation too, as in Cityscapes."""
    bark, girth, code = choose(rng, ((96, 80, 64), (110, 98, 84))), 0.024 * height, code_of("vegetation")
    shaded = (0.1, 1.0) if canvas.light.sun[0] < 0 else (-1.0, -0.1)
    for (a, b), tint in (((-1.0, 1.0), 1.0), (shaded, 0.65)):
        foot, fork = (0.05, girth), (0.6 * height, 0.7 * girth)
        trunk = [(x + side * half, y, z) for side, (y, half) in ((a, foot), (a, fork), (b, fork), (b, foot))]
        canvas.face(trunk, bark * tint, (0, 0, -1), code)
    width = height * rng.uniform(0.6, 0.8)
    draw_foliage(canvas, rng, x, height * 0.66, z, width, height * 0.72, colour)


@dataclass(frozen=True)
class Body:
    """The shape of a vehicle: a side profile in metres, as wide at the belt as `half_width`, narrower at the roof."""

    profile: tuple[tuple[float, float], ...]  # (along, up) from the rear bumper over the roof to the front bumper
    half_width: float
    roof_half_width: float
    belt: float  # metres above the road at which the windows begin
    panes: tuple[int, ...]  # the profile's edges that are windows
    side_panes: tuple[tuple[tuple[float, float], ...], ...]
    wheels: tuple[float, ...]
    wheel_radius: float
    lamps: tuple[float, float]  # metres above the road


HATCHBACK = Body(
    profile=((0.05, 0.28), (0.0, 0.6), (0.1, 0.95), (0.5, 1.42), (1.0, 1.5), (2.2, 1.47), (3.1, 0.98), (4.05, 0.8),
             (4.2, 0.6), (4.15, 0.26)),
    half_width=0.89, roof_half_width=0.62, belt=0.93, panes=(2, 5),
    side_panes=(((0.55, 0.98), (0.82, 1.38), (1.5, 1.41), (1.5, 0.98)),
                ((1.6, 0.98), (1.6, 1.41), (2.2, 1.39), (2.85, 0.98))),
    wheels=(0.72, 3.4), wheel_radius=0.32, lamps=(0.68, 0.9))  # fmt: skip
SALOON = Body(
    profile=((0.06, 0.28), (0.0, 0.6), (0.06, 0.98), (0.7, 1.02), (1.35, 1.4), (1.8, 1.46), (2.5, 1.43), (3.35, 0.98),
             (4.4, 0.78), (4.55, 0.58), (4.5, 0.26)),
    half_width=0.91, roof_half_width=0.6, belt=0.95, panes=(3, 6),
    side_panes=(((1.0, 1.0), (1.5, 1.35), (1.95, 1.38), (1.95, 1.0)),
                ((2.05, 1.0), (2.05, 1.38), (2.5, 1.36), (3.05, 1.0))),
    wheels=(0.85, 3.65), wheel_radius=0.32, lamps=(0.66, 0.88))  # fmt: skip
ESTATE = Body(
    profile=((0.05, 0.32), (0.0, 0.7), (0.08, 1.05), (0.4, 1.58), (0.8, 1.66), (2.5, 1.64), (3.3, 1.1), (4.3, 0.92),
             (4.5, 0.66), (4.45, 0.3)),
    half_width=0.94, roof_half_width=0.68, belt=1.05, panes=(2, 5),
    side_panes=(((0.4, 1.1), (0.62, 1.5), (1.2, 1.55), (1.2, 1.1)),
                ((1.3, 1.1), (1.3, 1.55), (2.05, 1.55), (2.05, 1.1)),
                ((2.15, 1.1), (2.15, 1.55), (2.5, 1.53), (3.05, 1.1))),
    wheels=(0.8, 3.6), wheel_radius=0.34, lamps=(0.78, 1.04))  # fmt: skip
BUS = Body(
    profile=((0.05, 0.35), (0.0, 1.3), (0.06, 2.55), (0.2, 3.0), (10.4, 3.0), (10.6, 2.55), (10.75, 1.1), (10.7, 0.35)),
    half_width=1.25, roof_half_width=1.2, belt=1.3, panes=(1, 5),
    side_panes=tuple(((a, 1.35), (a, 2.45), (a + 1.42, 2.45), (a + 1.42, 1.35))
                     for a in (0.35, 1.87, 3.39, 4.91, 6.43, 7.95, 9.0)),
    wheels=(2.6, 8.4), wheel_radius=0.48, lamps=(0.85, 1.15))  # fmt: skip


def _rounded(profile: ArrayLike) -> Floats:
    """Cuts the corners of a profile: (N, 2) -> (2 N, 2), edge i becoming edge 2 i + 1."""
    points = np.asarray(profile, np.float64)
    before, after = np.vstack([points[:1], points[:-1]]), np.vstack([points[1:], points[-1:]])
    return np.stack([points + 0.17 * (before - points), points + 0.17 * (after - points)], 1).reshape(-1, 2)


@dataclass(frozen=True)
class _Vehicle:
    """A body at its place in the street, parallel to the road."""

    canvas: Canvas
    body: Body
    x: float  # of its middle line, metres
    z: float  # of its near end
    away: bool
    paint: Floats
    code: int

    @property
    def detailed(self) -> bool:
        """Whether it is near enough for its details to be seen."""
        return self.canvas.focal / self.z > 40

    def place(self, shape: ArrayLike, side: float, widen: float = 0.0) -> Floats:
        """A drawing on the flank, (N, 2) metres along and up -> (N, 3) in the world."""
        body, (along, up) = self.body, np.asarray(shape, np.float64).T
        top, length = max(y for _, y in body.profile), max(a for a, _ in body.profile)
        half = np.interp(up, (body.belt, top), (body.half_width, body.roof_half_width)) + widen
        return np.array([self.x + side * half, up, self.z + (along if self.away else length - along)]).T

    def paint_hull(self) -> None:
        """Tyres seen from the end, then the strips between the flanks, from far to near."""
        canvas, half, profile = self.canvas, self.body.half_width, _rounded(self.body.profile)
        for inner in (self.x - half + 0.02, self.x + half - 0.24):
            tyre = _upright((inner, self.z + 0.35), (inner + 0.22, self.z + 0.35), 0, 0.55)
            canvas.face(tyre, TYRE, (0, 0, -1), self.code)
        left, right = self.place(profile, -1), self.place(profile, 1)
        step = np.diff(profile, axis=0) / np.linalg.norm(np.diff(profile, axis=0), axis=1, keepdims=True)
        normals = np.stack([0 * step[:, 0], step[:, 0], -step[:, 1] if self.away else step[:, 1]], -1)
        facing = ((np.array([0, canvas.camera_height, 0]) - left[:-1] * (0, 1, 1)) * normals).sum(1) > 0
        for i in np.argsort(-(left[:-1, 2] + left[1:, 2]), kind="stable").tolist():
            if not facing[i]:
                continue
            quad = np.array([left[i], left[i + 1], right[i + 1], right[i]])
            canvas.face(quad, self.paint, normals[i].tolist(), self.code)
            if i % 2 and i // 2 in self.body.panes:
                pane = (quad - quad.mean(0)) * (0.9, 0.84, 0.84) + quad.mean(0)
                canvas.face(pane, GLASS, (0, 0, -1), self.code)
                mirrored = np.array([0.4 * pane[0] + 0.6 * pane[1], pane[1], pane[2], 0.2 * pane[2] + 0.8 * pane[3]])
                canvas.face(mirrored, MIRRORED, (0, 0, -1), self.code)

    def paint_end(self) -> None:
        """Bumper, lamps and plate of the end that faces the camera."""
        half, (low, high), away = self.body.half_width, self.body.lamps, self.away

        def plate(x0: float, x1: float, y0: float, y1: float, tint: Colour, glow: float = 0.0) -> None:
            cut = 0.22 * min(x1 - x0, y1 - y0)
            left, right = (x0, x0 + cut), (x1, x1 - cut)
            outline = [(left[0], y0 + cut), (left[0], y1 - cut), (left[1], y1), (right[1], y1),
                       (right[0], y1 - cut), (right[0], y0 + cut), (right[1], y0), (left[1], y0)]  # fmt: skip
            seen = self.canvas.seen(tint, (0, 0, -1), self.z)
            corners = self.canvas.project([(self.x + across, up, self.z - 0.02) for across, up in outline])
            self.canvas.fill(corners, [max(s, glow * t) for s, t in zip(seen, tint, strict=True)], self.code)

        plate(-half + 0.04, half - 0.04, self.body.profile[0][1] - 0.02, 0.5, self.paint * 0.5)
        for side in (-1, 1):
            left, right = sorted((side * half * 0.95, side * half * 0.68))
            lens, rim = ((214, 40, 36), 0.07) if away else ((250, 248, 236), 0.03)
            plate(left, right, low, high, (150, 18, 22) if away else (150, 156, 160))
            plate(left + 0.04, right - 0.04, low + 0.04, high - rim, lens, 0.85)
        if self.detailed:
            plate(-half + 0.06, half - 0.06, low - 0.05, low - 0.02, self.paint * 0.6)
            plate(-0.26, 0.26, 0.52, 0.63, (232, 232, 226))
        if not away:
            plate(-half * 0.55, half * 0.55, low - 0.02, high - 0.08, (38, 40, 44))
        if self.body is BUS:
            plate(-0.8, 0.8, 2.6, 2.88, (28, 28, 30))
            plate(-0.55, 0.55, 2.66, 2.82, (250, 170, 40), 0.9)

    def paint_flank(self, side: float) -> None:
        """The side with its windows, doors and wheels; -1 is the left one."""
        canvas, body, normal, scale = self.canvas, self.body, (side, 0.0, 0.0), self.canvas.focal / self.z
        profile = _rounded(body.profile)
        canvas.face(self.place(profile, side), self.paint, normal, self.code)
        sill = np.minimum(profile, (math.inf, 0.62 * body.belt))
        canvas.face(self.place(sill, side, 0.003), self.paint * 0.84, normal, self.code)
        for pane in body.side_panes:
            canvas.face(self.place(pane, side, 0.005), GLASS, normal, self.code)
            if self.detailed:
                corners, (at, up) = np.array(pane), pane[-1]
                mirrored = (corners[[1, 1, 2, 2]] + corners[[0, 1, 2, 3]]) / 2
                canvas.face(self.place(mirrored, side, 0.006), MIRRORED, normal, self.code)
                seam = canvas.project(self.place([(at + 0.04, up), (at + 0.04, 0.45)], side, 0.006))
                canvas.stroke(seam, 0.02 * scale, canvas.seen(self.paint * 0.62, normal, self.z), self.code)
        turn = np.linspace(0, 2 * math.pi, 20, endpoint=False)
        circle, radius = np.stack([np.cos(turn), np.sin(turn)], -1), body.wheel_radius
        rings = ((radius + 0.07, self.paint * 0.3), (radius, np.array(TYRE)), (radius * 0.6, np.array(STEEL)))
        for along in body.wheels:
            for size, tint in rings if self.detailed else rings[1:2]:
                canvas.face(self.place(circle * size + (along, radius), side, 0.01), tint, normal, self.code)
        if self.detailed:
            along = body.side_panes[-1][-1][0] - 0.15
            mirror = canvas.project(self.place([(along, body.belt + 0.05), (along, body.belt + 0.2)], side, 0.1))
            canvas.stroke(mirror, 0.16 * scale, canvas.seen(self.paint * 0.7, (0, 0, -1), self.z), self.code)


def draw_vehicle(canvas: Canvas, body: Body, x: float, z: float, away: bool, paint: Floats, code: int) -> None:
    """A car or bus parallel to the road.

    Args:
        canvas: to paint on.
        body: its shape.
        x: of its middle line, metres.
        z: of its near end, metres.
        away: it drives away from the camera, which therefore sees its rear.
        paint: its colour, RGB in 0-255.
        code: its instance code.
    """
    vehicle = _Vehicle(canvas, body, x, z, away, paint, code)
    vehicle.paint_hull()
    vehicle.paint_end()
    across = x + canvas.bend * z * z
    if abs(across) > body.half_width:
        vehicle.paint_flank(-math.copysign(1, across))


def draw_person(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A pedestrian, 1.6 to 1.85 m tall, standing or in mid-step."""
    code, size = canvas.instance("person"), rng.uniform(1.6, 1.85) / 1.75
    scale = size * canvas.focal / z
    origin = canvas.project((x, 0.0 if abs(x) < 5 else 0.1, z))
    coat, trousers = choose(rng, CLOTHES), choose(rng, CLOTHES) * 0.75
    skin, hair = choose(rng, SKINS), choose(rng, ((40, 30, 26), (110, 80, 50), (170, 150, 120), (60, 44, 34)))
    stride, facing = rng.uniform(0.06, 0.26), float(rng.choice((-1, 1)))

    def at(*points: tuple[float, float]) -> Floats:
        return origin + np.array(points) * (scale, -scale)

    def tone(colour: Floats, factor: float = 1.0) -> tuple[float, float, float]:
        return canvas.seen(colour * factor, (0, 0, -1), z)

    for foot, factor in ((-stride, 0.8), (stride, 1.0)):
        knee = (0.5 * foot + facing * 0.04, 0.5)
        canvas.stroke(
            at((math.copysign(0.06, foot), 0.88), knee, (foot, 0.08)), 0.15 * scale, tone(trousers, factor), code
        )
        canvas.stroke(
            at((foot, 0.05), (foot + facing * 0.11, 0.04)), 0.09 * scale, tone(np.array((36.0, 32.0, 32.0))), code
        )
    hem, swing, dark = float(rng.choice((0.82, 0.82, 0.62))), 0.5 * stride, -math.copysign(1, canvas.light.sun[0])
    half_torso = ((0.17, hem), (0.16, 1.05), (0.22, 1.36), (0.12, 1.46))
    arm = ((0.2, 1.37), (0.25 + 0.6 * swing, 1.1), (0.2 + swing, 0.86))
    canvas.stroke(at(*arm), 0.1 * scale, tone(coat, 0.8), code)
    canvas.fill(at(*half_torso, *((-x, y) for x, y in reversed(half_torso))), tone(coat), code)
    canvas.fill(
        at(*((dark * x, y) for x, y in half_torso), (dark * 0.04, 1.45), (dark * 0.03, hem)), tone(coat, 0.72), code
    )
    canvas.stroke(at(*((-x, y) for x, y in arm)), 0.1 * scale, tone(coat, 0.9), code)
    for hand in (0.2 + swing, -0.2 - swing):
        canvas.stroke(at((hand, 0.84), (hand, 0.82)), 0.09 * scale, tone(skin), code)
    canvas.stroke(at((0, 1.46), (0, 1.54)), 0.1 * scale, tone(skin, 0.8), code)
    canvas.stroke(at((0, 1.6), (0, 1.66)), 0.19 * scale, tone(hair), code)
    if rng.random() < 0.6:
        canvas.stroke(at((facing * 0.025, 1.58), (facing * 0.025, 1.61)), 0.15 * scale, tone(skin), code)
    if rng.random() < 0.4:
        bag = at(*((facing * x, y) for x, y in ((0.2, 0.62), (0.2, 0.92), (0.42, 0.92), (0.42, 0.62))))
        canvas.fill(bag, tone(choose(rng, CLOTHES)), code)


def draw_bicycle(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A parked bicycle; its wheels count as filled discs, as annotators outline them."""
    code, turned = canvas.instance("bicycle"), rng.uniform(-0.5, 0.5) + (math.pi if rng.random() < 0.5 else 0)
    scale = canvas.focal / z
    frame = canvas.seen(choose(rng, CLOTHES) * 1.1, (0, 0, -1), z)
    tyre = canvas.seen(TYRE, (0, 0, -1), z)

    def at(*points: tuple[float, float]) -> Floats:
        along, up = np.array(points).T
        return canvas.project(np.stack([x + along * math.cos(turned), 0.1 + up, z + along * math.sin(turned)], -1))

    turn = np.linspace(0, 2 * math.pi, 24, endpoint=False)
    for hub in (-0.52, 0.52):
        rim = at(*zip((hub + 0.34 * np.cos(turn)).tolist(), (0.34 + 0.34 * np.sin(turn)).tolist(), strict=True))
        canvas.fill(rim, (96, 98, 100), code, 0.45)
        canvas.stroke(rim, 0.05 * scale, tyre, code, closed=True)
    for line in (((-0.52, 0.34), (-0.12, 0.3), (0.36, 0.76), (-0.2, 0.78), (-0.52, 0.34)), ((-0.12, 0.3), (-0.22, 0.9)),
                 ((0.52, 0.34), (0.36, 0.76), (0.33, 0.96))):  # fmt: skip
        canvas.stroke(at(*line), 0.045 * scale, frame, code)
    canvas.stroke(at((-0.34, 0.92), (-0.12, 0.93)), 0.08 * scale, tyre, code)
    canvas.stroke(at((0.33, 0.96), (0.45, 1.0)), 0.05 * scale, tyre, code)


def draw_post(canvas: Canvas, x: float, z: float, height: float, width: float, reach: float = 0.0) -> None:
    """A pole, and an arm that reaches `reach` metres sideways from its top."""
    code, thick = code_of("pole"), max(canvas.smallest, width * canvas.focal / z)
    (left, top), (_, foot) = canvas.project([(x, height, z), (x, 0.05, z)])
    for a, b, tint in ((-0.5, 0.5, 1.0), (0.0, 0.5, 0.72) if canvas.light.sun[0] < 0 else (-0.5, 0.0, 0.72)):
        x0, x1 = left + a * thick, left + b * thick
        shaft = np.array([(x0, foot), (x0, top), (x1, top), (x1, foot)])
        canvas.fill(shaft, canvas.seen(np.multiply(STEEL, tint), (0, 0, -1), z), code)
    if reach:
        arm = canvas.project([(x, height - 0.1, z), (x + 0.35 * reach, height + 0.3, z), (x + reach, height + 0.4, z)])
        canvas.stroke(arm, 0.8 * thick, canvas.seen(STEEL, (0, 0, -1), z), code)


def draw_lamp(canvas: Canvas, x: float, z: float) -> None:
    """A street lamp whose arm reaches over the road."""
    reach = -math.copysign(1.6, x)
    draw_post(canvas, x, z, 7.0, 0.16, reach)
    head = canvas.project([(x + reach * 0.8, 7.42, z), (x + reach * 1.4, 7.42, z)])
    canvas.stroke(head, 0.2 * canvas.focal / z, canvas.seen((206, 206, 200), (0, 0, -1), z), code_of("pole"))


def draw_sign(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A traffic sign of one of six kinds on its post."""
    draw_post(canvas, x, z, 3.1, 0.09)
    code, scale = code_of("traffic sign"), canvas.focal / z
    middle = canvas.project((x, 2.75, z))
    white, red, blue = (238, 238, 236), (190, 28, 34), (30, 84, 170)

    def shape(corners: int, radius: float, turned: float, colour: Colour, up: float = 0.0) -> None:
        turn = 2 * math.pi * np.arange(corners) / corners + turned
        points = middle + np.stack([np.sin(turn), -np.cos(turn)], -1) * radius * scale - (0, up * scale)
        canvas.fill(points, canvas.seen(np.multiply(colour, 0.96), (0, 0, -1), z), code)

    def bar(width: float, height: float, colour: Colour) -> None:
        points = middle + np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (width * scale / 2, height * scale / 2)
        canvas.fill(points, canvas.seen(colour, (0, 0, -1), z), code)

    kind = int(rng.integers(6))
    if kind == 0:
        shape(32, 0.42, 0, red)
        shape(32, 0.31, 0, white)
        bar(0.2, 0.26, (40, 40, 42))
    elif kind == 1:
        shape(3, 0.56, 0, red)
        shape(3, 0.36, 0, white)
        bar(0.07, 0.22, (40, 40, 42))
    elif kind == 2:
        shape(8, 0.46, math.pi / 8, white)
        shape(8, 0.42, math.pi / 8, red)
        left, base = (middle + np.array([-0.31, 0.1]) * scale).tolist()
        font, ink, thick = cv2.FONT_HERSHEY_SIMPLEX, canvas.seen(white, (0, 0, -1), z), max(1, round(0.02 * scale))
        cv2.putText(canvas.image, "STOP", (round(left), round(base)), font, 0.00825 * scale, ink, thick)
    elif kind == 3:
        shape(4, 0.58, math.pi / 4, white)
        shape(4, 0.53, math.pi / 4, blue)
        shape(3, 0.3, 0, white, 0.03)
        bar(0.07, 0.24, (40, 40, 42))
    elif kind == 4:
        shape(32, 0.42, 0, blue)
        bar(0.12, 0.44, white)
        shape(3, 0.2, 0, white, 0.16)
    else:
        shape(4, 0.56, 0, white)
        shape(4, 0.44, 0, (240, 190, 30))


def draw_traffic_light(canvas: Canvas, x: float, z: float, lit: int, gantry: bool) -> None:
    """Signal heads on a post at the roadside, and over the road too if there is a gantry. `lit` 0 red to 2 green."""
    reach = -math.copysign(3.4, x) if gantry else 0.0
    draw_post(canvas, x, z, 4.4 if gantry else 3.3, 0.15, reach)
    code, scale = code_of("traffic light"), canvas.focal / z
    for at, up in ((x, 2.8), (x + reach, 4.2))[: 2 if gantry else 1]:
        middle = canvas.project((at, up, z))
        for w, h, tint in ((0.25, 0.6, (226, 226, 220)), (0.21, 0.56, (30, 34, 34))):
            board = middle + np.array([(-w, -h), (w, -h), (w, h), (-w, h)]) * scale
            canvas.fill(board, canvas.seen(tint, (0, 0, -1), z), code)
        turn = np.linspace(0, 2 * math.pi, 16, endpoint=False)
        for lens, bright in enumerate(((255, 60, 40), (255, 190, 40), (60, 240, 150))):
            centre = middle + np.array([0, (lens - 1) * 0.35 * scale])
            colour = bright if lens == lit else tuple(np.multiply(bright, 0.28))
            canvas.fill(centre + np.stack([np.cos(turn), np.sin(turn)], -1) * 0.14 * scale, colour, code)


def draw_clutter(canvas: Canvas, rng: np.random.Generator, x: float, z: float, bin_only: bool) -> None:
    """A litter bin, which Cityscapes calls static, or a heap of boxes, which nobody would label."""
    paints = ((60, 84, 60), (90, 92, 96), (170, 90, 40)) if bin_only else ((164, 130, 92), (142, 112, 80))
    container = ((-0.22, 0.22, 0.1, 0.95, 1.0), (0.08, 0.22, 0.1, 0.95, 0.75), (-0.25, 0.25, 0.95, 1.05, 0.6))
    heap = ((-0.45, 0.1, 0.1, 0.6, 1.0), (0.1, 0.5, 0.1, 0.45, 0.8), (-0.3, 0.15, 0.6, 0.95, 0.9))
    colour, code = choose(rng, paints), code_of("static" if bin_only else "unlabeled")
    for x0, x1, low, high, tint in container if bin_only else heap:
        canvas.face(_upright((x + x0, z), (x + x1, z), low, high), colour * tint, (0, 0, -1), code)
