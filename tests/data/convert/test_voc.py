"""PASCAL VOC (http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html#SECTION00032000000000000000), and
as CVAT writes it (https://docs.cvat.ai/docs/manual/advanced/formats/format-smask/)."""

import numpy as np
import pytest
from annotation_files import as_ids, class_names, converted, label_maps, refused, save_image, save_text
from PIL import Image

from dlaseg.data.convert.voc import NAMES
from dlaseg.labels import LabelMap

# As published: https://github.com/tensorflow/models/blob/master/research/deeplab/utils/get_dataset_colormap.py
PERSON, SHEEP = (192, 128, 128), (128, 64, 0)
LABELMAP = ["# label:color_rgb:parts:actions", "background:0,0,0::", "leaf:10,200,30::", "my: stem:250,250,55:a,b:"]


def save_labels(path, drawing, palette=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.array(as_ids(drawing), np.uint8)
    if palette is None:
        Image.fromarray(pixels).save(path)
    elif palette == "RGB":
        Image.fromarray(pixels[..., None] * np.array([1, 2, 3], np.uint8)).save(path)
    else:
        picture = Image.fromarray(pixels).convert("P")
        picture.putpalette(palette)
        picture.save(path)


def challenge_palette():
    colors = np.zeros((256, 3), np.uint8)
    for i in range(256):
        for bit in range(8):
            for channel in range(3):
                colors[i, channel] |= (i >> (3 * bit + channel) & 1) << (7 - bit)
    return colors.ravel().tolist()


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "VOC2012"
    for name in ("2007_01", "2007_02", "unlisted"):
        save_image(root / f"JPEGImages/{name}.jpg", 3, 5)
        save_labels(root / f"SegmentationClass/{name}.png", "..#ff ..#ff .....".replace("f", "8"), challenge_palette())
    save_text(root / "ImageSets/Segmentation/train.txt", "2007_01")
    save_text(root / "ImageSets/Segmentation/val.txt", "2007_02", "")
    save_text(root / "ImageSets/Segmentation/trainval.txt", "2007_01", "2007_02")
    return root


def test_the_challenge_has_its_classes_colours_border_and_splits(root, tmp_path):
    found = converted("voc", [root], tmp_path / "out")
    assert found == {"2007_01": as_ids("..#88 ..#88 .....")}
    assert list(label_maps(tmp_path / "out", "val")) == ["2007_02"]
    assert sorted(path.name for path in (tmp_path / "out/labels").iterdir()) == ["train", "val"]
    assert class_names(tmp_path / "out") == list(NAMES)
    label_map = LabelMap.from_file(tmp_path / "out/classes.yaml")
    assert label_map.palette[15] == PERSON
    assert label_map.palette[17] == SHEEP
    assert [value for color in label_map.palette for value in color] == challenge_palette()[:63]


def test_without_lists_all_is_in_train_and_trainval_alone_is_train(root, tmp_path):
    for name in ("train", "val"):
        (root / f"ImageSets/Segmentation/{name}.txt").unlink()
    assert list(converted("voc", [root], tmp_path / "one")) == ["2007_01", "2007_02"]
    (root / "ImageSets/Segmentation/trainval.txt").unlink()
    assert len(converted("voc", [root], tmp_path / "two")) == 3


@pytest.fixture
def cvat(tmp_path):
    """An export "Segmentation mask 1.1" without images."""
    root = tmp_path / "task"
    save_text(root / "labelmap.txt", *LABELMAP)
    save_text(root / "ImageSets/Segmentation/default.txt", "sub/a 1")
    save_image(tmp_path / "photos/sub/a 1.png", 2, 4)
    return root


def test_classes_of_ones_own_by_colour_palette_or_position(cvat, tmp_path):
    expected = {"sub/a 1": as_ids(".1#2 ..#2")}
    stored = cvat / "SegmentationClass/sub/a 1.png"
    colors = np.array([(0, 0, 0), (10, 200, 30), (250, 250, 55)] + [(224, 224, 192)] * 253, np.uint8)
    save_labels(stored, ".1#2 ..#2")  # grey: the position in labelmap.txt
    assert converted("voc", [cvat], tmp_path / "grey", "--images", str(tmp_path / "photos")) == expected
    Image.fromarray(colors[np.array(as_ids(".1#2 ..#2"))]).save(stored)
    assert converted("voc", [cvat], tmp_path / "rgb", "--images", str(tmp_path / "photos")) == expected
    # a palette in another order: the colours count, as in CVAT
    palette = colors[[0, 2, 1]].ravel().tolist() + [0] * 756 + [224, 224, 192]
    save_labels(stored, ".2#1 ..#1", palette)
    assert converted("voc", [cvat], tmp_path / "palette", "--images", str(tmp_path / "photos")) == expected
    assert class_names(tmp_path / "palette") == ["background", "leaf", "my: stem"]
    assert LabelMap.from_file(tmp_path / "palette/classes.yaml").palette[2] == (250, 250, 55)


def test_a_palette_label_map_beyond_the_limit_of_pillow_is_read(cvat, tmp_path, monkeypatch):
    save_labels(cvat / "SegmentationClass/sub/a 1.png", ".1#2 ..#2", [0, 0, 0, 10, 200, 30, 250, 250, 55] + [0] * 756)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    assert converted("voc", [cvat], tmp_path / "out", "--images", str(tmp_path / "photos"))


def test_the_label_ignored_of_datumaro_is_no_class(cvat, tmp_path):
    save_text(cvat / "labelmap.txt", *LABELMAP, "ignored:224,224,192::")
    save_labels(cvat / "SegmentationClass/sub/a 1.png", ".13# ....")
    found = converted("voc", [cvat], tmp_path / "out", "--images", str(tmp_path / "photos"))
    assert found == {"sub/a 1": as_ids(".1## ....")}
    assert class_names(tmp_path / "out") == ["background", "leaf", "my: stem"]


def test_broken_folders_are_refused(root, tmp_path, capsys):
    out = tmp_path / "out"
    assert "leave it out" in refused(capsys, "voc", [root], out, "--split", "train")
    assert "SegmentationClass" in refused(capsys, "voc", [root / "JPEGImages"], out)
    save_labels(root / "SegmentationClass/2007_01.png", "..... ..7.. ...9.".replace("9", "#").replace("7", "7"))
    pixels = np.zeros((3, 5), np.uint8)
    pixels[1, 2] = 21
    Image.fromarray(pixels).save(root / "SegmentationClass/2007_01.png")
    assert "2007_01.png: 21 at row 1, column 2 is no class" in refused(capsys, "voc", [root], out)
    Image.new("L", (3, 5)).save(root / "SegmentationClass/2007_01.png")
    assert "5 x 3 pixels, but the image has 3 x 5" in refused(capsys, "voc", [root], out)
    (root / "SegmentationClass/2007_01.png").write_bytes(b"\x89PNG")
    assert "2007_01.png: broken" in refused(capsys, "voc", [root], out)
    save_text(root / "ImageSets/Segmentation/train.txt", "../../etc/passwd")
    assert "train.txt: '../../etc/passwd': there is no image of this name" in refused(capsys, "voc", [root], out)
    for name in ("2007_01", "2007_02"):
        (root / f"SegmentationClass/{name}.png").unlink()
    save_text(root / "ImageSets/Segmentation/train.txt", "2007_01")
    assert "skipped 2: an image without a label map; first:" in refused(capsys, "voc", [root], out)


def test_an_image_of_the_challenges_lists_without_a_label_map_is_left_out_and_counted(root, tmp_path, capsys):
    (root / "SegmentationClass/2007_02.png").unlink()
    save_text(root / "ImageSets/Segmentation/train.txt", "2007_01", "2007_02")
    assert list(converted("voc", [root], tmp_path / "out")) == ["2007_01"]
    assert [path.name for path in (tmp_path / "out/images/train").iterdir()] == ["2007_01.jpg"]
    out = capsys.readouterr().out
    assert "skipped 2: an image without a label map; first: " in out
    assert "train.txt: '2007_02'" in out


def test_an_image_that_cvat_lists_without_a_label_map_has_no_object_and_is_counted(cvat, tmp_path, capsys):
    save_image(tmp_path / "photos/empty.png", 2, 4)
    save_text(cvat / "ImageSets/Segmentation/default.txt", "sub/a 1", "empty")
    save_labels(cvat / "SegmentationClass/sub/a 1.png", ".1## ....")
    found = converted("voc", [cvat], tmp_path / "out", "--images", str(tmp_path / "photos"))
    assert found == {"sub/a 1": as_ids(".1## ...."), "empty": as_ids(".... ....")}
    listed = cvat / "ImageSets/Segmentation/default.txt"
    line = f"skipped 1: a missing label map, so its image has no objects; first: {listed}: 'empty'"
    assert line in capsys.readouterr().out.splitlines()
    options = ["--images", str(tmp_path / "photos"), "--unlabelled", "ignore"]
    ignored = converted("voc", [cvat], tmp_path / "ignored", *options)
    assert ignored["empty"] == as_ids("#### ####")


def test_background_is_ignored_where_the_user_says_so(root, cvat, tmp_path):
    found = converted("voc", [root], tmp_path / "out", "--unlabelled", "ignore")
    assert found == {"2007_01": as_ids("###77 ###77 #####")}  # ids without gaps, and none of background
    assert class_names(tmp_path / "out") == list(NAMES[1:])
    Image.fromarray(np.array([[[0, 0, 0], [10, 200, 30]]] * 2, np.uint8)).save(tmp_path / "colors.png")
    (cvat / "SegmentationClass/sub").mkdir(parents=True)
    (tmp_path / "colors.png").rename(cvat / "SegmentationClass/sub/a 1.png")
    save_image(tmp_path / "photos/sub/a 1.png", 2, 2)
    options = ["--images", str(tmp_path / "photos"), "--unlabelled", "ignore"]
    assert converted("voc", [cvat], tmp_path / "colors", *options) == {"sub/a 1": as_ids("#. #.")}
    assert class_names(tmp_path / "colors") == ["leaf", "my: stem"]


@pytest.mark.parametrize(
    "line",
    ["leaf", "leaf:1,2::", "leaf:1,2,256::", "leaf:-1,2,3::", "leaf:a,b,c::", "background:1,2,3::", "leaf:0,0,0::"],
)
def test_broken_lines_of_labelmap_are_refused_by_number(cvat, tmp_path, capsys, line):
    save_labels(cvat / "SegmentationClass/sub/a 1.png", ".... ....")
    save_text(cvat / "labelmap.txt", *LABELMAP[:2], line)
    error = refused(capsys, "voc", [cvat], tmp_path / "out", "--images", str(tmp_path / "photos"))
    assert "labelmap.txt, line 3" in error


def test_a_colour_that_is_not_in_labelmap_is_refused(cvat, tmp_path, capsys):
    save_labels(cvat / "SegmentationClass/sub/a 1.png", ".5.. ....", "RGB")
    error = refused(capsys, "voc", [cvat], tmp_path / "out", "--images", str(tmp_path / "photos"))
    assert "[5, 10, 15] at row 0, column 1 is no class" in error


@pytest.mark.parametrize(("name", "classes"), [("void", []), ("cream", ["cream"])])
def test_a_class_may_have_the_colour_of_the_border(cvat, tmp_path, name, classes):
    save_text(cvat / "labelmap.txt", *LABELMAP, f"{name}:224,224,192::")
    save_labels(cvat / "SegmentationClass/sub/a 1.png", ".13# ....")
    found = converted("voc", [cvat], tmp_path / "out", "--images", str(tmp_path / "photos"))
    assert found == {"sub/a 1": as_ids(".13# ...." if classes else ".1## ....")}
    assert class_names(tmp_path / "out") == ["background", "leaf", "my: stem", *classes]
