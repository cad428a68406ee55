"""Values that are absurd, or meant to do harm, are refused in one line when a config is made."""

import dataclasses
import os
from pathlib import Path

import pytest

from dlaseg import metadata
from dlaseg.config import checks
from dlaseg.config.pretraining import PretrainAugmentConfig, PretrainConfig, PretrainDataConfig, PretrainModelConfig
from dlaseg.config.segmentation import AugmentConfig, Config, DataConfig, LossConfig, ModelConfig, TrainConfig
from dlaseg.config.training import BaseTrainConfig
from dlaseg.errors import UserError
from dlaseg.models import rendering

KINDS = pytest.mark.parametrize("kind", [Config, PretrainConfig])


@KINDS
@pytest.mark.parametrize(
    ("name", "fit"),
    [
        ("../../x", "x"),
        ("/var/x", "var_x"),
        ("a/b", "a_b"),
        ("a b", "a_b"),
        ("x; touch PWNED", "x_touch_PWNED"),
        ("..", "run"),
        (".", "run"),
        (".hidden", "hidden"),
        ("-rf", "rf"),
        ("", "run"),
        ("ä", "run"),
        ("a\n", "a"),
        ("\x1b[31m", "31m"),
        ("a\\b", "a_b"),
        ("a" * 101, "a" * 100),
    ],
)
def test_a_name_of_a_run_is_one_part_of_a_path(kind, name, fit):
    with pytest.raises(UserError, match=r"^name ") as caught:
        kind(name=name)
    assert str(caught.value).endswith(f"such as {fit}")
    kind(name=fit)


@KINDS
@pytest.mark.parametrize("name", ["a", "_", "A-1.b_2", "0", "a" * 100, "x.."])
def test_a_name_of_these_characters_is_accepted(kind, name):
    assert kind(name=name).name == name


@pytest.mark.parametrize("kind", [DataConfig, PretrainDataConfig])
def test_more_workers_than_a_machine_can_run_are_refused(kind, monkeypatch):
    for cores, most in ((1, 32), (8, 32), (9, 36), (64, 256), (None, 32)):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        assert kind(workers=most).workers == most
        for workers in (most + 1, 1_000_000, 10_000_000_000_000, -1):
            with pytest.raises(UserError, match=rf"^data\.workers {workers}: use 0 to {most}, such as the number of"):
                kind(workers=workers)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 10**20),
        ("batch_size", 10**9),
        ("grad_accum_steps", 10**9),
        ("lr", 1e300),
        pytest.param("lr", 10**400, id="lr-400 digits"),
        pytest.param("lr", 16**5000, id="lr-too long to be written as decimals"),
        ("backbone_lr_factor", 1e300),
        ("weight_decay", 1e300),
        ("poly_power", 1e300),
        ("clip_grad_norm", 1e300),
        ("checkpoint_minutes", 1e300),
        ("patience", 10**20),
        ("step_epochs", 10**20),
        ("eval_every", 10**20),
        ("warmup_steps", 10**20),
        ("max_nonfinite_steps", 10**20),
        ("ema_decay", 1e300),
        ("ema_decay", float("nan")),
        ("seed", 10**23),
        ("seed", 2**64),
    ],
)
@pytest.mark.parametrize("kind", [TrainConfig, BaseTrainConfig])
def test_an_absurd_number_is_refused_with_its_bounds(kind, name, value):
    with pytest.raises(UserError, match=rf"^train\.{name} .*: use (a number (from|above) |0 \(no average\))"):
        kind(**{name: value})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainConfig(epochs="three"), r"train\.epochs three: expected a whole number, such as epochs: 500$"),
        (lambda: TrainConfig(epochs=1.5), r"train\.epochs 1\.5: expected a whole number, such as epochs: 500$"),
        (lambda: TrainConfig(epochs=True), r"train\.epochs true: expected a whole number"),
        (
            lambda: TrainConfig(lr=None),
            r"train\.lr has no value: expected a number, such as lr: 0\.01; or leave",
        ),
        (lambda: TrainConfig(optimizer="adam"), r"train\.optimizer adam: expected sgd, adamw or muon"),
        (
            lambda: TrainConfig(losses=[LossConfig(weight="much")]),
            r"train\.losses\[0\]\.weight much: expected a",
        ),
        (lambda: TrainConfig(losses=LossConfig()), r"train\.losses "),
        (lambda: AugmentConfig(crop_size=256), r"augment\.crop_size 256: expected two whole numbers"),
        (lambda: AugmentConfig(scale=(1.0,)), r"augment\.scale \[1\.0\]: expected two numbers"),
        (lambda: DataConfig(root=3), r"data\.root 3: expected text, such as root: '3'"),
        (lambda: ModelConfig(scales=0.5), r"model\.scales 0\.5: expected a list of numbers, such as scales: \[0\.5\]"),
        (lambda: PretrainAugmentConfig(jitter="a"), r"augment\.jitter a: expected a number"),
        (lambda: Config(data=None), r"data of type NoneType: use a DataConfig, such as DataConfig\(\)$"),
        (lambda: Config(train=DataConfig()), r"train of type DataConfig: use a TrainConfig, such as TrainConfig\(\)$"),
    ],
)
def test_a_value_of_another_type_is_refused_where_it_is_given(make, message):
    with pytest.raises(UserError, match=f"^{message}"):
        make()


def test_values_become_what_a_file_would_give():
    losses = [LossConfig("dice", weight=2)]
    train = TrainConfig(epochs="3", lr="1e-3", losses=losses)
    assert (train.epochs, train.lr, train.losses) == (3, 1e-3, [LossConfig("dice", weight=2.0)])
    assert AugmentConfig(crop_size=[64, 96]).crop_size == (64, 96)
    assert DataConfig(root=Path("data")).root == "data"


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 10**9), ("seed", 2**64 - 1), ("lr", 1000), ("checkpoint_minutes", 1e9), ("clip_grad_norm", 1e30)],
)
def test_a_number_at_its_upper_bound_is_accepted(name, value):
    assert getattr(BaseTrainConfig(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainConfig(class_weights=[0.0, 0.0]), r"train\.class_weights .*at least one of them above 0"),
        (lambda: TrainConfig(class_weights=[1e300, 1.0]), r"train\.class_weights .*numbers from 0 to 1e\+06"),
        (lambda: TrainConfig(class_weights=[]), r"train\.class_weights "),
        (
            lambda: TrainConfig(class_weights="median_frequency", losses=[LossConfig("dice")]),
            r"train\.class_weights median_frequency: only cross_entropy, ohem, focal take them, and train\.losses has ",
        ),
        (lambda: TrainConfig(losses=[LossConfig(weight=1e300)]), r"train\.losses\[0\]\.weight 1e\+300"),
        (lambda: TrainConfig(losses=[LossConfig("focal", gamma=1e300)]), r"train\.losses\[0\]\.gamma 1e\+300"),
        (lambda: TrainConfig(losses=[LossConfig()] * 21), r"train\.losses of 21 terms: use 20 or less"),
        (lambda: TrainConfig(auxiliary_losses=[]), r"train\.auxiliary_losses \[\]: there is nothing to minimise: use "),
        (lambda: TrainConfig(auxiliary_losses=[LossConfig()] * 21), r"train\.auxiliary_losses of 21 terms: use 20 or"),
        (
            lambda: TrainConfig(auxiliary_losses=[LossConfig(), LossConfig(weight=0.0)]),
            r"train\.auxiliary_losses\[1\]\.weight 0\.0: use a number above 0",
        ),
        (
            lambda: TrainConfig(auxiliary_losses=[LossConfig("dice", gamma=3.0)]),
            r"train\.auxiliary_losses\[0\]\.gamma 3\.0: an option of focal, which dice does not have: leave it out",
        ),
        (lambda: TrainConfig(trackers=["tensorboard"] * 21), r"train\.trackers of 21 entries: use 20 or less"),
        (lambda: AugmentConfig(crop_size=(100_000, 100_000)), r"augment\.crop_size 100000 x 100000: .* or less"),
        (lambda: AugmentConfig(crop_size=(32, 99_968)), r"augment\.crop_size 32 x 99968: .* or less"),
        (lambda: PretrainAugmentConfig(crop_size=99_968, resize=99_968), r"augment\.(crop_size|resize) 99968"),
        (lambda: PretrainAugmentConfig(resize=10**9), r"augment\.resize 1000000000: use a number from 32"),
        (lambda: PretrainAugmentConfig(aspect=(1e-300, 1.0)), r"augment\.aspect "),
        (lambda: DataConfig(class_uniform=1.1), r"data\.class_uniform 1\.1: use a number from 0 to 1$"),
        (lambda: DataConfig(class_uniform=float("nan")), r"data\.class_uniform nan: use a number from 0 to 1$"),
        (lambda: DataConfig(class_uniform_tile=31), r"data\.class_uniform_tile 31: use a number from 32 to 1000000$"),
        (lambda: DataConfig(split_seed=10**30), r"data\.split_seed "),
        (lambda: DataConfig(split_seed=-1), r"data\.split_seed -1"),
    ],
)
def test_other_absurd_values_are_refused_in_one_line(make, message):
    with pytest.raises(UserError, match=f"^{message}"):
        make()


@pytest.mark.parametrize("scale", [-1e308, 0.2, 4.1, float("nan"), float("inf"), 10**4000])
def test_scales_that_the_network_does_not_take_are_refused_before_any_size_is_computed(scale):
    with pytest.raises(UserError, match=r"^model\.scales \S+: use numbers from 0\.25 to 4$"):
        Config(model=ModelConfig(scales=[1.0, scale]))


def test_a_config_takes_the_scales_that_the_network_takes():
    assert (checks.SMALLEST_SCALE, checks.LARGEST_SCALE) == (rendering.SMALLEST_SCALE, rendering.LARGEST_SCALE)
    assert ModelConfig(scales=[0.25, 4.0]).scales == [0.25, 4.0]


def test_a_config_takes_the_short_sides_that_weights_take():
    for bounds in (checks, metadata):
        assert (bounds.SMALLEST_SHORT_SIDE, bounds.LARGEST_SHORT_SIDE) == (32, 100_000)
    for side in (0, 31, 100_001):
        with pytest.raises(UserError, match=r"^model\.max_short_side \d+: use a number from 32 to 100000$"):
            ModelConfig(max_short_side=side)


TEXTS = [
    (section, field.name)
    for section in (DataConfig, PretrainDataConfig, ModelConfig, PretrainModelConfig, TrainConfig)
    for field in dataclasses.fields(section)
    if field.type in (str, str | None)
]


@pytest.mark.parametrize(("section", "name"), TEXTS)
@pytest.mark.parametrize("text", ["a\0b", "a\nb", "\x1b[2J", "\ud800", "a" * 5000, "\x9b31m"])
def test_a_text_that_is_no_file_name_is_refused(section, name, text):
    with pytest.raises(UserError, match=rf"^(data|model|train)\.{name} .*: use at most 4096 characters, no control"):
        section(**{name: text})


def test_a_file_name_that_is_not_utf8_is_accepted():
    # As Python gives the byte E9 of a name in Latin-1
    assert DataConfig(root="caf\udce9").root == "caf\udce9"


def test_there_are_texts_in_every_section():
    assert {section for section, _ in TEXTS} >= {DataConfig, PretrainDataConfig, ModelConfig, TrainConfig}


@pytest.mark.parametrize(
    ("batch", "accum", "crop", "scales", "use"),
    [(1, 1, 32, [], 2), (4, 4, 32, [], 8), (1, 1, 64, [0.5, 1.0], 2), (2, 2, 96, [0.25, 1.0], 4)],
)
def test_batch_norm_of_a_single_value_is_refused(batch, accum, crop, scales, use):
    def config(batch_size: int) -> Config:
        return Config(
            model=ModelConfig(scales=scales),
            augment=AugmentConfig(crop_size=(crop, crop)),
            train=TrainConfig(batch_size=batch_size, grad_accum_steps=accum),
        )

    with pytest.raises(UserError, match=rf"batch_size {batch}.*: batch norm needs more than one value: use {use}$"):
        config(batch)
    config(use)
