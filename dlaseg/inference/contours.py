"""The outlines of a label map: polygons along the edges of its pixels, and COCO run lengths. Both hold every pixel."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlaseg.data.convert.run_lengths import string_of_counts
from dlaseg.labels import LabelMap

Ring = list[list[int]]
"""Corners [x, y] of a closed line along pixel edges; the first one is not repeated. No corner occurs twice."""


def contours(labels: NDArray[np.uint8], label_map: LabelMap) -> dict[str, Any]:
    """The polygons and run lengths of every class that occurs in a label map.

    A GeoJSON FeatureCollection with one MultiPolygon per class. Positions are [x, y] in pixels from the top left corner
    of the image, so the pixel of row r and column c is the square from [c, r] to [c + 1, r + 1], and a polygon contains
    exactly the centres of its pixels. A polygon is what is connected over the edges of pixels: two pixels that touch at
    a corner alone belong to two polygons. Exteriors are counterclockwise, holes clockwise, for an x axis to the right
    and a y axis upwards (RFC 7946).

    The properties of a feature are `name`, `train_id` and `id` (as stored) of the class, and `area`, `bbox` ([x, y,
    width, height]) and `segmentation` (run lengths, {size: [H, W], counts}) as in an annotation of COCO.

    Args:
        labels: (H, W) uint8 train ids; those of no class, such as 255, have no feature.
        label_map: names and ids of the classes.

    Returns:
        Plain values for JSON.
    """
    height, width = labels.shape
    shapes = polygons(labels)
    runs = run_lengths(labels)
    features = []
    for train_id in sorted(train_id for train_id in shapes if train_id < label_map.num_classes):
        corners = np.array([corner for polygon in shapes[train_id] for corner in polygon[0]])
        left, top = corners.min(0).tolist()
        right, bottom = corners.max(0).tolist()
        properties = {
            "name": label_map.names[train_id],
            "train_id": train_id,
            "id": label_map.ids[train_id][0],
            "area": sum(runs[train_id][1::2]),
            "bbox": [left, top, right - left, bottom - top],
            "segmentation": {"size": [height, width], "counts": string_of_counts(runs[train_id])},
        }
        coordinates = [[[*ring, ring[0]] for ring in polygon] for polygon in shapes[train_id]]
        geometry = {"type": "MultiPolygon", "coordinates": coordinates}
        features.append({"type": "Feature", "properties": properties, "geometry": geometry})
    return {"type": "FeatureCollection", "height": height, "width": width, "features": features}


def run_lengths(labels: NDArray[np.uint8]) -> dict[int, list[int]]:
    """COCO's run lengths of every value: down the columns, zeros and ones in turn, beginning with zeros.

    Args:
        labels: (H, W) uint8.
    """
    values = labels.ravel(order="F")
    starts = np.flatnonzero(np.diff(values, prepend=values[0] ^ 1))
    ends = np.append(starts[1:], values.size)
    found = {}
    for value in np.unique(values[starts]).tolist():
        mine = values[starts] == value
        # Every place where the mask changes, from the beginning to the end
        changes = np.column_stack((starts[mine], ends[mine])).ravel()
        counts = np.diff(changes, prepend=0, append=values.size).tolist()
        found[value] = counts if counts[-1] else counts[:-1]
    return found


def polygons(labels: NDArray[np.uint8]) -> dict[int, list[list[Ring]]]:
    """The polygons of every value, each a list of rings: the exterior, then its holes.

    Args:
        labels: (H, W) uint8.
    """
    corners = _find_corners(labels)
    rings = _follow(corners)
    order = np.concatenate([np.asarray(ring) for ring in rings])
    starts = np.cumsum([0, *map(len, rings)])
    is_hole = _doubled_areas(corners.x[order], corners.y[order], starts) < 0
    ring_of = np.empty(order.size, np.int64)
    ring_of[order] = np.repeat(np.arange(len(rings)), np.diff(starts))
    exterior_of = _exteriors_of_holes(labels, corners, ring_of, is_hole)

    points = np.column_stack((corners.x, corners.y))[order].tolist()
    closed: list[Ring] = [points[start:end] for start, end in pairwise(starts.tolist())]
    found: dict[int, list[list[Ring]]] = {}
    shapes: dict[int, list[Ring]] = {}
    for index in np.flatnonzero(~is_hole).tolist():
        shapes[index] = [closed[index]]
        found.setdefault(int(corners.value[rings[index][0]]), []).append(shapes[index])
    for hole, exterior in exterior_of.items():
        shapes[exterior].append(closed[hole])
    return found


@dataclass(frozen=True)
class _Corners:
    """The corners of all outlines, N of them. An outline has its pixels on the right of its direction (y downwards).

    Attributes:
        x: (N,) columns, 0 to W.
        y: (N,) rows, 0 to H.
        value: (N,) the label of the pixels that are outlined.
        following: (N,) the next corner on the outline.
        meets: (N,) whether the pixels meet others of the same label here, at the corner alone.
        up: corners from which the outline goes up, sorted by x, then y.
    """

    x: NDArray[np.int64]
    y: NDArray[np.int64]
    value: NDArray[np.uint8]
    following: NDArray[np.int64]
    meets: NDArray[np.bool_]
    up: NDArray[np.int64]


def _find_corners(labels: NDArray[np.uint8]) -> _Corners:
    height, width = labels.shape
    above = np.ones((height + 1, width), bool)  # whether there is an edge above a pixel
    np.not_equal(labels[1:], labels[:-1], out=above[1:-1])
    left = np.ones((height, width + 1), bool)
    np.not_equal(labels[:, 1:], labels[:, :-1], out=left[:, 1:-1])
    top, bottom, right = above[:-1], above[1:], left[:, 1:]
    left = left[:, :-1]

    def concave(vertical: NDArray[np.bool_], horizontal: NDArray[np.bool_], down: int) -> NDArray[np.bool_]:
        """Pixels without edges on two sides, where the neighbour above or below has the second of these edges."""
        beside = np.zeros_like(horizontal)
        beside[max(-down, 0) : height - max(down, 0)] = horizontal[max(down, 0) : height - max(-down, 0)]
        return ~vertical & ~horizontal & beside

    # Each pixel's top left, top right, bottom right and bottom left corner: first where the outline turns around the
    # pixel, then where the pixel is in the angle of the outline
    kinds = [top & left, top & right, bottom & right, bottom & left]
    kinds += [concave(top, left, -1), concave(top, right, -1), concave(bottom, right, 1), concave(bottom, left, 1)]
    rows, columns = zip(*map(np.nonzero, kinds), strict=True)
    y = np.concatenate([r + dy for r, dy in zip(rows, (0, 0, 1, 1) * 2, strict=True)])
    x = np.concatenate([c + dx for c, dx in zip(columns, (0, 1, 1, 0) * 2, strict=True)])
    row, column = np.concatenate(rows), np.concatenate(columns)
    value = labels[row, column]
    ends = np.cumsum([0, *map(len, rows)])
    convex_tl, convex_tr, convex_br, convex_bl, concave_tl, concave_tr, concave_br, concave_bl = (
        np.arange(start, end) for start, end in pairwise(ends)
    )

    # Straight lines: the n-th start on a row or column of corners goes to the n-th end
    following = np.empty(len(x), np.int64)
    by_row, by_column = y * (width + 1) + x, x * (height + 1) + y

    def connect(starts: Sequence[NDArray[np.int64]], ends: Sequence[NDArray[np.int64]], key: NDArray[np.int64]) -> Any:
        first, last = (_sorted(np.concatenate(parts), key) for parts in (starts, ends))
        following[first] = last
        return first

    connect((convex_tl, concave_tr), (convex_tr, concave_tl), by_row)  # to the right
    connect((convex_tr, concave_br), (convex_br, concave_tr), by_column)  # down
    connect((convex_br, concave_bl), (convex_bl, concave_br), by_row)  # to the left
    up = connect((convex_bl, concave_tl), (convex_tl, concave_bl), by_column)

    # The pixel diagonally across a convex corner
    across_row, across_column = 2 * y - 1 - row, 2 * x - 1 - column
    inside = (across_row >= 0) & (across_row < height) & (across_column >= 0) & (across_column < width)
    inside[ends[4] :] = False
    meets = np.zeros(len(x), bool)
    meets[inside] = labels[across_row[inside], across_column[inside]] == value[inside]
    return _Corners(x, y, value, following, meets, up)


def _sorted(indices: NDArray[np.int64], key: NDArray[np.int64]) -> NDArray[np.int64]:
    return indices[np.argsort(key[indices])]


def _follow(corners: _Corners) -> list[list[int]]:
    """Lists the corners of every ring. An outline that comes through a corner twice is cut there into two rings."""
    following, meets = corners.following.tolist(), corners.meets.tolist()
    x, y = corners.x.tolist(), corners.y.tolist()
    seen = bytearray(len(following))
    rings = []
    for first in range(len(following)):
        if seen[first]:
            continue
        ring: list[int] = []
        places: dict[tuple[int, int], int] = {}
        corner = first
        while not seen[corner]:
            seen[corner] = True
            if meets[corner]:
                place = places.setdefault((x[corner], y[corner]), len(ring))
                if place < len(ring):
                    rings.append(ring[place:])
                    del ring[place:]
            ring.append(corner)
            corner = following[corner]
        rings.append(ring)
    return rings


def _doubled_areas(x: NDArray[np.int64], y: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Twice the signed area of each ring: negative for a hole. Ring i has the points starts[i] to starts[i + 1]."""
    following = np.arange(1, len(x) + 1)
    following[starts[1:] - 1] = starts[:-1]
    return np.add.reduceat(x * y[following] - x[following] * y, starts[:-1])


def _exteriors_of_holes(
    labels: NDArray[np.uint8], corners: _Corners, ring_of: NDArray[np.int64], is_hole: NDArray[np.bool_]
) -> dict[int, int]:
    """The exterior ring that each hole is in.

    From the pixel above the hole's topmost edge, one goes left until the outline. What is there is the exterior, or
    another hole that begins further up.
    """
    height, width = labels.shape
    mine = np.flatnonzero(is_hole[ring_of])
    if not mine.size:
        return {}
    # The first corner of each hole by row, then column; holes in the order of these
    topmost = mine[np.lexsort((corners.x[mine], corners.y[mine]))]
    holes, first = np.unique(ring_of[topmost], return_index=True)
    holes, first = holes[np.argsort(first)], topmost[np.sort(first)]
    row, column = corners.y[first] - 1, corners.x[first]

    begins = np.ones((height, width), bool)  # whether a pixel has an edge on its left
    np.not_equal(labels[:, 1:], labels[:, :-1], out=begins[:, 1:])
    left_edges = np.flatnonzero(begins)
    edge = left_edges[np.searchsorted(left_edges, row * width + column, side="right") - 1] % width
    lines = corners.x[corners.up] * (height + 1) + corners.y[corners.up]
    beside = ring_of[corners.up[np.searchsorted(lines, edge * (height + 1) + row + 1)]]

    exterior_of: dict[int, int] = {}
    for hole, ring in zip(holes.tolist(), beside.tolist(), strict=True):
        exterior_of[hole] = exterior_of.get(ring, ring)
    return exterior_of
