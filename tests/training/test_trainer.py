import dataclasses
import filecmp
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from dlaseg_testing import (
    SINGLE_PROCESS,
    TINY,
    assert_same_tensors,
    foreign_defaults,
    log_rows,
    make_batch,
    make_step,
    new_state,
    no_report,
    run,
    tiny_config,
    with_train,
    write_camvid,
)

from dlaseg.config.files import to_yaml
from dlaseg.config.pretraining import PretrainConfig
from dlaseg.config.segmentation import AugmentConfig, Config
from dlaseg.data.loading import EpochBatches
from dlaseg.data.transforms import Augmentation
from dlaseg.errors import Stopped, UserError
from dlaseg.evaluation.metrics.confusion import ConfusionMatrix
from dlaseg.factory import create_model, load_model
from dlaseg.files import sha256
from dlaseg.images import read_image, write_png
from dlaseg.inference.backends.reduced import reduce
from dlaseg.metadata import reduction
from dlaseg.training import run as training_run
from dlaseg.training import segmentation, trainer
from dlaseg.training.checkpoint import load_checkpoint, save_checkpoint
from dlaseg.training.distributed import DistributedContext
from dlaseg.training.run_folder import check_output
from dlaseg.training.schedules import poly
from dlaseg.training.segmentation import Segmentation
from dlaseg.training.task import Validation
from dlaseg.training.train import train
from dlaseg.training.trainer import epoch_summary, fit
from dlaseg.weights.files import save_model


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    return write_camvid(tmp_path_factory.mktemp("camvid"))


@pytest.fixture
def config(root) -> Config:
    return tiny_config(root)


def interrupt_after(epoch: int):
    def report(line: str) -> None:
        if line.startswith(f"epoch {epoch}/"):
            raise KeyboardInterrupt

    return report


@pytest.fixture(scope="module")
def straight(root, tmp_path_factory):
    """An uninterrupted run of three epochs, its config, folder and last state; read only."""
    config = tiny_config(root)
    output = tmp_path_factory.mktemp("straight") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dlaseg.training.run.keep_freed_memory", lambda: True)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        state = run(config, output)
        torch.set_num_threads(threads)
    return config, output, state


def test_the_loss_falls_on_a_tiny_set(config):
    config = with_train(config, warmup_steps=0)
    step = make_step(config)
    losses = [step(make_batch()).loss for _ in range(8)]
    assert losses[-1] < 0.5 * losses[0]


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(straight, config, tmp_path, no_page):
    _, whole, _ = straight
    with pytest.raises(KeyboardInterrupt):
        fit(Segmentation(config), tmp_path / "run", report=interrupt_after(2))
    assert load_checkpoint(tmp_path / "run/last.ckpt")["epoch"] == 2
    run(config, tmp_path / "run", resume=True)
    one, other = load_checkpoint(whole / "last.ckpt"), load_checkpoint(tmp_path / "run/last.ckpt")
    assert_same_tensors(one["model"], other["model"])
    assert one["optimizer"]["param_groups"] == other["optimizer"]["param_groups"]
    assert one["optimizer"]["state"].keys() == other["optimizer"]["state"].keys()
    for key, entry in one["optimizer"]["state"].items():
        assert torch.equal(entry["momentum_buffer"], other["optimizer"]["state"][key]["momentum_buffer"])
    for before, after in zip(log_rows(whole), log_rows(tmp_path / "run"), strict=True):
        assert all(before[name] == after[name] for name in ("epoch", "step", "loss", "lr", "miou"))
    best, resumed = (load_model(folder / "best.safetensors").state_dict() for folder in (whole, tmp_path / "run"))
    assert_same_tensors(best, resumed)


@pytest.mark.usefixtures("no_scores")
@pytest.mark.parametrize("optimizer", ["muon", pytest.param("adamw", marks=pytest.mark.slow)])  # AdamW is part of Muon
def test_a_resumed_run_equals_an_uninterrupted_one_with_other_optimizers(config, tmp_path, optimizer):
    config = with_train(config, optimizer=optimizer, lr=0.01, weight_decay=0.01, epochs=2)
    run(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(Segmentation(config), tmp_path / "run", report=interrupt_after(1))
    run(config, tmp_path / "run", resume=True)
    one, other = (load_checkpoint(tmp_path / name / "last.ckpt") for name in ("whole", "run"))
    assert_same_tensors(one["model"], other["model"])
    for key, entry in one["optimizer"]["state"].items():
        assert_same_tensors(entry, other["optimizer"]["state"][key])


def test_sgd_has_the_momentum_of_the_config(config):
    groups = new_state(with_train(config, momentum=0.3)).optimizer.param_groups
    assert {group["momentum"] for group in groups} == {0.3}


def test_adamw_decays_weights_apart_from_the_gradient(config):
    state = new_state(with_train(config, optimizer="adamw", lr=0.5, weight_decay=0.1))
    weight = state.model.head.weight
    before = weight.detach().clone()
    weight.grad = torch.zeros_like(weight)
    state.optimizer.step()
    torch.testing.assert_close(weight.detach(), before * (1 - 0.5 * 0.1))


@pytest.mark.usefixtures("no_scores")
def test_a_resume_after_a_kill_between_log_and_checkpoint_logs_each_epoch_once(config, tmp_path, monkeypatch):
    write = trainer.write_text

    def killed(path: Path, text: str) -> None:
        if path.name == "log.jsonl":
            raise KeyboardInterrupt
        write(path, text)

    config = with_train(config, epochs=2)
    monkeypatch.setattr(trainer, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path)
    monkeypatch.setattr(trainer, "write_text", write)
    run(config, tmp_path, resume=True)
    assert [row["epoch"] for row in log_rows(tmp_path)] == [1, 2]


def test_a_run_in_bfloat16_learns_what_one_in_float32_learns(config, tmp_path):
    losses = []
    for precision in ("float32", "bfloat16"):
        run(with_train(config, precision=precision, epochs=4, eval_every=4), tmp_path / precision)
        losses.append([row["loss"] for row in log_rows(tmp_path / precision)])
    exact, reduced = losses
    assert exact[-1] < 0.9 * exact[0]
    assert reduced == pytest.approx(exact, rel=0.1)


def test_the_weights_have_the_limit_of_the_config_and_not_that_of_the_weights_before(config, tmp_path):
    limited = dataclasses.replace(config, model=dataclasses.replace(config.model, max_short_side=64))
    task = Segmentation(limited)
    model = task.make_model(task.open_splits()[0])
    assert model.metadata.max_short_side == 64
    save_model(model, tmp_path / "a.safetensors")
    for limit in (None, 96):
        changes = {"weights": str(tmp_path / "a.safetensors"), "max_short_side": limit}
        task = Segmentation(dataclasses.replace(config, model=dataclasses.replace(config.model, **changes)))
        model = task.make_model(task.open_splits()[0])
        task.load_weights(model)
        assert model.metadata.max_short_side == limit


def test_the_weights_have_the_size_of_the_images_that_they_were_trained_on(config, tmp_path):
    task = Segmentation(config)
    training, _ = task.open_splits()
    model = task.make_model(training)
    assert model.metadata.training_short_side == min(training.read(0)[0].shape[:2])
    model.metadata = dataclasses.replace(model.metadata, training_short_side=7)
    save_model(model, tmp_path / "a.safetensors")
    task = Segmentation(
        dataclasses.replace(config, model=dataclasses.replace(config.model, weights=str(tmp_path / "a.safetensors")))
    )
    model = task.make_model(training)
    task.load_weights(model)
    assert model.metadata.training_short_side == min(training.read(0)[0].shape[:2])


def test_crops_are_of_images_at_the_size_at_which_they_are_computed(config):
    config = with_train(config, batch_size=1)
    augment = AugmentConfig(scale=(1.0, 1.0), crop_size=(32, 64), rotation=0, jitter=0, flip=0)
    config = dataclasses.replace(config, augment=augment, model=dataclasses.replace(config.model, max_short_side=32))
    task = Segmentation(config)
    training, _ = task.open_splits()
    model = task.make_model(training)
    height, width = training.read(0)[0].shape[:2]
    assert reduction(height, width, 32) == 2
    assert model.metadata.training_short_side == min(height, width) // 2
    loader, sampler = task.train_loader(training, model, SINGLE_PROCESS)
    (image, target, _), key = next(iter(loader)), sampler.batch(0, 0)[0]
    small = {tuple(pixel) for pixel in reduce(training.read(key.image)[0], 2).reshape(-1, 3).tolist()}
    found = {tuple(pixel) for pixel in image[0].permute(1, 2, 0)[target[0] != 255].tolist()}
    assert len(found) > 1
    assert found <= small


@pytest.mark.parametrize(
    ("crop", "scale", "limit", "told"),
    [(32, 1, None, True), (64, 1, None, False), (64, 2, None, True), (32, 1, 48, False)],
)
def test_crops_that_show_a_small_part_of_the_images_are_told(config, crop, scale, limit, told, caplog):
    augment = AugmentConfig(scale=(scale, scale), crop_size=(crop, 128))
    model = dataclasses.replace(config.model, max_short_side=limit)
    state = new_state(config)
    state.model.metadata = dataclasses.replace(state.model.metadata, training_short_side=128)
    Segmentation(dataclasses.replace(config, augment=augment, model=model)).advise(state.model, 1200)
    assert ("the images have a shorter side of about 128 pixels, of which crops show 32" in caplog.text) is told
    assert (f"--model.max_short_side {2 * crop} trains" in caplog.text) is told
    assert "steps" not in caplog.text


@pytest.mark.parametrize(
    ("crop", "scale", "side", "fitting"),
    [(320, 1.125, 90, 128), (320, 1, 160, 160), (320, 1, 161, None), (128, 1, 9, 64)],
)
def test_crops_that_are_mostly_padding_are_told(config, crop, scale, side, fitting, caplog):
    augment = AugmentConfig(scale=(scale, scale), crop_size=(crop, 2 * crop))
    model = new_state(config).model
    model.metadata = dataclasses.replace(model.metadata, training_short_side=side)
    Segmentation(dataclasses.replace(config, augment=augment)).advise(model, 1200)
    message = f"crops of {crop} are mostly padding, since the images have a shorter side of about {side} pixels"
    assert (message in caplog.text) is (fitting is not None)
    assert (f"--augment.crop_size '[{fitting},{fitting}]' learns as much in less time" in caplog.text) is bool(fitting)


@pytest.mark.parametrize(("epochs", "told"), [(1, True), (133, True), (134, False)])
def test_few_steps_are_told_with_the_epochs_that_make_enough(config, epochs, told, caplog):
    Segmentation(with_train(config, epochs=epochs)).advise(new_state(config).model, 3)
    assert (f"{3 * epochs} steps ({epochs} epochs) are few for a network to learn: " in caplog.text) is told
    assert ("--train.epochs 400 makes about 1200" in caplog.text) is told


@pytest.mark.parametrize(("name", "flip", "told"), [("Left-arm", 0.5, True), ("Left-arm", 0, False), ("a", 0.5, False)])
def test_classes_that_mirrored_images_mix_up_are_told(config, name, flip, told, caplog):
    model = new_state(config).model
    labels = model.metadata.labels
    labels = dataclasses.replace(labels, names=(name, "right-arm", *labels.names[2:]))
    model.metadata = dataclasses.replace(model.metadata, label_map=labels)
    augment = dataclasses.replace(config.augment, flip=flip)
    Segmentation(dataclasses.replace(config, augment=augment)).advise(model, 1200)
    message = "augment.flip 0.5 mirrors images, so that 'Left-arm' looks like 'right-arm' and keeps its label"
    assert (message in caplog.text) is told


def test_frozen_random_weights_are_told(config, tmp_path, caplog):
    for freeze, weights, told in (("nothing", None, False), ("norm", None, True), ("backbone", "a.safetensors", False)):
        frozen = with_train(config, freeze=freeze)
        model = new_state(config).model
        if weights:
            save_model(model, tmp_path / weights)
            frozen = starting(frozen, backbone_weights=str(tmp_path / weights))
            Segmentation(frozen).load_weights(model)
        caplog.clear()
        Segmentation(frozen).advise(model, 1200)
        assert (f"train.freeze {freeze} without weights: what is frozen stays random" in caplog.text) is told


def test_nearly_black_training_images_are_told_before_the_first_step(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("dlaseg.bit_depth._told", [])
    config = tiny_config(write_camvid(tmp_path / "data"))
    images = sorted((tmp_path / "data/train").glob("*.png"))
    images[0].write_bytes(b"")
    for image in images[1:]:
        write_png(image, read_image(image).astype(np.uint16) * 16)
    task = Segmentation(dataclasses.replace(config, data=replace(config.data, on_error="skip")))
    task.check_data(*task.open_splits(), tmp_path, SINGLE_PROCESS)
    assert f"{images[1]}: nearly black, no value above" in caplog.text


def test_advice_comes_before_the_first_step_alone(config, tmp_path, caplog):
    for resume in (False, True):
        caplog.clear()
        fit(Segmentation(config), tmp_path, resume, no_report)
        assert ("are few for a network to learn" in caplog.text) is not resume


def test_validation_says_nothing_of_the_size_of_images(config, caplog):
    task = Segmentation(config)
    training, validation = task.open_splits()
    model = task.make_model(training)
    model.metadata = dataclasses.replace(model.metadata, training_short_side=2)
    task.validator(validation, DistributedContext(0, 1, torch.device("cpu")))(model)
    assert "of the training" not in caplog.text


@pytest.mark.parametrize(("predicted", "told"), [("road", ["sky"]), ("car", [])])
def test_classes_that_the_best_weights_never_find_are_told(config, predicted, told, tmp_path, caplog):
    task = Segmentation(config)
    training, validation = task.open_splits()
    model = task.make_model(training)
    with torch.no_grad():
        model.head.bias[training.label_map.names.index(predicted)] += 1e4
    save_model(model, tmp_path / "best.safetensors")
    task.on_fit_end(tmp_path, validation)
    message = "classes of which no pixel of the validation images is found: sky: train for more steps"
    assert [message in record.getMessage() for record in caplog.records] == [True for _ in told]


def test_a_network_that_predicts_one_class_alone_is_told(config, caplog):
    task = Segmentation(config)
    training, validation = task.open_splits()
    model = task.make_model(training)
    validate = task.validator(validation, DistributedContext(0, 1, torch.device("cpu")))
    validate(model)
    assert "predicted as" not in caplog.text
    with torch.no_grad():
        model.head.bias[3] += 1e4
    validate(model)
    assert f"all pixels of the validation images are predicted as '{training.label_map.names[3]}'" in caplog.text


def test_a_run_leaves_every_file_of_the_run_folder(straight):
    _, output, _ = straight
    names = {path.name.split(".out.")[0] for path in output.iterdir()}
    names = {"events" if name.startswith("events") else name for name in names}
    assert names == {"config.yaml", "log.jsonl", "events", "last.ckpt", "best.safetensors", "environment.json"} | {
        "label_counts.json",
        "train.txt",
        "val.txt",
        "previous.ckpt",
        "report.html",
        "scores.json",
    }


def test_a_run_ends_with_the_scores_of_its_best_weights_and_their_page(straight):
    _, output, _ = straight
    best = max(row["miou"] for row in log_rows(output))
    assert json.loads((output / "scores.json").read_text())["miou"] == pytest.approx(best, abs=1e-12)
    page = (output / "report.html").read_text()
    assert f"{100 * best:.2f}" in page
    assert all(title in page for title in ("Validation mIoU", "Training loss", "Learning rate"))


def test_the_log_has_one_row_per_epoch_with_steps_counted_on(straight):
    _, output, _ = straight
    assert [(row["epoch"], row["step"]) for row in log_rows(output)] == [(1, 2), (2, 4), (3, 6)]


def test_the_weights_file_loads_without_the_run_folder(straight, tmp_path):
    _, output, _ = straight
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((output / "best.safetensors").read_bytes())
    model = load_model(alone)
    assert model.metadata.label_map.num_classes == 11
    assert torch.isfinite(model(torch.zeros(1, 3, 32, 32))).all()


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("train", "lr", 0.04),
        ("train", "epochs", 4),
        ("augment", "crop_size", (64, 64)),
        ("model", "stride", 8),
        ("data", "val_split", "train"),
    ],
)
def test_a_resume_with_a_changed_field_is_refused_by_its_name(straight, section, field, value):
    config, output, _ = straight
    changed = dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **{field: value})})
    before = (output / "last.ckpt").read_bytes()
    with pytest.raises(UserError, match=rf"^{section}\.{field} "):
        run(changed, output, resume=True)
    assert (output / "last.ckpt").read_bytes() == before


def test_all_fields_that_differ_are_named(straight):
    config, output, _ = straight
    with pytest.raises(UserError, match=r"^train\.epochs 9 \(the run has 3\), train\.lr 0\.01 \(the run has 0\.05\): "):
        run(with_train(config, epochs=9, lr=0.01), output, resume=True)


def test_a_checkpoint_that_was_copied_from_another_run_is_refused(straight, config, tmp_path):
    _, output, _ = straight
    (tmp_path / "last.ckpt").write_bytes((output / "last.ckpt").read_bytes())
    with pytest.raises(UserError, match=r"^train\.lr 0\.01 \(the run has 0\.05\)"):
        run(with_train(config, lr=0.01), tmp_path, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_run_may_move_to_another_folder_and_number_of_workers(straight, tmp_path, root):
    config, output, _ = straight
    moved = tmp_path / "moved"
    moved.symlink_to(root)
    data = dataclasses.replace(config.data, root=str(moved), workers=1)
    check_output(dataclasses.replace(config, name="other", data=data), output, resume=True)


def test_a_run_that_is_older_than_a_field_is_resumed_with_the_fields_default(straight, tmp_path):
    config, _, _ = straight
    content = yaml.safe_load(to_yaml(config))
    del content["train"]["schedule"], content["train"]["step_epochs"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    check_output(config, tmp_path, resume=True)
    with pytest.raises(UserError, match=r"^train\.schedule step \(the run has poly\): the run in "):
        check_output(with_train(config, schedule="step"), tmp_path, resume=True)


@pytest.mark.parametrize(("before", "now"), [(Config(), PretrainConfig()), (PretrainConfig(), Config())])
def test_a_run_of_another_command_is_not_resumed(tmp_path, before, now):
    (tmp_path / "config.yaml").write_text(to_yaml(before))
    with pytest.raises(
        UserError, match=r"which this command does not have: continue it with the command that started it"
    ):
        check_output(now, tmp_path, resume=True)


def test_a_resume_of_a_finished_run_trains_no_further(straight, config, tmp_path):
    _, output, _ = straight
    for name in ("config.yaml", "last.ckpt"):
        (tmp_path / name).write_bytes((output / name).read_bytes())
    state = run(config, tmp_path, resume=True)
    assert (state.epoch, state.step) == (3, 6)
    assert_same_tensors(state.model.state_dict(), load_checkpoint(output / "last.ckpt")["model"])


def test_a_finished_run_without_its_best_weights_does_not_claim_them(straight, config, tmp_path):
    _, output, state = straight
    for name in ("config.yaml", "last.ckpt"):
        (tmp_path / name).write_bytes((output / name).read_bytes())
    with pytest.raises(UserError) as caught:
        train(config, tmp_path, resume=True, report=no_report)
    assert str(caught.value) == (
        f"{tmp_path / 'best.safetensors'}: no such file, although the run has a best val mIoU of "
        f"{state.best('miou'):.4f}: restore it, or start a new run in another --output"
    )


def test_a_run_whose_checkpoints_are_gone_is_not_begun_again(straight, config, tmp_path):
    _, output, _ = straight
    for name in ("config.yaml", "log.jsonl"):
        (tmp_path / name).write_bytes((output / name).read_bytes())
    with pytest.raises(UserError, match=r"no intact checkpoint: last\.ckpt is missing; previous\.ckpt is missing"):
        run(config, tmp_path, resume=True)
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "log.jsonl"}


@pytest.mark.usefixtures("no_scores")
def test_a_resume_without_a_checkpoint_starts_from_the_beginning(config, tmp_path):
    torch.manual_seed(7)
    before, messages = torch.get_rng_state(), []
    task = Segmentation(with_train(config, epochs=1, warmup_steps=0))
    state = fit(task, tmp_path / "new", resume=True, report=messages.append)
    assert (state.epoch, state.step, len(log_rows(tmp_path / "new"))) == (1, 2, 1)
    assert messages[0] == f"{tmp_path / 'new'}: nothing to resume from, the run begins"
    assert "  lr 4e-06  " in epoch_summary(state.log[0] | {"lr": 4e-6}, 1, task.metrics)
    assert torch.equal(torch.get_rng_state(), before)  # the caller's own numbers do not repeat


def test_a_folder_that_holds_a_run_is_refused_and_left_as_it_is(straight):
    config, output, _ = straight
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    with pytest.raises(UserError, match=r"already holds a run.*--resume"):
        run(config, output)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


def test_a_run_that_begins_while_another_is_built_is_left_as_it_is(straight, config, tmp_path, monkeypatch):
    _, whole, _ = straight
    open_run = trainer.open_run

    def slowly(*arguments):
        opened = open_run(*arguments)
        shutil.copytree(whole, tmp_path / "run")
        return opened

    monkeypatch.setattr(trainer, "open_run", slowly)
    with pytest.raises(UserError, match=r"run: already holds a run: continue it with --resume, or use another --outp"):
        run(config, tmp_path / "run")
    names = [path.name for path in whole.iterdir()]
    assert filecmp.cmpfiles(whole, tmp_path / "run", names, shallow=False) == (names, [], [])


@pytest.mark.usefixtures("no_scores")
@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("moment", ["within an epoch", "in a validation"])
def test_a_run_ends_when_another_begins_in_its_folder(config, tmp_path, monkeypatch, moment, resume):
    output, files = tmp_path / "run", ("last.ckpt", "best.safetensors", "log.jsonl")
    config = with_train(config, eval_every=1, checkpoint_minutes=0)
    if resume:
        with pytest.raises(KeyboardInterrupt):
            fit(Segmentation(config), output, report=interrupt_after(1))

    def contents():
        return [(output / name).read_bytes() if (output / name).exists() else None for name in files]

    def taken_over():
        there = json.loads((output / "environment.json").read_text())
        (output / "environment.json").write_text(json.dumps(there | {"process": "elsewhere 12"}))
        left.append(contents())

    def step_function(*arguments):
        step = real(*arguments)
        return lambda *batch: (step(*batch), taken_over())[0]

    left, real = [], training_run.step_function
    if moment == "within an epoch":
        monkeypatch.setattr(training_run, "step_function", step_function)
    else:
        monkeypatch.setattr(Segmentation, "validator", lambda *_: lambda _: taken_over() or Validation({"miou": 0.9}))
    with pytest.raises(UserError, match=r"run: another run has begun in it \(elsewhere 12\), .*: use another --output"):
        run(config, output, resume=resume)
    assert left == [contents()]


def test_a_run_goes_on_without_the_file_that_names_its_process(config, tmp_path, no_scores):
    output = tmp_path / "run"

    def report(line: str) -> None:
        (output / "environment.json").unlink(missing_ok=True)

    assert fit(Segmentation(config), output, report=report).epoch == config.train.epochs


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    "name", ["train.txt", "val.txt", "scores.json", "report.html", "log.jsonl", "environment.json", "best.safetensors"]
)
def test_files_that_are_no_runs_are_not_overwritten(config, tmp_path, name, resume):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError) as caught:
        run(config, tmp_path, resume)
    assert str(caught.value) == (
        f"{tmp_path}: has {name} but no config.yaml: it is no run, so nothing in it is overwritten: use another "
        "--output"
    )
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


@pytest.mark.usefixtures("no_scores")
@pytest.mark.parametrize("function", ["write_text", pytest.param("record_files", marks=pytest.mark.slow), "write_json"])
def test_a_start_that_was_killed_at_any_file_can_be_resumed(config, tmp_path, monkeypatch, function):
    def killed(*arguments):
        raise KeyboardInterrupt

    config = with_train(config, epochs=1, warmup_steps=0)
    with monkeypatch.context() as patch:
        patch.setattr(trainer, function, killed)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path)
    assert run(config, tmp_path, resume=True).epoch == 1


def test_a_file_in_the_place_of_the_run_folder_is_refused(config, tmp_path):
    (tmp_path / "run").write_text("mine")
    for output in (tmp_path / "run", tmp_path / "run/below"):
        with pytest.raises(UserError, match=rf"^{output}: cannot be a folder \({tmp_path / 'run'} is not a folder\): "):
            run(config, output)


def test_class_weights_of_another_length_than_the_classes_are_refused(config, tmp_path):
    with pytest.raises(UserError, match=r"train\.class_weights has 3 numbers, the data set 11 classes"):
        run(with_train(config, class_weights=[1.0, 2.0, 3.0]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_class_of_weight_zero_teaches_nothing(config):
    config = with_train(config, class_weights=[1.0] * 3 + [0.0] + [1.0] * 7)
    assert make_step(config)(make_batch(label=3)).loss == 0


@pytest.mark.usefixtures("no_page")
@pytest.mark.parametrize(
    ("scores", "best"), [((0.5, 0.2), 1), pytest.param((0.2, 0.5), 2, marks=pytest.mark.slow), ((None, 0.1), 2)]
)
def test_the_best_weights_are_those_of_the_best_validation(config, tmp_path, monkeypatch, scores, best):
    made, seen = list(scores), []

    def validator(task, validation, processes):
        def scored(model):
            seen.append({name: value.clone() for name, value in model.state_dict().items()})
            return Validation({"miou": made[len(seen) - 1]})

        return scored

    monkeypatch.setattr(segmentation.Segmentation, "validator", validator)
    state = run(with_train(config, epochs=2, batch_size=4), tmp_path)
    assert state.best("miou") == max(score for score in scores if score is not None)
    assert_same_tensors(load_model(tmp_path / "best.safetensors").state_dict(), seen[best - 1])


@pytest.mark.usefixtures("no_scores")
def test_the_last_epoch_is_validated_whatever_eval_every_says(config, tmp_path):
    run(with_train(config, epochs=3, eval_every=2, batch_size=4), tmp_path)
    assert [row["miou"] is not None for row in log_rows(tmp_path)] == [False, True, True]


@pytest.mark.usefixtures("no_scores")
def test_the_workers_and_what_the_caller_has_set_change_no_weight(straight, config, tmp_path):
    _, _, state = straight
    config.data.workers = 1
    with foreign_defaults():
        other = run(config, tmp_path)
    assert_same_tensors(other.model.state_dict(), state.model.state_dict())


@pytest.mark.usefixtures("no_scores")
def test_every_epoch_draws_samples_of_its_own_number(config, tmp_path, monkeypatch):
    drawn, draws = [], EpochBatches.__iter__

    def watched(sampler):
        keys = list(draws(sampler))
        drawn.append({key.epoch for batch in keys for key in batch})
        return iter(keys)

    monkeypatch.setattr(EpochBatches, "__iter__", watched)
    run(with_train(config, epochs=2), tmp_path)
    assert drawn == [{0}, {1}]


def test_another_seed_gives_other_weights(config):
    one, other = (new_state(with_train(config, seed=seed)).model.state_dict() for seed in (0, 1))
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_the_learning_rate_of_each_step_follows_the_schedule(config):
    state = new_state(config)
    step = make_step(config, state, batches_per_epoch=2)  # of three epochs
    for index in range(3):
        expected = 0.05 * poly(index, 6, warmup=2, power=0.9)
        assert step(make_batch()).lr == expected
        assert {group["lr"] for group in state.optimizer.param_groups} == {expected}


def test_a_step_after_a_validation_is_taken_in_training_mode(config):
    state = new_state(config)
    state.model.eval()
    norm = next(m for m in state.model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    before = norm.running_mean.clone()
    make_step(config, state)(make_batch())
    assert all(module.training for module in state.model.modules())
    assert not torch.equal(norm.running_mean, before)


# Runs that start from weights


@pytest.fixture(scope="module")
def started(tmp_path_factory, root):
    """Weights of a network of the run's kind, with a mean and classes of its own."""
    torch.manual_seed(9)
    model = create_model(TINY, 11, 4)
    model.metadata = replace(model.metadata, mean=(0.25, 0.5, 0.75))
    path = tmp_path_factory.mktemp("started") / "start.safetensors"
    save_model(model, path)
    return model, path


def starting(config: Config, **model: object) -> Config:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **model))


@pytest.mark.usefixtures("no_scores")
@pytest.mark.parametrize("kind", ["weights", "backbone_weights"])
def test_a_run_starts_from_weights_and_says_so_in_what_it_leaves(config, started, kind, tmp_path, caplog):
    model, path = started
    config = with_train(starting(config, **{kind: str(path)}), epochs=1, lr=0.0, momentum=0.0, weight_decay=0.0)
    with caplog.at_level("INFO"):
        state = run(config, tmp_path)
    drawn = {name: tensor for name, tensor in model.named_parameters() if tensor.ndim == 4 and ".up." not in name}
    for name, tensor in drawn.items():
        kept = torch.equal(dict(state.model.named_parameters())[name], tensor)
        assert kept == (kind == "weights" or name.startswith("backbone.")), name
    digest = sha256(path)
    assert f"{kind} {path}: dlaseg's segmentation layout, tiny, 11 classes, stride 4, 3x3 nodes" in caplog.text
    assert digest in caplog.text
    warnings = " ".join(record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert kind == "backbone_weights" or "its classes are class 0, class 1" in warnings
    best = load_model(tmp_path / "best.safetensors")
    assert [(origin.argument, origin.sha256) for origin in best.metadata.origin] == [(kind, digest)]
    assert json.loads((tmp_path / "environment.json").read_text())["weights"] == [asdict(best.metadata.origin[0])]
    assert best.metadata.mean == (0.25, 0.5, 0.75)
    assert best.metadata.label_map.names[0] == "sky"  # the data set's, not the file's


@pytest.mark.slow
@pytest.mark.usefixtures("no_scores")
def test_a_resumed_run_needs_its_starting_weights_no_more(config, started, tmp_path):
    gone = tmp_path / "gone.safetensors"
    gone.write_bytes(started[1].read_bytes())
    config = with_train(starting(config, backbone_weights=str(gone)), epochs=2)
    straight = run(config, tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        fit(Segmentation(config), tmp_path / "resumed", report=interrupt_after(1))
    gone.unlink()
    resumed = run(config, tmp_path / "resumed", resume=True)
    assert_same_tensors(straight.model.state_dict(), resumed.model.state_dict())
    assert resumed.model.metadata.mean == (0.25, 0.5, 0.75)
    assert resumed.model.metadata.origin == straight.model.metadata.origin != ()


def test_weights_that_do_not_fit_leave_no_run_behind(config, started, tmp_path):
    with pytest.raises(UserError, match="this model has stride 8: make it with stride 4"):
        run(starting(config, weights=str(started[1]), stride=8), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_weights_and_backbone_weights_exclude_each_other(config, tmp_path):
    with pytest.raises(UserError, match=r"model\.weights a and model\.backbone_weights b: one would overwrite"):
        run(starting(config, weights="a", backbone_weights="b"), tmp_path / "run")


def test_crops_are_padded_with_the_mean_colour_of_the_network(config, monkeypatch):
    fills = []
    monkeypatch.setattr(
        segmentation, "Augmentation", lambda config, fill, side: fills.append(fill) or Augmentation(config, fill, side)
    )
    task, model = Segmentation(config), new_state(config).model
    model.metadata = dataclasses.replace(model.metadata, mean=(0.0, 0.2, 1.0))
    task.train_loader(task.open_splits()[0], model, SINGLE_PROCESS)
    assert fills == [[0.0, 51.0, 255.0]]


def test_a_validation_split_of_one_class_may_be_predicted_as_one(config, caplog):
    confusion, labels = ConfusionMatrix(11), Segmentation(config).open_splits()[0].label_map
    confusion.matrix[3, 3] = 9
    segmentation._warn_of_one_class(confusion, labels)
    assert caplog.text == ""


@pytest.mark.slow
def test_a_resumed_run_may_have_other_trackers(config, tmp_path, no_page):
    config = with_train(config, epochs=1, schedule="step", warmup_steps=0)
    run(config, tmp_path / "run")
    assert run(with_train(config, epochs=2, trackers=[]), tmp_path / "run", resume=True).epoch == 2


@pytest.mark.slow
def test_the_time_of_an_epoch_includes_that_before_a_resume(config, tmp_path, no_page, monkeypatch):
    config = with_train(config, epochs=1)
    build = trainer.open_run

    def stopping(*args):
        opened = build(*args)
        take = opened.step
        opened.step = lambda batches, requested: dataclasses.replace(take(batches, requested), stop=True)
        return opened

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "open_run", stopping)
        with pytest.raises(Stopped):
            run(config, tmp_path / "run")
    state = load_checkpoint(tmp_path / "run/last.ckpt")
    assert state["progress"]["batches"] == 1
    state["progress"] |= {"seconds": 1000.0, "waited": 500.0}
    del state["format"]
    save_checkpoint(tmp_path / "run", state)
    (row,) = run(config, tmp_path / "run", resume=True).log
    assert row["images_per_second"] < 1
    assert 0.4 < row["data_wait"] < 0.51


def test_checkpoints_within_an_epoch_are_minutes_apart(config, tmp_path, no_scores, monkeypatch):
    ticks, saved, save = iter(range(10**6)), [], trainer.save
    monkeypatch.setattr(trainer, "time", SimpleNamespace(perf_counter=lambda: 60.0 * next(ticks)))  # two for each step
    monkeypatch.setattr(trainer, "save", lambda run: saved.append(run.state.step) or save(run))
    config = with_train(config, epochs=1, batch_size=1, checkpoint_minutes=3, warmup_steps=0)
    steps = run(config, tmp_path / "run").step
    assert steps >= 4
    assert [step for step in saved if step < steps] == list(range(2, steps, 2))


def test_of_equal_validations_the_first_one_is_the_best(config, tmp_path, no_page, monkeypatch):
    scores, saved, save = iter([0.25, 0.5, 0.5]), [], trainer.save_model
    monkeypatch.setattr(Segmentation, "validator", lambda *_: lambda model: Validation({"miou": next(scores)}))
    monkeypatch.setattr(trainer, "save_model", lambda *arguments: saved.append(None) or save(*arguments))
    run(with_train(config, epochs=3, batch_size=4), tmp_path)
    assert len(saved) == 2
