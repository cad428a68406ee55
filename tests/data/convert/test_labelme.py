"""LabelMe, in the format that https://github.com/wkentaro/labelme/blob/main/labelme/_label_file.py writes."""

import base64
import io

import numpy as np
import pytest
from annotation_files import as_ids, class_names, converted, refused, save_image, save_json
from PIL import Image


def shape(label, points, kind="polygon", **more):
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **more}


def document(shapes, path="a.jpg", height=4, width=6, data=None):
    return {
        "version": "5.4.1",
        "flags": {},
        "shapes": shapes,
        "imagePath": path,
        "imageData": data,
        "imageHeight": height,
        "imageWidth": width,
    }


def png(pixels):
    content, pixels = io.BytesIO(), np.asarray(pixels)
    Image.fromarray(pixels if pixels.dtype == bool else pixels.astype(np.uint8)).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


@pytest.fixture
def root(tmp_path):
    save_image(tmp_path / "labelme/a.jpg", 4, 6)
    return tmp_path / "labelme"


SQUARE = [[0, 0], [2, 0], [2, 2], [0, 2]]


def test_shapes_are_drawn_in_the_order_of_the_file(root, tmp_path, capsys):
    save_json(
        root / "a.json",
        document(
            [
                shape("leaf", [[2, 0], [3, 0], [3, 3], [2, 3]]),
                shape("stem", [[4, 4], [2, 2]], "rectangle"),  # any two corners
                shape("leaf", [[0, 0], [1, 0], [1, 3], [0, 3]], "rectangle"),  # of X-AnyLabeling
                shape("leaf", [[1, 0], [2, 0], [2, 3], [1, 3]], "rotation"),
                shape("dot", [[5, 1], [5.9, 1]], "circle"),
                shape("leaf", [[4, 2], [6, 2], [6, 3], [4, 3]], "oriented_rectangle"),
                # of the box from (4, 3) to (5, 3), both included
                shape("stem", [[4.0, 3.0], [5.0, 3.0]], "mask", mask=png([[0, 1]])),
                shape("leaf", [[0, 0], [5, 3]], "line"),
                shape("leaf", [[0, 0], [5, 3]], "linestrip"),
                shape("leaf", [[0, 0]], "point"),
            ]
        ),
    )
    found = converted("labelme", [root], tmp_path / "out")
    assert class_names(tmp_path / "out") == ["background", "dot", "leaf", "stem"]
    assert found == {"a": as_ids("222.11 222.11 223322 ..33.3")}
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("skipped")]
    assert len(lines) == 3
    assert f"skipped 1: a shape of type line, which has no area; first: {root / 'a.json'}: shape 7" in lines


def test_the_special_labels_of_its_scripts(root, tmp_path):
    shapes = [shape("leaf", SQUARE), shape("__ignore__", [[0, 0], [1, 4]], "rectangle")]
    shapes.append(shape("_background_", [[0, 0], [1, 1]], "rectangle"))
    save_json(root / "a.json", document(shapes))
    assert converted("labelme", [root], tmp_path / "out") == {"a": as_ids(".1.... #1.... #..... #.....")}
    assert class_names(tmp_path / "out") == ["background", "leaf"]


@pytest.mark.parametrize("bits", ["8", "1"])
def test_masks_of_one_and_of_eight_bits(root, tmp_path, bits):
    pixels = np.array([[False, True], [True, True]])
    mask = png(pixels if bits == "1" else pixels.astype(int))
    save_json(root / "a.json", document([shape("leaf", [[1, 1], [2, 2]], "mask", mask=mask)]))
    assert converted("labelme", [root], tmp_path / "out") == {"a": as_ids("...... ..1... .11... ......")}


def test_a_mask_beyond_the_limit_of_pillow_is_read(root, tmp_path, monkeypatch):
    mask = shape("leaf", [[1, 1], [2, 2]], "mask", mask=png(np.ones((2, 2))))
    save_json(root / "a.json", document([mask]))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    assert converted("labelme", [root], tmp_path / "out") == {"a": as_ids("...... .11... .11... ......")}


def test_images_are_found_beside_their_file_and_where_a_path_of_windows_leads(tmp_path):
    root = tmp_path / "labelme"
    for folder in ("one", "two", "images"):
        save_image(root / folder / "0001.png", 4, 6)
    save_json(root / "one/0001.json", document([shape("leaf", SQUARE)], "0001.png"))
    save_json(root / "two/0001.json", document([shape("stem", SQUARE)], "..\\two\\0001.png"))
    save_json(root / "other/x.json", document([], "..\\images\\0001.png"))
    found = converted("labelme", [root], tmp_path / "out")
    assert list(found) == ["images/0001", "one/0001", "two/0001"]
    assert np.unique(found["images/0001"]) == [0]
    assert np.unique(found["one/0001"]).tolist() == [0, 1]
    assert np.unique(found["two/0001"]).tolist() == [0, 2]


def test_an_embedded_image_is_used_where_there_is_no_file(tmp_path):
    content = base64.b64encode(save_image(tmp_path / "x.png", 4, 6).read_bytes()).decode()
    path = save_json(tmp_path / "labelme/sub/a.json", document([shape("leaf", SQUARE)], "/home/x/b.png", data=content))
    found = converted("labelme", [path.parent.parent], tmp_path / "out")
    assert found == {"sub/a": as_ids("11.... 11.... ...... ......")}
    assert (tmp_path / "out/images/train/sub/a.png").read_bytes() == (tmp_path / "x.png").read_bytes()


def test_annotations_are_made_on_the_image_as_it_is_displayed(root, tmp_path, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    save_image(root / "a.jpg", 4, 6, exif=exif)
    path = save_json(root / "a.json", document([shape("leaf", SQUARE)], height=6, width=4))
    assert converted("labelme", [path], tmp_path / "out")["a"] == as_ids("11.. 11.. .... .... .... ....")
    save_json(path, document([shape("leaf", SQUARE)], height=4, width=6))
    line = refused(capsys, "labelme", [path], tmp_path / "other")
    assert "4 x 6 pixels, but the image has 6 x 4" in line
    assert "without the orientation in its EXIF data" in line


def mask_shape(mask, points=((1, 1), (2, 2))):
    return shape("leaf", list(points), "mask", mask=mask)


BROKEN = {
    "no shapes": ({"imagePath": "a.jpg"}, "shapes: field required"),
    "no path": ({"shapes": []}, "imagePath: field required"),
    "list": ([], "valid dictionary"),
    "shape": (document([5]), "shape 0 5"),
    "label": (document([shape(5, SQUARE)]), "shape 0 label 5"),
    "label null": (document([shape(None, SQUARE)]), "shape 0 label None"),
    "point": (document([shape("leaf", [[1, 2, 3]])]), "shape 0 points.0"),
    "nan": (document([shape("leaf", [[1, float("nan")], [1, 2], [3, 4]])]), "shape 0 points.0.1 nan"),
    "huge": (document([shape("leaf", [[1, 1e9], [1, 2], [3, 4]])]), "shape 0: coordinate 1e+09"),
    "kind": (document([shape("leaf", SQUARE, "star")]), "shape 0: a shape of type 'star'"),
    "circle": (document([shape("leaf", SQUARE, "circle")]), "shape 0: a circle of 4 points; it has 2"),
    "rectangle": (document([shape("leaf", [], "rectangle")]), "a rectangle of 0 points"),
    "no mask": (document([mask_shape(None)]), "shape 0: mask: not a PNG of 2 x 2"),
    "base 64": (document([mask_shape("%%%")]), "shape 0: mask: not in base 64"),
    "not ascii": (document([mask_shape("ää")]), "not in base 64"),
    "mask size": (document([mask_shape(png([[0, 1]]))]), "not a PNG of 2 x 2"),
    "mask outside": (
        document([mask_shape(png(np.ones((2, 2))), ((5, 3), (6, 4)))]),
        "a mask of rows 3 to 5 and columns 5 to 7",
    ),
    "broken mask": (document([mask_shape(png(np.ones((2, 2)))[:40])]), "mask: a broken PNG"),
    "coloured mask": (document([mask_shape(png(np.ones((2, 2, 3))))]), "one channel"),
    "huge mask": (document([mask_shape("x", ((0, 0), (1e300, 1e300)))]), "shape 0: mask"),
    "path upwards": (document([shape("leaf", SQUARE)], "../../../etc/passwd"), "no such image"),
    "embedded text": (document([shape("leaf", SQUARE)], "b.jpg", data="AAAA"), "a.json: imageData: broken"),
    "embedded words": (document([shape("leaf", SQUARE)], "b.jpg", data="no base"), "imageData: not in base 64"),
    "embedded nothing": (document([shape("leaf", SQUARE)], "b.jpg", data=""), "imageData: the file is empty"),
    "size": (document([shape("leaf", SQUARE)], height=400), "400 x 6 pixels, but the image has 4 x 6"),
    "no area": (document([shape("leaf", [[0, 0]], "point")]), "no annotation with an area"),
    "nested": ("[" * 50_000, "not JSON"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_in_one_line_and_leaves_nothing(root, tmp_path, capsys, case):
    content, expected = BROKEN[case]
    save_json(root / "a.json", content)
    line = refused(capsys, "labelme", [root], tmp_path / "out")
    assert expected in line
    assert str(root) in line


def test_a_folder_without_json_is_refused(tmp_path, capsys):
    save_image(tmp_path / "labelme/a.jpg", 4, 6)
    assert "no JSON file" in refused(capsys, "labelme", [tmp_path / "labelme"], tmp_path / "out")


def test_a_file_name_reaches_the_terminal_without_control_characters(root, tmp_path, capsys):
    save_json(root / "a\x1b[2J.json", document([shape("leaf", SQUARE), shape("x", [[1, 1]], "point")]))
    converted("labelme", [root], tmp_path / "out")
    printed = capsys.readouterr().out
    assert r"skipped 1: a shape of type point" in printed
    assert r"a\x1b[2J.json: shape 1" in printed
    assert printed.replace("\n", "").isprintable()
