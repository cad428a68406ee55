import base64
import io
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dlaseg.evaluation.report.gallery import IMAGES_PER_GROUP, pack_image, select_images


def labels(text, size):
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(size)


def picture(url):
    head, content = url.split(",")
    assert head == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


@given(st.lists(st.none() | st.floats(0, 1), max_size=40))
def test_groups_are_the_worst_median_and_best_images(miou):
    groups = select_images(miou)
    shown = [i for group in groups.values() for i in group]
    scored = sorted(value for value in miou if value is not None)
    assert len(set(shown)) == len(shown)
    assert [miou[i] for i in shown] == sorted(miou[i] for i in shown)
    if len(scored) <= 3 * IMAGES_PER_GROUP:
        assert list(groups) == ["all"]
        assert [miou[i] for i in shown] == scored
        return
    assert [len(groups[name]) for name in ("worst", "median", "best")] == [IMAGES_PER_GROUP] * 3
    assert [miou[i] for i in groups["worst"]] == scored[:IMAGES_PER_GROUP]
    assert [miou[i] for i in groups["best"]] == scored[-IMAGES_PER_GROUP:]
    below = scored.index(miou[groups["median"][0]])
    middle = [miou[i] for i in groups["median"]]
    assert middle == scored[(len(scored) - IMAGES_PER_GROUP) // 2 :][:IMAGES_PER_GROUP]
    assert abs(below - (len(scored) - below - IMAGES_PER_GROUP)) <= 1 or len(set(scored)) < len(scored)


def test_label_maps_are_lossless_and_the_image_nearly():
    rng = np.random.default_rng(0)
    target, prediction = rng.integers(0, 256, (2, 37, 53), np.uint8)
    image = rng.integers(0, 256, (5, 7, 3), np.uint8).repeat(8, 0).repeat(8, 1)[:37, :53]
    content = pack_image("a/b", image, target, prediction)
    assert (content["name"], content["size"], content["packed_size"]) == ("a/b", [37, 53], [37, 53])
    assert np.array_equal(labels(content["target"], (37, 53)), target)
    assert np.array_equal(labels(content["prediction"], (37, 53)), prediction)
    assert np.abs(picture(content["image"]).astype(int) - image).mean() < 12
    assert pack_image("a", None, target, prediction)["image"] is None


@pytest.mark.parametrize(
    ("size", "expected"), [((3000, 6000), (1024, 2048)), ((2500, 3), (2048, 2)), ((4000, 1), (2048, 1))]
)
def test_large_label_maps_are_resized_by_nearest_neighbour(size, expected):
    rows = (np.arange(size[0]) * 7 // size[0] * 30).astype(np.uint8)
    target = np.repeat(rows[:, None], size[1], 1)
    content = pack_image("a", None, target, target)
    assert (content["size"], content["packed_size"]) == (list(size), list(expected))
    middles = [size[0] * (2 * row + 1) // (2 * expected[0]) for row in range(expected[0])]
    assert np.array_equal(labels(content["target"], expected), np.repeat(rows[middles][:, None], expected[1], 1))


def test_noise_stays_below_a_megabyte():
    rng = np.random.default_rng(0)
    target, prediction = rng.integers(0, 19, (2, 1024, 2048), np.uint8)
    content = pack_image("noise", rng.integers(0, 256, (1024, 2048, 3), np.uint8), target, prediction)
    assert sum(len(content[part]) for part in ("target", "prediction", "image")) <= 1_000_000
    rows, columns = content["packed_size"]
    assert columns == 2 * rows < 2048
    assert labels(content["target"], (rows, columns)).max() == 18


def test_a_street_keeps_its_native_size():
    target = np.arange(19, dtype=np.uint8)[:, None].repeat(54, 0)[:1024].repeat(2048, 1)
    noise = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8).repeat(32, 0).repeat(32, 1)
    content = pack_image("street", noise, target, np.roll(target, 9, 0))
    assert content["packed_size"] == [1024, 2048]
    assert picture(content["image"]).shape == (800, 1600, 3)
    line = np.zeros((4000, 1), np.uint8)
    assert picture(pack_image("line", line[..., None].repeat(3, 2), line, line)["image"]).shape == (1600, 1, 3)
