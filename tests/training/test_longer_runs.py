"""A finished run goes on to more epochs where its learning rates allow it."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from dlaseg_testing import (
    TINY,
    TwoHeadsTask,
    assert_same_tensors,
    log_rows,
    no_report,
    refused_resume,
    tiny_config,
    with_train,
    write_camvid,
)

from dlaseg.config.segmentation import Config
from dlaseg.factory import create_model
from dlaseg.training import trainer
from dlaseg.training.checkpoint import load_checkpoint
from dlaseg.training.schedules import depends_on_epochs, learning_rate
from dlaseg.training.segmentation import Segmentation
from dlaseg.training.state import TrainState
from dlaseg.training.task import Validation
from dlaseg.training.trainer import fit
from dlaseg.weights.files import save_model


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    return write_camvid(tmp_path_factory.mktemp("camvid"))


@pytest.fixture
def config(root) -> Config:
    """One epoch of two steps, with a warm-up of both, a moving average and a learning rate that falls."""
    config = with_train(tiny_config(root), epochs=1, warmup_steps=2, ema_decay=0.9, schedule="step", step_epochs=2)
    return with_train(config, eval_every=2, patience=5, trackers=[])


def run(config: Config, output: Path, resume: bool = False, report: Callable[[str], None] = no_report) -> TrainState:
    """A run of a small network."""
    return fit(TwoHeadsTask(config), output, resume, report)


SCHEDULES = [
    {"schedule": "step", "step_epochs": 1},
    {"schedule": "poly", "poly_power": 0.0},
    {"schedule": "poly", "poly_power": 0.9},
    {"schedule": "poly", "poly_power": 1.0},
    {"schedule": "cosine"},
    {"schedule": "cosine", "min_lr": 0.01},
    {"schedule": "cosine", "min_lr": 0.05},
    {"schedule": "poly", "min_lr": 0.05},
]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_says_whether_its_rates_depend_on_the_number_of_epochs(config, schedule):
    rates = [
        [learning_rate(train, step, 2) for step in range(6)]
        for train in (with_train(config, epochs=epochs, **schedule).train for epochs in (3, 4))
    ]
    assert depends_on_epochs(with_train(config, **schedule).train) == (rates[0] != rates[1])


@pytest.mark.parametrize("schedule", [SCHEDULES[0], pytest.param(SCHEDULES[1], marks=pytest.mark.slow)])
def test_an_extended_run_ends_with_the_weights_of_a_run_of_that_length(config, tmp_path, schedule):
    config = with_train(config, **schedule)
    run(with_train(config, epochs=4), tmp_path / "straight")
    for epochs in (1, 3, 4):
        run(with_train(config, epochs=epochs), tmp_path / "run", resume=epochs > 1)
    one, other = (load_checkpoint(tmp_path / name / "last.ckpt") for name in ("straight", "run"))
    assert_same_tensors(one["model"], other["model"])
    assert_same_tensors(one["average"], other["average"])
    for key, entry in one["optimizer"]["state"].items():
        assert_same_tensors(entry, other["optimizer"]["state"][key])
    rows, extended = log_rows(tmp_path / "straight"), log_rows(tmp_path / "run")
    assert [[row[key] for key in ("epoch", "step", "loss", "lr")] for row in rows] == [
        [row[key] for key in ("epoch", "step", "loss", "lr")] for row in extended
    ]
    assert [row["miou"] is not None for row in rows] == [False, True, False, True]
    assert all(row["miou"] is not None for row in extended)  # each was the last epoch once
    assert rows[3]["miou"] == extended[3]["miou"]
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["train"]["epochs"] == 4


def test_an_extended_run_ends_with_the_scores_of_its_best_weights_by_now(config, tmp_path):
    for epochs in (1, 2):
        fit(Segmentation(with_train(config, epochs=epochs)), tmp_path, epochs > 1, no_report)
        best = max(row["miou"] for row in log_rows(tmp_path))
        assert json.loads((tmp_path / "scores.json").read_text())["miou"] == pytest.approx(best, abs=1e-12)
        assert f"{100 * best:.2f}" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("schedule", "rate"), [({"schedule": "poly"}, 0.05 * 0.5**0.9), ({"schedule": "cosine"}, 0.05 * 0.5)]
)
def test_a_schedule_that_depends_on_the_length_refuses_another_with_both_rates(config, tmp_path, schedule, rate):
    config = with_train(config, warmup_steps=0, **schedule)
    run(config, tmp_path / "run")
    assert refused_resume(with_train(config, epochs=2), tmp_path / "run") == (
        f"train.epochs 2 (the run has 1): schedule {schedule['schedule']} depends on the number of epochs: the "
        f"next learning rate would be {rate:.3g} instead of 0, and the epochs so far "
        "were trained with other rates than in a run of 2: "
        "use 1, or start a new run from its weights: "
        f"--model.weights {tmp_path / 'run/best.safetensors'} and another --output"
    )


@pytest.mark.slow
@pytest.mark.usefixtures("no_page")
def test_the_new_run_that_the_refusal_proposes_starts(config, tmp_path):
    config = with_train(config, schedule="poly")
    start = tmp_path / "start.safetensors"
    save_model(create_model(TINY, 11, 4), start)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, backbone_weights=str(start)))
    fit(Segmentation(config), tmp_path / "run", report=no_report)
    words = refused_resume(with_train(config, epochs=2), tmp_path / "run").split("its weights: ")[1].split()
    assert words[:4] == ["--model.weights", str(tmp_path / "run/best.safetensors"), "--model.backbone_weights", "null"]
    model = dataclasses.replace(config.model, weights=words[1], backbone_weights=None)
    fit(Segmentation(dataclasses.replace(config, model=model)), tmp_path / "new", report=no_report)


def test_fewer_epochs_than_are_finished_are_refused(config, tmp_path):
    run(with_train(config, epochs=2), tmp_path / "run")
    message = refused_resume(config, tmp_path / "run")
    assert message == (
        f"train.epochs 1 (the run has 2): the run in {tmp_path / 'run'} has already trained for 2 epochs: use 2 or more"
    )
    poly = with_train(config, schedule="poly")
    run(with_train(poly, epochs=2), tmp_path / "poly")
    assert refused_resume(poly, tmp_path / "poly").endswith("has already trained for 2 epochs: use 2")


def interrupted(config: Config, output: Path, monkeypatch, when: Callable[[TrainState], bool]) -> None:
    """A run that ends right after the first checkpoint of such a state."""

    class Interrupted(BaseException):
        pass

    save = trainer.save

    def saves(run):
        save(run)
        if when(run.state):
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "save", saves)
        with pytest.raises(Interrupted):
            run(config, output)


def test_a_run_does_not_end_at_an_epoch_that_was_not_validated(config, tmp_path, monkeypatch):
    config = with_train(config, eval_every=3)
    interrupted(with_train(config, epochs=4), tmp_path / "run", monkeypatch, lambda state: state.epoch == 1)
    message = refused_resume(with_train(config, epochs=1), tmp_path / "run")
    assert message.endswith("has trained for 1 epochs, and the last of them was not validated: use 2 or more")
    poly = with_train(config, schedule="poly")
    interrupted(with_train(poly, epochs=4), tmp_path / "poly", monkeypatch, lambda state: state.epoch == 1)
    assert refused_resume(with_train(poly, epochs=1), tmp_path / "poly").endswith("was not validated: use 4")


def test_fewer_epochs_than_are_begun_are_refused_and_others_end_the_run_earlier(config, tmp_path, monkeypatch):
    begun = with_train(config, epochs=4, checkpoint_minutes=0)
    interrupted(begun, tmp_path / "run", monkeypatch, lambda state: state.step == 3)  # within the second epoch
    message = refused_resume(with_train(config, epochs=1), tmp_path / "run")
    assert message.endswith("has already trained for 1 epochs and a part of the next: use 2 or more")
    state = run(with_train(config, epochs=2), tmp_path / "run", resume=True)
    assert_same_tensors(state.model.state_dict(), run(with_train(config, epochs=2), tmp_path / "b").model.state_dict())


def test_another_field_that_differs_is_refused_by_its_own_name_alone(config, tmp_path):
    run(config, tmp_path / "run")
    message = refused_resume(with_train(config, epochs=2, lr=0.5), tmp_path / "run")
    assert message.startswith("train.lr 0.5 (the run has 0.05): the run in ")


def test_the_validation_of_the_former_last_epoch_uses_up_no_patience(config, tmp_path, monkeypatch):
    """Scores fall; with patience 2, the run ends at the third validation that its schedule has."""
    scores = iter([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    monkeypatch.setattr(TwoHeadsTask, "validator", lambda *arguments: lambda model: Validation({"miou": next(scores)}))
    config = with_train(config, eval_every=2, patience=2)
    for epochs in (3, 5, 9):
        state = run(with_train(config, epochs=epochs), tmp_path / "run", resume=epochs > 3)
    assert [row["epoch"] for row in state.log if row["miou"] is not None] == [2, 3, 4, 5, 6]
    assert state.epoch == 6


def test_a_longer_run_says_where_it_resumes(config, tmp_path):
    run(config, tmp_path / "run")
    messages: list[str] = []
    run(with_train(config, epochs=2), tmp_path / "run", True, messages.append)
    assert messages[0] == f"{tmp_path / 'run'}: resuming after epoch 1 of 2"
    assert messages[1].startswith("epoch 2/2")
