import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from dlaseg import cli
from dlaseg.config import (
    AugmentConfig,
    Config,
    DataConfig,
    LearningConfig,
    LossConfig,
    PretrainAugmentConfig,
    PretrainConfig,
    PretrainDataConfig,
    PretrainModelConfig,
    TrainConfig,
)
from dlaseg.errors import UserError
from dlaseg.records import check_keys, field_names, flatten, to_yaml
from dlaseg.rules import validate
from dlaseg.training import trainer
from dlaseg.training.state import TrainState

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.yaml"))


def command_of(path: Path) -> str:
    """The command that a config's header says to give it to."""
    return re.search(rf"^#   dlaseg (\w+) --config configs/{path.name} ", path.read_text(), re.MULTILINE)[1]


KINDS = {"train": Config, "pretrain": PretrainConfig}


@pytest.fixture
def parse(monkeypatch):
    """The record that a command makes of its arguments, `dlaseg train` by default; nothing is trained."""

    def parsed(*arguments: str, command: str = "train") -> Config | PretrainConfig:
        seen = []

        def fit(task, output, resume):
            seen.append(task.config)
            return TrainState(None, None)

        monkeypatch.setattr(trainer, "fit", fit)
        assert cli.COMMANDS[command](arguments) == 0
        return seen[0]

    return parsed


@pytest.fixture
def parse_text(parse, tmp_path):
    def parsed(text: str, command: str = "train") -> Config | PretrainConfig:
        (tmp_path / "run.yaml").write_text(text)
        return parse("--config", str(tmp_path / "run.yaml"), command=command)

    return parsed


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_is_valid(parse, path):
    config = parse("--config", str(path), command=command_of(path))
    assert type(config) is KINDS[command_of(path)]
    validate(config)
    assert config.name == path.stem


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_arrives_value_by_value(parse, path):
    written = flatten(yaml.safe_load(path.read_text()))
    arrived = flatten(yaml.safe_load(to_yaml(parse("--config", str(path), command=command_of(path)))))
    assert {name: arrived[name] for name in written} == written


def test_there_are_shipped_configs():
    assert len(CONFIGS) >= 3


@pytest.mark.parametrize("command", KINDS)
def test_an_empty_command_line_gives_the_defaults(parse, command):
    assert parse(command=command) == KINDS[command]()


@pytest.mark.parametrize("kind", KINDS.values())
def test_the_defaults_are_valid(kind):
    validate(kind())


def test_a_part_of_the_pretraining_recipe_can_be_changed_alone(parse_text):
    config = parse_text("train: {lr: 0.5}\n", command="pretrain")
    assert config.train == dataclasses.replace(PretrainConfig().train, lr=0.5)


def test_the_defaults_of_pretraining_are_the_shipped_recipe(parse):
    path = next(path for path in CONFIGS if path.stem == "imagenet_dla34")
    config, defaults = parse("--config", str(path), command="pretrain"), PretrainConfig()
    assert (config.augment, config.train, config.model) == (defaults.augment, defaults.train, defaults.model)


def test_a_pretraining_record_written_and_parsed_again_is_equal(parse_text):
    config = PretrainConfig(
        name="x: ä",
        data=PretrainDataConfig("a b", workers=0),
        model=PretrainModelConfig("dla46_c", 3, "a.safetensors"),
        augment=PretrainAugmentConfig(64, 96, (0.2, 0.7), (0.5, 2), 0.1, 0),
        train=LearningConfig(schedule="step", step_epochs=3, step_gamma=0.3),
    )
    assert parse_text(to_yaml(config), command="pretrain") == config


def test_a_record_written_and_parsed_again_is_equal(parse_text):
    config = Config(
        name="x: ä",
        data=DataConfig("camvid", "a b", workers=0),
        augment=AugmentConfig(scale=(0.7, 1.1), crop_size=(32, 96), rotation=0.5),
        train=TrainConfig(
            class_weights=[1.0, 0.5],
            weight_decay=1e-5,
            precision="bfloat16",
            device="cuda:1",
            losses=[LossConfig("ohem", threshold=0.6), LossConfig("dice", 0.5)],
            clip_grad_norm=1.0,
            patience=3,
        ),
    )
    assert parse_text(to_yaml(config)) == config


def test_the_command_line_wins_over_the_file(parse, tmp_path):
    (tmp_path / "run.yaml").write_text("train: {lr: 0.5, epochs: 7}\n")
    config = parse("--config", str(tmp_path / "run.yaml"), "--train.lr", "0.25")
    assert (config.train.lr, config.train.epochs) == (0.25, 7)


@pytest.mark.parametrize(("written", "value"), [("1e-3", 1e-3), ("1.0e-3", 1e-3), ("5E-2", 5e-2), ("1", 1.0)])
def test_a_number_in_scientific_notation_is_a_number(parse_text, written, value):
    lr = parse_text(f"train: {{lr: {written}}}\n").train.lr
    assert isinstance(lr, float)
    assert lr == value


@pytest.mark.parametrize(
    ("text", "key", "meant"),
    [
        ("train: {learning_rate: 1}", "train.learning_rate", "train.lr"),
        ("train: {wd: 1}", "train.wd", "train.weight_decay"),
        ("learning_rate: 1", "learning_rate", "train.lr"),
        ("train: {epoch: 1}", "train.epoch", "train.epochs"),
        ("augment: {cropsize: [64, 64]}", "augment.cropsize", "augment.crop_size"),
        ("model: {strid: 2}", "model.strid", "model.stride"),
        ("trian: {lr: 1}", "trian.lr", "train.lr"),
        ("lr: 1", "lr", "train.lr"),
    ],
)
def test_an_unknown_key_is_refused_by_file_and_nearest_field(parse_text, tmp_path, text, key, meant):
    with pytest.raises(UserError) as caught:
        parse_text(text)
    assert str(caught.value).startswith(f"{tmp_path / 'run.yaml'}: unknown field '{key}': did you mean '{meant}")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{name: dice, weigth: 2}", r"unknown field train\.losses\[1\]\.weigth: did you mean 'weight'\?$"),
        ("{nmae: dice}", r"unknown field train\.losses\[1\]\.nmae: did you mean 'name'\?$"),
        ("dice", r"train\.losses\[1\] 'dice': no mapping; use one such as {name: \.\.\.}$"),
    ],
)
def test_so_it_is_in_a_list(parse_text, entry, said):
    with pytest.raises(UserError, match=said):
        parse_text(f"train: {{losses: [{{name: lovasz}}, {entry}]}}")


@pytest.mark.parametrize(
    ("field", "value"),
    [("weight", 0.0), ("label_smoothing", 1.5), ("threshold", -1.0), ("min_kept", 2.0), ("gamma", float("nan"))],
)
def test_a_loss_outside_its_rules_is_refused_by_its_place(field, value):
    losses = [LossConfig(), LossConfig(**{"name": "focal", field: value})]
    with pytest.raises(UserError, match=rf"^train\.losses\[1\]\.{field} "):
        validate(changed("train.losses", losses))


@pytest.mark.parametrize("content", [None, [1], "text", 3])
def test_a_file_without_a_mapping_is_refused(content):
    with pytest.raises(UserError, match=r"^f\.yaml: no mapping"):
        check_keys(content, "f.yaml", Config)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_name_only_known_fields(path):
    kind = KINDS[command_of(path)]
    check_keys(yaml.safe_load(path.read_text()), path.name, kind)
    assert flatten(yaml.safe_load(path.read_text())).keys() <= set(field_names(kind))


def test_a_record_of_another_command_is_refused(parse, parse_text, tmp_path):
    with pytest.raises(UserError, match="a record of another command: use dlaseg train"):
        parse_text(to_yaml(Config()), command="pretrain")
    with pytest.raises(UserError, match="a record of another command: use dlaseg pretrain"):
        parse_text(to_yaml(PretrainConfig()))
    with pytest.raises(UserError, match=r"unknown option --train\.class_weights"):
        parse("--train.class_weights", "[1, 2]", command="pretrain")


@pytest.mark.parametrize("value", ["[64]", "[64, 64, 64]", "[]", "64"])
def test_a_crop_size_of_another_length_than_two_is_refused(parse, value):
    with pytest.raises((UserError, TypeError), match=r"augment\.crop_size"):
        parse("--augment.crop_size", value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("train.lr", "abc"),
        ("train.epochs", "1.5"),
        ("train.precision", "float8"),
        ("train.class_weights", "median"),
        ("train.losses", "[{name: dicee}]"),
        ("train.class_weights", "[1, a]"),
    ],
)
def test_a_value_of_another_type_is_refused_by_the_field(parse, field, value):
    with pytest.raises(UserError, match=rf'{field.replace(".", "[.]")}"'):
        parse(f"--{field}", value)


def changed(name: str, value: object, kind: type = Config) -> Config | PretrainConfig:
    section, field = name.split(".")
    config = kind()
    return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **{field: value})})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data.workers", -1),
        ("train.epochs", 0),
        ("train.batch_size", 0),
        ("train.warmup_steps", -1),
        ("train.eval_every", 0),
        ("train.seed", -1),
        ("augment.rotation", -1.0),
        ("augment.rotation", 181.0),
        ("augment.jitter", 1.1),
        ("augment.flip", -0.1),
        ("augment.flip", 1.5),
        ("train.lr", -0.1),
        ("train.lr", float("inf")),
        ("train.lr", float("nan")),
        ("train.momentum", 1.5),
        ("train.weight_decay", -1e-4),
        ("train.poly_power", -1.0),
        ("train.step_epochs", 0),
        ("train.step_gamma", 1.1),
        ("train.step_gamma", -0.1),
        ("augment.scale", (0.0, 1.0)),
        ("augment.scale", (2.0, 1.0)),
        ("augment.scale", (1.0, 11.0)),
        ("augment.scale", (float("nan"), 1.0)),
        ("augment.crop_size", (500, 512)),
        ("augment.crop_size", (512, 500)),
        ("augment.crop_size", (0, 32)),
        ("augment.crop_size", (-32, 32)),
        ("train.class_weights", [1.0, -1.0]),
        ("train.class_weights", [float("nan")]),
        ("train.grad_accum_steps", 0),
        ("train.ema_decay", 1.0),
        ("train.ema_decay", -0.1),
        ("train.clip_grad_norm", 0.0),
        ("train.clip_grad_norm", float("inf")),
        ("train.patience", 0),
        ("train.max_nonfinite_steps", -1),
        ("train.checkpoint_minutes", -1.0),
        ("train.backbone_lr_factor", -1.0),
        ("train.losses", []),
    ],
)
def test_a_value_outside_its_rule_is_refused_by_the_field(name, value):
    with pytest.raises(UserError) as caught:
        validate(changed(name, value))
    assert str(caught.value).startswith(f"{name} ")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data.workers", -1),
        ("train.lr", float("nan")),
        ("train.step_epochs", 0),
        ("augment.crop_size", 200),
        ("augment.crop_size", 0),
        ("augment.resize", 223),
        ("augment.area", (0.0, 1.0)),
        ("augment.area", (0.5, 0.4)),
        ("augment.area", (0.5, 1.1)),
        ("augment.area", (float("nan"), 1.0)),
        ("augment.aspect", (0.0, 1.0)),
        ("augment.aspect", (2.0, 1.0)),
        ("augment.aspect", (1.0, float("inf"))),
        ("augment.jitter", 1.1),
        ("augment.flip", -0.1),
    ],
)
def test_a_pretraining_value_outside_its_rule_is_refused_by_the_field(name, value):
    with pytest.raises(UserError) as caught:
        validate(changed(name, value, PretrainConfig))
    assert str(caught.value).startswith(f"{name} ")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("augment.resize", 224), ("augment.area", (1.0, 1.0)), ("augment.aspect", (1.0, 1.0)), ("train.step_gamma", 1.0)],
)
def test_a_pretraining_value_at_the_edge_of_its_rule_is_taken(name, value):
    validate(changed(name, value, PretrainConfig))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data.workers", 0),
        ("train.warmup_steps", 0),
        ("augment.rotation", 180.0),
        ("augment.scale", (1.0, 1.0)),
        ("augment.crop_size", (32, 64)),
        ("train.class_weights", [0.0, 2.0]),
    ],
)
def test_a_value_at_the_edge_of_its_rule_is_taken(name, value):
    validate(changed(name, value))


def test_a_crop_of_500_is_refused_with_the_nearest_sizes_that_fit():
    with pytest.raises(UserError, match=r"500 x 40: .* use 512 x 32$"):
        validate(changed("augment.crop_size", (500, 40)))


def test_a_single_crop_of_32_is_refused_for_batch_norm():
    config = changed("augment.crop_size", (32, 32))
    config.train.batch_size = 1
    with pytest.raises(UserError, match=r"^train\.batch_size 1 "):
        validate(config)
