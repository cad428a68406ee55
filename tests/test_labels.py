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


def two_classes(**entry):
    return {"classes": [{"name": "road", **entry}, {"name": "sky", "id": 23}]}


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


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([[7.6]]), r"shape \(1, 1\), float64: ids are integers"),
        (np.zeros((2, 3, 1), np.uint8), r"shape \(2, 3, 1\), uint8: use \(H, W\) ids or \(H, W, 3\) RGB colors"),
        (np.zeros((2, 3, 4), np.uint8), r"shape \(2, 3, 4\)"),
        (np.zeros((5, 2, 4), np.uint8), r"shape \(5, 2, 4\)"),
        (np.zeros(3, np.uint8), r"shape \(3,\)"),
        (np.zeros((1, 2, 3, 3), np.uint8), r"shape \(1, 2, 3, 3\)"),
        (np.array([[[ROAD[0], ROAD[1] - 1, ROAD[2] + 256]]]), "colors from [0-9]+ to [0-9]+: use 0 to 255"),
    ],
)
def test_other_types_and_shapes_are_refused(labels, message):
    with pytest.raises(UserError, match=f"^label map of .*{message}"):
        LABELS.encode(labels)


@pytest.mark.parametrize("value", [-1, 256])
def test_a_channel_beyond_8_bits_is_refused(value):
    colors = np.array([[ROAD, (255, 255, 255)]], np.int32)
    assert LABELS.encode(colors).tolist() == [[0, 255]]
    colors[0, 1, 2] = value
    with pytest.raises(UserError, match=r"colors from -?[0-9]+ to [0-9]+: use 0 to 255"):
        LABELS.encode(colors)


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
    with pytest.raises(UserError, match=r"^color \(128, 64, 128\) is class 'a' and also class 'b' in the classes"):
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


@pytest.mark.parametrize("train_id", [-1, 3, 254, 256])
def test_decode_refuses_a_train_id_of_no_class(train_id):
    with pytest.raises(UserError, match=f"^train id {train_id}: train ids are 0 to 2, or 255$"):
        LABELS.decode(np.array([[0, train_id]]))


def test_decode_keeps_255_where_nothing_is_ignored():
    assert LabelMap(("a", "b"), ((0, 0, 0), (1, 1, 1)), ((3,), (255,))).decode(np.array([[0, 255]])).tolist() == [
        [3, 255]
    ]


def test_decode_takes_16_bits_only_where_an_id_needs_them():
    ids = np.zeros((1, 1), np.uint8)
    assert LABELS.decode(ids).dtype == np.uint16
    assert LabelMap.numbered(255).decode(ids).dtype == np.uint8
    assert LabelMap(("a", "b"), (ROAD, SKY), ((256,), (1,))).decode(ids).tolist() == [[256]]


def test_colorize_paints_classes_in_their_color_and_the_ignored_black():
    assert LABELS.colorize(np.array([[0, 2, 255]], np.uint8)).tolist() == [[list(ROAD), list(CAR), [0, 0, 0]]]


@pytest.mark.parametrize("labels", [LABELS, *FIXED, LabelMap.numbered(255)])
def test_from_dict_undoes_to_dict_through_json(labels):
    assert LabelMap.from_dict(json.loads(json.dumps(labels.to_dict()))) == labels


def test_from_file_undoes_to_dict_through_yaml(tmp_path):
    path = tmp_path / "classes.yaml"
    path.write_text(yaml.safe_dump(LABELS.to_dict()))
    assert LabelMap.from_file(path) == LabelMap.from_file(str(path)) == LABELS


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
def test_a_label_map_has_2_to_255_classes(count):
    with pytest.raises(UserError, match=f"{count} classes: use 2 to 255"):
        LabelMap.numbered(count)


def test_one_class_is_refused_since_every_pixel_would_get_it():
    with pytest.raises(UserError, match=r"^one class, 'class 0': .*: use two classes, such as background and class 0$"):
        LabelMap.numbered(1)
    assert refusal({"classes": ["leaf"]}).endswith("use two classes, such as background and leaf")


def test_an_unknown_key_is_refused_by_its_name():
    assert "'colour'" in refusal(two_classes(colour=[1, 2, 3]))
    assert "'ignored'" in refusal({**two_classes(), "ignored": [255]})


def test_a_name_given_twice_is_refused():
    assert "'road'" in refusal({"classes": [{"name": "road"}, {"name": "road"}]})


def test_an_id_given_twice_is_refused():
    message = refusal({"classes": [{"name": "road", "id": 7}, {"name": "sky", "id": [6, 7]}]})
    assert message.startswith("id 7 occurs twice in the classes: ")
    with pytest.raises(UserError, match=r"^ignored id 9 occurs twice in the classes: "):
        LabelMap(("a", "b"), (ROAD, SKY), ((0,), (1,)), ignored=(9, 9))


def test_an_id_that_is_a_classs_and_ignored_is_refused():
    content = {"classes": ["background", {"name": "road", "id": 7}], "ignore": [7]}
    assert refusal(content) == "id 7 is class 'road' and also ignored: list it once"


@pytest.mark.parametrize("number", [-1, 65536])
def test_an_id_that_no_label_map_can_hold_is_refused(number):
    assert f"id {number}" in refusal(two_classes(id=number))
    largest = LabelMap.from_dict(two_classes(id=65535))
    assert largest.encode(np.array([[65535, 23]], np.uint16)).tolist() == [[0, 1]]


@pytest.mark.parametrize("number", ["26", "x", 1.5, None, {}, True])
def test_an_id_that_is_no_whole_number_is_refused(number):
    refusal(two_classes(id=number))


def test_a_class_without_an_id_is_refused():
    assert "'road'" in refusal(two_classes(id=[]))


@pytest.mark.parametrize(
    "color",
    [[256, 0, 0], [-1, 0, 0], [1, 2], [1, 2, 3, 4], [], ["r", 0, 0], "123", "red", 5, None, [1.5, 2, 3], [True, 2, 3]],
)
def test_a_color_that_is_not_three_values_from_0_to_255_is_refused(color):
    refusal(two_classes(color=color))


@pytest.mark.parametrize("ignore", [255, "255", None, ["x"], [1.5], [[0, 0]], [{}]])
def test_an_ignore_that_is_no_list_of_ids_and_colors_is_refused(ignore):
    refusal({**two_classes(), "ignore": ignore})


@pytest.mark.parametrize(
    "content",
    [None, [], {}, "classes", 3, {"classes": None}, {"classes": []}, {"classes": [{}]}, {"classes": [{"id": 3}, "a"]}]
    + [{"classes": "road"}, {"classes": {"road": 0, "sky": 1}}],
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


@pytest.mark.parametrize(("palette", "ids"), [((ROAD,), ((0,), (1,))), ((ROAD, CAR), ((0,), ()))])
def test_every_class_has_a_color_and_an_id(palette, ids):
    with pytest.raises(UserError, match="one lacks a class: give one of each per class"):
        LabelMap(("a", "b"), palette, ids)


def test_classes_may_be_plain_names(tmp_path):
    (tmp_path / "classes.yaml").write_text("classes: [background, leaf, {name: stem, id: 7}]\n")
    labels = LabelMap.from_file(tmp_path / "classes.yaml")
    assert labels.names == ("background", "leaf", "stem")
    assert labels.ids == ((0,), (1,), (7,))
    assert len(set(labels.palette)) == 3


@pytest.mark.parametrize("name", ["no", "null", "3", "1.5", "2024-01-01", "[a]", "{a: b}", "~", "yes"])
def test_a_name_that_yaml_does_not_read_as_text_is_refused(tmp_path, name):
    path = tmp_path / "classes.yaml"
    for entry in (name, f"{{name: {name}, id: 1}}"):
        path.write_text(f"classes: [background, {entry}]\n")
        with pytest.raises(UserError, match=r"(put the name in quotes|unknown; a class has 'name')") as caught:
            LabelMap.from_file(path)
        assert str(caught.value).startswith(f"{path}: ")
    path.write_text(f"classes: [background, '{name}']\n")
    assert LabelMap.from_file(path).names[1] == name


@pytest.mark.parametrize("name", ["", " ", "\u00a0", "a\nb", "a\tb", "\x1b[31m", "\x7f", "\ud800", "a\u2028b"])
def test_an_empty_name_and_control_characters_are_refused(name):
    message = refusal({"classes": ["background", name]})
    assert message.startswith("class name ")
    assert message.isprintable()


def test_names_in_any_script_are_kept():
    names = ("Straße", "道路", "👩\u200d🌾", "sky / cloud")
    assert LabelMap.from_dict({"classes": list(names)}).names == names


WHITE = (255, 255, 255)


@pytest.mark.parametrize(
    "labels",
    [
        LabelMap.from_dict({"classes": ["background", {"name": "leaf", "id": 255}]}),
        LabelMap(("background", "leaf"), (ROAD, SKY), ((0,), (255,))),
        LabelMap.from_dict(LabelMap(("background", "leaf"), (ROAD, SKY), ((0,), (255,))).to_dict()),
    ],
)
def test_a_class_with_the_id_255_wins_over_the_default_ignore(labels):
    assert labels.ignored == ()
    for dtype in (np.uint8, np.uint16, np.int64):
        assert labels.encode(np.array([[0, 255]], dtype)).tolist() == [[0, 1]]
    assert labels.encode(np.array([[[0] * 3, [255] * 3]], np.uint8)).tolist() == [[0, 1]]
    assert labels.decode(np.array([[0, 1]], np.uint8)).tolist() == [[0, 255]]


def test_a_label_map_knows_whether_255_is_ignored_by_default():
    assert LabelMap.numbered(2).ignores_by_default
    assert LabelMap(("a", "b"), (ROAD, SKY), ((0,), (1,))).ignores_by_default
    assert not LabelMap.from_dict({**two_classes(), "ignore": [255]}).ignores_by_default
    assert not LabelMap.from_dict(two_classes(id=255)).ignores_by_default
    assert not LABELS.ignores_by_default
    assert LabelMap.from_dict({**two_classes(), "ignore": [255]}) == LabelMap.from_dict(two_classes())


def grey(ids):
    """Ids as a program stores them that saves grey as RGB."""
    return np.repeat(np.array(ids, np.uint8)[:, :, None], 3, axis=2)


def test_three_equal_channels_are_ids_if_they_hold_an_unknown_color():
    assert LABELS.encode(grey([[7, 23], [26, 0]])).tolist() == [[0, 1], [2, 255]]
    assert LABELS.encode(grey([[0, 0], [255, 255]])).tolist() == [[255, 255], [255, 255]]
    black_and_white = LabelMap(("a", "b"), ((0, 0, 0), WHITE), ((0,), (1,)))
    assert black_and_white.encode(grey([[0, 1]])).tolist() == [[0, 1]]


def test_three_equal_channels_of_known_colors_are_colors():
    labels = LabelMap(("a", "b"), ((0, 0, 0), WHITE), ((0,), (1,)))
    assert labels.encode(grey([[0, 255]])).tolist() == [[0, 1]]  # 255 is ignored by default only
    labels = LabelMap(("a", "b"), ((0, 0, 0), (100, 100, 100)), ((1,), (2,)), ignored=(0,))
    assert labels.encode(grey([[0, 100]])).tolist() == [[0, 1]]


def test_three_equal_channels_that_mean_two_things_are_refused():
    labels = LabelMap(("a", "b"), ((0, 0, 0), WHITE), ((0,), (1,)), ignored=(255,))
    with pytest.raises(
        UserError,
        match=r"^value 255 in all three channels at row 0, column 1: as a color it is class 'b', as an id ignored: "
        "if ids are meant, save label maps with one channel; if colors are, list the id 255 as class 'b'$",
    ):
        labels.encode(grey([[0, 255]]))
    assert labels.encode(grey([[0, 0]])).tolist() == [[0, 0]]
    swapped = LabelMap(("a", "b"), ((0, 0, 0), (1, 1, 1)), ((1,), (0,)))
    with pytest.raises(UserError, match="as a color it is class 'a', as an id class 'b': if"):
        swapped.encode(grey([[0, 1]]))


def test_an_unknown_value_in_three_equal_channels_is_refused_as_both():
    with pytest.raises(
        UserError, match=r"^value 9 in all three channels at row 0, column 1: color \[9, 9, 9\] and id 9"
    ):
        LABELS.encode(grey([[7, 9]]))


def test_of_three_equal_channels_the_value_that_is_listed_as_neither_is_named():
    labels = LabelMap(("a", "b"), ((0, 0, 0), (128, 128, 128)), ((0,), (1,)))
    with pytest.raises(UserError, match=r"^value 50 in all three channels at row 0, column 2: color \[50, 50, 50\]"):
        labels.encode(grey([[0, 128, 50]]))
    with pytest.raises(UserError, match=r"^value 128 in all .*: listed as a color, while others are only listed"):
        labels.encode(grey([[0, 128, 1]]))


def test_one_other_pixel_makes_colors_of_three_channels():
    stored = grey([[7, 7], [7, 7]])
    stored[1, 1] = ROAD
    with pytest.raises(UserError, match=r"color \[7, 7, 7\] at row 0, column 0 .* read as colors .* with one channel"):
        LABELS.encode(stored)


def test_an_unknown_id_is_refused_as_an_id():
    with pytest.raises(UserError, match=r"label 9 at row 0, column 0 .* read as ids \(grey values, or indices of a"):
        LABELS.encode(np.array([[9]], np.uint16))


RED = (255, 0, 0)
ROADS = LabelMap(("background", "road", "sky"), ((0, 0, 0), RED, SKY), ((0,), (1,), (2,)), ignored_colors=(WHITE,))


def palette(*colors):
    return np.array(colors, np.uint8)


def test_a_palette_whose_listed_colors_mean_other_classes_is_refused():
    with pytest.raises(
        UserError,
        match=r"^row 0, column 1: palette index 0 is class 'background' as an id, its color \(255, 0, 0\) is class "
        r"'road': save it as RGB if the colors are meant, as one grey channel if the ids are$",
    ):
        ROADS.encode_palette(np.array([[2, 0], [1, 0]], np.uint8), palette(RED, (0, 0, 0), SKY))
    with pytest.raises(UserError, match=r"index 1 is class 'road' as an id, its color \(255, 255, 255\) is ignored"):
        ROADS.encode_palette(np.array([[1]], np.uint8), palette(RED, WHITE))
    with pytest.raises(UserError, match=r"index 1 is class 'road' as an id, its color .* is class 'background'"):
        ROADS.encode_palette(np.array([[1]], np.uint8), palette(RED, (0, 0, 0)))


def test_two_colors_of_other_classes_are_no_chance_though_others_are_not_listed():
    with pytest.raises(UserError, match=r"^row 0, column 1: palette index 1 is class 'road' .* is class 'sky'"):
        ROADS.encode_palette(np.array([[0, 1, 2]], np.uint8), palette((1, 2, 3), SKY, RED))


@pytest.mark.parametrize(
    ("colors", "indices"),
    [
        (palette((0, 0, 0), RED, SKY), [0, 1, 2]),  # they agree
        (palette(RED, (0, 0, 0), SKY), [2, 2]),  # what differs does not occur
        (palette(RED, (1, 2, 3), (2, 3, 4)), [0, 1, 2]),  # one that differs, beside colours that are not listed
        (palette(RED, (0, 0, 0)), [0, 1, 2]),  # an index without a colour
    ],
)
def test_other_palettes_are_read_by_their_indices(colors, indices):
    assert ROADS.encode_palette(np.array([indices], np.uint8), colors).tolist() == [indices]


def test_a_palette_says_nothing_if_two_classes_have_one_color():
    labels = LabelMap(("a", "b"), (ROAD, ROAD), ((0,), (1,)))
    assert labels.encode_palette(np.array([[0, 1]], np.uint8), palette(ROAD, ROAD)).tolist() == [[0, 1]]


def test_an_empty_palette_image_is_encoded():
    assert ROADS.encode_palette(np.zeros((0, 3), np.uint8), palette(RED)).shape == (0, 3)


def test_an_unlisted_palette_index_of_a_listed_color_names_rgb_as_the_remedy():
    with pytest.raises(UserError, match=r"^label 3 at row 0, column 0 .*; all its colors are listed, so .* as RGB"):
        ROADS.encode_palette(np.array([[3]], np.uint8), palette(WHITE, WHITE, WHITE, RED))
    with pytest.raises(UserError, match=r"if colors are meant$"):
        ROADS.encode_palette(np.array([[3]], np.uint8), palette(WHITE, WHITE, WHITE, (1, 2, 3)))


def test_a_bare_list_and_the_key_names_are_refused_with_what_to_write(tmp_path):
    assert refusal(["background", "leaf"]).endswith("write 'classes:' above the list")
    assert "did you mean 'classes'" in refusal({"nc": 2, "names": ["background", "leaf"]})
    assert "did you mean 'classes'" in refusal({"names": {0: "background", 1: "leaf"}})


@pytest.mark.parametrize("name", ["background", "Background"])
def test_a_first_class_background_is_black_unless_black_is_listed(name):
    assert LabelMap.from_dict({"classes": [name, "leaf"]}).palette[0] == (0, 0, 0)
    assert LabelMap.from_dict({"classes": [{"name": name, "color": list(ROAD)}, "leaf"]}).palette[0] == ROAD
    assert LabelMap.from_dict({"classes": ["leaf", name]}).palette[1] != (0, 0, 0)
    for content in (
        {"classes": [name, {"name": "leaf", "color": [0, 0, 0]}]},
        {"classes": [name, "leaf"], "ignore": [[0, 0, 0]]},
    ):
        labels = LabelMap.from_dict(content)
        assert labels.palette[0] != (0, 0, 0)
        labels.check_colors()


def test_lists_and_numpys_integers_become_tuples_of_integers():
    colors = np.array([ROAD, SKY], np.uint8)
    labels = LabelMap(["a", "b"], colors, [np.arange(1), [np.int64(7)]], ignored=[np.uint8(255)])
    assert labels == LabelMap(("a", "b"), (ROAD, SKY), ((0,), (7,)), ignored=(255,))
    assert json.loads(json.dumps(labels.to_dict())) == labels.to_dict()


@pytest.mark.parametrize(("palette", "ids"), [((ROAD, SKY), (0, 1)), (((0.5, 0, 0), SKY), ((0,), (1,))), (None, None)])
def test_a_label_map_of_other_types_is_refused(palette, ids):
    with pytest.raises(
        UserError, match=r"^a label map of other types: use names .*: ids and colors are whole numbers$"
    ):
        LabelMap(("a", "b"), palette, ids)


def test_an_ignored_color_is_one_of_three_bytes():
    with pytest.raises(UserError, match=r"^color \[0, 0, 256\]: use three values from 0 to 255"):
        LabelMap(("a", "b"), ((0, 0, 0), WHITE), ((0,), (1,)), ignored_colors=((0, 0, 256),))
