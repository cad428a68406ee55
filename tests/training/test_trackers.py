import math
import sys
from typing import ClassVar

import numpy as np
import pytest
import torch
from dlaseg_testing import SINGLE_PROCESS, new_state, no_report, run, tiny_config, with_train, write_camvid
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from dlaseg.cli import main
from dlaseg.config.files import to_yaml
from dlaseg.errors import UserError
from dlaseg.training.segmentation import PICTURES, Segmentation
from dlaseg.training.trackers import TensorBoard, Tracker, open_trackers, tracker_classes
from dlaseg.training.trainer import fit


@pytest.fixture(autouse=True)
def files_in_order(monkeypatch):
    """TensorBoard reads files by name, time.process.number: within a second of one process, 10 would come before 9."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


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


def test_a_run_draws_losses_rates_scores_of_classes_speed_and_pictures(config, tmp_path, no_page):
    state = run(with_train(config, epochs=2, batch_size=1), tmp_path)  # of five steps
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
    assert [event.step for event in drawn.Scalars("miou")] == [5, 10]
    assert [event.value for event in drawn.Scalars("loss")] == pytest.approx([row["loss"] for row in state.log])
    assert [event.step for event in drawn.Scalars("step/loss")] == [10]
    (tag,) = drawn.Tags()["images"]
    assert tag == "validation"
    assert [event.step for event in drawn.Images(tag)] == [5, 10]
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


class Listed(Tracker):
    """A tracker of one's own."""

    made: ClassVar[list["Listed"]] = []

    def __init__(self, folder):
        super().__init__(folder)
        self.calls = []
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


def fit_with(config, output, **options):
    return fit(Segmentation(config), output, report=no_report, **options)


def test_a_tracker_of_ones_own_gets_all_of_it_and_no_other_draws(config, tmp_path, own, no_page):
    fit_with(with_train(config, epochs=1, trackers=[own]), tmp_path, allow_trackers=True)
    (tracker,) = Listed.made
    assert tracker.folder == tmp_path
    (step, values), picture, end = tracker.calls
    assert step == 2
    assert {"loss", "lr", "miou", "iou/sky"} <= values.keys()
    assert all(isinstance(value, (int, float)) for value in values.values())
    assert picture == (2, "validation")
    assert end == "closed"
    assert not list(tmp_path.glob("events.*"))


def test_a_tracker_is_closed_when_the_run_fails(tmp_path):
    Listed.made.clear()
    with pytest.raises(RuntimeError), open_trackers([Listed], tmp_path, 0):
        raise RuntimeError
    assert Listed.made[0].calls == ["closed"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorbord", "unknown tracker: use tensorboard, or MODULE:NAME"),
        ("nowhere:Tracker", "cannot be imported (ModuleNotFoundError: No module named 'nowhere'): use tensorboard"),
        ("mine:Missing", "cannot be imported (AttributeError: "),
        (":x", "cannot be imported (ValueError: "),
        (".x:y", "cannot be imported (TypeError: "),
        ("os:system", "not a subclass of dlaseg.training.trackers.Tracker: derive it from that"),
        ("mine:plain", "not a subclass of "),
        ("mine:Plain", "not a subclass of "),
        ("mine:Half", "without the method close: define close, picture"),
    ],
)
def test_a_tracker_that_cannot_be_used_is_refused_before_anything_is_written(config, tmp_path, name, message, own):
    with pytest.raises(UserError) as caught:
        fit_with(with_train(config, trackers=["tensorboard", name]), tmp_path / "run", allow_trackers=True)
    assert str(caught.value).startswith(f"train.trackers {name}: {message}")
    assert not (tmp_path / "run").exists()
    assert torch.get_num_threads() == 1


def plain(folder):
    """A function is no tracker, and is not called."""
    raise AssertionError


class Plain:
    """Has the methods but is not derived from `Tracker`, and is not made."""

    def __init__(self, folder):
        raise AssertionError

    scalars = picture = close = None


class Half(Tracker):
    def scalars(self, values, step):
        pass


@pytest.fixture
def spy(tmp_path, monkeypatch):
    """A module that leaves a file when it is imported."""
    (tmp_path / "spy.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'imported')!r}).touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "imported"


def test_nothing_is_imported_without_permission(config, tmp_path, spy, monkeypatch):
    config = with_train(config, trackers=["spy:Spy"])
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    for words in (["train"], ["train", "--resume"], ["train", "--dry-run"], ["train", "--train.epochs", "2"]):
        with pytest.raises(
            UserError, match=r"^train\.trackers spy:Spy: importing it runs its code, .*--allow-trackers"
        ):
            main([*words, "--config", str(path), "--output", str(tmp_path / "run"), "--debug"])
        assert not spy.exists()
    with pytest.raises(UserError, match="allow_trackers=True"):
        fit_with(config, tmp_path / "run")
    assert not spy.exists()
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"spy:Spy: cannot be imported \(AttributeError"):
        main(["train", "--config", str(path), "--output", str(tmp_path / "run"), "--allow-trackers", "--debug"])
    assert spy.exists()


def test_the_config_of_a_run_folder_imports_nothing_when_it_is_resumed(config, tmp_path, own, no_scores):
    output = tmp_path / "run"
    fit_with(with_train(config, epochs=1, trackers=[own]), output, allow_trackers=True)
    Listed.made.clear()
    words = ["train", "--config", str(output / "config.yaml"), "--output", str(output), "--resume"]
    with pytest.raises(UserError, match=r"--allow-trackers"):
        main([*words, "--debug"])
    assert Listed.made == []
    assert main([*words, "--allow-trackers"]) == 0
    assert [tracker.calls for tracker in Listed.made] == [["closed"]]


def test_a_command_in_a_config_does_not_run(tmp_path, monkeypatch, capsys):
    """The name of a run was what the command got, and the tracker what ran it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.yaml").write_text('name: "x; touch PWNED"\ntrain: {trackers: ["os:system"]}\n')
    assert main(["train", "--config", "evil.yaml"]) == 2
    assert "name 'x; touch PWNED': use " in capsys.readouterr().err
    (tmp_path / "evil.yaml").write_text('name: "x"\ntrain: {trackers: ["os:system"]}\n')
    assert main(["train", "--config", "evil.yaml"]) == 2
    assert "train.trackers os:system: importing it runs its code" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["evil.yaml"]


def test_tensorboard_needs_no_permission():
    assert tracker_classes(["tensorboard", "tensorboard"], allow=False) == [TensorBoard, TensorBoard]
    assert tracker_classes(["dlaseg.training.trackers:TensorBoard"], allow=True) == [TensorBoard]


def test_the_picture_of_a_validation_is_spread_over_the_split(config):
    task = Segmentation(config)
    training, validation = task.open_splits()
    assert len(training) > PICTURES > len(validation)
    pictures = [
        task.validator(split, SINGLE_PROCESS)(new_state(config).model).picture for split in (training, validation)
    ]
    assert pictures[0].shape[0] * len(validation) == pictures[1].shape[0] * PICTURES
