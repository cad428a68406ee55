import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from dlaseg import cli
from dlaseg.commands.config_parser import check_keys, field_names
from dlaseg.config.files import flatten, read_yaml, to_yaml
from dlaseg.config.pretraining import PretrainAugmentConfig, PretrainConfig, PretrainDataConfig, PretrainModelConfig
from dlaseg.config.segmentation import AugmentConfig, Config, DataConfig, LossConfig, ModelConfig, TrainConfig
from dlaseg.config.training import RENAMED, BaseTrainConfig
from dlaseg.errors import UserError
from dlaseg.training import trainer
from dlaseg.training.state import TrainState

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.yaml"))


def command_of(path: Path) -> str:
    """The command in a config's header."""
    return re.search(rf"^#   dlaseg (\w+) --config configs/{path.name} ", path.read_text(), re.MULTILINE)[1]


KINDS = {"train": Config, "pretrain": PretrainConfig}


@pytest.fixture
def parse(monkeypatch):
    """The config that a command parses from its arguments, `dlaseg train` by default; nothing is trained."""

    def parsed(*arguments: str, command: str = "train") -> Config | PretrainConfig:
        seen = []

        def fit(task, output, resume, allow_trackers):
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
    assert config.name == path.stem


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_arrives_value_by_value(parse, path):
    written = flatten(yaml.safe_load(path.read_text()))
    arrived = flatten(yaml.safe_load(to_yaml(parse("--config", str(path), command=command_of(path)))))
    assert {name: arrived[name] for name in written} == written


def test_shipped_configs_exist():
    assert len(CONFIGS) >= 3


@pytest.mark.parametrize("command", KINDS)
def test_an_empty_command_line_gives_the_defaults(parse, command):
    assert parse(command=command) == KINDS[command]()


def test_one_field_of_the_pretraining_recipe_can_be_changed(parse_text):
    config = parse_text("train: {lr: 0.5}\n", command="pretrain")
    assert config.train == dataclasses.replace(PretrainConfig().train, lr=0.5)


def test_the_defaults_of_pretraining_are_the_shipped_recipe(parse):
    path = next(path for path in CONFIGS if path.stem == "imagenet_dla34")
    config, defaults = parse("--config", str(path), command="pretrain"), PretrainConfig()
    assert (config.augment, config.train, config.model) == (defaults.augment, defaults.train, defaults.model)


def test_a_pretraining_config_survives_writing_and_parsing(parse_text):
    config = PretrainConfig(
        name="x_1.0-b",
        data=PretrainDataConfig("a b", workers=0),
        model=PretrainModelConfig("dla46_c", 3, "a.safetensors"),
        augment=PretrainAugmentConfig(64, 96, (0.2, 0.7), (0.5, 2), 0.1, 0),
        train=BaseTrainConfig(schedule="step", step_epochs=3, step_gamma=0.3),
    )
    assert parse_text(to_yaml(config), command="pretrain") == config


def test_a_config_survives_writing_and_parsing(parse_text):
    config = Config(
        name="x_1.0-b",
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


def test_the_command_line_overrides_the_file(parse, tmp_path):
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
    ("entry", "message"),
    [
        ("{name: dice, weigth: 2}", "unknown field 'train.losses[1].weigth': did you mean 'train.losses[1].weight'?"),
        ("{nmae: dice}", "unknown field 'train.losses[1].nmae': did you mean 'train.losses[1].name'?"),
        ("dice", "train.losses[1] 'dice': expected a mapping such as {name: ...}"),
        ("{weight: null}", "train.losses[1].weight has no value: give it one, or remove it to get the default"),
    ],
)
def test_entries_of_a_list_are_checked(parse_text, tmp_path, entry, message):
    with pytest.raises(UserError) as caught:
        parse_text(f"train: {{losses: [{{name: lovasz}}, {entry}]}}")
    assert str(caught.value) == f"{tmp_path / 'run.yaml'}: {message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: 3", "train 3: expected a mapping such as {epochs: ...}"),
        ("train:", "train None: expected a mapping such as {epochs: ...}"),
        ("train: {lr: }", "train.lr has no value: give it one, or remove it to get the default"),
    ],
)
def test_a_section_that_is_not_a_mapping_and_a_field_without_a_value_are_refused(parse_text, tmp_path, text, message):
    with pytest.raises(UserError) as caught:
        parse_text(text)
    assert str(caught.value) == f"{tmp_path / 'run.yaml'}: {message}"


def test_null_within_a_list_on_the_command_line_is_refused(parse):
    with pytest.raises(UserError, match=r"^command line: train\.losses\[0\]\.weight has no value"):
        parse("--train.losses", "[{weight: null}]")


def test_every_renamed_field_leads_to_a_field_that_exists():
    assert set(RENAMED.values()) <= set(field_names(Config))
    assert not RENAMED.keys() & set(field_names(Config))


@pytest.mark.parametrize("command", KINDS)
@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_name_is_refused_with_the_new_one(parse, parse_text, tmp_path, command, old, new):
    with pytest.raises(UserError) as caught:
        parse_text(f"train: {{{old.split('.')[1]}: 1}}", command=command)
    assert str(caught.value) == f"{tmp_path / 'run.yaml'}: {old} is now {new}: rename it"
    for words in ([f"--{old}", "1"], [f"--{old}=1"], ["--train", f"{{{old.split('.')[1]}: 1}}"]):
        with pytest.raises(UserError) as caught:
            parse(*words, command=command)
        assert str(caught.value) == f"--{old} is now --{new}: rename it"


def test_yaml_is_data_and_never_code(parse_text, tmp_path):
    with pytest.raises(UserError, match="not YAML"):
        parse_text(f"name: !!python/object/apply:os.mkdir [{tmp_path / 'made'}]")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [("weight", 0.0), ("label_smoothing", 1.5), ("threshold", -1.0), ("min_kept", 2.0), ("gamma", float("nan"))],
)
def test_a_value_of_a_loss_outside_its_range_is_refused_by_position(field, value):
    losses = [LossConfig(), LossConfig(**{"name": "focal", field: value})]
    with pytest.raises(UserError, match=rf"^train\.losses\[1\]\.{field} "):
        TrainConfig(losses=losses)


@pytest.mark.parametrize("content", [None, [1], "text", 3])
def test_a_file_without_a_mapping_is_refused(content):
    with pytest.raises(UserError, match=r"^f\.yaml: content .*: expected a mapping such as {name: \.\.\.}$"):
        check_keys(content, Path("f.yaml"), Config)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_name_only_known_fields(path):
    kind = KINDS[command_of(path)]
    check_keys(yaml.safe_load(path.read_text()), path, kind)
    assert flatten(yaml.safe_load(path.read_text())).keys() <= set(field_names(kind))


def test_a_config_of_another_command_is_refused(parse, parse_text, tmp_path):
    with pytest.raises(UserError, match="a config of another command: use dlaseg train"):
        parse_text(to_yaml(Config()), command="pretrain")
    with pytest.raises(UserError, match="a config of another command: use dlaseg pretrain"):
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
        ("data.on_error", "ignore"),
    ],
)
def test_a_value_of_another_type_is_refused_by_the_field(parse, field, value):
    with pytest.raises(UserError, match=rf"^{field.replace('.', '[.]')}: (name: )?expected .*got "):
        parse(f"--{field}", value)


def test_an_unknown_data_set_is_refused_with_the_names(parse):
    with pytest.raises(UserError, match=r"^data\.dataset ade: unknown: use one of cityscapes, camvid, folder"):
        parse("--data.dataset", "ade")


def changed(name: str, value: object, kind: type = Config) -> Config | PretrainConfig:
    """The default config with another value of the field SECTION.FIELD."""
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
def test_a_value_outside_its_range_is_refused_by_the_field(name, value):
    with pytest.raises(UserError) as caught:
        changed(name, value)
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
def test_a_pretraining_value_outside_its_range_is_refused_by_the_field(name, value):
    with pytest.raises(UserError) as caught:
        changed(name, value, PretrainConfig)
    assert str(caught.value).startswith(f"{name} ")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("augment.resize", 224), ("augment.area", (1.0, 1.0)), ("augment.aspect", (1.0, 1.0)), ("train.step_gamma", 1.0)],
)
def test_a_pretraining_value_at_the_edge_of_its_range_is_accepted(name, value):
    changed(name, value, PretrainConfig)


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
def test_a_value_at_the_edge_of_its_range_is_accepted(name, value):
    changed(name, value)


def test_a_crop_of_500_is_refused_with_the_nearest_sizes_that_fit():
    with pytest.raises(UserError, match=r"500 x 40: .* use 512 x 32$"):
        changed("augment.crop_size", (500, 40))


@pytest.mark.parametrize(("kind", "size"), [(Config, (32, 32)), (PretrainConfig, 32)])
def test_a_single_crop_of_32_is_refused_for_batch_norm(kind, size):
    config = changed("augment.crop_size", size, kind)
    with pytest.raises(UserError, match=r"^train\.batch_size 1 "):
        dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=1))


def test_weights_and_backbone_weights_together_are_refused():
    with pytest.raises(UserError, match=r"^model\.weights a and model\.backbone_weights b: "):
        ModelConfig(weights="a", backbone_weights="b")


def test_an_error_of_a_config_reaches_the_command_line_as_it_is(parse):
    with pytest.raises(UserError, match=r"^train\.lr -1\.0: use a number from 0 to 1000$"):
        parse("--train.lr", "-1")
    with pytest.raises(UserError, match=r"^train\.losses\[0\]\.gamma -1\.0: use a number from 0 to 1000$"):
        parse("--train.losses", "[{name: focal, gamma: -1}]")


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.yaml: No such file or directory: use a YAML file that can be read"):
        read_yaml(tmp_path / "nowhere.yaml")
