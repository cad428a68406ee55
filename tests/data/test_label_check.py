"""Label maps that were misread stop training and scoring before anything is computed."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
from dlaseg_testing import TINY, write_camvid
from PIL import Image

from dlaseg import create_model, load_model, save_model
from dlaseg.cli import main
from dlaseg.config.segmentation import Config, DataConfig
from dlaseg.data import label_counts, statistics
from dlaseg.data.label_check import binary_masks
from dlaseg.data.statistics import SplitStatistics
from dlaseg.inference.predictor import Predictor
from dlaseg.labels import LabelMap
from dlaseg.training.distributed import DistributedContext
from dlaseg.training.segmentation import Segmentation

pytestmark = pytest.mark.usefixtures("tiny_variant")

TWO = "classes: [background, {name: leaf}]\n"


@pytest.fixture
def write(tmp_path):
    """Writes a folder data set of bright leaves on dark ground; returns its root."""

    def dataset(classes, leaf, val_leaf=None, grey_as_rgb=False):
        root = tmp_path / "data"
        for split, value in (("train", leaf), ("val", leaf if val_leaf is None else val_leaf)):
            for number in range(2):
                labels = np.zeros((32, 32), np.uint8)
                labels[:, 8 + number : 16] = value  # a quarter at most
                image = np.where(labels[..., None] > 0, 220, 30).astype(np.uint8).repeat(3, 2)
                image[0, 0] = 0 if split == "train" else 1  # no copies
                for kind, pixels in (("images", image), ("labels", labels)):
                    (root / kind / split).mkdir(parents=True, exist_ok=True)
                    if grey_as_rgb and kind == "labels":
                        pixels = pixels[..., None].repeat(3, 2)
                    Image.fromarray(pixels).save(root / kind / split / f"{number}.png")
        (root / "classes.yaml").write_text(classes)
        return root

    return dataset


def training(root, output, *more):
    return (
        f"""train --output {output} --data.dataset folder --data.root {root} --data.workers 0 --model.name {TINY}
        --model.stride 8 --augment.crop_size [32,32] --train.epochs 1 --train.batch_size 2 --train.device cpu
        --train.precision float32 --train.trackers [] """.split()
        + list(more)
    )


@pytest.fixture(autouse=True)
def no_advice(monkeypatch):
    """Nothing is told but what the labels are."""
    monkeypatch.setattr("dlaseg.training.segmentation.FEW_STEPS", 0)


@pytest.fixture
def weights(tmp_path):
    """Weights with the classes background and leaf."""
    model = create_model(TINY, 2, 8, 1)
    model.metadata = replace(model.metadata, label_map=LabelMap.from_dict({"classes": ["background", "leaf"]}))
    save_model(model, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def scoring(weights, root, *more):
    words = f"eval {weights} --dataset folder --root {root} --device cpu --workers 0"
    return [*words.split(), "--output", str(root.parent / "scores"), *more]


def refused(capsys, *words):
    """The last line of standard error, and standard output, of a command that ends with exit code 2."""
    assert main(list(words)) == 2
    printed = capsys.readouterr()
    return printed.err.splitlines()[-1], printed.out


FOREGROUND = (
    ": 255 fills 23.4 % of the pixels and is ignored by default, and class 'leaf' (id 1) has no pixel: in the classes "
    'file, write {name: "leaf", id: 255} if 255 is leaf, or ignore: [255] if it is void'
)


@pytest.mark.parametrize("grey_as_rgb", [pytest.param(False, marks=pytest.mark.slow), True])
def test_foreground_of_255_that_nobody_listed_stops_training(write, capsys, tmp_path, grey_as_rgb):
    root = write(TWO, leaf=255, grey_as_rgb=grey_as_rgb)
    run = tmp_path / "run"
    expected = f"{root}/labels/train (split train){FOREGROUND}; --data.on_missing_class warn continues anyway"
    for more in ([], ["--dry-run"], ["--resume"]):
        assert refused(capsys, *training(root, run, *more)) == (f"dlaseg train: {expected}", "")
    words = ["benchmark", "train", *training(root, run)[3:]]
    assert refused(capsys, *words) == (f"dlaseg benchmark train: {expected}", "")
    assert not run.exists()


def test_the_line_to_write_makes_it_right(write, capsys, tmp_path):
    root = write('classes: [background, {name: "leaf", id: 255}]\n', leaf=255)
    assert main(training(root, tmp_path / "run")) == 0
    assert capsys.readouterr().err == ""
    predictor = Predictor(tmp_path / "run/best.safetensors", device="cpu")
    assert predictor.label_map.ids == ((0,), (255,))
    assert predictor.label_map.ignored == ()
    classes = json.loads((tmp_path / "run/scores.json").read_text())["classes"]
    assert {name: scores["pixels"] for name, scores in classes.items()} == {"background": 2048 - 480, "leaf": 480}


def test_training_goes_on_with_a_warning_if_told_so(write, capsys, tmp_path, caplog):
    root = write(TWO, leaf=255)
    with caplog.at_level(logging.WARNING):
        assert main(training(root, tmp_path / "run", "--data.on_missing_class", "warn")) == 0
    for split in ("train", "val"):
        assert any(message == f"{root}/labels/{split} (split {split}){FOREGROUND}" for message in caplog.messages)
    # the field is free to change when a run is resumed
    assert "255 fills" in refused(capsys, *training(root, tmp_path / "run", "--resume"))[0]


@pytest.mark.parametrize(
    ("classes", "leaf", "message"),
    [
        (TWO, 0, ": only class 'background' (id 0) has pixels: training needs two classes: add label maps that show"),
        (TWO + "ignore: [255]\n", 255, "has pixels, and 23.4 % of the pixels are ignored (255): training needs two"),
        ("classes: [{name: leaf, id: 1}, {name: stem, id: 2}]\nignore: [0, 9]\n", 0, ": no class has a pixel, and 100"),
    ],
)
def test_fewer_than_two_classes_stop_training(write, capsys, tmp_path, classes, leaf, message):
    root = write(classes, leaf)
    line, _ = refused(capsys, *training(root, tmp_path / "run"))
    assert line.startswith(f"dlaseg train: {root}/labels/train (split train): ")
    assert message in line
    assert line.endswith("; --data.on_missing_class warn continues anyway")
    line, table = refused(capsys, "data", "stats", str(root), "--dataset", "folder")
    assert message in line
    assert table.splitlines()[1].split() == ["images", "2", "2"]


def test_validation_label_maps_are_checked_as_well(write, capsys, tmp_path):
    root = write(TWO, leaf=1, val_leaf=255)
    line, _ = refused(capsys, *training(root, tmp_path / "run"))
    assert line.startswith(f"dlaseg train: {root}/labels/val (split val): 255 fills 23.4 % ")


def ignore_all(root, folder):
    for file in (root / folder).iterdir():
        Image.fromarray(np.full_like(np.array(Image.open(file)), 255)).save(file)


def test_a_validation_split_without_a_scored_pixel_stops_training(write, capsys, tmp_path):
    root = write(TWO + "ignore: [255]\n", leaf=1)
    ignore_all(root, "labels/val")
    message = (
        f"{root}/labels/val (split val): no class has a pixel, and 100 % of the pixels are ignored (255): a run "
        "without a score has no best weights: list an ignored value that is a class as that class in the classes file, "
        "or validate on images that show classes"
    )
    run = tmp_path / "run"
    line, _ = refused(capsys, *training(root, run))
    assert line == f"dlaseg train: {message}; --data.on_missing_class warn continues anyway"
    assert not run.exists()


def test_a_run_without_a_score_says_so_and_names_its_checkpoint(write, capsys, tmp_path, caplog):
    root, run = write(TWO + "ignore: [255]\n", leaf=1), tmp_path / "run"
    ignore_all(root, "labels/val")
    with caplog.at_level(logging.WARNING):
        assert main(training(root, run, "--data.on_missing_class", "warn")) == 0
    assert any("a run without a score has no best weights" in message for message in caplog.messages)
    last = f"no val mIoU, so no best weights; the last ones are in {run / 'last.ckpt'}, for --resume"
    assert capsys.readouterr().out.splitlines()[-1] == last
    assert (run / "last.ckpt").exists()
    assert not (run / "best.safetensors").exists()


def test_a_built_in_validation_split_without_a_scored_pixel_stops_training_too(capsys, tmp_path):
    root = write_camvid(tmp_path / "data", train=2, val=1)
    Image.fromarray(np.full((48, 64), 11, np.uint8)).save(root / "valannot/0.png")
    words = [word.replace("folder", "camvid") for word in training(root, tmp_path / "run")]
    line, _ = refused(capsys, *words)
    assert ": a run without a score has no best weights: validate on images that show classes; --data.on_mis" in line


def test_a_listed_void_and_a_missing_class_are_a_warning(write, capsys, tmp_path, caplog):
    root = write("classes: [background, leaf, stem, root]\nignore: [255]\n", leaf=1)
    with caplog.at_level(logging.WARNING):
        assert main(training(root, tmp_path / "run", "--dry-run")) == 0
    missing = "classes 'stem' (id 2), 'root' (id 3) have no pixel"
    assert caplog.messages[:2] == [f"{root}/labels/{split} (split {split}): {missing}" for split in ("train", "val")]
    assert main(["data", "stats", str(root), "--dataset", "folder"]) == 0


def test_pixels_of_255_are_void_if_every_class_has_pixels(write, tmp_path, caplog):
    root = write(TWO, leaf=1)
    Image.new("L", (32, 32), 255).save(root / "labels/train/0.png")
    with caplog.at_level(logging.WARNING):
        assert main(training(root, tmp_path / "run", "--dry-run")) == 0
    assert caplog.messages == []


def test_masks_of_0_and_255_among_label_maps_of_ids_are_a_warning(write, capsys, tmp_path, caplog):
    root = write(TWO, leaf=1)
    mask = np.zeros((32, 32), np.uint8)
    mask[:, :9] = 255
    Image.fromarray(mask).save(root / "labels/train/0.png")
    with caplog.at_level(logging.WARNING):
        assert main(training(root, tmp_path / "run", "--dry-run")) == 0
    (message,) = caplog.messages
    assert message.startswith(f"{root}/labels/train (split train): some label maps hold 'background' and 255 alone, ")
    assert message.endswith(": if 255 is a class in these, store its id instead: 255 is ignored")
    caplog.clear()
    mask[20:, 20:] = 1  # void beside all classes is no mask
    Image.fromarray(mask).save(root / "labels/train/0.png")
    with caplog.at_level(logging.WARNING):
        assert main(training(root, tmp_path / "run", "--dry-run")) == 0
    assert caplog.messages == []


def test_many_missing_classes_are_counted(write, capsys, tmp_path):
    root = write(f"classes: [{', '.join(f'c{i}' for i in range(40))}]\n", leaf=255)
    line, _ = refused(capsys, *training(root, tmp_path / "run"))
    assert "classes 'c1' (id 1), 'c2' (id 2)," in line
    assert "'c10' (id 10) and 29 more have no pixel" in line


def test_scoring_stops_before_it_predicts(write, capsys, weights, monkeypatch):
    root = write(TWO, leaf=255)
    line, out = refused(capsys, *scoring(weights, root))
    assert line == f"dlaseg eval: {root}/labels/val (split val){FOREGROUND}; --on-missing-class warn continues anyway"
    assert out == ""
    assert not (root.parent / "scores").exists()
    assert main(scoring(weights, root, "--on-missing-class", "warn")) == 0


def test_scoring_a_split_of_one_class_is_a_warning(write, capsys, weights, caplog):
    root = write(TWO, leaf=1, val_leaf=0)
    with caplog.at_level(logging.WARNING):
        assert main(scoring(weights, root)) == 0
    assert caplog.messages == [f"{root}/labels/val (split val): class 'leaf' (id 1) has no pixel"]
    assert main(["data", "stats", str(root), "--dataset", "folder"]) == 0  # training has both
    assert refused(capsys, "data", "stats", str(root), "--dataset", "folder", "--splits", "val")[0]


def test_stats_print_their_table_and_then_the_error(write, capsys):
    root = write(TWO, leaf=255)
    line, table = refused(capsys, "data", "stats", str(root), "--dataset", "folder")
    assert line == f"dlaseg data stats: {root}/labels/train (split train){FOREGROUND}"
    assert [row.split()[1] for row in table.splitlines() if row.startswith(("background", "leaf", "ignored"))] == [
        "76.562%",
        "0.000%",
        "23.438%",
    ]


def test_a_broken_label_map_is_found_before_training(write, capsys, tmp_path):
    root = write(TWO, leaf=1)
    (root / "labels/val/1.png").write_bytes(b"no picture")
    line, _ = refused(capsys, *training(root, tmp_path / "run"))
    assert f"{root}/labels/val/1.png: broken" in line
    Image.new("L", (32, 32), 77).save(root / "labels/val/1.png")
    line, _ = refused(capsys, *training(root, tmp_path / "run"))
    assert f"{root}/labels/val/1.png: label 77 at row 0, column 0 " in line
    assert not (tmp_path / "run").exists()


def test_a_validation_image_of_another_size_is_found_before_training(write, capsys, tmp_path, weights):
    root = write(TWO, leaf=1)
    Image.new("RGB", (32, 31)).save(root / "images/val/1.png")
    message = f"{root}/labels/val/1.png: 32 x 32 pixels, but its image {root}/images/val/1.png has 31 x 32: "
    skip = ["--data.on_error", "skip"]
    for words in (
        training(root, tmp_path / "run", *skip),
        training(root, tmp_path / "run", "--dry-run"),
        ["data", "stats", str(root), "--dataset", "folder"],
        scoring(weights, root),
    ):
        assert message in refused(capsys, *words)[0]
    (root / "images/val/1.png").write_bytes(b"")
    line, _ = refused(capsys, *training(root, tmp_path / "run", *skip))
    assert f"{root}/images/val/1.png: the file is empty" in line
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_reads_only_label_maps_that_have_changed(write, tmp_path, monkeypatch):
    root, run, reads = write(TWO, leaf=1), tmp_path / "run", []
    original = label_counts.read_label_file
    monkeypatch.setattr(
        label_counts, "read_label_file", lambda path, *more: reads.append(path) or original(path, *more)
    )
    assert main(training(root, run)) == 0
    assert len(reads) == 4
    reads.clear()
    Image.new("L", (32, 32), 1).save(root / "labels/train/1.png")
    assert main(training(root, run, "--resume")) == 0
    assert reads == [root / "labels/train/1.png"]


def test_only_rank_0_reads_and_the_others_get_its_counts(write, tmp_path, monkeypatch):
    root = write(TWO, leaf=1)
    task = Segmentation(Config(data=DataConfig(dataset="folder", root=str(root))))
    training_split, validation = task.open_splits()
    counts = statistics.statistics(training_split)

    class SecondRank(DistributedContext):
        def broadcast(self, value):
            return (counts, None)

    monkeypatch.setattr(label_counts, "read_label_file", lambda path: pytest.fail("read by rank 1"))
    task.check_data(training_split, validation, tmp_path, SecondRank(1, 2, None))
    task.config.train.class_weights = "median_frequency"
    task.criterion(training_split, task.make_model(training_split))
    task.on_fit_start(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_weights_of_a_class_stored_as_255_keep_it(write, tmp_path, weights):
    model = load_model(weights)
    label_map = LabelMap.from_dict({"classes": ["background", {"name": "leaf", "id": 255}]})
    model.metadata = replace(model.metadata, label_map=label_map)
    save_model(model, tmp_path / "255.safetensors")
    loaded = load_model(tmp_path / "255.safetensors").metadata.labels
    assert loaded == label_map
    assert not loaded.ignores_by_default
    assert loaded.decode(np.array([[0, 1]], np.uint8)).tolist() == [[0, 255]]


def test_a_built_in_data_set_never_stops_for_its_classes(capsys, tmp_path, caplog):
    root = write_camvid(tmp_path / "data", train=2, val=1)
    words = [word.replace("folder", "camvid") for word in training(root, tmp_path / "run", "--dry-run")]
    with caplog.at_level(logging.WARNING):
        assert main(words) == 0
    (message,) = caplog.messages  # of the training split alone
    assert message.startswith(f"{root}/trainannot (split train): classes 'building' (id 1), ")
    assert message.endswith(" have no pixel")
    caplog.clear()
    for file in (root / "trainannot").iterdir():
        Image.new("L", (64, 48), 3).save(file)
    with caplog.at_level(logging.WARNING):
        assert main(words) == 0
    assert "only class 'road' (id 3) has pixels: training needs two classes" in caplog.messages[0]


@pytest.mark.parametrize(
    ("beside", "without", "ignored", "found"),
    [({0}, {0, 1}, 255, True), ({0}, {0}, 255, False), ({0}, {0, 1}, 9, False), ({0, 1}, {0, 1}, 255, False)],
)
def test_masks_of_0_and_255_are_told_by_classes_that_only_other_label_maps_show(beside, without, ignored, found):
    label_map = LabelMap.from_dict({"classes": ["background", "leaf"], "ignore": [ignored]})
    counts = SplitStatistics("train", {}, {}, (9, 9), (2, 1), (9, 9), 5, frozenset(beside), frozenset(without))
    assert (binary_masks(label_map, counts) is not None) is found


def test_all_ids_of_a_class_and_all_that_is_ignored_are_named(write, capsys, tmp_path):
    classes = "classes: [{name: background, id: [0, 3]}, leaf]\nignore: [255, [1, 2, 3]]\n"
    line, _ = refused(capsys, *training(write(classes, 255), tmp_path / "run"))
    assert (
        "only class 'background' (id 0 or 3) has pixels, and 23.4 % of the pixels are ignored (255, [1, 2, 3]): "
    ) in line
