"""CVAT for images 1.1, in the format of https://docs.cvat.ai/docs/other/xml_format/."""

import pytest
from annotation_files import as_ids, class_names, converted, label_maps, refused, save_image, save_text

from dlaseg.labels import LabelMap

META = """<version>1.1</version><meta><task><id>4</id><name>t</name><mode>annotation</mode><labels>
  <label><name>leaf</name><color>#0ac81e</color><type>any</type><attributes></attributes></label>
  <label><name>stem</name><attributes></attributes></label>
  <label><name>person</name><color>#fa3253</color><type>skeleton</type><attributes></attributes></label>
  <label><name>knee</name><color>#d12345</color><type>points</type><parent>person</parent></label>
</labels></task><dumped>2025-01-01 10:00:00.0+00:00</dumped></meta>"""


def image(*shapes, name="a.jpg", width=6, height=4, more=""):
    return f'<image id="3" name="{name}" width="{width}" height="{height}"{more}>{"".join(shapes)}</image>'


def shape(tag, label="leaf", z_order=0, **values):
    attributes = "".join(f' {name}="{value}"' for name, value in values.items())
    return f'<{tag} label="{label}" source="manual" occluded="0"{attributes} z_order="{z_order}"></{tag}>'


def document(*images, meta=META, before=""):
    return f'<?xml version="1.0" encoding="utf-8"?>\n{before}<annotations>{meta}{"".join(images)}</annotations>'


SQUARE = {"points": "0.00,0.00;2.00,0.00;2.00,2.00;0.00,2.00"}


@pytest.fixture
def root(tmp_path):
    save_image(tmp_path / "cvat/images/a.jpg", 4, 6)
    return tmp_path / "cvat"


def test_shapes_are_drawn_by_z_order_then_in_the_order_of_the_file(root, tmp_path, capsys):
    shapes = [
        shape("polygon", z_order=2, points="0,0;1,0;1,4;0,4"),
        shape("box", "stem", z_order=1, xtl=0, ytl=0, xbr=3, ybr=1),
        shape("box", "leaf", z_order=1, xtl=2, ytl=0, xbr=4, ybr=2),
        shape("box", "stem", z_order=0, xtl=0, ytl=0, xbr=6, ybr=2),
        shape("polyline", points="0,0;5,3"),
        shape("points", points="1,1"),
        shape("tag"),
        shape("cuboid"),
        shape("skeleton", "person"),
    ]
    save_text(root / "annotations.xml", document(image(*shapes)))
    assert converted("cvat", [root], tmp_path / "out") == {"a": as_ids("121122 121122 1..... 1.....")}
    assert class_names(tmp_path / "out") == ["background", "leaf", "stem", "person"]
    assert LabelMap.from_file(tmp_path / "out/classes.yaml").palette[1] == (10, 200, 30)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("skipped")]
    assert len(lines) == 5
    where = f"{root / 'annotations.xml'}: image '3': <polyline> 4"
    assert f"skipped 1: a polyline, which has no area; first: {where}" in lines


def test_boxes_and_ellipses_turn_about_their_centres(root, tmp_path):
    shapes = [
        shape("box", xtl=0, ytl=1, xbr=3, ybr=2, rotation=90),
        shape("ellipse", "stem", cx=4.5, cy=2, rx=2, ry="0.5", rotation="90.00"),
    ]
    save_text(root / "annotations.xml", document(image(*shapes)))
    assert converted("cvat", [root], tmp_path / "out") == {"a": as_ids(".1..2. .1..2. .1..2. ....2.")}


def test_masks_are_runs_along_the_rows_of_their_box(root, tmp_path):
    mask = shape("mask", rle="1, 3, 2", left=2, top=1, width=3, height=2)
    save_text(root / "annotations.xml", document(image(mask)))
    assert converted("cvat", [root], tmp_path / "out") == {"a": as_ids("...... ...11. ..1... ......")}
    mask = shape("mask", rle="0, 24", left=0, top=0, width=6, height=4)
    save_text(root / "annotations.xml", document(image(mask)))
    assert converted("cvat", [root], tmp_path / "whole") == {"a": as_ids("111111 111111 111111 111111")}


def test_subsets_of_a_project_are_splits(root, tmp_path):
    for name in ("b.jpg", "c d.jpg"):
        save_image(root / "images/Validation" / name, 4, 6)
    save_image(root / "images/Test/c d.jpg", 2, 2)  # of another subset
    project = META.replace("task>", "project>")
    images = [
        image(shape("polygon", **SQUARE), more=' subset="default" task_id="1"'),
        image(shape("polygon", **SQUARE), name="Validation/b.jpg", more=' subset="Validation" task_id="2"'),
        image(name="c d.jpg", more=' subset="Validation" task_id="2"'),
    ]
    path = root / "export.xml"
    save_text(path, document(*images, meta=project))
    assert list(converted("cvat", [path], tmp_path / "out")) == ["a"]
    assert list(label_maps(tmp_path / "out", "val")) == ["Validation/b", "c d"]
    assert sorted(converted("cvat", [path], tmp_path / "one", "--split", "all", split="all")) == [
        "Validation/b",
        "a",
        "c d",
    ]


BOMB = """<!DOCTYPE lolz [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>"""
FILE = """<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>"""

GOOD = shape("polygon", **SQUARE)
BROKEN = {
    "empty": ("", "not XML"),
    "cut off": (document(image(GOOD))[:300], "not XML"),
    "nested": ("<a>" * 50_000, "not XML"),
    "bomb": (document(image(GOOD, "&b;"), before=BOMB), "document type or entities"),
    "file": (document(image(GOOD, "&a;"), before=FILE), "document type or entities"),
    "document type": (document(image(GOOD), before="<!DOCTYPE annotations>"), "document type or entities"),
    "unknown entity": (document(image(GOOD, "&a;")), "not XML"),
    "encoding": ('<?xml version="1.0" encoding="nope"?><annotations/>', "not XML"),
    "other": ("<osm/>", "<'osm'> at the top"),
    "video": (document('<track id="0" label="leaf"></track>'), "tracks of a video"),
    "no meta": (document(image(GOOD), meta=""), "no labels"),
    "no images": (document(), "no <image>"),
    "label": (document(image(shape("polygon", "root", **SQUARE))), "image '3': <polygon> 0: label 'root'"),
    "no label": (document(image(f'<polygon points="{SQUARE["points"]}"/>')), "<polygon> 0: label None"),
    "kind": (document(image(shape("spline", **SQUARE))), "<spline> 0: a shape that is not known"),
    "z_order": (document(image(shape("polygon", z_order="x", **SQUARE))), "<polygon> 0: z_order 'x'"),
    "no points": (document(image(shape("polygon"))), "<polygon> 0: points None"),
    "points": (document(image(shape("polygon", points="1,2;3"))), "points '1,2;3'"),
    "nan": (document(image(shape("polygon", points="1,2;3,nan;5,6"))), "points 'nan': use a finite number"),
    "huge": (document(image(shape("polygon", points="1,2;3,1e12;5,6"))), "coordinate 1e+12"),
    "box": (document(image(shape("box", xtl=4, ytl=0, xbr=1, ybr=3))), "<box> 0: a rectangle of height 3 and width -3"),
    "no side": (document(image(shape("box", xtl=4, ytl=0, xbr=1))), "<box> 0: ybr None"),
    "radius": (document(image(shape("ellipse", cx=1, cy=1, rx=-1, ry=1))), "<ellipse> 0: an ellipse with radii -1"),
    "few runs": (document(image(shape("mask", rle="1", left=0, top=0, width=2, height=2))), "cover 1 pixels"),
    "no runs": (document(image(shape("mask", left=0, top=0, width=2, height=2))), "rle ''"),
    "run": (document(image(shape("mask", rle="1,-2,5", left=0, top=0, width=2, height=2))), "a run of -2"),
    "place": (document(image(shape("mask", rle="0,4", left=5, top=0, width=2, height=2))), "columns 5 to 7"),
    "before": (document(image(shape("mask", rle="0,4", left=0, top=-1, width=2, height=2))), "rows -1 to 1"),
    "large": (document(image(shape("mask", rle="0,4", left=0, top=0, width=10**9, height=10**9))), "1000000000"),
    "negative": (document(image(shape("mask", rle="0,4", left=0, top=0, width=-2, height=-2))), "a mask of -2 x -2"),
    "width": (document(image(GOOD, width="x")), "image '3': width 'x'"),
    "size": (document(image(GOOD, width=7)), "4 x 7 pixels, but the image has 4 x 6"),
    "turned": (document(image(GOOD, width=4, height=6)), "without the orientation in its EXIF data"),
    "no image": (document(image(GOOD, name="b.jpg")), "image '3': image 'b.jpg': no such image"),
    "no name": (document(image(GOOD, name="")), "no such image"),
    "path upwards": (document(image(GOOD, name="../../../etc/passwd")), "no such image"),
    "twice": (document(image(GOOD), image(GOOD, name="images/a.jpg")), "list each image once"),
    "subset": (document(image(GOOD, more=' subset="../x"')), "image '3': split '../x'"),
    "nothing drawn": (document(image()), "no annotation with an area"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_in_one_line_and_leaves_nothing(root, tmp_path, capsys, case):
    content, expected = BROKEN[case]
    path = root / "annotations.xml"
    path.write_text(content)
    line = refused(capsys, "cvat", [path], tmp_path / "out")
    assert expected in line
    assert str(path) in line


def test_a_missing_file_is_refused(root, tmp_path, capsys):
    assert "annotations.xml: No such file" in refused(capsys, "cvat", [root], tmp_path / "out")
