"""Polygons and run lengths hold every pixel, as shapely and pycocotools read them."""

import json

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco
from shapely.geometry import shape

from dlaseg import LabelMap
from dlaseg.data.convert.run_lengths import counts_of_string, string_of_counts
from dlaseg.inference.contours import contours

# In pycocotools' decode
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LABELS = LabelMap.from_dict({"classes": [{"name": f"c{i}", "id": 10 * i + 7} for i in range(4)]})


def check(labels):
    """Compares every class with its mask."""
    height, width = labels.shape
    rows, columns = np.mgrid[:height, :width] + 0.5
    collection = json.loads(json.dumps(contours(labels, LABELS)))
    assert (collection["type"], collection["height"], collection["width"]) == ("FeatureCollection", height, width)
    train_ids = [feature["properties"]["train_id"] for feature in collection["features"]]
    assert train_ids == [k for k in range(4) if (labels == k).any()]
    for train_id, feature in zip(train_ids, collection["features"], strict=True):
        mask = labels == train_id
        properties, polygons = feature["properties"], shape(feature["geometry"])
        assert (properties["name"], properties["id"]) == (f"c{train_id}", 10 * train_id + 7)

        assert polygons.is_valid, shapely.is_valid_reason(polygons)
        np.testing.assert_array_equal(shapely.contains_xy(polygons, columns, rows), mask)
        assert polygons.area == mask.sum() == properties["area"]
        assert len(polygons.geoms) == cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[0] - 1
        for polygon in polygons.geoms:
            assert polygon.exterior.is_ccw
            assert not any(hole.is_ccw for hole in polygon.interiors)
            assert shapely.get_num_coordinates(polygon) == shapely.get_num_coordinates(polygon.simplify(0))

        segmentation = properties["segmentation"]
        np.testing.assert_array_equal(coco.decode(segmentation), mask)
        written = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert segmentation == {"size": written["size"], "counts": written["counts"].decode()}
        assert properties["bbox"] == coco.toBbox(segmentation).tolist()


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.sampled_from([0, 1, 2])))
def test_every_small_label_map(labels):
    check(labels)


@pytest.mark.parametrize("scale", [1, 3])
def test_holes_within_holes_and_pixels_that_meet_at_corners(scale):
    noise = np.random.default_rng(0).integers(0, 3, (40, 50)).astype(np.uint8)
    check(np.kron(noise, np.ones((scale, scale), np.uint8)))
    rings = np.add.outer(abs(np.arange(-9, 10)), abs(np.arange(-8, 9)))
    check((rings // scale % 3).astype(np.uint8))


def test_ignored_pixels_have_no_feature():
    labels = np.full((3, 4), 255, np.uint8)
    assert contours(labels, LABELS)["features"] == []
    labels[1, 2] = 3
    check(labels)


def test_a_hole_and_what_is_in_it():
    labels = np.zeros((5, 6), np.uint8)
    labels[1:4, 1:5] = 1
    labels[2, 2:4] = 0
    outer, inner = contours(labels, LABELS)["features"]
    frame, core, page = box(1, 1, 5, 4), box(2, 2, 4, 3), box(0, 0, 6, 5)
    assert rings(inner) == [[frame, backwards(core)]]
    assert rings(outer) == [[page, backwards(frame)], [core]]
    assert inner["geometry"]["type"] == "MultiPolygon"
    assert inner["properties"]["bbox"] == [1, 1, 4, 3]


def box(left, top, right, bottom):
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def backwards(ring):
    return ring[::-1]


def rings(feature):
    """The coordinates, with the smallest corner of each ring first."""

    def turned(ring):
        assert ring[0] == ring[-1]
        first = ring.index(min(ring))
        return ring[first:-1] + ring[:first] + [ring[first]]

    return [[turned(ring) for ring in polygon] for polygon in feature["geometry"]["coordinates"]]


@given(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=12))
def test_strings_of_run_lengths_are_read_back(counts):
    assert counts_of_string(string_of_counts(counts)) == counts
