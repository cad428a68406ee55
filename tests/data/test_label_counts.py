"""Counting label maps: exactly, in parallel, and only those that have changed."""

import json
import logging
import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from dlaseg.data import label_counts, pairs
from dlaseg.data.datasets import open_dataset
from dlaseg.data.label_counts import LabelCounts, count_labels, count_train_ids, read_counts, write_counts
from dlaseg.data.statistics import statistics
from dlaseg.errors import UserError

NAMES = [f"{number:02}" for number in range(12)]


@pytest.fixture
def root(tmp_path):
    """Twelve images of different sizes; image n has n + 1 pixels of class 1, and the last row is ignored."""
    (tmp_path / "classes.yaml").write_text("classes: [background, leaf]\n")
    for folder in ("images/train", "labels/train"):
        (tmp_path / folder).mkdir(parents=True)
    for number, name in enumerate(NAMES):
        labels = np.zeros((4 + number % 3, 20), np.uint8)
        labels[0, : number + 1] = 1
        labels[-1] = 255
        Image.fromarray(labels).save(tmp_path / f"labels/train/{name}.png")
        Image.new("RGB", labels.shape[::-1]).save(tmp_path / f"images/train/{name}.png")
    return tmp_path


@pytest.fixture
def reads(monkeypatch):
    """Names of the label maps that were read so far."""
    names = []

    def read(path, *more):
        names.append(path.stem)
        return original(path, *more)

    original = label_counts.read_label_file
    monkeypatch.setattr(label_counts, "read_label_file", read)
    return names


@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=40)))
def test_counts_of_values_are_bincounts(train_ids):
    assert np.array_equal(count_train_ids(train_ids), np.bincount(train_ids.ravel(), minlength=256))


def test_counts_that_float32_does_not_have_are_exact():
    train_ids = np.full((4097, 4097), 3, np.uint8)
    assert int(np.float32(train_ids.size)) != train_ids.size
    assert count_train_ids(train_ids)[3] == train_ids.size


def test_every_label_map_is_counted_in_the_order_of_the_split(root):
    counts = count_labels(open_dataset("folder", root, "train"), {})
    assert [found.pixels[1] for found in counts] == list(range(1, 13))
    assert [(found.height, found.width) for found in counts] == [(4 + number % 3, 20) for number in range(12)]
    assert all(sum(found.pixels.values()) == found.height * found.width for found in counts)


def test_only_what_has_changed_is_read_again(root, reads, tmp_path):
    dataset, counted = open_dataset("folder", root, "train"), {}
    expected = statistics(dataset, counted)
    assert sorted(reads) == NAMES
    write_counts(tmp_path / "counts.json", dataset.label_map, counted)
    reads.clear()

    counted = read_counts(tmp_path / "counts.json", dataset.label_map)
    assert statistics(dataset, counted) == expected
    assert reads == []

    os.utime(root / "labels/train/03.png", ns=(1, 1))
    Image.new("L", (20, 6), 1).save(root / "labels/train/05.png")
    changed = statistics(dataset, counted)
    assert sorted(reads) == ["03", "05"]
    assert changed == statistics(dataset)
    assert changed.pixels[1] == expected.pixels[1] - 6 + 120


def test_counts_are_of_certain_classes(root, tmp_path):
    dataset, counted = open_dataset("folder", root, "train"), {}
    count_labels(dataset, counted)
    write_counts(tmp_path / "counts.json", dataset.label_map, counted)
    (root / "classes.yaml").write_text("classes: [background, leaf]\nignore: [255, 7]\n")
    other = open_dataset("folder", root, "train").label_map
    assert read_counts(tmp_path / "counts.json", dataset.label_map) == counted
    assert read_counts(tmp_path / "counts.json", other) == {}


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"label_map": 1}', '{"label_map": %s}', '{"label_map": %s, "files": {"a": 3}}']
    + [
        '{"label_map": %s, "files": {"a": [1, 2, 3, 4, 5, 6, {"x": 1}]}}',
        '{"label_map": %s, "files": [1]}',
        "[" * 100_000,
    ],
)
def test_a_broken_file_of_counts_counts_for_nothing(root, tmp_path, content):
    label_map = open_dataset("folder", root, "train").label_map
    (tmp_path / "counts.json").write_text(content.replace("%s", json.dumps(label_map.to_dict())))
    assert read_counts(tmp_path / "counts.json", label_map) == {}
    assert read_counts(tmp_path / "none.json", label_map) == {}


def test_the_first_broken_label_map_is_named(root):
    for name in ("07", "04"):
        (root / f"labels/train/{name}.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"labels/train/04\.png: broken"):
        count_labels(open_dataset("folder", root, "train"), {})


def test_unreadable_label_maps_are_skipped_if_wanted(root, caplog):
    for name in ("07", "04"):
        (root / f"labels/train/{name}.png").write_bytes(b"no picture")
    dataset, counted = open_dataset("folder", root, "train"), {}
    with caplog.at_level(logging.WARNING):
        counts = count_labels(dataset, counted, skip_unreadable=True)
    assert [index for index, found in enumerate(counts) if found is None] == [4, 7]
    assert len(counted) == 10
    (message,) = caplog.messages
    assert message.startswith("train: 2 of 12 images skipped, such as ")
    assert "labels/train/04.png: broken" in message
    sound = replace(dataset, pairs=tuple(pair for pair in dataset.pairs if pair.name not in ("04", "07")))
    assert statistics(dataset, counted, skip_unreadable=True).pixels == statistics(sound).pixels


def test_a_label_outside_the_label_map_is_not_skipped(root):
    Image.new("L", (20, 6), 9).save(root / "labels/train/05.png")
    with pytest.raises(UserError, match=r"labels/train/05\.png: label 9 at row 0, column 0 "):
        count_labels(open_dataset("folder", root, "train"), {}, skip_unreadable=True)


def test_counts_without_the_stamps_of_images_count_for_nothing(root, tmp_path):
    dataset, counted = open_dataset("folder", root, "train"), {}
    count_labels(dataset, counted)
    write_counts(tmp_path / "counts.json", dataset.label_map, counted)
    content = json.loads((tmp_path / "counts.json").read_text())
    for entry in content["files"].values():
        del entry[2:4]
    (tmp_path / "counts.json").write_text(json.dumps(content))
    assert read_counts(tmp_path / "counts.json", dataset.label_map) == {}


@pytest.mark.parametrize("skip_unreadable", [False, True])
def test_an_image_of_another_size_is_refused_as_reading_it_refuses_it(root, skip_unreadable):
    dataset, counted = open_dataset("folder", root, "train"), {}
    count_labels(dataset, counted)
    image = root / "images/train/04.png"
    Image.new("RGB", (20, 7)).save(image)  # its label map is the same as before
    with pytest.raises(UserError) as found:
        count_labels(dataset, counted, skip_unreadable)
    with pytest.raises(UserError) as expected:
        dataset.read(4)
    assert str(found.value) == str(expected.value)
    label = root / "labels/train/04.png"
    assert str(found.value).startswith(f"{label}: 5 x 20 pixels, but its image {image} has 7 x 20: ")


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_an_image_without_a_readable_header_is_refused_or_skipped(root, content):
    dataset, image = open_dataset("folder", root, "train"), root / "images/train/04.png"
    if content is None:
        image.unlink()
    else:
        image.write_bytes(content)
    with pytest.raises(UserError, match=r"images/train/04\.png: "):
        count_labels(dataset, {})
    counts = count_labels(dataset, {}, skip_unreadable=True)
    assert [index for index, found in enumerate(counts) if found is None] == [4]


def test_pixels_of_images_are_not_decoded(root, monkeypatch):
    monkeypatch.setattr(pairs, "read_image", lambda *_: pytest.fail("decoded"))
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (4, 20)).save(root / "images/train/00.png", exif=turned)  # shown as 4 x 20, as its label map is
    assert None not in count_labels(open_dataset("folder", root, "train"), {})


def test_counts_are_plain_numbers(root):
    (found, *_) = count_labels(open_dataset("folder", root, "train"), {})
    assert found == LabelCounts(4, 20, {0: 59, 1: 1, 255: 20})
    assert all(type(number) is int for number in (found.height, found.width, *found.pixels, *found.pixels.values()))


def test_the_limit_of_pixels_is_that_of_the_data_set(root):
    dataset = open_dataset("folder", root, "train")
    with pytest.raises(UserError, match=r"images/train/00\.png: .*the limit is 79"):
        count_labels(replace(dataset, max_pixels=79), {})
    Image.new("L", (20, 6), 1).save(root / "labels/train/00.png")
    with pytest.raises(UserError, match=r"labels/train/00\.png: .*the limit is 100"):
        count_labels(replace(dataset, max_pixels=100), {})
