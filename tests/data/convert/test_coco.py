"""COCO, in the format of https://cocodataset.org/#format-data."""

import contextlib
import io
import json
import shutil

import numpy as np
import pytest
from annotation_files import as_ids, class_names, converted, label_maps, refused, save_image, save_json, with_value
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from dlaseg.cli import main

CATEGORIES = [
    {"id": 18, "name": "dog", "supercategory": "animal"},
    {"id": 3, "name": "car", "supercategory": "vehicle"},
]


def square(left, top, right, bottom):
    return [left, top, right, top, right, bottom, left, bottom]


def document(annotations, images=None, categories=None):
    images = images or [{"id": 7, "file_name": "a.jpg", "height": 4, "width": 6}]
    entries = [{"id": i, "image_id": 7, "iscrowd": 0, **annotation} for i, annotation in enumerate(annotations, 100)]
    return {
        "info": {},
        "images": images,
        "annotations": entries,
        "categories": CATEGORIES if categories is None else categories,
    }


@pytest.fixture
def root(tmp_path):
    """The layout of COCO: `annotations` beside the folders of images."""
    save_image(tmp_path / "coco/train2017/a.jpg", 4, 6)
    return tmp_path / "coco"


def annotated(root, annotations, name="instances_train2017.json", **more):
    return save_json(root / "annotations" / name, document(annotations, **more))


def test_polygons_and_masks_are_drawn_in_the_order_of_the_file(root, tmp_path):
    mask = np.zeros((4, 6), np.uint8)
    mask[2:, 5:] = 1
    path = annotated(
        root,
        [
            {"category_id": 18, "segmentation": [square(0, 0, 3, 3)]},
            {"category_id": 3, "segmentation": [square(2, 1, 4, 4), square(5, 0, 6, 1)]},
            # runs go down the columns: 16 pixels, then the whole column of x = 4
            {"category_id": 18, "segmentation": {"size": [4, 6], "counts": [16, 4, 4]}},
            {
                "category_id": 3,
                "segmentation": {
                    "size": [4, 6],
                    "counts": coco_mask.encode(np.asfortranarray(mask))["counts"].decode(),
                },
                "iscrowd": 1,
            },
        ],
    )
    found = converted("coco", [path], tmp_path / "out")
    assert found == {"a": as_ids("222.21 22112. 221121 ..1121")}
    # ordered by category id, without gaps, background first
    assert class_names(tmp_path / "out") == ["background", "car", "dog"]
    assert (tmp_path / "out/images/train/a.jpg").read_bytes() == (root / "train2017/a.jpg").read_bytes()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in pycocotools' decode
def test_masks_are_those_that_pycocotools_draws(tmp_path):
    rng = np.random.default_rng(0)
    height, width, annotations = 61, 83, []
    for i in range(30):
        corners = rng.uniform((-5, -5), (width + 5, height + 5), (rng.integers(3, 9), 2)).round(2)
        shape = [corners.ravel().tolist(), square(*sorted(rng.uniform(0, 40, 2)), *sorted(rng.uniform(41, 60, 2)))]
        if i % 3 == 0:
            shape = coco_mask.encode(np.asfortranarray(rng.random((height, width)) < 0.5, np.uint8))
            shape["counts"] = shape["counts"].decode()
        annotations.append({"image_id": i, "category_id": 3 + 15 * (i % 2), "segmentation": shape})
    images = [{"id": i, "file_name": f"{i}.png", "height": height, "width": width} for i in range(30)]
    for image in images:
        save_image(tmp_path / "coco" / image["file_name"], height, width)
    path = save_json(tmp_path / "coco/instances.json", document(annotations, images))
    found = converted("coco", [path], tmp_path / "out")
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCO(path)
    for i in range(30):
        mask = theirs.annToMask(theirs.loadAnns(100 + i)[0])
        assert (np.array(found[str(i)]) == mask * (1 + i % 2)).all()


def test_small_objects_cover_large_ones_where_that_is_asked_for(root, tmp_path):
    path = annotated(
        root,
        [
            {"category_id": 18, "segmentation": [square(1, 1, 3, 3)]},
            {"category_id": 3, "segmentation": [square(0, 0, 6, 4)]},
        ],
    )
    assert converted("coco", [path], tmp_path / "file") == {"a": as_ids("111111 111111 111111 111111")}
    by_area = converted("coco", [path], tmp_path / "area", "--order", "area")
    assert by_area == {"a": as_ids("111111 122111 122111 111111")}


def test_crowds_can_be_ignored_and_then_lie_below_the_objects(root, tmp_path):
    path = annotated(
        root,
        [
            {"category_id": 18, "segmentation": [square(0, 0, 2, 2)]},
            {"category_id": 18, "segmentation": {"size": [4, 6], "counts": [0, 16, 8]}, "iscrowd": 1},
        ],
    )
    assert converted("coco", [path], tmp_path / "class") == {"a": as_ids("2222.. 2222.. 2222.. 2222..")}
    found = converted("coco", [path], tmp_path / "ignore", "--crowd", "ignore")
    assert found == {"a": as_ids("22##.. 22##.. ####.. ####..")}


def test_ignored_crowds_lie_below_the_objects_also_where_large_ones_are_drawn_first(root, tmp_path):
    path = annotated(
        root,
        [
            {"category_id": 3, "segmentation": [square(0, 0, 6, 3)]},
            {"category_id": 18, "segmentation": {"size": [4, 6], "counts": [0, 16, 8]}, "iscrowd": 1},
            {"category_id": 18, "segmentation": [square(3, 2, 5, 4)], "iscrowd": 1},
            {"category_id": 18, "segmentation": [square(1, 1, 2, 2)]},
        ],
    )
    found = converted("coco", [path], tmp_path / "out", "--crowd", "ignore", "--order", "area")
    assert found == {"a": as_ids("111111 121111 111111 #####.")}


def test_pixels_without_object_can_be_ignored(root, tmp_path):
    path = annotated(root, [{"category_id": 18, "segmentation": [square(0, 0, 2, 2)]}])
    assert converted("coco", [path], tmp_path / "out", "--unlabelled", "ignore") == {
        "a": as_ids("11#### 11#### ###### ######")
    }
    assert class_names(tmp_path / "out") == ["car", "dog"]


def test_an_own_class_background_is_the_first_and_what_is_not_labelled(root, tmp_path):
    categories = [*CATEGORIES, {"id": 20, "name": "Background"}]
    path = annotated(
        root,
        [
            {"category_id": 18, "segmentation": [square(0, 0, 2, 2)]},
            {"category_id": 20, "segmentation": [square(0, 0, 1, 1)]},
        ],
        categories=categories,
    )
    assert converted("coco", [path], tmp_path / "out") == {"a": as_ids(".2.... 22.... ...... ......")}
    assert class_names(tmp_path / "out") == ["Background", "car", "dog"]


def test_categories_of_one_name_are_one_class(root, tmp_path):
    categories = [{"id": 0, "name": "dog"}, {"id": 1, "name": "dog"}]
    shapes = [{"category_id": i, "segmentation": [square(i, 0, i + 1, 4)]} for i in (0, 1)]
    path = annotated(root, shapes, categories=categories)
    assert converted("coco", [path], tmp_path / "out") == {"a": as_ids("11.... 11.... 11.... 11....")}


def test_files_become_splits_by_their_names_or_as_the_user_says(root, tmp_path, capsys):
    save_image(root / "val2017/sub dir/b.png", 4, 6)
    train = annotated(root, [{"category_id": 18, "segmentation": [square(0, 0, 2, 2)]}])
    val = annotated(
        root,
        [{"category_id": 3, "segmentation": [square(0, 0, 6, 4)]}],
        "instances_val2017.json",
        images=[{"id": 7, "file_name": "sub dir/b.png", "height": 4, "width": 6}],
    )
    converted("coco", [root], tmp_path / "folder")
    assert label_maps(tmp_path / "folder", "train") == {"a": as_ids("22.... 22.... ...... ......")}
    assert label_maps(tmp_path / "folder", "val") == {"sub dir/b": as_ids("111111 111111 111111 111111")}
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].split() == ["train", "val"]
    assert printed.splitlines()[-1] == str(tmp_path / "folder")
    converted("coco", [train, val], tmp_path / "named", "--split", "Fold1", "fold2", split="Fold1")
    assert sorted(label_maps(tmp_path / "named", "fold2")) == ["sub dir/b"]


def test_of_images_of_one_name_that_in_the_folder_named_like_the_file_is_taken(root, tmp_path):
    save_image(root / "val2017/a.jpg", 4, 6, 200)
    for split in ("train", "val"):
        annotated(root, [{"category_id": 18, "segmentation": [square(0, 0, 2, 2)]}], f"instances_{split}2017.json")
    converted("coco", [root], tmp_path / "out")
    for split in ("train", "val"):
        written = tmp_path / "out/images" / split / "a.jpg"
        assert written.read_bytes() == (root / f"{split}2017/a.jpg").read_bytes()


def test_files_of_roboflow_are_found_in_their_folders(tmp_path):
    for split in ("train", "valid"):
        save_image(tmp_path / "robo" / split / "a.jpg", 4, 6)
        content = document([{"category_id": 18, "segmentation": [square(0, 0, 2, 2)]}])
        save_json(tmp_path / "robo" / split / "_annotations.coco.json", content)
    converted("coco", [tmp_path / "robo"], tmp_path / "out")
    assert label_maps(tmp_path / "out", "val") == label_maps(tmp_path / "out", "train")


def test_what_has_no_area_is_counted_and_an_image_without_objects_is_background(root, tmp_path, capsys):
    save_image(root / "train2017/empty.jpg", 4, 6)
    images = [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "empty.jpg", "height": 4, "width": 6}]
    path = annotated(
        root,
        [
            {"category_id": 18, "segmentation": [square(0, 0, 2, 2)]},
            {"category_id": 18, "segmentation": [], "bbox": [0, 0, 3, 3]},
            {"category_id": 18, "bbox": [0, 0, 3, 3]},
            {"category_id": 18, "segmentation": [[1, 1, 4, 4]]},  # pycocotools would draw a box
        ],
        images=images,
    )
    found = converted("coco", [path], tmp_path / "out")
    assert found["empty"] == as_ids("...... ...... ...... ......")
    assert found["a"] == as_ids("22.... 22.... ...... ......")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("skipped")]
    assert lines == [
        f"skipped 2: a box or key points without segmentation; first: {path}: annotation 101",
        f"skipped 1: a shape that covers the centre of no pixel; first: {path}: annotation 103",
    ]


def test_links_instead_of_copies(root, tmp_path, monkeypatch):
    annotated(root, [{"category_id": 18, "segmentation": [square(0, 0, 2, 2)]}])
    monkeypatch.chdir(tmp_path)
    assert main(["data", "convert", "--from", "coco", "coco", "out", "--link"]) == 0
    link = tmp_path / "out/images/train/a.jpg"
    assert link.is_symlink()
    assert link.resolve() == (root / "train2017/a.jpg").resolve()
    assert not (tmp_path / "out/labels/train/a.png").is_symlink()


# Panoptic: colours of a PNG are ids of segments, red + 256 green + 65536 blue


@pytest.fixture
def panoptic(root):
    ids = np.zeros((4, 6, 3), np.uint8)
    ids[:2] = (1, 0, 0)
    ids[2, :3] = (0, 1, 0)
    ids[2, 3:] = (0, 2, 1)
    (root / "annotations/panoptic_train2017").mkdir(parents=True)
    Image.fromarray(ids).save(root / "annotations/panoptic_train2017/a.png")
    content = document([])
    content["annotations"] = [
        {
            "image_id": 7,
            "file_name": "a.png",
            "segments_info": [
                {"id": 1, "category_id": 3},
                {"id": 256, "category_id": 18, "iscrowd": 1},
                {"id": 65536 + 512, "category_id": 18},
            ],
        }
    ]
    return save_json(root / "annotations/panoptic_train2017.json", content)


def test_panoptic_segments_become_their_classes_and_void_is_ignored(panoptic, tmp_path):
    assert converted("coco", [panoptic], tmp_path / "out") == {"a": as_ids("...... ...... 111111 ######")}
    assert class_names(tmp_path / "out") == ["car", "dog"]
    found = converted("coco", [panoptic], tmp_path / "crowd", "--crowd", "ignore", "--unlabelled", "background")
    assert found == {"a": as_ids("111111 111111 ###222 ......")}


def test_broken_panoptic_files_are_refused(panoptic, tmp_path, capsys):
    content = json.loads(panoptic.read_text())
    content["annotations"][0]["segments_info"].pop()
    save_json(panoptic, content)
    assert "segment 66048" in refused(capsys, "coco", [panoptic], tmp_path / "out")
    png = panoptic.with_suffix("") / "a.png"
    Image.new("RGB", (4, 4), (1, 0, 0)).save(png)
    assert "4 x 4 pixels, but the image has 4 x 6" in refused(capsys, "coco", [panoptic], tmp_path / "out")
    Image.new("L", (6, 4)).save(png)
    assert "one channel" in refused(capsys, "coco", [panoptic], tmp_path / "out")
    png.unlink()
    assert "no such image" in refused(capsys, "coco", [panoptic], tmp_path / "out")
    png.parent.rmdir()
    assert "panoptic_train2017: no such folder: put the PNGs" in refused(capsys, "coco", [panoptic], tmp_path / "out")


@pytest.mark.parametrize(("entry", "expected"), [("x", "image ?"), ("again", "image 7: a second annotation")])
def test_broken_panoptic_entries_are_refused(panoptic, tmp_path, capsys, entry, expected):
    content = json.loads(panoptic.read_text())
    content["annotations"].append(content["annotations"][0] if entry == "again" else entry)
    save_json(panoptic, content)
    assert expected in refused(capsys, "coco", [panoptic], tmp_path / "out")


def test_a_panoptic_image_without_annotation_is_left_out_and_counted(panoptic, tmp_path, capsys):
    content = json.loads(panoptic.read_text())
    content["images"].append({"id": 8, "file_name": "b.jpg"})
    save_json(panoptic, content)
    assert list(converted("coco", [panoptic], tmp_path / "out")) == ["a"]
    assert "skipped 1: an image without a panoptic annotation" in capsys.readouterr().out


# What a stranger may send

GOOD = document([{"category_id": 18, "segmentation": [square(0, 0, 2, 2)]}])


BROKEN = {
    "nested": ("[" * 50_000, "not JSON"),
    "cut off": ('{"images": [', "not JSON"),
    "long number": ('{"images": ' + "1" * 5000 + "}", "not JSON"),
    "list": ([], "valid dictionary"),
    "string": ('"x"', "valid dictionary"),
    "no images": (with_value(GOOD, "images", ...), "images: field required"),
    "images": (with_value(GOOD, "images", {"id": 1}), "valid list"),
    "image": (with_value(GOOD, "images", 0, 5), "image ?"),
    "no name": (with_value(GOOD, "images", 0, "file_name", ...), "image 7 file_name: field required"),
    "name of no image": (with_value(GOOD, "images", 0, "file_name", "b.jpg"), "image 7: image 'b.jpg': no such image"),
    "path upwards": (with_value(GOOD, "images", 0, "file_name", "../../../../etc/passwd"), "no such image"),
    "absolute path": (with_value(GOOD, "images", 0, "file_name", "/etc/passwd"), "no such image"),
    "zero byte": (with_value(GOOD, "images", 0, "file_name", "\0.jpg"), "no such image"),
    "empty name": (with_value(GOOD, "images", 0, "file_name", ""), "no such image"),
    "height": (with_value(GOOD, "images", 0, "height", 5), "5 x 6 pixels, but the image has 4 x 6"),
    "huge height": (with_value(GOOD, "images", 0, "height", 10**30), "the image has 4 x 6"),
    "category": (with_value(GOOD, "annotations", 0, "category_id", 99), "annotation 100: category_id 99"),
    "image id": (with_value(GOOD, "annotations", 0, "image_id", "7"), "annotation 100: image_id '7'"),
    "annotation": (with_value(GOOD, "annotations", 0, None), "annotation ?"),
    "nan": (
        with_value(GOOD, "annotations", 0, "segmentation", 0, 2, float("nan")),
        "annotation 100: segmentation 0.2 nan",
    ),
    "infinity": (with_value(GOOD, "annotations", 0, "segmentation", 0, 2, float("inf")), "finite number"),
    "huge": (with_value(GOOD, "annotations", 0, "segmentation", 0, 2, 1e300), "annotation 100: coordinate 1e+300"),
    "huge whole": (with_value(GOOD, "annotations", 0, "segmentation", 0, 2, 10**400), "annotation 100: segmentation"),
    "odd": (with_value(GOOD, "annotations", 0, "segmentation", [[1, 2, 3, 4, 5, 6, 7]]), "a polygon of 7 numbers"),
    "flat": (with_value(GOOD, "annotations", 0, "segmentation", [1, 2, 3, 4, 5, 6]), "valid list"),
    "text": (with_value(GOOD, "annotations", 0, "segmentation", "x"), "annotation 100: segmentation 'x'"),
    "few counts": (
        with_value(GOOD, "annotations", 0, "segmentation", {"size": [4, 6], "counts": [3, 4]}),
        "cover 7 pixels",
    ),
    "negative": (
        with_value(GOOD, "annotations", 0, "segmentation", {"size": [4, 6], "counts": [-3, 27]}),
        "a run of -3",
    ),
    "endless": (
        with_value(GOOD, "annotations", 0, "segmentation", {"size": [4, 6], "counts": [10**30]}),
        "the mask has 4 x 6",
    ),
    "size": (with_value(GOOD, "annotations", 0, "segmentation", {"size": [6, 4], "counts": [24]}), "6 x 4 pixels, but"),
    "letters": (
        with_value(GOOD, "annotations", 0, "segmentation", {"size": [4, 6], "counts": "zz"}),
        "run-length string",
    ),
    "short letters": (
        with_value(GOOD, "annotations", 0, "segmentation", {"size": [4, 6], "counts": "1"}),
        "cover 1 pixels",
    ),
    "no size": (
        with_value(GOOD, "annotations", 0, "segmentation", {"counts": [24]}),
        "segmentation size: field required",
    ),
    "same image": (with_value(GOOD, "images", GOOD["images"] * 2), "image 7: two images have this id"),
    "same category": (with_value(GOOD, "categories", CATEGORIES[:1] * 2), "category 18: two categories have this id"),
    "case": (
        with_value(GOOD, "categories", [*CATEGORIES, {"id": 1, "name": "DOG"}]),
        "'DOG' and 'dog' differ only in case",
    ),
    "unnamed": (with_value(GOOD, "categories", [*CATEGORIES, {"id": 1, "name": " "}]), "class name ' '"),
    "unprintable": (with_value(GOOD, "categories", [*CATEGORIES, {"id": 1, "name": "a\nb"}]), "class name 'a"),
    "long name": (with_value(GOOD, "categories", [*CATEGORIES, {"id": 1, "name": "x" * 101}]), "class name 'xxx"),
    "surrogate": (with_value(GOOD, "categories", [*CATEGORIES, {"id": 1, "name": "\ud800"}]), "class name"),
    "many": (
        with_value(GOOD, "categories", [*CATEGORIES, *({"id": i, "name": str(i)} for i in range(20, 273))]),
        "256 classes",
    ),
    "nothing drawn": (with_value(GOOD, "annotations", []), "no annotation with an area"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_in_one_line_and_leaves_nothing(root, tmp_path, capsys, case):
    content, expected = BROKEN[case]
    path = save_json(root / "annotations/instances_train2017.json", content)
    line = refused(capsys, "coco", [path], tmp_path / "out")
    assert expected in line
    if case not in ("case", "unnamed", "unprintable", "surrogate", "long name", "many"):
        assert str(path) in line


def test_an_image_that_another_file_has_in_another_split_is_refused(root, tmp_path, capsys):
    shapes = [{"category_id": 18, "segmentation": [square(0, 0, 2, 2)]}]
    train = annotated(root, shapes)
    val = annotated(root, shapes, "instances_val2017.json")
    assert f"{val}: image 7: {root}/train2017/a.jpg is in split train already ({train}: image 7)" in (
        refused(capsys, "coco", [root], tmp_path / "out")
    )
    save_image(root / "val2017/b.jpg", 4, 6)  # one of the same name is another image
    annotated(root, shapes, "instances_val2017.json", images=[{"id": 7, "file_name": "b.jpg"}])
    converted("coco", [root], tmp_path / "out")


@pytest.mark.parametrize("names", [("x.jpg", "x.png/y.jpg"), ("x.png/y.jpg", "x.jpg")])
def test_a_label_map_of_the_name_of_a_folder_is_refused(root, tmp_path, capsys, names):
    for name in names:
        save_image(root / "train2017" / name, 4, 6)
    path = annotated(root, [], images=[{"id": i, "file_name": name} for i, name in enumerate(names)])
    line = refused(capsys, "coco", [path], tmp_path / "out")
    assert f"{path}: image 1: {names[1]}: labels/train/x.png is a file or folder of another image already: " in line


@pytest.mark.parametrize("second", ["./a.jpg", "train2017/a.jpg", "C:\\data\\train2017\\a.jpg"])
def test_the_same_file_listed_as_two_images_is_refused(root, tmp_path, capsys, second):
    images = [{"id": 7, "file_name": "a.jpg"}, {"id": 9, "file_name": second}]
    path = annotated(root, [], images=images)
    line = refused(capsys, "coco", [path], tmp_path / "out")
    assert f"{path}: image 9: " in line
    assert f"{path}: image 7" in line


def test_other_files_of_a_folder_are_no_annotations(root, tmp_path):
    path = annotated(root, [{"category_id": 18, "segmentation": [square(0, 0, 2, 2)]}])
    path.with_suffix(".json.md5").write_text("0" * 32)
    converted("coco", [root], tmp_path / "out")


def test_an_image_of_any_training_split_is_in_no_other(root, tmp_path, capsys):
    objects = [{"category_id": 18, "segmentation": [square(0, 0, 2, 2)]}]
    inputs = [annotated(root, objects, f"instances_{name}.json") for name in "ab"]
    message = refused(capsys, "coco", inputs, tmp_path / "out", "--split", "train_b", "val")
    assert "is in split train_b already" in message


SQUARE = [{"category_id": 18, "segmentation": [square(0, 0, 2, 2)]}]


@pytest.fixture
def photos(tmp_path):
    """Different images of the same names in a folder for each split."""
    for number, split in enumerate(("train", "val")):
        save_image(tmp_path / "photos" / split / "a.jpg", 4, 6, 90 + number)
    return tmp_path / "photos"


def written(tmp_path, split):
    return (tmp_path / "out/images" / split / "a.jpg").read_bytes()


def test_of_images_of_one_name_that_in_the_folder_of_the_split_is_taken(photos, tmp_path):
    inputs = [save_json(tmp_path / f"{name}.json", document(SQUARE)) for name in "AB"]
    converted("coco", inputs, tmp_path / "out", "--split", "train", "val", "--images", str(photos))
    for split in ("train", "val"):
        assert written(tmp_path, split) == (photos / split / "a.jpg").read_bytes()
    (photos / "val").rename(photos / "valid")
    shutil.rmtree(tmp_path / "out")
    converted("coco", inputs, tmp_path / "out", "--split", "train", "val", "--images", str(photos))
    assert written(tmp_path, "val") == (photos / "valid/a.jpg").read_bytes()


def test_without_a_split_none_of_the_images_of_one_name_is_guessed(photos, tmp_path, capsys):
    path = save_json(tmp_path / "A.json", document(SQUARE))
    assert "fit: rename one" in refused(capsys, "coco", [path], tmp_path / "out", "--images", str(photos))


def test_files_in_folders_named_like_splits_belong_to_them(photos, tmp_path):
    inputs = [save_json(photos / split / "labels.json", document(SQUARE)) for split in ("val", "train")]
    converted("coco", inputs, tmp_path / "out")
    for split in ("train", "val"):
        assert written(tmp_path, split) == (photos / split / "a.jpg").read_bytes()


@pytest.mark.parametrize(
    ("names", "splits", "wrong"),
    [
        (("instances_val2017.json", "instances_train2017.json"), "train val", 0),
        (("b.json", "train.json"), "train val", 1),
        (("valid/x.json", "train/x.json"), "train valid", 0),
        (("train.json", "val.json", "test.json"), "train test val", 1),
    ],
)
def test_splits_in_another_order_than_the_files_are_refused(tmp_path, capsys, names, splits, wrong):
    inputs = [save_json(tmp_path / name, {}) for name in names]
    message = refused(capsys, "coco", inputs, tmp_path / "out", "--split", *splits.split())
    assert f"--split {splits.split()[wrong]} for {inputs[wrong]}: its name says " in message
    assert "name the splits in the order of the inputs" in message


def test_a_split_may_be_another_one_than_the_name_of_the_file_says(root, tmp_path):
    save_image(root / "val2017/b.jpg", 4, 6)
    inputs = [
        annotated(root, SQUARE, f"instances_{name}.json", images=[{"id": 7, "file_name": file}])
        for name, file in (("train_1", "a.jpg"), ("train_2", "b.jpg"))
    ]
    converted("coco", inputs, tmp_path / "out", "--split", "train", "val")
    assert list(label_maps(tmp_path / "out", "val")) == ["b"]


def test_images_in_folders_of_each_others_split_are_refused(photos, tmp_path, capsys):
    (photos / "val/a.jpg").rename(photos / "val/b.jpg")
    inputs = [
        save_json(tmp_path / f"{file[0]}.json", document(SQUARE, images=[{"id": 7, "file_name": file}]))
        for file in ("b.jpg", "a.jpg")
    ]
    more = ("--images", str(photos), "--split")
    message = refused(capsys, "coco", inputs, tmp_path / "out", *more, "train", "val")
    sign = "its images lie in folders named val, and --split names another input val"
    assert f"--split train for {inputs[0]}: {sign}: name the splits in the order of the inputs" in message
    converted("coco", inputs, tmp_path / "out", *more, "val", "train")
    converted("coco", inputs, tmp_path / "renamed", *more, "mine", "yours", split="mine")
    for number, folder in enumerate(("val", "train")):  # one of each elsewhere: the user divides the images anew
        name = f"{number}.jpg"
        save_image(photos / "other" / name, 4, 6, 100 + number)
        images = [{"id": 7, "file_name": f"{folder}/{'ba'[number]}.jpg"}, {"id": 8, "file_name": name}]
        inputs[number] = save_json(tmp_path / f"new_{number}.json", document(SQUARE, images=images))
    assert len(converted("coco", inputs, tmp_path / "anew", *more, "train", "val")) == 2
