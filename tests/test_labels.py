import json
import re
from itertools import permutations

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from dlaseg import LabelMap, UserError
from dlaseg.data.datasets import DATASETS

ROAD, SKY, CAR = (128, 64, 128), (70, 130, 180), (0, 0, 142)
FIXED = [entry.label_map() for entry in DATASETS.values() if entry.label_map is not None]
LABELS = LabelMap(
    names=("road", "sky", "car"),
    palette=(ROAD, SKY, CAR),
    ids=((7, 8), (23,), (40000, 26, 27)),
    ignored=(0, 255),
    ignored_colors=((0, 0, 0), (255, 255, 255)),
)


def refusal(content):
    with pytest.raises(UserError) as error:
        LabelMap.from_dict(content)
    assert "\n" not in str(error.value)
    return str(error.value)


def one_class(**entry):
    return {"classes": [{"name": "road", **entry}]}


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64])
def test_every_id_of_a_class_becomes_its_train_id(dtype):
    stored = np.array([[7, 8, 23], [40000, 26, 27], [0, 255, 7]], dtype)
    encoded = LABELS.encode(stored)
    assert encoded.dtype == np.uint8
    assert encoded.tolist() == [[0, 0, 1], [2, 2, 2], [255, 255, 0]]


def test_colors_become_train_ids():
    stored = np.array([[ROAD, SKY], [CAR, (0, 0, 0)], [(255, 255, 255), ROAD]], np.uint8)
    assert LABELS.encode(stored).tolist() == [[0, 1], [2, 255], [255, 0]]


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_an_unknown_id_is_refused_with_its_first_place(dtype):
    stored = np.full((4, 5), 7, dtype)
    stored[2, 3] = stored[3, 0] = 99
    with pytest.raises(UserError, match=r"label 99 at row 2, column 3"):
        LABELS.encode(stored)


def test_a_negative_id_is_refused():
    with pytest.raises(UserError, match=r"label -1 at row 0, column 1"):
        LABELS.encode(np.array([[7, -1]], np.int32))


def test_an_unknown_color_is_refused_with_its_first_place():
    stored = np.full((4, 5, 3), ROAD, np.uint8)
    stored[1, 4] = (128, 64, 129)
    with pytest.raises(UserError, match=r"color \[128, 64, 129\] at row 1, column 4"):
        LABELS.encode(stored)


@pytest.mark.parametrize("swapped", set(permutations(SKY)) - {SKY})
def test_a_color_with_swapped_channels_is_unknown(swapped):
    with pytest.raises(UserError, match=re.escape(f"color {list(swapped)}")):
        LABELS.encode(np.array([[swapped]], np.uint8))


def test_two_classes_of_one_color_cannot_be_told_apart():
    labels = LabelMap(("a", "b"), (ROAD, ROAD), ((0,), (1,)))
    assert labels.encode(np.array([[1, 0]], np.uint8)).tolist() == [[1, 0]]
    with pytest.raises(UserError, match=r"color .* occurs twice"):
        labels.encode(np.array([[ROAD]], np.uint8))


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (0, 5, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_an_empty_map_is_encoded_as_one(shape, dtype):
    assert LABELS.encode(np.zeros(shape, dtype)).shape == shape[:2]


train_ids = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2), elements=st.sampled_from([0, 1, 2, 255]))


@given(train_ids)
def test_encode_undoes_decode(train_ids):
    assert np.array_equal(LABELS.encode(LABELS.decode(train_ids)), train_ids)


@given(train_ids)
def test_encode_undoes_colorize(train_ids):
    colors = LABELS.colorize(train_ids)
    assert colors.dtype == np.uint8
    assert np.array_equal(LABELS.encode(colors), train_ids)


def test_decode_writes_the_first_id():
    assert LABELS.decode(np.array([[0, 1, 2, 255]], np.uint8)).tolist() == [[7, 23, 40000, 0]]


def test_decode_takes_16_bits_only_where_an_id_needs_them():
    ids = np.zeros((1, 1), np.uint8)
    assert LABELS.decode(ids).dtype == np.uint16
    assert LabelMap.numbered(255).decode(ids).dtype == np.uint8


def test_colorize_paints_classes_in_their_color_and_the_ignored_black():
    assert LABELS.colorize(np.array([[0, 2, 255]], np.uint8)).tolist() == [[list(ROAD), list(CAR), [0, 0, 0]]]


@pytest.mark.parametrize("labels", [LABELS, *FIXED, LabelMap.numbered(255)])
def test_from_dict_undoes_to_dict_through_json(labels):
    assert LabelMap.from_dict(json.loads(json.dumps(labels.to_dict()))) == labels


def test_from_file_undoes_to_dict_through_yaml(tmp_path):
    path = tmp_path / "classes.yaml"
    path.write_text(yaml.safe_dump(LABELS.to_dict()))
    assert LabelMap.from_file(path) == LABELS


def test_ids_colors_and_ignore_may_be_left_out():
    labels = LabelMap.from_dict({"classes": [{"name": "road"}, {"name": "sky"}, {"name": "car"}]})
    assert labels.ids == ((0,), (1,), (2,))
    assert labels.ignored == (255,)
    assert len(set(labels.palette)) == 3


def test_numbered_classes_are_stored_as_their_train_ids():
    labels = LabelMap.numbered(3)
    assert labels.names == ("class 0", "class 1", "class 2")
    assert labels.encode(np.array([[2, 0, 255]], np.uint8)).tolist() == [[2, 0, 255]]


def test_made_up_colors_differ():
    assert len(set(LabelMap.numbered(20).palette)) == 20


@pytest.mark.parametrize("count", [0, 256, 1000])
def test_a_label_map_has_1_to_255_classes(count):
    with pytest.raises(UserError, match=f"{count} classes: use 1 to 255"):
        LabelMap.numbered(count)


def test_an_unknown_key_is_refused_by_its_name():
    assert "'colour'" in refusal(one_class(colour=[1, 2, 3]))
    assert "'ignored'" in refusal({**one_class(), "ignored": [255]})


def test_a_name_given_twice_is_refused():
    assert "'road'" in refusal({"classes": [{"name": "road"}, {"name": "road"}]})


def test_an_id_given_twice_is_refused():
    assert "id 7" in refusal({"classes": [{"name": "road", "id": 7}, {"name": "sky", "id": [6, 7]}]})


def test_an_id_that_is_a_classs_and_ignored_is_refused():
    assert "id 7" in refusal({**one_class(id=7), "ignore": [7]})


@pytest.mark.parametrize("number", [-1, 65536])
def test_an_id_that_no_label_map_can_hold_is_refused(number):
    assert f"id {number}" in refusal(one_class(id=number))


@pytest.mark.parametrize("number", ["26", "x", 1.5, None, {}])
def test_an_id_that_is_no_whole_number_is_refused(number):
    refusal(one_class(id=number))


def test_a_class_without_an_id_is_refused():
    assert "'road'" in refusal(one_class(id=[]))


@pytest.mark.parametrize(
    "color", [[256, 0, 0], [-1, 0, 0], [1, 2], [1, 2, 3, 4], [], ["r", 0, 0], "123", "red", 5, None, [1.5, 2, 3]]
)
def test_a_color_that_is_not_three_values_from_0_to_255_is_refused(color):
    refusal(one_class(color=color))


@pytest.mark.parametrize("ignore", [255, "255", None, ["x"], [1.5], [[0, 0]], [{}]])
def test_an_ignore_that_is_no_list_of_ids_and_colors_is_refused(ignore):
    refusal({**one_class(), "ignore": ignore})


@pytest.mark.parametrize(
    "content",
    [None, [], {}, "classes", 3, {"classes": None}, {"classes": []}, {"classes": ["road"]}, {"classes": [{}]}],
)
def test_what_is_no_list_of_classes_is_refused(content):
    refusal(content)


def file_refusal(path):
    with pytest.raises(UserError) as error:
        LabelMap.from_file(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"classes: [",
        b"classes: {\n  - a: b\n",
        b"\xff\xfe\x00",
        b"\x00",
        b"classes: []\n",
        b"just words\n",
        b"classes: [{name: road, colour: [1, 2, 3]}]\n",
        b"classes: [{name: road, color: [1, 2]}]\n",
        b"classes: !!python/object:os.system []\n",
    ],
)
def test_a_broken_classes_file_is_refused_by_its_name(tmp_path, content):
    path = tmp_path / "classes.yaml"
    path.write_bytes(content)
    file_refusal(path)


def test_a_missing_classes_file_and_a_folder_are_refused(tmp_path):
    file_refusal(tmp_path / "missing.yaml")
    file_refusal(tmp_path)


def test_names_palette_and_ids_are_equally_long():
    with pytest.raises(UserError, match="the same length"):
        LabelMap(("a", "b"), (ROAD,), ((0,), (1,)))
