"""`dlaseg data draft`: what is drafted comes back from CVAT's format, pixel by pixel."""

import shutil
import zipfile

import numpy as np
import pytest

from dlaseg.cli import main
from dlaseg.data.datasets import open_dataset
from dlaseg.errors import UserError
from dlaseg.images import write_png
from dlaseg.inference.drafts import write_drafts
from dlaseg.inference.predictor import Predictor
from dlaseg.labels import LabelMap
from dlaseg.synthetic.dataset import draw_scene


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(3):
        file = folder / ("day" if number else ".") / f"street {number}.png"
        file.parent.mkdir(exist_ok=True)
        write_png(file, draw_scene(number, 64, 96).image)
    return folder


@pytest.fixture(scope="module")
def predictor():
    return Predictor("camvid", device="cpu")


def test_a_draft_comes_back_as_it_was_predicted(photos, tmp_path, capsys):
    assert main(["data", "draft", "camvid", str(photos), str(tmp_path / "d.zip"), "--backend", "torch"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{tmp_path / 'd.zip'}: 3 drafts; the least sure first:"
    with zipfile.ZipFile(tmp_path / "d.zip") as file:
        assert file.testzip() is None
        file.extractall(tmp_path / "voc")
    words = ["--from", "voc", str(tmp_path / "voc"), str(tmp_path / "set"), "--images", str(photos)]
    assert main(["data", "convert", *words]) == 0
    (split,) = [each.name for each in (tmp_path / "set/images").iterdir()]
    dataset, predictor = open_dataset("folder", tmp_path / "set", split), Predictor("camvid", device="cpu")
    assert [pair.name for pair in dataset.pairs] == ["day/street 1", "day/street 2", "street 0"]
    names = np.array(dataset.label_map.names)
    for index in range(3):
        image, target = dataset.read(index)
        expected = np.array(predictor.label_map.names)[predictor(image)]
        assert np.array_equal(names[target], expected)


def test_the_least_sure_images_come_first(photos, predictor, tmp_path):
    drafts, failed = write_drafts(predictor, [photos], tmp_path / "d.zip")
    assert failed == []
    assert [each.confidence for each in drafts] == sorted(each.confidence for each in drafts)
    for each in drafts:
        probabilities = predictor.probabilities(photos / f"{each.name}.png")
        assert each.confidence == pytest.approx(probabilities.max(0).mean(), abs=1e-5)


def test_what_cannot_be_drafted_is_one_line_and_leaves_nothing(photos, predictor, tmp_path):
    (tmp_path / "old.zip").write_bytes(b"old")
    for output, message in (
        ("old.zip", "exists already: remove it or name another file"),
        ("d.tar", "is no .zip: name a file such as"),
        ("old.zip/d.zip", "old.zip: cannot be a folder"),
    ):
        with pytest.raises(UserError, match=message):
            write_drafts(predictor, [photos], tmp_path / output)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="not an image"):
        write_drafts(predictor, [tmp_path / "in"], tmp_path / "d.zip")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "old.zip"]
    write_png(tmp_path / "in/a.png", draw_scene(0, 64, 96).image)
    write_png(tmp_path / "in/b.png", draw_scene(0, 64, 96).image)
    (tmp_path / "in/b.png").rename(tmp_path / "in/a.bmp")
    with pytest.raises(UserError, match="another image is called a, too"):
        write_drafts(predictor, [tmp_path / "in"], tmp_path / "d.zip")


def test_an_image_that_cannot_be_read_is_left_out_and_named(photos, tmp_path, capsys):
    shutil.copytree(photos, tmp_path / "in")
    (tmp_path / "in/broken.png").write_bytes(b"no image")
    words = ["data", "draft", "camvid", str(tmp_path / "in"), str(tmp_path / "d.zip"), "--backend", "torch"]
    assert main(words) == 2
    printed = capsys.readouterr()
    assert f"dlaseg data draft: {tmp_path}/in/broken.png: broken or not an image: " in printed.err
    assert printed.out.splitlines()[0] == f"{tmp_path}/d.zip: 3 drafts, 1 failed; the least sure first:"
    names = ["day/street 1", "day/street 2", "street 0"]
    with zipfile.ZipFile(tmp_path / "d.zip") as file:
        assert file.read("ImageSets/Segmentation/default.txt").decode().splitlines() == names
        masks = [name for name in file.namelist() if name.startswith("SegmentationClass/")]
    assert masks == [f"SegmentationClass/{name}.png" for name in names]


def test_an_image_that_fits_no_memory_is_left_out_and_named(photos, predictor, tmp_path, monkeypatch):
    predict = predictor.predict_with_confidence

    def limited(images):
        if images.shape[-1] > 96:
            raise UserError("128 x 192: too little memory")
        return predict(images)

    monkeypatch.setattr(predictor, "predict_with_confidence", limited)
    write_png(tmp_path / "large.png", draw_scene(0, 128, 192).image)
    drafts, failed = write_drafts(predictor, [photos, tmp_path / "large.png"], tmp_path / "d.zip")
    assert len(drafts) == 3
    assert failed == [f"{tmp_path}/large.png: 128 x 192: too little memory"]


@pytest.mark.parametrize("name", ["#1", "#day/1", "a\nb", "a\u2028b", "1\r", " 1", "1 ", "caf\udce9"])
def test_names_that_the_lists_of_cvat_cannot_hold_are_refused_before_anything_is_predicted(predictor, tmp_path, name):
    for each in ("0", name):
        (tmp_path / f"in/{each}.png").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"in/{each}.png").write_bytes(b"is not read")
    with pytest.raises(UserError, match=r"png: CVAT's lists hold names .*: rename the image") as caught:
        write_drafts(predictor, [tmp_path / "in"], tmp_path / "d.zip")
    assert len(str(caught.value).splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([{"name": "a", "color": [1, 2, 3]}, {"name": "b", "color": [1, 2, 3]}], "have one colour"),
        (["a:b", "c"], "a colon"),
        (["a", "#c"], "class '#c': # begins a comment"),
    ],
)
def test_classes_that_the_format_cannot_hold_are_refused(photos, predictor, tmp_path, monkeypatch, classes, message):
    monkeypatch.setattr(predictor, "label_map", LabelMap.from_dict({"classes": classes}))
    with pytest.raises(UserError, match=message):
        write_drafts(predictor, [photos], tmp_path / "d.zip")
    assert not (tmp_path / "d.zip").exists()
