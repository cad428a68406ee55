"""What the demo page computes, without the page."""

import base64
import html
import json
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import cv2
import numpy as np
import pytest

from dlaseg.data.datasets import label_map_of
from dlaseg.demo.segmenting import (
    LARGEST_SIDE,
    MOST_PREDICTORS,
    Networks,
    Segmented,
    legend,
    picture,
    pixel,
    pixels,
    save,
    swatches,
    times,
)
from dlaseg.errors import UserError
from dlaseg.images import read_image, write_png
from dlaseg.inference.predictor import Predictor
from dlaseg.label_images import read_label_image
from dlaseg.metadata import ModelMetadata
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
    confidence = np.array([[0.25, 0.5, 0.75], [1, 0.125, 0.5]], np.float16)
    return Segmented("a", image, labels, confidence, label_map_of("camvid"), (0.002, 0.05), "torch, float32")


def test_an_image_is_segmented_as_by_the_predictor(networks, photo):
    found = networks.segment(photo, "camvid", "torch", [], flip=False)
    predictor = Predictor("camvid", "torch")
    assert np.array_equal(found.labels, predictor(photo))
    probabilities = predictor.probabilities(photo).max(0)
    np.testing.assert_allclose(found.confidence, probabilities, atol=1e-3)
    used = "torch, float32, 0.27 times the size of the images of the training"  # 96 pixels, CamVid has 360
    assert (found.name, found.backend) == ("street", used)
    assert np.array_equal(found.image, read_image(photo))
    averaged = networks.segment(photo, "camvid", "torch", [1.0, 0.5], flip=True)
    assert np.array_equal(averaged.labels, Predictor("camvid", "torch", scales=(0.5, 1.0), flip=True)(photo))


def test_a_large_photo_says_at_which_size_it_is_computed(networks, tmp_path):
    write_png(tmp_path / "large.png", draw_scene(0, 541, 800).image)
    found = networks.segment(tmp_path / "large.png", "camvid", "torch", [], flip=False)
    assert (found.backend, found.labels.shape) == ("torch, float32, at 1/2 of the size", (541, 800))


def test_few_networks_are_kept_and_the_last_ones(photo, monkeypatch):
    made, ready = [], Predictor("camvid", "torch")
    monkeypatch.setattr("dlaseg.demo.segmenting.Predictor", lambda *words, **more: made.append((words, more)) or ready)
    few = Networks()
    for scales in ([], [1.0], [1.0, 0.5], [0.5, 1.0]):
        Networks().segment(photo, "camvid", "torch", scales, flip=False)
    assert [more["scales"] for _, more in made] == [None, None, (0.5, 1.0), (0.5, 1.0)]
    made.clear()
    for scale in (0.5, 0.6, 0.5, 0.7, 0.8, 0.9, 0.5, 0.6):
        few.segment(photo, "camvid", "torch", [scale], flip=False)
    assert [more["scales"] for _, more in made] == [(0.5,), (0.6,), (0.7,), (0.8,), (0.9,), (0.6,)]
    assert len(few._predictors) == MOST_PREDICTORS
    few.segment(photo, "camvid", "torch", [0.6], flip=True)
    few.segment(photo, "camvid", "openvino", [0.6], flip=True)
    assert made[6:] == [(("camvid", name), {"scales": (0.6,), "flip": True}) for name in ("torch", "openvino")]


def test_weights_that_were_replaced_are_read_again(photo, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr("dlaseg.demo.segmenting.Predictor", lambda *words, **more: made.append(words[0]) or
                        Predictor("camvid", "torch"))  # fmt: skip
    weights, several = tmp_path / "best.safetensors", Networks()
    for content, count in ((b"a", 1), (b"a", 1), (b"bc", 2), (b"cd", 3)):
        if not weights.exists() or weights.read_bytes() != content:
            weights.write_bytes(content)
        several.segment(photo, str(weights), "torch", [], flip=False)
        assert len(made) == count


def test_a_file_that_gives_labels_alone_has_no_probabilities(photo, monkeypatch):
    labels = np.full((96, 128), 3, np.uint8)
    metadata = ModelMetadata(training_short_side=96)
    predictor = Mock(return_value=labels, label_map=label_map_of("camvid"), max_short_side=None, metadata=metadata)
    predictor.backend = SimpleNamespace(output="labels", name="onnxruntime", precision="float32")
    monkeypatch.setattr("dlaseg.demo.segmenting.Predictor", lambda *words, **more: predictor)
    monkeypatch.setattr("dlaseg.demo.segmenting.perf_counter", Mock(side_effect=[0, 2, 10, 13]))
    found = Networks().segment(photo, "labels.onnx", "auto", [1.0], flip=False)
    assert found.labels is labels
    assert found.backend == "onnxruntime, float32"
    assert (found.confidence, found.seconds) == (None, (2, 3))


def test_what_cannot_be_segmented_is_a_user_error(networks, photo, tmp_path):
    (tmp_path / "no.png").write_text("no image")
    with pytest.raises(UserError, match="not an image"):
        networks.segment(tmp_path / "no.png", "camvid", "torch", [], flip=False)
    with pytest.raises(UserError, match="camvidd"):
        networks.segment(photo, "camvidd", "torch", [], flip=False)


def test_shares_are_those_of_the_pixels_the_largest_first(segmented):
    assert segmented.shares() == {3: 3 / 6, 0: 2 / 6, 8: 1 / 6}
    assert legend(segmented) == [("road  50.0%", "road"), ("sky  33.3%", "sky"), ("car  16.7%", "car")]
    first = segmented.label_map.palette[3]
    assert swatches(segmented, "#a").startswith(f"#a label:nth-of-type(1) {{ --swatch: rgb{first}; }}#a label:nth-of")
    some = replace(segmented, labels=np.array([[0, 255, 255]], np.uint8))  # pixels of no class count, too
    assert some.shares() == {0: 1 / 3}


def test_the_browser_knows_the_class_and_the_probability_of_each_pixel(segmented):
    def sent(segmented):
        element = pixels(segmented)
        content = base64.b64decode(element.rpartition("base64,")[2].rstrip('">'))
        return element, cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)

    element, picture = sent(segmented)
    assert np.array_equal(picture[..., 0], segmented.labels)
    assert picture[..., 1].tolist() == [[64, 128, 191], [255, 32, 128]]
    assert json.loads(html.unescape(element.split('"')[3])) == list(segmented.label_map.names)
    element, picture = sent(replace(segmented, confidence=None))
    assert "data-sure" not in element
    wide = replace(segmented, labels=np.arange(3 * LARGEST_SIDE, dtype=np.uint8)[None] % 11, confidence=None)
    assert np.array_equal(sent(wide)[1][0, :, 0], wide.labels[0, ::3])


def test_hidden_classes_show_the_image(segmented):
    whole = picture(segmented, [], 0.5)
    colors = segmented.label_map.colorize(segmented.labels).astype(int)
    assert np.abs(whole - (colors + 100) / 2).max() <= 0.5
    some = picture(segmented, {"road"}, 0.5)
    assert (some[segmented.labels == 3] == 100).all()
    assert np.array_equal(some[segmented.labels != 3], whole[segmented.labels != 3])
    assert (picture(segmented, [], 0.0) == 100).all()
    of_no_class = replace(segmented, labels=np.full((2, 3), 255, np.uint8))
    assert (picture(of_no_class, [], 0.5) == 100).all()


def test_a_pixel_and_the_times_in_words(segmented):
    assert pixel(segmented, 1, 2) == "row 1, column 2: car, probability 50.0%"
    none = replace(segmented, labels=np.full((2, 3), 255, np.uint8), confidence=None)
    assert pixel(none, 0, 1) == "row 0, column 1: no class"
    for place in ((2, 0), (-1, 0), (0, 3), (0, -1)):
        with pytest.raises(UserError, match="outside"):
            pixel(segmented, *place)
    assert times(segmented) == "2 x 3 pixels; read in 2 ms, segmented in 50 ms (torch, float32)"


def test_the_downloads_are_label_map_colours_and_overlay(segmented, tmp_path):
    segmented = replace(segmented, label_map=label_map_of("cityscapes"))  # whose ids are not the train ids
    ids, color, overlay = save(segmented, tmp_path)
    assert [file.name for file in (ids, color, overlay)] == ["a_ids.png", "a_color.png", "a_overlay.png"]
    assert np.array_equal(read_label_image(ids), segmented.label_map.decode(segmented.labels))
    assert np.array_equal(read_image(color), segmented.label_map.colorize(segmented.labels))
    blended = (segmented.label_map.colorize(segmented.labels).astype(int) + 100) / 2
    assert np.abs(read_image(overlay) - blended).max() <= 0.5
