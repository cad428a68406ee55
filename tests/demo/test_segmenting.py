"""What the demo page computes, without the page."""

import cv2
import numpy as np
import pytest

from dlaseg.data.datasets import label_map_of
from dlaseg.demo.segmenting import MOST_PREDICTORS, Networks, Segmented, legend, picture, pixel, save, times
from dlaseg.errors import UserError
from dlaseg.images import read_image, write_png
from dlaseg.inference.predictor import Predictor
from dlaseg.label_images import read_label_image
from dlaseg.synthetic.dataset import draw_scene


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    file = tmp_path_factory.mktemp("photo") / "street.png"
    write_png(file, draw_scene(0, 96, 128).image)
    return file


@pytest.fixture(scope="module")
def networks():
    return Networks()


@pytest.fixture
def segmented():
    labels = np.array([[0, 0, 3], [3, 3, 8]], np.uint8)
    image = np.full((2, 3, 3), 100, np.uint8)
    confidence = np.full((2, 3), 0.5, np.float16)
    return Segmented("a", image, labels, confidence, label_map_of("camvid"), (0.002, 0.05), "torch, float32")


def test_an_image_is_segmented_as_by_the_predictor(networks, photo):
    found = networks.segment(photo, "camvid", "torch", [], flip=False)
    predictor = Predictor("camvid", "torch")
    assert np.array_equal(found.labels, predictor(photo))
    probabilities = predictor.probabilities(photo).max(0)
    np.testing.assert_allclose(found.confidence, probabilities, atol=1e-3)
    assert (found.name, found.backend) == ("street", "torch, float32")
    assert np.array_equal(found.image, read_image(photo))
    averaged = networks.segment(photo, "camvid", "torch", [1.0, 0.5], flip=True)
    assert np.array_equal(averaged.labels, Predictor("camvid", "torch", scales=(0.5, 1.0), flip=True)(photo))


def test_few_networks_are_kept_and_the_last_ones(networks, photo, monkeypatch):
    made = []
    monkeypatch.setattr("dlaseg.demo.segmenting.Predictor", lambda *words, **more: made.append(more["scales"]) or
                        Predictor(*words, **more))  # fmt: skip
    few = Networks()
    for scale in (0.5, 0.6, 0.5, 0.7, 0.8, 0.9, 0.5, 0.6):
        few.segment(photo, "camvid", "torch", [scale], flip=False)
    assert made == [(0.5,), (0.6,), (0.7,), (0.8,), (0.9,), (0.6,)]
    assert len(few._predictors) == MOST_PREDICTORS


def test_what_cannot_be_segmented_is_a_user_error(networks, photo, tmp_path):
    (tmp_path / "no.png").write_text("no image")
    with pytest.raises(UserError, match="not an image"):
        networks.segment(tmp_path / "no.png", "camvid", "torch", [], flip=False)
    with pytest.raises(UserError, match="camvidd"):
        networks.segment(photo, "camvidd", "torch", [], flip=False)


def test_shares_are_those_of_the_pixels_the_largest_first(segmented):
    assert segmented.shares() == {3: 3 / 6, 0: 2 / 6, 8: 1 / 6}
    text = legend(segmented)
    assert [text.index(name) for name in ("road", "sky", "car")] == sorted(map(text.index, ("road", "sky", "car")))
    assert "50.0%" in text


def test_hidden_classes_show_the_image(segmented):
    whole = picture(segmented, [], 0.5)
    colors = segmented.label_map.colorize(segmented.labels).astype(int)
    assert np.abs(whole - (colors + 100) / 2).max() <= 0.5
    some = picture(segmented, {"road"}, 0.5)
    assert (some[segmented.labels == 3] == 100).all()
    assert np.array_equal(some[segmented.labels != 3], whole[segmented.labels != 3])
    assert (picture(segmented, [], 0.0) == 100).all()


def test_a_pixel_and_the_times_in_words(segmented):
    assert pixel(segmented, 1, 2) == "row 1, column 2: car, probability 50.0%"
    with pytest.raises(UserError, match="outside"):
        pixel(segmented, 2, 0)
    assert times(segmented) == "2 x 3 pixels; read in 2 ms, segmented in 50 ms (torch, float32)"


def test_the_downloads_are_label_map_colours_and_overlay(segmented, tmp_path):
    ids, color, overlay = save(segmented, tmp_path)
    assert [file.name for file in (ids, color, overlay)] == ["a_ids.png", "a_color.png", "a_overlay.png"]
    assert np.array_equal(read_label_image(ids), segmented.label_map.decode(segmented.labels))
    assert np.array_equal(read_image(color), segmented.label_map.colorize(segmented.labels))
    assert cv2.imread(str(overlay)).shape == (2, 3, 3)
