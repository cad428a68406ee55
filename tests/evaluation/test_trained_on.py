"""A score on images of the training is told as one."""

import shutil
from dataclasses import replace
from pathlib import Path

import dlaseg_testing
import pytest

import dlaseg
from dlaseg.benchmarking.accuracy import Protocol, Score, score_all
from dlaseg.benchmarking.leaderboard import board_markdown, board_rows
from dlaseg.data.datasets import open_dataset
from dlaseg.evaluation.scoring import evaluate
from dlaseg.evaluation.trained_on import images_of_training
from dlaseg.factory import model_from_checkpoint
from dlaseg.weights.builtin import builtin_files

pytestmark = pytest.mark.usefixtures("tiny_variant")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return dlaseg_testing.write_camvid(tmp_path_factory.mktemp("camvid"))


@pytest.fixture(scope="module")
def run(root, tiny_variant) -> Path:
    """The folder of a run on all but one of the images of train."""
    folder = root.with_name("run")
    names = root.with_name("some.txt")
    names.write_text("0\n1\n2\n3\n")
    config = dlaseg_testing.with_train(dlaseg_testing.tiny_config(root), epochs=1, warmup_steps=0)
    config.data.train_list = str(names)
    dlaseg.train(config, folder, report=dlaseg_testing.no_report)
    return folder


def test_images_of_the_run_are_told_and_others_are_not(run, root, tmp_path, caplog):
    train, val = (open_dataset("camvid", root, split) for split in ("train", "val"))
    results = evaluate(run / "best.safetensors", train, tmp_path / "seen", workers=0)
    assert results["protocol"]["trained_on"] is True
    assert "camvid train has 4 images of the training, by the names in" in caplog.text
    assert "trained on images of this split" in (tmp_path / "seen/report.html").read_text()
    caplog.clear()
    # train and val have images of the same names, the last one of train was not listed
    for dataset in (val, replace(train, pairs=train.pairs[4:])):
        results = evaluate(run / "best.safetensors", dataset, tmp_path / "new", workers=0)
        assert "trained_on" not in results["protocol"]
    assert "trained on images of this split" not in (tmp_path / "new/report.html").read_text()
    assert "of the training" not in caplog.text


def test_other_images_of_the_same_names_are_not_those_of_the_training(run, root, tmp_path):
    shutil.copytree(root, tmp_path / "other")
    train = open_dataset("camvid", tmp_path / "other", "train")
    assert "has 4 images" in images_of_training(run / "best.safetensors", train)  # copies are the same
    for pair in train.pairs[:3]:
        with pair.image.open("ab") as image:
            image.write(b"other")
    assert "has 1 image of" in images_of_training(run / "best.safetensors", train)


@pytest.mark.parametrize(
    ("split", "known"),
    [("train", True), ("train+val", True), ("val", False), ("train-easy", True), ("training", False), ("all", True)],
)
def test_parts_of_a_split_and_several_splits_are_known(run, root, split, known):
    dataset = replace(open_dataset("camvid", root, "train"), split=split)
    assert (images_of_training(run / "best.safetensors", dataset) is not None) is known
    assert images_of_training(run / "best.safetensors", replace(dataset, name="folder")) is None


@pytest.mark.parametrize(("split", "known"), [("train", True), ("val", True), ("val-few", True), ("test", False)])
@pytest.mark.parametrize("name", ["camvid", "camvid-int8"])
def test_weights_of_the_package_say_what_they_were_trained_on(root, name, split, known):
    dataset = replace(open_dataset("camvid", root, "val"), split=split)
    assert images_of_training(builtin_files()[name], dataset) == ("was among the training data" if known else None)
    assert images_of_training(builtin_files()[name], replace(dataset, name="folder")) is None


def test_of_a_file_that_stands_alone_nothing_is_known(run, root, tmp_path):
    (tmp_path / "w.safetensors").write_bytes((run / "best.safetensors").read_bytes())
    assert images_of_training(tmp_path / "w.safetensors", open_dataset("camvid", root, "train")) is None


def test_a_leader_board_takes_no_scores_of_a_copy_that_did_not_know(run, root, tmp_path):
    copy, output, train = tmp_path / "w.safetensors", tmp_path / "board", open_dataset("camvid", root, "train")
    copy.write_bytes((run / "best.safetensors").read_bytes())
    for weights, known in ((copy, False), (run / "best.safetensors", True), (copy, False)):
        (row,) = score_all([str(weights)], [train], [Protocol()], output, workers=0)
        assert ("trained_on" in row.results["protocol"]) is known
    assert row.cached


def test_a_leader_board_warns_with_the_name_that_was_given(tmp_path, caplog):
    dlaseg_testing.write_camvid(tmp_path / "data", train=1)
    val = open_dataset("camvid", tmp_path / "data", "val")
    score_all(["camvid"], [val], [Protocol()], tmp_path / "board", workers=0, device="cpu")
    told = [message for message in caplog.messages if "was among the training data" in message]
    assert [message.partition(":")[0] for message in told] == ["camvid"]


def test_leader_boards_mark_the_row(run, root, tmp_path):
    train = open_dataset("camvid", root, "train")
    results = evaluate(run / "best.safetensors", train, tmp_path / "seen", workers=0)
    other = {**results, "protocol": {key: value for key, value in results["protocol"].items() if key != "trained_on"}}
    rows = [
        Score(name, "camvid train", Protocol(), "0" * 64, each) for name, each in (("seen", results), ("unseen", other))
    ]
    board = board_markdown(rows)
    assert "| seen \\* " in board
    assert "| unseen " in board
    assert board.endswith("\\* trained on images of this split: not to be compared with the others")
    assert [row["trained_on"] for row in board_rows(rows)] == [True, None]
    assert "\\*" not in board_markdown(rows[1:])


def test_a_network_that_started_from_weights_of_the_package_is_told(root, tmp_path, caplog):
    train, val, test = (replace(open_dataset("camvid", root, "val"), split=split) for split in ("train", "val", "test"))
    again = model_from_checkpoint("camvid")  # what `dlaseg weights convert` writes
    dlaseg.save_model(again, tmp_path / "again.safetensors")
    tuned = dlaseg.create_model("dla46_c", 11, 4, 1, backbone_weights=tmp_path / "again.safetensors")
    dlaseg.save_model(tuned, tmp_path / "tuned.safetensors")
    message = "was among the training data of camvid, which this network comes from"
    for name in ("again", "tuned"):
        file = tmp_path / f"{name}.safetensors"
        assert images_of_training(file, train) == images_of_training(file, val) == message
        assert images_of_training(file, test) is None
        assert images_of_training(file, replace(val, name="folder")) is None
    results = evaluate(tmp_path / "again.safetensors", val, tmp_path / "scores", workers=0, device="cpu")
    assert results["protocol"]["trained_on"] is True
    assert f"again.safetensors: camvid val {message}: the scores are too high" in caplog.text


def test_a_copy_of_weights_of_the_package_is_told(root, tmp_path):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(builtin_files()["camvid"].read_bytes())
    assert images_of_training(copy, open_dataset("camvid", root, "val")) == "was among the training data"
