"""Lists of images, and images without label maps; `test_datasets.py` tests how files are matched and read."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from dlaseg_testing import TINY
from PIL import Image

from dlaseg import UserError, create_model, save_model
from dlaseg.cli import main
from dlaseg.config.segmentation import Config, DataConfig
from dlaseg.data import datasets
from dlaseg.data.datasets import DATASETS, open_dataset, open_images
from dlaseg.data.label_counts import count_labels
from dlaseg.data.pairs import SplitFiles
from dlaseg.data.patterns import FilePattern
from dlaseg.data.statistics import statistics
from dlaseg.evaluation.evaluator import evaluate_predictor
from dlaseg.inference.predictor import Predictor
from dlaseg.training.segmentation import Segmentation


@pytest.fixture
def root(tmp_path):
    """Five images in CamVid's layout; image 2 has no label map, label map x no image."""
    for split in ("train", "val"):
        for folder in (split, f"{split}annot"):
            (tmp_path / folder).mkdir()
        for name in ("0", "1", "2", "3", "4"):
            Image.new("RGB", (8, 6)).save(tmp_path / split / f"{name}.png")
        for name in ("0", "1", "3", "4", "x"):
            Image.fromarray(np.zeros((6, 8), np.uint8)).save(tmp_path / f"{split}annot/{name}.png")
    return tmp_path


@pytest.fixture
def names(tmp_path):
    """Writes a list of names."""

    def write(content):
        path = tmp_path / "some.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def refused(call, *arguments, **options):
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("content", ["4\n0\n1\n", "# some\n\n  1  \r\n0\n\n#2\n4", "\ufeff0\n1\n4\n"])
def test_a_list_selects_pairs_and_keeps_them_sorted(root, names, content):
    dataset = open_dataset("camvid", root, "val", names=names(content))
    assert [pair.name for pair in dataset.pairs] == ["0", "1", "4"]
    assert [pair.label for pair in dataset.pairs] == [root / f"valannot/{name}.png" for name in "014"]


def test_files_that_are_not_listed_need_no_partner(root, names):
    assert "image without a label map (1 in all)" in refused(open_dataset, "camvid", root, "val")
    assert len(open_dataset("camvid", root, "val", names=str(names("3")))) == 1


def test_a_listed_image_needs_its_label_map(root, names):
    message = refused(open_dataset, "camvid", root, "val", names=names("2"))
    assert message.startswith(f"{root / 'val/2.png'}: image without a label map")


def test_a_part_of_a_split_has_a_name_of_its_own(root, names):
    assert open_dataset("camvid", root, "val", names=names("0")).split == "val-some"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0\n\n7\n", ", line 3: '7' is not the name of an image of this split: use names such as '0'"),
        ("0\nx\n", ", line 2: 'x' is not the name"),
        ("0.png\n", ", line 1: '0.png' is not the name"),
        ("0\n1\n# comment\n0\n", ", line 4: '0' is also in line 1: "),
        ("", ": lists no image: "),
        ("# 0\n\n", ": lists no image: "),
        (b"\xff\xfe0", ": not UTF-8 text: "),
    ],
)
def test_a_list_that_does_not_fit_is_refused_by_file_and_line(root, names, content, message):
    path = names(content)
    assert refused(open_dataset, "camvid", root, "val", names=path).startswith(f"{path}{message}")


def test_a_missing_list_is_refused(root, tmp_path):
    message = refused(open_dataset, "camvid", root, "val", names=tmp_path / "none.txt")
    assert message.startswith(f"{tmp_path / 'none.txt'}: No such file")


def test_training_and_validation_take_their_lists(root, names, tmp_path, monkeypatch):
    names("1\n3").rename(tmp_path / "train.txt")
    names("4").rename(tmp_path / "val.txt")
    monkeypatch.chdir(tmp_path)  # paths are relative to the current folder, not to root
    data = DataConfig(dataset="camvid", root=str(root), train_list="train.txt", val_list="val.txt")
    training, validation = Segmentation(Config(data=data)).open_splits()
    assert [pair.name for pair in training.pairs] == ["1", "3"]
    assert [pair.name for pair in validation.pairs] == ["4"]


def test_images_are_opened_without_label_maps(root):
    dataset = open_images("camvid", root, "val")
    assert [(pair.name, pair.label) for pair in dataset.pairs] == [(name, None) for name in "01234"]


def test_reading_a_pair_without_label_map_is_refused(root):
    message = refused(open_images("camvid", root, "val").read, 1)
    assert message == f"{root / 'val/1.png'}: image without a label map: use a split with annotations"


def unlabelled(root, split, with_labels):
    """An opener of a data set that has no annotations for val."""
    files = DATASETS["camvid"].find_files(root, split, with_labels=False)
    return files if split == "val" else replace(files, labels=dict(files.images))


@pytest.mark.usefixtures("tiny_variant")
def test_images_without_label_maps_are_neither_scored_nor_counted_nor_trained_on(root, monkeypatch):
    dataset = open_images("camvid", root, "val")
    model = create_model(TINY, 11, 8, 1)
    model.metadata = replace(model.metadata, label_map=dataset.label_map)
    message = refused(evaluate_predictor, Predictor(model, device="cpu"), dataset, loader=[])
    assert message.startswith(f"{root / 'val/0.png'}: image without a label map: ")
    assert refused(statistics, dataset) == message
    entry = replace(DATASETS["camvid"], find_files=unlabelled)
    monkeypatch.setattr(datasets, "DATASETS", {**DATASETS, "camvid": entry})
    config = Config(data=DataConfig(dataset="camvid", root=str(root)))
    assert refused(Segmentation(config).open_splits) == message


def test_pairs_of_a_single_label_map_too_many_are_refused(root):
    label_map = DATASETS["camvid"].label_map()
    images, labels = {"a": root / "a.png"}, {"a": root / "b.png", "c": root / "c.png"}
    files = SplitFiles(images, labels, label_map, FilePattern(root), FilePattern(root / "annotations"))
    assert refused(files.pairs).startswith(f"{root / 'c.png'}: label map without an image (1 in all)")


@pytest.mark.usefixtures("tiny_variant")
def test_eval_and_stats_take_a_list(root, names, capsys, tmp_path):
    model = create_model(TINY, 11, 8, 1)
    model.metadata = replace(model.metadata, label_map=DATASETS["camvid"].label_map())
    save_model(model, tmp_path / "w.safetensors")
    words = ["--dataset", "camvid", "--list", str(names("1\n3\n"))]
    assert main(["data", "stats", str(root), "--splits", "val", *words]) == 0
    assert capsys.readouterr().out.split()[:3] == ["val-some", "images", "2"]
    words += ["--workers", "0", "--device", "cpu"]
    assert main(["eval", str(tmp_path / "w.safetensors"), "--root", str(root), *words]) == 0
    protocol = json.loads((tmp_path / "w-camvid-val-some/scores.json").read_text())["protocol"]
    assert (protocol["split"], protocol["images"]) == ("val-some", 2)


@pytest.mark.parametrize("option", ["--predictions", "--submission"])
@pytest.mark.parametrize("unused", ["list", "images", "labels", "classes"])
def test_an_option_without_effect_on_the_benchmark_is_refused(capsys, tmp_path, option, unused):
    weights = ["w.safetensors"] if option == "--submission" else []
    words = ["eval", *weights, option, str(tmp_path), "--dataset", "cityscapes", "--root", str(tmp_path)]
    assert main([*words, f"--{unused}", "x"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{unused} " in line
    assert "leave " in line


def own_colors(folder, classes, suffix=".png", quantized=True):
    """A data set of one image, whose label map of colours has a palette in an order of its own."""
    (folder / "classes.yaml").write_text(f"classes: {classes}")
    for kind in ("images", "labels"):
        (folder / kind / "train").mkdir(parents=True)
    colors = Image.new("RGB", (4, 2), (255, 0, 0))
    colors.paste((0, 0, 0), (0, 0, 1, 1))
    colors.save(folder / "images/train/a.png")
    (colors.quantize() if quantized else colors).save(folder / f"labels/train/a{suffix}")
    return open_dataset("folder", folder, "train")


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".gif"])
def test_a_palette_of_listed_colors_in_another_order_is_refused(tmp_path, suffix):
    classes = "[{name: background, color: [0, 0, 0]}, {name: road, color: [255, 0, 0]}]"
    dataset = own_colors(tmp_path, classes, suffix)
    message = (
        f"{dataset.pairs[0].label}: row 0, column 0: palette index 1 is class 'road' as an id, its color (0, 0, 0)"
    )
    for call in (lambda: dataset.read(0), lambda: count_labels(dataset, {})):
        with pytest.raises(UserError, match=re.escape(message)):
            call()


def test_two_classes_of_one_color_are_no_fault_of_the_label_map(tmp_path):
    classes = "[{name: leaf, color: [255, 0, 0]}, {name: road, color: [255, 0, 0]}]"
    dataset = own_colors(tmp_path, classes, quantized=False)
    with pytest.raises(UserError, match=r"^color \(255, 0, 0\) is class 'leaf' and also class 'road' in the classes"):
        dataset.read(0)


def test_two_files_of_a_listed_name_are_refused(root, names):
    Image.new("RGB", (8, 6)).save(root / "val/0.bmp")
    assert "two files of the same name" in refused(open_dataset, "camvid", root, "val", names=names("0"))


def test_two_files_of_a_name_that_is_not_listed_are_not_looked_at(root, names):
    Image.new("RGB", (8, 6)).save(root / "val/0.bmp")
    assert len(open_dataset("camvid", root, "val", names=names("3"))) == 1
