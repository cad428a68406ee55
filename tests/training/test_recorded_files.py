"""A run records its images; when it resumes, images that came or went are noticed."""

import dataclasses
import os
import shutil
from pathlib import Path

import pytest
from dlaseg_testing import (
    SINGLE_PROCESS,
    TwoHeadsTask,
    assert_same_tensors,
    log_rows,
    no_report,
    refused_resume,
    tiny_config,
    with_train,
    write_camvid,
)

from dlaseg.benchmarking.dry_run import dry_run
from dlaseg.cli import main
from dlaseg.config.files import to_yaml
from dlaseg.config.segmentation import Config
from dlaseg.data.datasets import open_dataset
from dlaseg.files import write_text
from dlaseg.training import recorded_files, trainer
from dlaseg.training.checkpoint import load_checkpoint
from dlaseg.training.recorded_files import check_files, record_files
from dlaseg.training.run import open_run
from dlaseg.training.segmentation import Segmentation
from dlaseg.training.state import TrainState
from dlaseg.training.trainer import fit


@pytest.fixture
def root(tmp_path) -> Path:
    """Six training images, two validation images."""
    return write_camvid(tmp_path / "camvid", train=6)


@pytest.fixture
def config(root) -> Config:
    """Two epochs of three steps; only the second one is validated."""
    return with_train(tiny_config(root), epochs=2, eval_every=2, checkpoint_minutes=0, trackers=[])


def run(config: Config, output: Path, resume: bool = False) -> TrainState:
    """A run of a small network."""
    return fit(TwoHeadsTask(config), output, resume, no_report)


def add(root: Path, split: str, name: str) -> None:
    for folder in (split, f"{split}annot"):
        shutil.copy(root / folder / "0.png", root / folder / f"{name}.png")
    with (root / split / f"{name}.png").open("ab") as image:
        image.write(os.fsencode(name))  # the same pixels, but no copy


def remove(root: Path, split: str, name: str) -> None:
    for folder in (split, f"{split}annot"):
        (root / folder / f"{name}.png").unlink()


def proceeding(config: Config, **data: object) -> Config:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, on_changed_files="go", **data))


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


class Interrupted(BaseException):
    """Raised in the middle of a run."""


def interrupted(config: Config, output: Path, monkeypatch, step: int, resume: bool = False) -> None:
    """A run that is killed right after the checkpoint of a step."""
    save = trainer.save

    def saves(run):
        save(run)
        if run.state.step == step and run.state.progress.batches:
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "save", saves)
        with pytest.raises(Interrupted):
            run(config, output, resume)


def test_a_run_records_its_images_in_lists_by_which_they_are_opened_and_scored_again(config, root, tmp_path):
    config.data.val_share, config.data.split_seed = 0.3, 7
    output = tmp_path / "run"
    fit(Segmentation(with_train(config, epochs=1)), output, report=no_report)
    train, val = lines(output / "train.txt"), lines(output / "val.txt")
    assert (len(train), len(val), sorted(train + val)) == (4, 2, list("012345"))
    for split, names in zip(Segmentation(config).open_splits(), ("train.txt", "val.txt"), strict=True):
        assert open_dataset("camvid", root, "train", names=output / names).pairs == split.pairs
    words = ["eval", str(output / "best.safetensors"), "--dataset", "camvid", "--root", str(root), "--split", "train"]
    assert (
        main([*words, "--list", str(output / "val.txt"), "--output", str(tmp_path / "again"), "--device", "cpu"]) == 0
    )
    assert (tmp_path / "again/scores.json").read_bytes() == (output / "scores.json").read_bytes()


def test_images_that_came_or_went_are_named_and_the_run_stops(config, root, tmp_path, monkeypatch):
    interrupted(config, tmp_path / "run", monkeypatch, step=2)
    for name in ("new1", "new2", "new3", "new4"):
        add(root, "train", name)
    remove(root, "train", "1")
    remove(root, "val", "1")
    assert refused_resume(config, tmp_path / "run") == (
        f"{tmp_path / 'run'}: the images are not those that its run began with: train: 1 missing (1), 4 new (new1, "
        "new2, new3 and 1 more); val: 1 missing (1): restore them, or continue with the present ones by "
        "--data.on_changed_files go"
    )


@pytest.mark.parametrize(
    ("grows", "step"),
    [(True, 4), (False, 1), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((True, 1), (False, 4)))],
)
def test_a_run_that_continues_begins_its_epoch_again_with_the_present_images(
    config, root, tmp_path, monkeypatch, caplog, grows, step
):
    interrupted(config, tmp_path / "run", monkeypatch, step)
    before = load_checkpoint(tmp_path / "run/last.ckpt")
    if grows:
        add(root, "train", "x")
        add(root, "train", "y")
    else:
        for name in ("3", "5"):
            remove(root, "train", name)
    per_epoch, finished = (4 if grows else 2), step // 3
    opened = open_run(TwoHeadsTask(proceeding(config)), SINGLE_PROCESS, tmp_path / "run", resume=True)
    assert (opened.state.epoch, opened.state.step) == (finished, finished * per_epoch)
    assert opened.state.progress.batches == 0
    assert_same_tensors(opened.state.model.state_dict(), before["model"])  # what it has learnt so far
    state = run(proceeding(config), tmp_path / "run", resume=True)
    assert (state.epoch, state.step) == (2, 2 * per_epoch)
    assert log_rows(tmp_path / "run")[-1]["lr"] == pytest.approx(0.05 * (1 / (2 * per_epoch)) ** 0.9)
    assert "continuing with the present ones" in caplog.text
    assert lines(tmp_path / "run/train.txt") == [*"012345", "x", "y"] if grows else [*"0124"]


def test_it_continues_exactly_once_more(config, root, tmp_path, monkeypatch):
    """After the change, a killed run ends as one that is not killed."""
    interrupted(config, tmp_path / "a", monkeypatch, step=2)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    add(root, "train", "x")
    add(root, "train", "y")
    straight = run(proceeding(config), tmp_path / "a", resume=True)
    interrupted(proceeding(config), tmp_path / "b", monkeypatch, step=2, resume=True)
    state = run(config, tmp_path / "b", resume=True)
    assert_same_tensors(straight.model.state_dict(), state.model.state_dict())


@pytest.mark.parametrize(("module", "function"), [(trainer, "save"), (recorded_files, "write_names")])
def test_a_kill_before_the_present_images_are_recorded_asks_again(
    config, root, tmp_path, monkeypatch, module, function
):
    interrupted(config, tmp_path / "run", monkeypatch, step=2)
    add(root, "train", "x")
    add(root, "train", "y")
    with monkeypatch.context() as patch:
        patch.setattr(module, function, raising)
        with pytest.raises(Interrupted):
            run(proceeding(config), tmp_path / "run", resume=True)
    assert "train: 2 new (x, y): restore" in refused_resume(config, tmp_path / "run")
    assert run(proceeding(config), tmp_path / "run", resume=True).step == 8


def raising(*arguments: object) -> None:
    raise Interrupted


def test_other_validation_images_leave_the_training_as_it_is(config, root, tmp_path, monkeypatch):
    straight = run(config, tmp_path / "straight")
    interrupted(config, tmp_path / "run", monkeypatch, step=2)
    add(root, "val", "x")
    assert "began with: val: 1 new (x): restore" in refused_resume(config, tmp_path / "run")
    state = run(proceeding(config), tmp_path / "run", resume=True)
    assert_same_tensors(straight.model.state_dict(), state.model.state_dict())
    assert lines(tmp_path / "run/val.txt") == ["0", "1", "x"]


def test_a_drawn_validation_image_stays_one_and_a_new_image_is_trained_on(config, root, tmp_path, monkeypatch):
    config.data.val_share = 0.3
    interrupted(config, tmp_path / "run", monkeypatch, step=1)
    first, second = lines(tmp_path / "run/val.txt")
    for i in range(20):
        add(root, "train", f"x{i}")
    remove(root, "train", second)
    assert f"train: 20 new (x0, x1, x10 and 17 more); val: 1 missing ({second}): " in refused_resume(
        config, tmp_path / "run"
    )
    run(proceeding(config), tmp_path / "run", resume=True)
    assert lines(tmp_path / "run/val.txt") == [first]
    assert len(lines(tmp_path / "run/train.txt")) == 24


def test_an_image_that_was_trained_on_is_never_validated_on(config, root, tmp_path, monkeypatch):
    interrupted(config, tmp_path / "run", monkeypatch, step=2)
    for folder in ("", "annot"):
        (root / f"train{folder}/4.png").rename(root / f"val{folder}/4.png")
    message = refused_resume(proceeding(config), tmp_path / "run")
    assert "train: 1 missing (4); val: 1 new (4): 4 were trained on and would be validated on" in message


def test_images_in_another_place_are_the_same(config, root, tmp_path, monkeypatch):
    straight = run(config, tmp_path / "straight")
    interrupted(config, tmp_path / "run", monkeypatch, step=2)
    root.rename(tmp_path / "moved")
    config.data.root = str(tmp_path / "moved")
    assert_same_tensors(straight.model.state_dict(), run(config, tmp_path / "run", resume=True).model.state_dict())


def test_a_run_without_a_checkpoint_begins_with_the_present_images(config, root, tmp_path):
    record_files(tmp_path / "run", ["a"], ["b"])
    (tmp_path / "run/config.yaml").write_text(to_yaml(with_train(config, epochs=1)))
    run(with_train(config, epochs=1), tmp_path / "run", resume=True)
    assert lines(tmp_path / "run/train.txt") == [*"012345"]


def test_a_run_that_lost_its_record_resumes_and_records_its_images(config, tmp_path, monkeypatch):
    straight = run(config, tmp_path / "straight")
    interrupted(config, tmp_path / "run", monkeypatch, step=2)
    for name in ("train.txt", "val.txt"):
        (tmp_path / "run" / name).unlink()
    assert_same_tensors(straight.model.state_dict(), run(config, tmp_path / "run", resume=True).model.state_dict())
    assert lines(tmp_path / "run/val.txt") == ["0", "1"]


def test_without_a_record_another_number_of_batches_is_noticed(config, root, tmp_path, monkeypatch):
    interrupted(config, tmp_path / "run", monkeypatch, step=4)
    (tmp_path / "run/train.txt").unlink()
    for name in "2345":
        remove(root, "train", name)
    assert "began with: train: another number of images: restore them" in refused_resume(config, tmp_path / "run")
    assert run(proceeding(config), tmp_path / "run", resume=True).step == 2


def test_a_broken_record_is_refused(config, tmp_path, monkeypatch):
    interrupted(config, tmp_path / "run", monkeypatch, step=2)
    (tmp_path / "run/val.txt").write_text("0\n0\n")
    assert refused_resume(config, tmp_path / "run").startswith(
        f"{tmp_path / 'run/val.txt'}, line 2: '0' is also in line 1"
    )


def test_names_of_any_bytes_are_the_same_after_a_resume(config, root, tmp_path, monkeypatch):
    for name in ("#1", " 2", "a\nb", "\\x41", os.fsdecode(b"\xe9")):
        add(root, "train", name)
    add(root, "val", "\udce9 ")
    interrupted(config, tmp_path / "run", monkeypatch, step=2)
    run(config, tmp_path / "run", resume=True)
    assert lines(tmp_path / "run/val.txt") == ["0", "1", "\\xe9\\x20"]
    remove(root, "train", "a\nb")
    assert "train: 1 missing (a\\x0ab): " in refused_resume(config, tmp_path / "run")


def test_the_same_names_in_another_order_are_no_change(tmp_path):
    write_text(tmp_path / "train.txt", "b\na\n")
    assert check_files(tmp_path, ["a", "b"], ["c"], same_batches=True, proceed=False) is False


def test_a_dry_run_that_resumes_changes_nothing(config, root, tmp_path, monkeypatch):
    interrupted(config, tmp_path / "run", monkeypatch, step=2)
    add(root, "train", "x")
    add(root, "train", "y")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    facts = dry_run(TwoHeadsTask(proceeding(config)), tmp_path / "run", True, no_report)
    assert facts["batches"] == "4 per epoch, 8 in all"
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
