"""Files that cannot be read: they stop a run, or are skipped, counted once and named once."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dlaseg_testing import SINGLE_PROCESS, log_rows, new_state, run, tiny_config, with_train, write_camvid
from PIL import Image

from dlaseg.config.segmentation import Config
from dlaseg.data.loading import batches, train_loader
from dlaseg.errors import Stopped, UnreadableFileError, UserError
from dlaseg.training import trainer
from dlaseg.training.checkpoint import load_checkpoint
from dlaseg.training.stopping import StopRequest
from dlaseg.training.trainer import share_unreadable


@pytest.fixture
def root(tmp_path):
    return write_camvid(tmp_path / "data", train=12)


@pytest.fixture
def config(root) -> Config:
    config = with_train(tiny_config(root), epochs=2, batch_size=4, eval_every=2)
    config.data.on_error = "skip"
    return config


def break_files(root, count):
    """Breaks images and one label map; in sequence, so that one replaces the other."""
    paths = [root / f"train/{index}.png" for index in range(count - 1)] + [root / f"trainannot/{count - 1}.png"]
    for path in paths:
        path.write_bytes(b"no picture")
    return paths


def skipped(caplog):
    return [r.getMessage() for r in caplog.records if "skipped, the next image replaces it" in r.getMessage()]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_stops_the_run_with_its_path(config, root, tmp_path, workers):
    break_files(root, 2)
    config.data.workers, config.data.on_error = workers, "stop"
    with pytest.raises(UserError, match=r"/train(annot)?/[01]\.png: broken"):
        run(config, tmp_path / "run")


@pytest.mark.usefixtures("no_scores")
@pytest.mark.parametrize("workers", [2, pytest.param(0, marks=pytest.mark.slow)])
def test_files_are_counted_not_samples_and_each_is_named_once(config, root, tmp_path, workers, caplog):
    paths = break_files(root, 5)
    config.data.workers = workers
    run(config, tmp_path / "run")
    assert [(row["broken"], row["step"]) for row in log_rows(tmp_path / "run")] == [(5, 3), (5, 6)]
    assert sorted(line.split(": ")[1] for line in skipped(caplog)) == sorted(map(str, paths))
    assert load_checkpoint(tmp_path / "run/last.ckpt")["unreadable"].keys() == {0, 1, 4, 5, 6}  # 0, 1, 10, 11, 2, 3, 4


@pytest.mark.slow
@pytest.mark.usefixtures("no_scores")
def test_a_resumed_run_knows_what_was_named(config, root, tmp_path, caplog, monkeypatch):
    break_files(root, 5)
    run(config, tmp_path / "straight")
    straight = skipped(caplog)
    caplog.clear()

    class Stop(StopRequest):
        def __enter__(self):
            self.name = "SIGTERM"
            return self

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "StopRequest", Stop)
        for step in (1, 2):
            with pytest.raises(Stopped, match=f"after step {step}"):
                run(config, tmp_path / "run", resume=True)
    run(config, tmp_path / "run", resume=True)
    assert [row["broken"] for row in log_rows(tmp_path / "run")] == [5, 5]
    assert skipped(caplog) == straight


@pytest.mark.usefixtures("no_scores")
def test_a_resumed_run_may_begin_to_skip(config, root, tmp_path):
    break_files(root, 2)
    config.data.on_error = "stop"
    with pytest.raises(UserError):
        run(config, tmp_path / "run")
    config.data.on_error = "skip"
    assert run(config, tmp_path / "run", resume=True).step == 6


def label_outside(root):
    Image.fromarray(np.full((48, 64), 77, np.uint8)).save(root / "trainannot/3.png")
    return "trainannot/3.png: .*77"


def size_mismatch(root):
    Image.fromarray(np.zeros((48, 60), np.uint8)).save(root / "trainannot/3.png")
    return "trainannot/3.png: 48 x 60 pixels, but its image"


def floats(root):
    Image.fromarray(np.zeros((48, 64), np.float32)).save(root / "train/3.tif")
    (root / "train/3.tif").rename(root / "train/3.png")
    return "train/3.png: pixels of type float32"


@pytest.mark.parametrize("mistake", [label_outside, size_mismatch, floats])
def test_wrong_content_always_stops(config, root, tmp_path, mistake):
    message = mistake(root)
    with pytest.raises(UserError, match=message):
        run(config, tmp_path / "run")


def test_a_split_without_a_readable_file_stops(config, root, tmp_path):
    for path in (root / "train").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the 12 training samples can be read; the first: .*the file is empty"):
        run(config, tmp_path / "run")


@pytest.mark.usefixtures("no_scores")
def test_class_weights_are_counted_on_what_can_be_read(config, root, tmp_path):
    break_files(root, 2)
    config = with_train(config, class_weights="median_frequency", epochs=1)
    assert run(config, tmp_path / "run").step == 3
    config.data.on_error = "stop"
    with pytest.raises(UserError, match=r"train/0\.png: broken"):
        run(config, tmp_path / "other")


def test_what_other_processes_skipped_is_added_and_named_once(config, caplog):
    state = new_state(config)
    state.unreadable = {3: "c.png: broken"}
    dist = SimpleNamespace(is_main=True, all_gather=lambda own: [own, {1: "a.png: broken", 3: "c.png: broken"}])
    share_unreadable(SimpleNamespace(state=state, dist=dist))
    assert state.unreadable == {3: "c.png: broken", 1: "a.png: broken"}
    assert [line.split(": ")[1] for line in skipped(caplog)] == ["a.png"]


def test_a_loader_reports_index_and_message():
    class Samples:
        def __len__(self):
            return 4

        def read(self, index):
            if index in (1, 2):
                raise UnreadableFileError(f"{index}.png: broken")
            return np.full((2, 2, 3), index, np.uint8), np.zeros((2, 2), np.uint8)

    loader, _ = train_loader(Samples(), lambda image, target, seed: (image, target), 4, 0, 0, skip=True)
    reported = []
    ((images, _),) = batches(loader, on_skip=lambda *skipped: reported.append(skipped))
    assert sorted(images[:, 0, 0, 0].tolist()) == [0, 3, 3, 3]
    assert sorted(reported) == [(1, "1.png: broken"), *[(2, "2.png: broken")] * 2]
    assert SINGLE_PROCESS.all_gather({}) == [{}]
    assert images.dtype == torch.uint8


def test_an_epoch_that_begins_again_with_other_images_names_them_again(config):
    state = new_state(config)
    state.epoch, state.step, state.unreadable = 2, 9, {3: "c.png: broken"}
    state.begin_epoch_again(4)
    assert (state.step, state.unreadable) == (8, {})


def test_a_validation_image_that_cannot_be_read_stops_before_the_first_epoch(tmp_path):
    root = write_camvid(tmp_path / "data", train=12)
    config = with_train(tiny_config(root), epochs=2, batch_size=4, eval_every=2)
    config.data.on_error = "skip"
    (root / "valannot/0.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"/valannot/0\.png: broken"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
