import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from dlaseg_testing import CPU, SINGLE_PROCESS, TINY, assert_same_tensors, log_rows, no_report
from PIL import Image
from safetensors import safe_open
from torch.nn import functional as F

from dlaseg.config.pretraining import PretrainAugmentConfig, PretrainConfig, PretrainDataConfig, PretrainModelConfig
from dlaseg.config.training import BaseTrainConfig
from dlaseg.errors import UserError
from dlaseg.evaluation.metrics.accuracy import Accuracies
from dlaseg.factory import create_backbone
from dlaseg.training import classification, trainer
from dlaseg.training.checkpoint import load_checkpoint
from dlaseg.training.classification import Classification, ImageCrossEntropy
from dlaseg.training.state import TrainState, initial_state
from dlaseg.training.step import step_function
from dlaseg.training.trainer import fit


def write_images(root: Path, train: tuple[int, int], val: tuple[int, int]) -> None:
    """Makes so many blue and so many red images."""
    rng = np.random.default_rng(0)
    for split, counts in (("train", train), ("val", val)):
        for name, channel, count in (("blue", 2, counts[0]), ("red", 0, counts[1])):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                height, width = rng.integers(32, 64, 2)
                image = rng.integers(0, 90, (height, width, 3), np.uint8)
                image[..., channel] += 150
                Image.fromarray(image).save(root / split / name / f"{index}.png")


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    """Eight images to learn from and five to validate on; read only."""
    root = tmp_path_factory.mktemp("colours")
    write_images(root, (4, 4), (2, 3))
    return root


def tiny_config(root: Path, **train: object) -> PretrainConfig:
    learning = {
        "epochs": 3, "batch_size": 4, "lr": 0.05, "warmup_steps": 1, "schedule": "step", "step_epochs": 1,
        "step_gamma": 0.5, "eval_every": 1, "precision": "float32", "device": "cpu",
    }  # fmt: skip
    return PretrainConfig(
        name="tiny",
        data=PretrainDataConfig(str(root), workers=0),
        model=PretrainModelConfig(TINY),
        augment=PretrainAugmentConfig(crop_size=32, resize=36, jitter=0.2),
        train=BaseTrainConfig(**{**learning, **train}),
    )


@pytest.fixture
def config(root) -> PretrainConfig:
    return tiny_config(root)


def new_state(config: PretrainConfig) -> tuple[Classification, TrainState]:
    task = Classification(config)
    torch.manual_seed(0)
    return task, initial_state(task.make_model(task.open_splits()[0]), config.train, CPU)


def run(config: PretrainConfig, output: Path, resume: bool = False) -> trainer.TrainState:
    return fit(Classification(config), output, resume, report=no_report)


@pytest.fixture(scope="module")
def straight(root, tmp_path_factory):
    """An uninterrupted run of three epochs, its folder and last state; read only."""
    output = tmp_path_factory.mktemp("straight") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dlaseg.training.run.keep_freed_memory", lambda: True)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        state = run(tiny_config(root), output)
        torch.set_num_threads(threads)
    return output, state


def refused(config: PretrainConfig, output: Path) -> str:
    with pytest.raises(UserError) as caught:
        run(config, output)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(straight, config, tmp_path):
    def interrupt(line: str) -> None:
        if line.startswith("epoch 2/"):
            raise KeyboardInterrupt

    whole, _ = straight
    with pytest.raises(KeyboardInterrupt):
        fit(Classification(config), tmp_path / "run", report=interrupt)
    run(config, tmp_path / "run", resume=True)
    one, other = load_checkpoint(whole / "last.ckpt"), load_checkpoint(tmp_path / "run/last.ckpt")
    assert_same_tensors(one["model"], other["model"])
    for key, entry in one["optimizer"]["state"].items():
        assert torch.equal(entry["momentum_buffer"], other["optimizer"]["state"][key]["momentum_buffer"])
    for before, after in zip(log_rows(whole), log_rows(tmp_path / "run"), strict=True):
        assert all(before[name] == after[name] for name in ("epoch", "step", "loss", "lr", "top1", "top5"))
    best, resumed = (
        create_backbone(TINY, 2, weights=folder / "best.safetensors") for folder in (whole, tmp_path / "run")
    )
    assert_same_tensors(best.state_dict(), resumed.state_dict())


@pytest.mark.slow
def test_the_number_of_workers_changes_no_weight_and_no_score(straight, config, tmp_path):
    output, state = straight
    config.data.workers = 2
    assert_same_tensors(run(config, tmp_path).model.state_dict(), state.model.state_dict())
    for before, after in zip(log_rows(output), log_rows(tmp_path), strict=True):
        assert all(before[name] == after[name] for name in ("loss", "top1", "top5"))


@pytest.mark.slow
def test_two_colours_are_told_apart(tmp_path):
    write_images(tmp_path / "data", (16, 16), (4, 5))
    learning = {"epochs": 8, "batch_size": 8, "lr": 0.01, "schedule": "poly", "warmup_steps": 0, "eval_every": 8}
    losses = [row["loss"] for row in run(tiny_config(tmp_path / "data", **learning), tmp_path / "run").log]
    assert losses[-1] < 0.5 * losses[0]
    # Only the last layer: rounding, which differs between CPUs, cannot change the outcome of so short a run
    learning |= {"freeze": "backbone_and_norm", "lr": 0.05}
    log = run(tiny_config(tmp_path / "data", **learning), tmp_path / "last_layer").log
    assert [row["top1"] for row in log] == [None] * 7 + [1.0]


def test_a_resumed_run_notices_images_that_came(root, tmp_path):
    shutil.copytree(root, tmp_path / "images")
    config = tiny_config(tmp_path / "images", epochs=1)
    run(config, tmp_path / "run")
    assert (tmp_path / "run/val.txt").read_text().split() == [
        *("blue/0.png", "blue/1.png", "red/0.png", "red/1.png", "red/2.png"),
    ]
    for name in "xyzw":
        shutil.copy(root / "train/red/0.png", tmp_path / f"images/train/red/{name}.png")
    longer = tiny_config(tmp_path / "images", epochs=2)
    with pytest.raises(
        UserError, match=r"train: 4 new \(red/w\.png, red/x\.png, red/y\.png and 1 more\): restore them"
    ):
        run(longer, tmp_path / "run", resume=True)
    longer.data.on_changed_files = "go"
    assert run(longer, tmp_path / "run", resume=True).step == 6


def test_a_resumed_run_notices_another_class_folder_and_refuses_it_in_any_case(root, tmp_path):
    shutil.copytree(root, tmp_path / "images")
    run(tiny_config(tmp_path / "images", epochs=1), tmp_path / "run")
    for split in ("train", "val"):
        (tmp_path / f"images/{split}/red").rename(tmp_path / f"images/{split}/a")
    longer = tiny_config(tmp_path / "images", epochs=2)
    longer.data.on_changed_files = "go"
    with pytest.raises(
        UserError, match=r"^class 0 'a' \(the run has 'blue'\): the run in .*: restore the class folders"
    ):
        run(longer, tmp_path / "run", resume=True)


def test_a_run_leaves_every_file_of_the_run_folder(straight):
    output, _ = straight
    names = {"events" if path.name.startswith("events") else path.name for path in output.iterdir()}
    assert names == {"config.yaml", "log.jsonl", "events", "last.ckpt", "best.safetensors", "environment.json"} | {
        "train.txt",
        "val.txt",
        "previous.ckpt",
    }


def test_the_log_has_both_accuracies_and_the_schedules_learning_rates(straight):
    rows = log_rows(straight[0])
    assert list(rows[0]) == ["epoch", "step", "loss", "lr", "images_per_second", "data_wait"] + [
        *("skipped", "broken", "top1", "top5")
    ]
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 2), (2, 4), (3, 6)]
    assert [row["lr"] for row in rows] == pytest.approx([0.05, 0.025, 0.0125])
    assert all(row["top1"] * 5 == round(row["top1"] * 5) for row in rows)  # of five images
    assert {row["top5"] for row in rows} == {1.0}


def test_the_report_says_both_accuracies(root, tmp_path):
    messages = []
    fit(Classification(tiny_config(root, epochs=1)), tmp_path, report=messages.append)
    row = log_rows(tmp_path)[0]
    assert messages[0].endswith(f"  val top-1 {row['top1']:.4f}  val top-5 1.0000")


def test_the_best_weights_are_those_of_the_best_top1(config, root, tmp_path, monkeypatch):
    scores, seen = [(1, 4), (2, 3), (2, 5)], []

    def evaluate(model, loader):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        hits1, hits5 = scores[len(seen) - 1]
        return Accuracies(hits1, hits5, 5)

    monkeypatch.setattr(classification, "evaluate_classifier", evaluate)
    state = run(config, tmp_path)
    assert state.best("top1") == 0.4
    best = create_backbone(TINY, 2, weights=tmp_path / "best.safetensors")
    assert_same_tensors(best.state_dict(), seen[1])


def test_the_weights_file_says_the_classes_and_the_normalisation(straight):
    with safe_open(straight[0] / "best.safetensors", "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["classes"]) == ["blue", "red"]
    assert json.loads(metadata["mean"]) == [0.485, 0.456, 0.406]
    assert json.loads(metadata["model"])["num_classes"] == 2


@pytest.mark.slow
def test_a_run_can_start_from_a_classifier_and_that_is_another_run(straight, config, tmp_path):
    output, _ = straight
    config.model.weights = str(output / "best.safetensors")
    task = Classification(config)
    model = task.make_model(task.open_splits()[0])
    task.load_weights(model)
    assert_same_tensors(model.state_dict(), create_backbone(TINY, 2, weights=output / "best.safetensors").state_dict())
    with pytest.raises(UserError, match=r"^model\.weights .* \(the run has None\)"):
        run(config, output, resume=True)


def test_a_step_is_plain_cross_entropy_of_normalised_images(config):
    task, state = new_state(config)
    images = torch.randint(0, 256, (4, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 1, 0])
    twin = create_backbone(TINY, 2)
    twin.load_state_dict(state.model.state_dict())
    twin.train().to(memory_format=torch.channels_last)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (twin.metadata.mean, twin.metadata.std))
    inputs = ((images / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
    expected = F.cross_entropy(twin(inputs), targets)
    result = step_function(task, state, ImageCrossEntropy(), 2, SINGLE_PROCESS)([(images, targets)])
    assert result.loss == pytest.approx(expected.item(), rel=1e-4)


def test_a_step_in_bfloat16_takes_the_loss_in_float32(config):
    config.train.precision = "bfloat16"
    task, state = new_state(config)
    types = []

    class Watched(ImageCrossEntropy):
        def __call__(self, outputs, targets, normalizers):
            loss = super().__call__(outputs, targets, normalizers)
            types.extend((outputs.logits.dtype, loss.dtype))
            return loss

    images = torch.zeros((4, 3, 32, 32), dtype=torch.uint8)
    step_function(task, state, Watched(), 2, SINGLE_PROCESS)([(images, torch.tensor([0, 1, 1, 0]))])
    assert types == [torch.bfloat16, torch.float32]


def test_more_images_in_a_batch_than_there_are_are_refused(root, tmp_path):
    line = refused(tiny_config(root, batch_size=9), tmp_path / "run")
    assert line.startswith("train.batch_size 9: the training split has only 8 images")
    assert not (tmp_path / "run").exists()


def test_an_unknown_model_is_refused_before_anything_is_written(config, tmp_path):
    config.model.name = "dla35"
    assert "'dla35'" in refused(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_broken_image_ends_the_run_in_one_line(config, tmp_path, root):
    copy = tmp_path / "data"
    for path in root.rglob("*.png"):
        target = copy / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    (copy / "val/red/1.png").write_bytes(b"no picture")
    data = dataclasses.replace(config.data, root=str(copy))
    assert refused(dataclasses.replace(config, data=data), tmp_path / "run").startswith(f"{copy / 'val/red/1.png'}: ")


def test_a_run_of_segmentation_is_not_gone_on_with(config, tmp_path):
    (tmp_path / "config.yaml").write_text("data: {dataset: camvid}\n")
    with pytest.raises(UserError, match=r"its run has the field data\.dataset, .* the command that started it"):
        run(config, tmp_path, resume=True)
