import base64
import json
import sys
from pathlib import Path

import pytest
from annotation_files import class_names, converted, label_maps, message, refused, save_image, save_json
from PIL import Image

from dlaseg.cli import main
from dlaseg.data.convert import formats
from dlaseg.data.convert.classes import BACKGROUND, Classes
from dlaseg.data.convert.conversion import READERS, WITH_SPLITS, convert
from dlaseg.data.convert.formats import FORMATS

SQUARE = [[0, 0], [2, 0], [2, 2], [0, 2]]


def labelme(path, label, image, size=(4, 6)):
    shapes = [{"label": label, "points": SQUARE, "shape_type": "polygon"}]
    return save_json(path, {"shapes": shapes, "imagePath": image, "imageHeight": size[0], "imageWidth": size[1]})


@pytest.fixture
def root(tmp_path):
    """Two images in two folders, annotated with LabelMe."""
    for split, label in (("one", "leaf"), ("two", "stem")):
        save_image(tmp_path / "labelme" / split / f"{split}.jpg", 4, 6)
        labelme(tmp_path / "labelme" / split / f"{split}.json", label, f"{split}.jpg")
    return tmp_path / "labelme"


def test_several_inputs_have_one_list_of_classes(root, tmp_path):
    converted("labelme", [root / "one", root / "two"], tmp_path / "out", "--split", "train", "val")
    assert class_names(tmp_path / "out") == ["background", "leaf", "stem"]
    assert label_maps(tmp_path / "out", "train")["one"][0][:3] == [1, 1, 0]
    assert label_maps(tmp_path / "out", "val")["two"][0][:3] == [2, 2, 0]


def test_what_is_printed(root, tmp_path, capsys):
    assert main(["data", "convert", "--from", "labelme", str(root), str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["train"]
    assert lines[1].split() == ["images", "2"]
    assert [line.split() for line in lines[4:8]] == [
        ["background", "83.333%", "2"],
        ["leaf", "8.333%", "1"],
        ["stem", "8.333%", "1"],
        ["ignored", "0.000%"],
    ]
    assert lines[-1] == str(tmp_path / "out")


def test_an_empty_folder_is_filled_and_missing_parents_are_made(root, tmp_path):
    (tmp_path / "empty").mkdir()
    converted("labelme", [root], tmp_path / "empty")
    converted("labelme", [root], tmp_path / "new/parent/out")


def test_the_empty_current_folder_is_filled_and_stays_the_same_folder(root, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    number = (tmp_path / "empty").stat().st_ino  # a shell in it would not see another one
    convert("labelme", [root], Path())
    assert sorted(path.name for path in (tmp_path / "empty").iterdir()) == ["classes.yaml", "images", "labels"]
    assert (tmp_path / "empty").stat().st_ino == number


def test_the_output_may_lie_within_the_input(root):
    converted("labelme", [root], root / "out")
    assert len(label_maps(root / "out")) == 2


def test_nothing_is_overwritten(root, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    assert "not an empty folder" in refused(capsys, "labelme", [root], tmp_path / "out")
    assert "not an empty folder" in refused(capsys, "labelme", [root], tmp_path / "out/mine.txt")
    assert "below: cannot be a folder" in refused(capsys, "labelme", [root], tmp_path / "out/mine.txt/below")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert "not an empty folder" in refused(capsys, "labelme", [root], tmp_path / "link")
    assert (tmp_path / "out/mine.txt").read_text() == "mine"


def test_an_error_in_the_last_image_leaves_nothing_and_an_empty_folder_empty(root, tmp_path, capsys):
    (root / "two/two.jpg").write_bytes((root / "one/one.jpg").read_bytes()[:-2])
    assert "two.jpg: the end of the file is missing" in refused(capsys, "labelme", [root], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    refused(capsys, "labelme", [root], tmp_path / "empty")
    assert list((tmp_path / "empty").iterdir()) == []


def test_an_interruption_leaves_nothing(root, tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("dlaseg.data.convert.writing.write_png", interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert("labelme", [root], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["labelme"]


@pytest.mark.parametrize("second", ["one.png", "ONE.jpg"])
def test_images_whose_label_maps_would_have_one_name_are_refused(root, tmp_path, capsys, second):
    save_image(root / "one" / second, 4, 6)
    labelme(root / "one/other.json", "leaf", second)
    line = refused(capsys, "labelme", [root], tmp_path / "out")
    assert "one/one.json" in line
    assert "one/other.json" in line


def test_an_embedded_image_of_two_splits_is_refused(root, tmp_path, capsys):
    path = root / "one/one.json"
    content = json.loads(path.read_text())
    content["imageData"] = base64.b64encode((root / "one/one.jpg").read_bytes()).decode()
    save_json(path, content)
    (root / "one/one.jpg").unlink()
    line = refused(capsys, "labelme", [path, path], tmp_path / "out", "--split", "train", "val")
    assert f"{path} is in split train already" in line


def test_wrong_inputs_and_options_are_refused(root, tmp_path, capsys):
    out = tmp_path / "out"
    assert "none: no such file or folder" in refused(capsys, "labelme", [tmp_path / "none"], out)
    (tmp_path / "export.zip").write_bytes(b"PK")
    assert "export.zip: a ZIP archive: unpack it" in refused(capsys, "labelme", [tmp_path / "export.zip"], out)
    assert "2 names for 1 inputs" in refused(capsys, "labelme", [root], out, "--split", "train", "val")
    assert "--split: split '../x'" in refused(capsys, "labelme", [root], out, "--split", "../x")
    assert "nowhere: no such folder" in refused(capsys, "labelme", [root], out, "--images", str(root / "nowhere"))
    assert "no instances_*.json" in refused(capsys, "coco", [root], out)
    assert "invalid choice: 'nope'" in refused(capsys, "nope", [root], out)


def test_images_that_opencv_cannot_open_are_refused(root, tmp_path, capsys):
    (root / "one/one.jpg").write_text("not an image")
    assert "one.jpg: broken or not an image" in refused(capsys, "labelme", [root], tmp_path / "out")


def test_a_byte_order_mark_is_no_part_of_the_text(root, tmp_path):
    path = root / "one/one.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    converted("labelme", [root], tmp_path / "out")


def test_16_bits_and_grey_are_images_too(tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("I;16", (6, 4)).save(tmp_path / "in/a.png")
    labelme(tmp_path / "in/a.json", "leaf", "a.png")
    assert list(converted("labelme", [tmp_path / "in"], tmp_path / "out")) == ["a"]


@pytest.mark.parametrize("package", ["pycocotools", "defusedxml"])
def test_a_missing_package_is_named_with_its_extra(root, tmp_path, capsys, monkeypatch, package):
    find = formats.find_spec
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == package else find(name))
    assert f"needs {package}: pip install 'dlaseg[convert]'" in refused(capsys, "labelme", [root], tmp_path / "out")


def test_optional_packages_are_imported_only_where_they_are_used():
    assert "dlaseg.data.convert.conversion" in sys.modules
    text = "".join(path.read_text() for path in formats_folder().glob("*.py"))
    lines = [line for line in text.splitlines() if "import" in line and ("pycocotools" in line or "defusedxml" in line)]
    assert lines
    assert all(line.startswith("    ") for line in lines)


def formats_folder():
    from pathlib import Path

    return Path(formats.__file__).parent


def test_the_table_of_formats_is_the_same_everywhere():
    assert list(READERS) == list(FORMATS)
    assert set(WITH_SPLITS) <= set(FORMATS)


def test_classes_have_ids_without_gaps_and_background_first():
    classes = Classes([{"b": None, "a": (1, 2, 3)}, {"c": None, "b": (4, 5, 6)}], with_background=True)
    assert classes.ids == {"background": 0, "b": 1, "a": 2, "c": 3}
    assert "{name: b, id: 1, color: [4, 5, 6]}" in classes.to_yaml()
    assert Classes([{"b": None, "BackGround": None}], with_background=True).ids == {"BackGround": 0, "b": 1}
    assert "{name: b, id: 0, color: [1, 2, 3]}" in Classes([{"b": (1, 2, 3), "a": None}, {"b": None}], False).to_yaml()
    assert Classes([{"b": None, "a": None}], with_background=False).ids == {"b": 0, "a": 1}
    assert Classes([{"b": None}], with_background=True).ids == {"background": 0, "b": 1}
    assert "one class, 'b'" in message(Classes, [{"b": None}], with_background=False)
    accents, full_width = ("\xe9", "e\u0301"), ("a", "\uff41")
    for names in (("a", "A "), ("my  leaf", "my leaf"), accents, full_width, (BACKGROUND, "Background")):
        text = message(Classes, [{name: None} for name in names], with_background=True)
        assert text.endswith("differ only in case, spaces or Unicode form: rename one of them")
    full = {str(i): None for i in range(255)}
    assert len(Classes([full], with_background=False).ids) == 255
    assert "256 classes" in message(Classes, [full], with_background=True)
