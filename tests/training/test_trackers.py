import math
import sys
from typing import ClassVar

import numpy as np
import pytest
import torch
from dlaseg_testing import run, tiny_config, with_train, write_camvid
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dlaseg.errors import UserError
from dlaseg.training.trackers import TensorBoard, open_trackers


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_camvid(tmp_path_factory.mktemp("camvid"))


@pytest.fixture
def config(root):
    return tiny_config(root)


def board(folder):
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    return events


def test_a_run_draws_losses_rates_scores_of_classes_speed_and_pictures(config, tmp_path):
    state = run(with_train(config, epochs=5), tmp_path)  # of two steps
    drawn = board(tmp_path)
    names = set(drawn.Tags()["scalars"])
    assert names >= {
        "loss",
        "lr",
        "miou",
        "images_per_second",
        "data_wait",
        "skipped",
        "step/loss",
        "step/lr",
        "iou/sky",
    }
    assert not any(
        name.startswith("iou/") and math.isnan(event.value) for name in names for event in drawn.Scalars(name)
    )
    assert [event.step for event in drawn.Scalars("miou")] == [2, 4, 6, 8, 10]
    assert [event.value for event in drawn.Scalars("loss")] == pytest.approx([row["loss"] for row in state.log])
    assert [event.step for event in drawn.Scalars("step/loss")] == [10]
    (tag,) = drawn.Tags()["images"]
    assert tag == "validation"
    assert [event.step for event in drawn.Images(tag)] == [2, 4, 6, 8, 10]
    assert (drawn.Images(tag)[0].width, drawn.Images(tag)[0].height) == (4 * 384, 2 * 288)


def test_a_resumed_run_takes_back_what_was_drawn_after_its_checkpoint(tmp_path):
    first = TensorBoard(tmp_path)
    for step in (1, 2, 3):
        first.scalars({"loss": step}, step)
    first.close()
    second = TensorBoard(tmp_path, step=2)
    second.scalars({"loss": 20.0}, 2)
    second.close()
    assert [(event.step, event.value) for event in board(tmp_path).Scalars("loss")] == [(1, 1), (2, 20)]


class Listed:
    """A tracker of one's own."""

    made: ClassVar[list["Listed"]] = []

    def __init__(self, folder):
        self.folder, self.calls = folder, []
        Listed.made.append(self)

    def scalars(self, values, step):
        self.calls.append((step, values))

    def picture(self, name, picture, step):
        assert picture.dtype == np.uint8
        self.calls.append((step, name))

    def close(self):
        self.calls.append("closed")


@pytest.fixture
def own(monkeypatch):
    monkeypatch.setitem(sys.modules, "mine", sys.modules[__name__])
    Listed.made.clear()
    return "mine:Listed"


def test_a_tracker_of_ones_own_gets_all_of_it_and_no_other_draws(config, tmp_path, own):
    run(with_train(config, epochs=1, trackers=[own]), tmp_path)
    (tracker,) = Listed.made
    assert tracker.folder == tmp_path
    (step, values), picture, end = tracker.calls
    assert step == 2
    assert {"loss", "lr", "miou", "iou/sky"} <= values.keys()
    assert all(isinstance(value, (int, float)) for value in values.values())
    assert picture == (2, "validation")
    assert end == "closed"
    assert not list(tmp_path.glob("events.*"))


def test_a_tracker_is_closed_when_the_run_fails(tmp_path, own):
    with pytest.raises(RuntimeError), open_trackers([own], tmp_path, 0):
        raise RuntimeError
    assert Listed.made[0].calls == ["closed"]


@pytest.mark.parametrize("name", ["tensorbord", "nowhere:Tracker", "mine:Missing"])
def test_a_tracker_that_is_not_there_is_refused_before_anything_is_written(config, tmp_path, name, own):
    with pytest.raises(UserError, match=rf"^train\.trackers {name}: .*use tensorboard, or MODULE:NAME"):
        run(with_train(config, trackers=["tensorboard", name]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert torch.get_num_threads() == 1
