"""Cars and buses."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from dlaseg.synthetic.appearance import GLASS, MIRRORED, STEEL, TYRE, Colour, Floats
from dlaseg.synthetic.canvas import Canvas, wall_corners

CAR_PAINTS = ((176, 180, 184), (226, 228, 230), (34, 36, 40), (96, 102, 110), (140, 30, 34), (38, 64, 116),
              (60, 70, 84), (196, 178, 140), (30, 84, 74))  # fmt: skip
BUS_PAINTS = ((196, 60, 50), (226, 190, 70), (60, 120, 170), (220, 222, 220))


@dataclass(frozen=True)
class Body:
    """The shape of a vehicle in metres: a side profile, `half_width` at the belt, narrower at the roof."""

    profile: tuple[tuple[float, float], ...]  # (along, up) from the rear bumper over the roof to the front bumper
    half_width: float
    roof_half_width: float
    belt: float  # lower edge of the windows, metres above the road
    panes: tuple[int, ...]  # indices of the profile's edges that are windows
    side_panes: tuple[tuple[tuple[float, float], ...], ...]
    wheels: tuple[float, ...]
    wheel_radius: float
    lamps: tuple[float, float]  # metres above the road

    @cached_property
    def length(self) -> float:
        """Metres from bumper to bumper."""
        return max(along for along, _ in self.profile)

    @cached_property
    def height(self) -> float:
        """Metres from the road to the roof."""
        return max(up for _, up in self.profile)


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
    """Cuts the corners of a profile: (N, 2) -> (2 N, 2); edge i becomes edge 2 i + 1."""
    points = np.asarray(profile, np.float64)
    before, after = np.vstack([points[:1], points[:-1]]), np.vstack([points[1:], points[-1:]])
    return np.stack([points + 0.17 * (before - points), points + 0.17 * (after - points)], 1).reshape(-1, 2)


@dataclass(frozen=True)
class _Vehicle:
    """A body placed in the street, parallel to the road."""

    canvas: Canvas
    body: Body
    x: float  # of its middle line, metres
    z: float  # of its near end, metres
    away: bool  # whether the camera sees its rear
    paint: Floats
    code: int

    @property
    def detailed(self) -> bool:
        """Whether it is near enough for details to be visible."""
        return self.canvas.focal / self.z > 40

    def place(self, shape: ArrayLike, side: float, widen: float = 0.0) -> Floats:
        """Maps points on the flank, (N, 2) metres along and up, to the world, (N, 3)."""
        body, (along, up) = self.body, np.asarray(shape, np.float64).T
        half = np.interp(up, (body.belt, body.height), (body.half_width, body.roof_half_width)) + widen
        return np.array([self.x + side * half, up, self.z + (along if self.away else body.length - along)]).T

    def paint_hull(self) -> None:
        """Paints the tyres as seen from the end, then the surfaces between the flanks, from far to near."""
        canvas, half, profile = self.canvas, self.body.half_width, _rounded(self.body.profile)
        for inner in (self.x - half + 0.02, self.x + half - 0.24):
            tyre = wall_corners((inner, self.z + 0.35), (inner + 0.22, self.z + 0.35), 0, 0.55)
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
        """Paints bumper, lamps and number plate of the end that faces the camera."""
        half, (low, high), away = self.body.half_width, self.body.lamps, self.away

        def plate(x0: float, x1: float, y0: float, y1: float, tint: Colour, glow: float = 0.0) -> None:
            cut = 0.22 * min(x1 - x0, y1 - y0)
            left, right = (x0, x0 + cut), (x1, x1 - cut)
            lower = [(right[0], y0 + cut), (right[1], y0), (left[1], y0)]
            outline = [
                (left[0], y0 + cut),
                (left[0], y1 - cut),
                (left[1], y1),
                (right[1], y1),
                (right[0], y1 - cut),
                *lower,
            ]
            seen = self.canvas.shade(tint, (0, 0, -1), self.z)
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
        """Paints the side with windows, doors and wheels; -1 is the left one."""
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
                canvas.stroke(seam, 0.02 * scale, canvas.shade(self.paint * 0.62, normal, self.z), self.code)
        turn = np.linspace(0, 2 * math.pi, 20, endpoint=False)
        circle, radius = np.stack([np.cos(turn), np.sin(turn)], -1), body.wheel_radius
        rings = ((radius + 0.07, self.paint * 0.3), (radius, np.array(TYRE)), (radius * 0.6, np.array(STEEL)))
        for along in body.wheels:
            for size, tint in rings if self.detailed else rings[1:2]:
                canvas.face(self.place(circle * size + (along, radius), side, 0.01), tint, normal, self.code)
        if self.detailed:
            along = body.side_panes[-1][-1][0] - 0.15
            mirror = canvas.project(self.place([(along, body.belt + 0.05), (along, body.belt + 0.2)], side, 0.1))
            canvas.stroke(mirror, 0.16 * scale, canvas.shade(self.paint * 0.7, (0, 0, -1), self.z), self.code)


def draw_vehicle(canvas: Canvas, body: Body, x: float, z: float, away: bool, paint: Floats, code: int) -> None:
    """A car or bus parallel to the road.

    Args:
        canvas: to paint on.
        body: its shape.
        x: of its middle line, metres.
        z: of its near end, metres.
        away: whether it drives away from the camera, which then sees its rear.
        paint: its colour, RGB in 0-255.
        code: its instance code.
    """
    vehicle = _Vehicle(canvas, body, x, z, away, paint, code)
    vehicle.paint_hull()
    vehicle.paint_end()
    across = x + canvas.curvature * z * z
    if abs(across) > body.half_width:
        vehicle.paint_flank(-math.copysign(1, across))
