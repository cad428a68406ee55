"""Label Studio's JSON export, in the format of https://labelstud.io/guide/task_format and, for the regions,
https://labelstud.io/tags/polygonlabels, rectanglelabels, ellipselabels and brushlabels."""

import pytest
from annotation_files import as_ids, class_names, converted, refused, save_image, save_json, with_value

SIZE = {"original_width": 10, "original_height": 4, "image_rotation": 0}


def region(kind, label, key="r1", to="img", **value):
    labels = {} if label is None else {kind: [label]}
    return {**SIZE, "id": key, "from_name": "tag", "to_name": to, "type": kind, "value": {**value, **labels}}


def polygon(label, *points, key="r1", to="img"):
    return region("polygonlabels", label, key, to, points=list(points), closed=True)


def task(*regions, image="/data/upload/3/1a2b3c4d-a.jpg", **annotation):
    entry = {"id": 1001, "result": list(regions), "was_cancelled": False, "ground_truth": False, **annotation}
    return {"id": 17, "data": {"image": image}, "annotations": [entry], "predictions": [{"result": [5]}]}


# Percent of 10 x 4 pixels (width x height)
LEFT_HALF = polygon("leaf", (0, 0), (50, 0), (50, 100), (0, 100))


@pytest.fixture
def root(tmp_path):
    save_image(tmp_path / "studio/photos/a.jpg", 4, 10)
    return tmp_path / "studio"


# encode_rle of label-studio-sdk 2.1.2 gives these bytes for 4 x 10 pixels, of which only the last is covered
BRUSH = [0, 0, 0, 160, 57, 27, 254, 155, 0, 143, 252]


def test_regions_are_drawn_in_the_order_of_the_file(root, tmp_path, capsys):
    regions = [
        LEFT_HALF,
        region("rectanglelabels", "stem", "r2", x=20, y=0, width=20, height=50, rotation=0),
        region("ellipselabels", "dot", "r3", x=80, y=50, radiusX=20, radiusY=25, rotation=0),
        region("brushlabels", "leaf", "r4", format="rle", rle=BRUSH),
        region("keypointlabels", "dot", "r5", x=1, y=1, width=1),
        region("choices", "good", "r6"),
        {"type": "relation", "from_id": "r1", "to_id": "r2", "direction": "right"},
    ]
    path = save_json(root / "export.json", [task(*regions)])
    found = converted("labelstudio", [path], tmp_path / "out")
    assert class_names(tmp_path / "out") == ["background", "dot", "leaf", "stem"]
    assert found == {"a": as_ids("22332..... 22332.1111 22222.1111 22222....2")}
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("skipped")]
    assert len(lines) == 3
    assert any("keypointlabels" in line and f"{path}: task 17: region 'r5'" in line for line in lines)


def test_rotation_is_in_pixels_although_sizes_are_in_percent(root, tmp_path):
    # 3 pixels wide, 1 high, turned about the upper left corner (5, 1), which becomes the upper right one
    regions = [region("rectanglelabels", "leaf", x=50, y=25, width=30, height=25, rotation=90)]
    regions.append(region("ellipselabels", "leaf", "r2", x=75, y=50, radiusX=20, radiusY=12.5, rotation=90))
    path = save_json(root / "export.json", [task(*regions)])
    found = converted("labelstudio", [path], tmp_path / "out")
    assert found == {"a": as_ids(".......1.. ....1..1.. ....1..1.. ....1..1..")}


def test_a_label_that_stands_apart_from_its_shape(root, tmp_path):
    box = {"x": 0, "y": 0, "width": 10, "height": 25, "rotation": 0}
    regions = [
        {**SIZE, "id": "r1", "type": "rectangle", "value": box},
        region("rectanglelabels", "stem", "r2", **box),
        # repeats the shape, but is not drawn once more, over the second region
        {**SIZE, "id": "r1", "type": "labels", "value": {**box, "labels": ["leaf"]}},
    ]
    path = save_json(root / "export.json", [task(*regions)])
    assert converted("labelstudio", [path], tmp_path / "out") == {"a": as_ids("2......... " + ".......... " * 3)}
    save_json(path, [task(regions[0], regions[2])])
    assert converted("labelstudio", [path], tmp_path / "one") == {"a": as_ids("1......... " + ".......... " * 3)}


@pytest.mark.parametrize(
    "image",
    [
        "/data/upload/3/1a2b3c4d-a.jpg",
        "/data/upload/a.jpg",
        "/data/local-files/?d=some%20where/photos/a.jpg",
        "s3://bucket/some%20where/a.jpg",
        "https://example.com/x/a.jpg?token=b.png",
        "a.jpg",
    ],
)
def test_images_are_found_by_the_names_in_their_urls(root, tmp_path, image):
    path = save_json(root / "export.json", [task(LEFT_HALF, image=image)])
    found = converted("labelstudio", [path], tmp_path / "out", "--images", str(root / "photos"))
    assert [name.rpartition("/")[2] for name in found] == ["a"]


def test_names_in_urls_are_unescaped(root, tmp_path):
    save_image(root / "photos/b ü.jpg", 4, 10)
    path = save_json(root / "export.json", [task(LEFT_HALF, image="/data/upload/3/b%20%C3%BC.jpg")])
    assert list(converted("labelstudio", [path], tmp_path / "out")) == ["b ü"]


def test_of_images_of_one_name_the_folder_decides(root, tmp_path, capsys):
    for folder in ("photos/one", "photos/two"):
        save_image(root / folder / "b.jpg", 4, 10)
    images = [task(LEFT_HALF, image=f"s3://bucket/{folder}/b.jpg") for folder in ("one", "two")]
    path = save_json(root / "export.json", images)
    assert list(converted("labelstudio", [path], tmp_path / "out")) == ["one/b", "two/b"]
    save_json(path, [task(LEFT_HALF, image="/data/upload/b.jpg")])
    line = refused(capsys, "labelstudio", [path], tmp_path / "other")
    assert "one/b.jpg" in line
    assert "two/b.jpg" in line


def several_images(data, *regions):
    return {**task(*regions), "data": data}


ALL = ((0, 0), (100, 0), (100, 100), (0, 100))


def test_of_several_images_the_one_that_the_regions_lie_on_is_taken_also_where_a_task_has_no_region(root, tmp_path):
    for name in ("b", "reference"):
        save_image(root / f"photos/{name}.jpg", 4, 10)
    data = {"reference": "reference.jpg", "image": "a.jpg", "note": "c.jpg, as of May"}
    tasks = [several_images(data, polygon("leaf", *ALL, to="image")), several_images({**data, "image": "b.jpg"})]
    path = save_json(root / "export.json", tasks)
    found = converted("labelstudio", [path], tmp_path / "out")
    assert found == {"a": as_ids("1111111111 " * 4), "b": as_ids(".......... " * 4)}


def test_several_images_of_a_task_are_refused_where_the_regions_do_not_choose_one(root, tmp_path, capsys):
    save_image(root / "photos/b.jpg", 4, 10)
    left, right = polygon("leaf", *ALL, to="img1"), polygon("stem", *ALL, key="r2", to="img2")
    both = {"img1": "a.jpg", "img2": "b.jpg"}
    second = {**region("polygonlabels", "leaf", points=ALL), "item_index": 1}
    for data, regions, expected in (
        (both, [left, right], "task 17: data {'img1': 'a.jpg', 'img2': 'b.jpg'}: several images, and to_name"),
        ({"img1": "a.jpg", "img2": "https://b.c/photo?id=5"}, [left, right], "['img1', 'img2'], is not the key of one"),
        ({"x": "a.jpg", "y": "b.jpg"}, [left], "['img1'], is not the key of one"),
        (both, [], "make a task of each image"),
        ({"images": ["a.jpg", "b.jpg"]}, [polygon("leaf", *ALL, to="images")], "several images"),
        ({"images": ["a.jpg", "https://b.c/photo?id=5"]}, [second], "region 'r1': item_index 1: a task of several"),
    ):
        path = save_json(root / "export.json", [several_images(data, *regions)])
        assert expected in refused(capsys, "labelstudio", [path], tmp_path / "out")


def test_a_list_of_one_image_is_an_image(root, tmp_path):
    first = {**LEFT_HALF, "item_index": 0}
    path = save_json(root / "export.json", [several_images({"images": ["a.jpg"]}, first)])
    assert converted("labelstudio", [path], tmp_path / "out") == {"a": as_ids("11111..... " * 4)}


def test_the_ground_truth_counts_then_the_latest_annotation(root, tmp_path, capsys):
    def entry(label, key, **more):
        return {"id": key, "result": [polygon(label, (0, 0), (100, 0), (100, 100), (0, 100))], **more}

    content = task()
    content["annotations"] = [
        entry("new", 3, updated_at="2024-02-01T00:00:00Z"),
        entry("old", 2, updated_at="2024-01-01T00:00:00Z"),
        entry("cancelled", 4, updated_at="2024-03-01T00:00:00Z", was_cancelled=True),
    ]
    path = save_json(root / "export.json", [content])
    converted("labelstudio", [path], tmp_path / "latest")
    assert class_names(tmp_path / "latest") == ["background", "new"]
    printed = capsys.readouterr().out
    assert "skipped 1: an annotation of a task that has several" in printed
    assert printed.splitlines()[-2].endswith("task 17, annotation 2")
    content["annotations"][1]["ground_truth"] = True
    save_json(path, [content])
    converted("labelstudio", [path], tmp_path / "truth")
    assert class_names(tmp_path / "truth") == ["background", "old"]


def test_a_task_that_nobody_annotated_is_left_out_but_an_empty_annotation_is_background(root, tmp_path, capsys):
    save_image(root / "photos/b.jpg", 4, 10)
    nobody = {"id": 18, "data": {"image": "c.jpg"}, "annotations": []}
    skipped = task(LEFT_HALF, image="d.jpg", was_cancelled=True)
    path = save_json(root / "export.json", [task(LEFT_HALF), task(image="b.jpg"), nobody, skipped])
    found = converted("labelstudio", [path], tmp_path / "out")
    assert found["b"] == as_ids(".......... " * 4)
    assert len(found) == 2
    assert "skipped 2: a task without annotation" in capsys.readouterr().out


GOOD = [task(LEFT_HALF)]


FIRST = (0, "annotations", 0, "result", 0)
BROKEN = {
    "object": ({"a": 1}, "valid list"),
    "number": ([5], "task 0 5"),
    "nested": ("[" * 50_000, "not JSON"),
    "json-min": (
        [{"image": "a.jpg", "id": 17, "label": []}],
        "task 17: no annotations: export as JSON, not as JSON-MIN",
    ),
    "no data": (with_value(GOOD, 0, "data", ...), "task 17 data: field required"),
    "no image": (
        with_value(GOOD, 0, "data", "image", "page.html"),
        "task 17: data {'image': 'page.html'}: no path or URL",
    ),
    "url": (with_value(GOOD, 0, "data", "image", "http://[x/a.jpg"), "no path or URL"),
    "missing image": (with_value(GOOD, 0, "data", "image", "s3://b/zz.jpg"), "task 17: image '/zz.jpg': no such image"),
    "path upwards": (
        with_value(GOOD, 0, "data", "image", "/data/local-files/?d=../../etc/passwd.jpg"),
        "no such image",
    ),
    "annotations": (with_value(GOOD, 0, "annotations", 5), "task 17 annotations 5"),
    "annotation": (with_value(GOOD, 0, "annotations", [5]), "task 17, annotation ?"),
    "result": (with_value(GOOD, *FIRST, 5), "task 17: region ?"),
    "no type": (with_value(GOOD, *FIRST, "type", ...), "region 'r1' type: field required"),
    "no label": (
        with_value(GOOD, *FIRST, "value", "polygonlabels", []),
        "region 'r1': 0 labels []: give each region exactly one",
    ),
    "two labels": (with_value(GOOD, *FIRST, "value", "polygonlabels", ["a", "b"]), "2 labels ['a', 'b']"),
    "label": (with_value(GOOD, *FIRST, "value", "polygonlabels", [5]), "region 'r1' 0 5"),
    "points": (with_value(GOOD, *FIRST, "value", "points", [[1, 2], [3]]), "region 'r1' points.1"),
    "nan": (with_value(GOOD, *FIRST, "value", "points", 0, [float("nan"), 1]), "region 'r1' points.0.0 nan"),
    "huge": (with_value(GOOD, *FIRST, "value", "points", 0, [1e200, 1]), "region 'r1': coordinate 1e+199"),
    "no size": (with_value(GOOD, *FIRST, "original_width", ...), "region 'r1': no original_width"),
    "size": (with_value(GOOD, *FIRST, "original_height", 5), "5 x 10 pixels, but the image has 4 x 10"),
    "turned image": (
        with_value(GOOD, *FIRST, "image_rotation", 90),
        "image_rotation 90: annotate the image without turning it",
    ),
    "brush": (with_value(GOOD, *FIRST, region("brushlabels", "a", rle=BRUSH[:-2])), "region 'r1': rle: ends within"),
    "brush size": (with_value(GOOD, *FIRST, region("brushlabels", "a", rle=[0, 0, 0, 4, 57, 27, 252, 0])), "4 values"),
    "brush text": (with_value(GOOD, *FIRST, region("brushlabels", "a", rle="abc")), "region 'r1' rle 'abc'"),
    "brush bytes": (
        with_value(GOOD, *FIRST, region("brushlabels", "a", rle=[1000])),
        "region 'r1': rle: use a list of bytes",
    ),
    "box": (
        with_value(GOOD, *FIRST, region("rectanglelabels", "a", x=0, y=0, width=-5, height=5)),
        "a rectangle of height",
    ),
    "ellipse": (with_value(GOOD, *FIRST, region("ellipselabels", "a", x=0, y=0, radiusX=1, radiusY=-1)), "an ellipse"),
    "nothing drawn": (with_value(GOOD, 0, "annotations", 0, "result", []), "no annotation with an area"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_in_one_line_and_leaves_nothing(root, tmp_path, capsys, case):
    content, expected = BROKEN[case]
    path = save_json(root / "export.json", content)
    line = refused(capsys, "labelstudio", [path], tmp_path / "out")
    assert expected in line
    assert str(path) in line


def test_the_user_says_the_split(root, tmp_path):
    path = save_json(root / "export.json", [task(LEFT_HALF)])
    converted("labelstudio", [path], tmp_path / "out", "--split", "val", split="val")


def test_regions_without_an_id_are_regions_of_their_own(root, tmp_path):
    regions = [LEFT_HALF, region("rectanglelabels", "leaf", x=80, y=0, width=20, height=50, rotation=0)]
    for each in regions:
        del each["id"]
    found = converted("labelstudio", [save_json(root / "export.json", [task(*regions)])], tmp_path / "out")
    assert found == {"a": as_ids("11111...11 11111...11 11111..... 11111.....")}
