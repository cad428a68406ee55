import dataclasses
import hashlib
from pathlib import Path

import dlaseg_testing
import pytest
import torch
from PIL import Image

from dlaseg.benchmarking import dry_run as module
from dlaseg.benchmarking import trial
from dlaseg.benchmarking.dry_run import dry_run, pace
from dlaseg.config.pretraining import PretrainAugmentConfig, PretrainConfig, PretrainDataConfig, PretrainModelConfig
from dlaseg.config.segmentation import LossConfig
from dlaseg.errors import UserError
from dlaseg.factory import create_model
from dlaseg.models.segmenter import DLASeg
from dlaseg.training import trainer
from dlaseg.training.checkpoint import load_checkpoint, save_checkpoint
from dlaseg.training.classification import Classification
from dlaseg.training.run import build
from dlaseg.training.segmentation import Segmentation
from dlaseg.training.task import Validation


def tried(config, output: Path = Path("run"), resume: bool = False, task=Segmentation) -> dict[str, str]:
    facts = dry_run(task(config), output, resume, report=dlaseg_testing.no_report)
    assert facts is not None
    return facts


@pytest.fixture
def quick_runs(monkeypatch):
    """Runs look at no validation image, and end without a report."""
    monkeypatch.setattr(Segmentation, "validator", lambda *_: lambda model: Validation({"miou": 0.5}))
    monkeypatch.setattr(Segmentation, "on_fit_end", lambda *_: None)


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
    }


def begun(config, output: Path) -> None:
    """A run that was interrupted after its first epoch of three."""

    def report(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.fit(Segmentation(config), output, report=report)


def test_the_run_is_described_exactly_and_nothing_is_written(config, folder):
    message = []
    facts = dry_run(Segmentation(config), folder / "run", report=message.append)
    assert list(folder.iterdir()) == []
    assert facts["images"] == "2 x 3 x 32 x 64 uint8 (batches of 2)"
    assert facts["targets"] == "2 x 32 x 64 uint8"
    assert facts["logits"] == "2 x 11 x 8 x 16 float32"
    parameters = sum(parameter.numel() for parameter in create_model(dlaseg_testing.TINY, 11, 4, 3).parameters())
    assert facts["parameters"] == f"{parameters:,}"
    assert facts["device"] == "cpu (1 threads)"
    assert facts["precision"] == "float32"
    assert facts["batches"] == "2 per epoch, 6 in all"
    assert facts["validation"] == "2 images, 3 times"
    assert facts["expected"].endswith(" for 6 steps, without validation")
    assert message[:-1] == [f"{name:<11}  {fact}" for name, fact in facts.items()]
    assert message[-1] == "dry run: one step to warm up, one timed; nothing is written"


def test_micro_batches_frozen_weights_and_lower_precision_are_reported(config, folder):
    config = dlaseg_testing.with_train(
        config, grad_accum_steps=2, precision="bfloat16", freeze="backbone", eval_every=2, patience=1
    )
    facts = tried(config)
    assert facts["images"] == "1 x 3 x 32 x 64 uint8 (batches of 2, 2 micro-batches)"
    assert facts["logits"] == "1 x 11 x 8 x 16 bfloat16"
    assert facts["precision"] == "bfloat16"
    model = create_model(dlaseg_testing.TINY, 11, 4, 3)
    total = sum(parameter.numel() for parameter in model.parameters())
    trainable = total - sum(parameter.numel() for parameter in model.backbone.parameters())
    assert facts["parameters"] == f"{total:,}, {trainable:,} of them trainable"
    assert facts["validation"] == "2 images, 2 times"  # after the second epoch and the last
    assert facts["expected"].endswith("without validation, less if train.patience ends the run")


def test_loading_processes_are_timed_too(config, folder):
    facts = tried(dataclasses.replace(config, data=dataclasses.replace(config.data, workers=2)))
    assert facts["loading"].endswith(" s per batch, data.workers 2")
    assert list(folder.iterdir()) == []


def test_a_classifier_is_tried_too(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for split in ("train", "val"):
        for name in ("blue", "red"):
            (root / split / name).mkdir(parents=True)
            Image.new("RGB", (40, 36), name).save(root / split / name / "0.png")
    config = PretrainConfig(
        data=PretrainDataConfig(root=str(root), workers=0),
        model=PretrainModelConfig(name=dlaseg_testing.TINY),
        augment=PretrainAugmentConfig(crop_size=32, resize=32),
    )
    facts = tried(
        dlaseg_testing.with_train(config, batch_size=2, device="cpu", precision="float32"), task=Classification
    )
    assert facts["targets"] == "2 int64"
    assert facts["logits"] == "2 x 2 float32"
    assert facts["batches"] == "1 per epoch, 120 in all"
    assert list(folder.iterdir()) == []


def test_a_folder_that_holds_a_run_is_refused_as_the_run_would_be(config, folder, quick_runs):
    begun(config, folder / "run")
    before = contents(folder)
    with pytest.raises(UserError) as real:
        dlaseg_testing.run(config, folder / "run")
    with pytest.raises(UserError) as dry:
        tried(config, folder / "run")
    assert str(dry.value) == str(real.value)
    with pytest.raises(UserError, match=r"train\.lr 0\.1"):
        tried(dlaseg_testing.with_train(config, lr=0.1), folder / "run", resume=True)
    assert contents(folder) == before


def test_with_resume_it_counts_what_is_left_and_changes_nothing(config, folder, quick_runs):
    begun(config, folder / "run")
    before, message = contents(folder), []
    facts = dry_run(Segmentation(config), folder / "run", resume=True, report=message.append)
    assert contents(folder) == before
    assert message[0] == f"{folder / 'run'}: resuming after epoch 1 of 3"
    assert facts["batches"] == "2 per epoch, 6 in all, 4 of them remaining"
    assert facts["validation"] == "2 images, 2 times"
    assert " for 4 steps," in facts["expected"]
    assert dlaseg_testing.run(config, folder / "run", resume=True).epoch == 3


def test_with_resume_within_an_epoch_its_batches_are_not_counted_again(config, folder, quick_runs):
    begun(config, folder / "run")
    saved = load_checkpoint(folder / "run/last.ckpt")
    saved["progress"]["batches"], saved["step"] = 1, 3
    save_checkpoint(folder / "run", saved)
    assert tried(config, folder / "run", resume=True)["batches"] == "2 per epoch, 6 in all, 3 of them remaining"


def test_a_run_that_is_done_has_nothing_left(config, folder, quick_runs):
    config = dlaseg_testing.with_train(config, epochs=1)
    dlaseg_testing.run(config, folder / "run")
    facts = tried(config, folder / "run", resume=True)
    assert facts["batches"] == "2 per epoch, 2 in all, 0 of them remaining"
    assert facts["validation"] == "2 images, 0 times"


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"batch_size": 6}, "only 5 images"),
        ({"epochs": 0}, "train.epochs 0"),
        ({"precision": "float16"}, "float16"),
        ({"trackers": ["os:path"]}, "train.trackers os:path: importing it runs its code"),
    ],
)
def test_a_record_that_cannot_be_run_is_refused(config, folder, change, part):
    with pytest.raises(UserError, match=part):
        tried(dlaseg_testing.with_train(config, **change))
    assert list(folder.iterdir()) == []


def test_an_image_that_cannot_be_read_is_named(config, folder):
    for path in (Path(config.data.root) / "train").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"\.png"):
        tried(config)


@pytest.mark.parametrize("where", ["logits", "step"])
def test_too_little_memory_is_explained(config, folder, monkeypatch, where):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    if where == "logits":
        monkeypatch.setattr(DLASeg, "training_outputs", full)
    else:
        monkeypatch.setattr("dlaseg.training.run.step_function", lambda *_: full)
    with pytest.raises(
        UserError, match=r"out of memory: a micro-batch of 2 crops of 32 x 64 .* use train\.grad_accum_steps 2"
    ):
        tried(config)


@pytest.mark.parametrize("freeze", ["nothing", "norm"])
def test_looking_at_the_logits_leaves_the_network_as_it_is(config, freeze):
    task = Segmentation(dlaseg_testing.with_train(config, freeze=freeze))
    run = build(task, dlaseg_testing.SINGLE_PROCESS, *task.open_splits())
    model = run.state.model
    modes, state = [module.training for module in model.modules()], model.state_dict()
    before = {name: value.clone() for name, value in state.items()}
    module.eval_logits(run, dlaseg_testing.make_batch())
    assert [module.training for module in model.modules()] == modes
    dlaseg_testing.assert_same_tensors(before, state)


def test_nonfinite_numbers_are_reported(config, folder):
    config.model.name = "dla46_c"  # deep enough to explode in one step
    facts = tried(dlaseg_testing.with_train(config, lr=1000.0, losses=[LossConfig(weight=1e6)], warmup_steps=0))
    assert "not finite: step skipped" in facts["step"]


@pytest.mark.parametrize(
    ("step", "loading", "workers", "seconds"),
    [(2.0, 0.5, 2, 2.0), (0.5, 2.0, 2, 2.0), (2.0, 0.5, 0, 2.5)],
)
def test_the_slower_of_the_two_sets_the_pace(step, loading, workers, seconds):
    assert pace(step, loading, workers) == seconds


def test_the_expected_duration_is_that_of_all_steps(config, folder, monkeypatch):
    class Clock:
        now = 0.0

        def perf_counter(self):
            return self.now

    def slow_draw(run, count):
        for number, micro_batches in enumerate(trial.load_batches(run, count)):
            clock.now += 0.0 if number < 3 else 2.0  # the first three were loaded ahead
            yield micro_batches

    def slow_step(run, micro_batches):
        clock.now += 3.0
        return trial.take_step(run, micro_batches)

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "prefetched", lambda run: 3)
    monkeypatch.setattr(module, "load_batches", slow_draw)
    monkeypatch.setattr(module, "take_step", slow_step)
    facts = tried(config)
    assert facts["loading"] == "2.000 s per batch, data.workers 0"
    assert facts["step"].startswith("3.000 s, loss ")
    assert facts["expected"].startswith("about 30 s for 6 steps")
