"""YOLO segmentation, in the format of https://docs.ultralytics.com/datasets/segment/."""

import pytest
from annotation_files import as_ids, class_names, converted, label_maps, refused, save_image, save_text

from dlaseg.cli import main

# In parts of 6 x 4 pixels (width x height)
LEFT_HALF = "0 0 0 0.5 0 0.5 1 0 1"
TOP_ROW = "1 0 0 1 0 1 0.25 0 0.25"


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "yolo"
    for split in ("train", "val"):
        save_image(root / f"images/{split}/sub/a b.jpg", 4, 6)
        save_text(root / f"labels/{split}/sub/a b.txt", LEFT_HALF, "", TOP_ROW)
    save_text(root / "data.yaml", "path: /home/someone/yolo", "train: images/train", "val: images/val",
              "test: ''", "names:", "  0: leaf", "  1: stem")  # fmt: skip
    return root


EXPECTED = {"sub/a b": as_ids("222222 111... 111... 111...")}


def test_polygons_are_drawn_in_the_order_of_the_lines(root, tmp_path):
    assert converted("yolo", [root], tmp_path / "out") == EXPECTED
    assert label_maps(tmp_path / "out", "val") == EXPECTED
    assert class_names(tmp_path / "out") == ["background", "leaf", "stem"]
    assert converted("yolo", [root / "data.yaml"], tmp_path / "file") == EXPECTED


def test_lists_of_images_lists_of_folders_and_names_in_a_list(root, tmp_path):
    save_image(root / "images/more/c.png", 4, 6)
    save_text(root / "labels/more/c.txt", LEFT_HALF)
    save_text(root / "val.txt", "./images/val/sub/a b.jpg", "")
    save_text(root / "data.yaml", "train: [images/train, images/more]", "val: val.txt", "names: [leaf, 7]")
    assert sorted(converted("yolo", [root], tmp_path / "out")) == ["c", "sub/a b"]
    assert label_maps(tmp_path / "out", "val") == {"images/val/sub/a b": EXPECTED["sub/a b"]}
    assert class_names(tmp_path / "out") == ["background", "leaf", "7"]


@pytest.mark.parametrize("before", ["..", "/content/leaves-1", r"C:\datasets\leaves-1"])
def test_paths_of_roboflow_and_labels_beside_their_images(before, tmp_path):
    root = tmp_path / "robo"
    save_image(root / "train/images/a.jpg", 4, 6)
    save_text(root / "train/labels/a.txt", LEFT_HALF)
    save_image(root / "valid/b.jpg", 4, 6)
    save_text(root / "valid/b.txt", TOP_ROW)
    save_text(root / "data.yaml", f"train: {before}/train/images", f"val: {before}/valid", "names: ['leaf', 'stem']")
    assert converted("yolo", [root], tmp_path / "out") == {"a": as_ids("111... 111... 111... 111...")}
    assert label_maps(tmp_path / "out", "val") == {"b": as_ids("222222 ...... ...... ......")}


def test_only_the_last_folder_images_of_a_path_becomes_labels(tmp_path):
    root = tmp_path / "images/yolo"  # nothing above data.yaml is exchanged
    save_image(root / "images/train/images/a.jpg", 4, 6)
    save_text(root / "images/train/labels/a.txt", LEFT_HALF)
    save_text(root / "data.yaml", "train: images/train", "names: [leaf]")
    assert converted("yolo", [root], tmp_path / "out") == {"images/a": as_ids("111... 111... 111... 111...")}


def test_boxes_are_counted_and_images_without_text_file_are_background(root, tmp_path, capsys):
    save_image(root / "images/train/none.jpg", 4, 6)
    save_text(root / "labels/train/sub/a b.txt", "0 0.5 0.5 0.1 0.1", TOP_ROW)
    found = converted("yolo", [root], tmp_path / "out")
    assert found["none"] == as_ids("...... ...... ...... ......")
    assert found["sub/a b"] == as_ids("222222 ...... ...... ......")
    lines = capsys.readouterr().out.splitlines()
    assert f"skipped 1: a box without polygon; first: {root / 'labels/train/sub/a b.txt'}, line 1" in lines
    missing = root / "labels/train/none.txt"
    assert f"skipped 1: a missing text file, so its image has no objects; first: {missing}" in lines


def test_the_suffix_of_a_text_file_may_be_in_upper_case(root, tmp_path, capsys):
    file = root / "labels/val/sub/a b.txt"
    file.rename(file.with_suffix(".TXT"))
    converted("yolo", [root], tmp_path / "out")
    assert label_maps(tmp_path / "out", "val") == EXPECTED
    assert "skipped" not in capsys.readouterr().out


def test_images_that_are_not_read_and_text_files_without_image_are_counted(root, tmp_path, capsys):
    for name in ("5", "6"):
        save_text(root / f"images/train/sub/{name}.HEIC", "x")
        save_text(root / f"labels/train/sub/{name}.txt", LEFT_HALF)
    save_text(root / "labels/train/sub/._a b.txt", "of macOS")
    assert converted("yolo", [root], tmp_path / "out") == EXPECTED
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("skipped")]
    assert lines == [
        "skipped 2: an image of a format that is not read (convert it to JPEG or PNG); first: "
        f"{root}/images/train/sub/5.HEIC",
        f"skipped 2: a text file that belongs to no image of train, val or test; first: {root}/labels/train/sub/5.txt",
    ]
    (root / "images/train/sub/a b.jpg").unlink()
    assert "images/train, but 5.HEIC, of a format that is not read: add" in (
        refused(capsys, "yolo", [root], tmp_path / "none")
    )


@pytest.mark.parametrize("place", ["images/train", "link"])
def test_an_image_of_two_splits_is_refused(root, tmp_path, capsys, place):
    (root / "link").symlink_to("images/train")
    (root / "labels/link").symlink_to("train")
    save_text(root / "link/sub/a b.txt", LEFT_HALF)
    save_text(root / "data.yaml", "train: images/train", f"val: {place}", "names: [leaf, stem]")
    assert (
        f"data.yaml: val: {root}/images/train/sub/a b.jpg is in split train already ({root}/data.yaml: train): a "
        "score on images that are trained on is too high: list each image in one split"
    ) in refused(capsys, "yolo", [root], tmp_path / "out")


def test_validation_images_may_be_test_images(root, tmp_path):
    save_text(root / "data.yaml", "train: images/train", "val: images/val", "test: images/val", "names: [a, b]")
    converted("yolo", [root], tmp_path / "out")
    assert label_maps(tmp_path / "out", "val") == label_maps(tmp_path / "out", "test") == EXPECTED


def test_relative_paths_are_those_of_the_working_folder(root, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    assert main(["data", "convert", "--from", "yolo", ".", "../out"]) == 0
    assert label_maps(tmp_path / "out") == EXPECTED


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("2 0 0 1 0 1 1", "class 2: data.yaml has no class"),
        ("0.5 0 0 1 0 1 1", "class 0.5"),
        ("-1 0 0 1 0 1 1", "class -1"),
        ("0 0 0 1 0 1", "6 numbers"),
        ("0 0 0 1 0 1 1 0", "8 numbers"),
        ("0", "1 numbers"),
        ("0 0 0 1 0 1 nan", "'nan': use finite"),
        ("0 0 0 1 0 1 1e999", "'1e999': use finite"),
        ("0 0 0 1 0 x 1", "'x': use finite"),
        ("0 0 0 320 0 320 240", "coordinate 320: use parts of the image's width and height"),
        ("0 0 0 1 0 1 -0.5", "coordinate -0.5"),
    ],
)
def test_a_broken_line_is_refused_by_file_and_number(root, tmp_path, capsys, line, expected):
    save_text(root / "labels/val/sub/a b.txt", LEFT_HALF, line)
    error = refused(capsys, "yolo", [root], tmp_path / "out")
    assert f"{root}/labels/val/sub/a b.txt, line 2: " in error
    assert expected in error


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["names: [leaf, stem]"], "neither train nor val nor test"),
        (["train: images/train"], "names: field required"),
        (["train: images/train", "names: [leaf, no]"], "names 1 False: a name is text"),
        (["train: images/train", "names: {a: leaf}"], "names"),
        (["train: 5", "names: [leaf]"], "train"),
        (["train: ../../etc", "names: [leaf]"], "'../../etc': no such folder or list below"),
        (["train: /etc", "names: [leaf]"], "'/etc': no such folder or list below"),
        (["train: images/none", "names: [leaf]"], "'images/none': no such folder"),
        (["train: list.txt", "names: [leaf]"], "list.txt: image '../../etc/passwd': no such image"),
        (["train: labels/train", "names: [leaf]"], "no image in"),
        (["- a"], "valid dictionary"),
        (["[" * 3000], "data.yaml"),
        (["a: *b"], "not YAML"),
        (["train: images/train", "names: [leaf, Leaf]"], "'Leaf' differ only in case"),
    ],
)
def test_a_broken_data_file_is_refused(root, tmp_path, capsys, lines, expected):
    save_text(root / "data.yaml", *lines)
    save_text(root / "list.txt", "../../etc/passwd")
    assert expected in refused(capsys, "yolo", [root], tmp_path / "out")


def test_a_split_without_any_text_file_is_refused(root, tmp_path, capsys):
    (root / "labels/val/sub/a b.txt").unlink()
    error = refused(capsys, "yolo", [root], tmp_path / "out")
    assert f"{root}/labels/val/sub/a b.txt: no such file, and none for any other image" in error


def test_splits_cannot_be_named(root, tmp_path, capsys):
    assert "yolo says itself" in refused(capsys, "yolo", [root], tmp_path / "out", "--split", "train")


def test_rounded_coordinates_may_lie_a_little_outside(root, tmp_path):
    save_text(root / "labels/train/sub/a b.txt", "0 -0.005 -0.005 0.5 0 0.5 1.005 0 1.005", TOP_ROW)
    assert converted("yolo", [root], tmp_path / "out") == EXPECTED
