import dataclasses
from pathlib import Path

import pytest
import yaml

from dlaseg import cli
from dlaseg.config import (
    AugmentConfig,
    Config,
    DataConfig,
    TrainConfig,
    check_keys,
    field_names,
    flatten,
    nearest,
    to_yaml,
    validate,
)
from dlaseg.errors import UserError
from dlaseg.training import trainer

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.yaml"))


@pytest.fixture
def parse(monkeypatch):
    """The record that `dlaseg train` makes of its arguments; nothing is trained."""

    def parsed(*arguments: str) -> Config:
        seen = []

        def fit(config, output, resume):
            seen.append(config)
            return trainer.TrainState(None, None, 0, 0, [])

        monkeypatch.setattr(trainer, "fit", fit)
        assert cli.train(arguments) == 0
        return seen[0]

    return parsed


@pytest.fixture
def parse_text(parse, tmp_path):
    def parsed(text: str) -> Config:
        (tmp_path / "run.yaml").write_text(text)
        return parse("--config", str(tmp_path / "run.yaml"))

    return parsed


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_is_valid(parse, path):
    config = parse("--config", str(path))
    validate(config)
    assert config.name == path.stem


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_arrives_value_by_value(parse, path):
    written = flatten(yaml.safe_load(path.read_text()))
    arrived = flatten(yaml.safe_load(to_yaml(parse("--config", str(path)))))
    assert {name: arrived[name] for name in written} == written


def test_there_are_shipped_configs():
    assert len(CONFIGS) >= 3


def test_an_empty_command_line_gives_the_defaults(parse):
    assert parse() == Config()


def test_the_defaults_are_valid():
    validate(Config())


def test_a_record_written_and_parsed_again_is_equal(parse_text):
    config = Config(
        name="x: ä",
        data=DataConfig("camvid", "a b", workers=0),
        augment=AugmentConfig(scale=(0.7, 1.1), crop_size=(32, 96), rotation=0.5),
        train=TrainConfig(class_weights=[1.0, 0.5], weight_decay=1e-5, precision="bfloat16", device="cuda:1"),
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
        ("train: {learning_rate: 1}", "train.learning_rate", "train."),
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


@pytest.mark.parametrize("content", [None, [1], "text", 3])
def test_a_file_without_a_mapping_is_refused(content):
    with pytest.raises(UserError, match=r"^f\.yaml: no mapping"):
        check_keys(content, "f.yaml")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_name_only_known_fields(path):
    check_keys(yaml.safe_load(path.read_text()), path.name)
    assert flatten(yaml.safe_load(path.read_text())).keys() <= set(field_names())


@pytest.mark.parametrize("value", ["[64]", "[64, 64, 64]", "[]", "64"])
def test_a_crop_size_of_another_length_than_two_is_refused(parse, value):
    with pytest.raises((UserError, TypeError), match=r"augment\.crop_size"):
        parse("--augment.crop_size", value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("train.lr", "abc"),
        ("train.epochs", "1.5"),
        ("train.precision", "float16"),
        ("data.dataset", "ade"),
        ("train.class_weights", "[1, a]"),
    ],
)
def test_a_value_of_another_type_is_refused_by_the_field(parse, field, value):
    with pytest.raises(UserError, match=rf'{field.replace(".", "[.]")}"'):
        parse(f"--{field}", value)


def changed(name: str, value: object) -> Config:
    section, field = name.split(".")
    config = Config()
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
        ("train.power", -1.0),
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


def test_of_dotted_names_the_last_part_counts_most():
    assert nearest("lr", ["train.lr", "lrxx", "data.root"]) == "train.lr"
