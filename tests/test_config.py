import dataclasses
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml

from dlaseg import cli
from dlaseg.config.fields import WrongTypeError, convert, fields_of, wrong_type_message
from dlaseg.config.files import flatten, to_yaml
from dlaseg.config.pretraining import PretrainAugmentConfig, PretrainConfig, PretrainDataConfig, PretrainModelConfig
from dlaseg.config.reading import check_keys, read_config
from dlaseg.config.segmentation import AugmentConfig, Config, DataConfig, LossConfig, ModelConfig, TrainConfig
from dlaseg.config.training import BaseTrainConfig
from dlaseg.errors import UserError
from dlaseg.training import trainer
from dlaseg.training.state import TrainState

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.yaml"))


def command_of(path: Path) -> str:
    """The command in a config's header."""
    text = path.read_text(encoding="utf-8")
    return re.search(rf"^#   dlaseg (\w+) --config configs/{path.name} ", text, re.MULTILINE)[1]


def field_names(kind: type) -> list[str]:
    return [field.name for field in fields_of(kind())]


KINDS = {"train": Config, "pretrain": PretrainConfig}


@pytest.fixture
def parse(monkeypatch):
    """The config that a command parses from its arguments, `dlaseg train` by default; nothing is trained."""

    def parsed(*arguments: str, command: str = "train") -> Config | PretrainConfig:
        seen = []

        def fit(task, output, resume, report, allow_trackers):
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
    for name, value in written.items():
        losses = value if name.endswith("losses") else []  # of which what is not written has its default
        if losses:
            assert [{key: term[key] for key in loss} for term, loss in zip(arrived[name], losses, strict=True)] == value
        else:
            assert arrived[name] == value


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
            auxiliary_losses=[LossConfig("focal", gamma=1.0)],
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
        ("{name: dice, weigth: 2}", "train.losses[1].weigth 2: unknown field: did you mean 'train.losses[1].weight'?"),
        ("{nmae: dice}", "train.losses[1].nmae dice: unknown field: did you mean 'train.losses[1].name'?"),
        (
            "dice",
            "train.losses [{name: lovasz},dice]: expected a list of mappings, such as losses: [{name: lovasz},"
            "{name: dice}]",
        ),
        (
            "{weight: null}",
            "train.losses[1].weight has no value: expected a number, such as weight: 1.0; or leave it "
            "out to get the default",
        ),
        ("{weight: a}", "train.losses[1].weight a: expected a number, such as weight: 1.0"),
    ],
)
def test_entries_of_a_list_are_checked(parse_text, tmp_path, entry, message):
    with pytest.raises(UserError) as caught:
        parse_text(f"train: {{losses: [{{name: lovasz}}, {entry}]}}")
    assert str(caught.value) == f"{tmp_path / 'run.yaml'}: {message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: 5", "train 5: expected a mapping, such as train: {epochs: 500}"),
        ("data: hello", "data hello: expected a mapping, such as data: {dataset: cityscapes}"),
        (
            "train:",
            "train has no value: expected a mapping, such as train: {epochs: 500}; or leave it out to get the default",
        ),
        (
            "train: {lr: }",
            "train.lr has no value: expected a number, such as lr: 0.01; or leave it out to get the default",
        ),
        ("train.lr: 1", "train.lr: write the field below its section: train: {lr: ...}"),
    ],
)
def test_a_section_that_is_not_a_mapping_and_a_field_without_a_value_are_refused(parse_text, tmp_path, text, message):
    with pytest.raises(UserError) as caught:
        parse_text(text)
    assert str(caught.value) == f"{tmp_path / 'run.yaml'}: {message}"


def test_null_within_a_list_on_the_command_line_is_refused(parse):
    with pytest.raises(UserError, match=r"^--train\.losses: train\.losses\[0\]\.weight has no value"):
        parse("--train.losses", "[{weight: null}]")


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


@pytest.mark.parametrize(("content", "shown"), [(None, "empty"), ([1], "[1]"), ("text", "text"), (3, "3")])
def test_a_file_without_a_mapping_is_refused(content, shown):
    with pytest.raises(UserError) as caught:
        check_keys(content, Path("f.yaml"), Config)
    assert str(caught.value) == f"f.yaml: {shown}: expected the fields of a config, such as name: run"


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


def test_every_field_has_a_meaning():
    for kind in KINDS.values():
        assert [field.name for field in fields_of(kind()) if not field.meaning] == []


# Each line shows the value, what is expected, and what works instead
WRONG_TYPES = [
    ("train.lr", "fast", "fast: expected a number, such as {}", 0.01),
    ("train.lr", "[1]", "[1]: expected a number, such as {}", 0.01),
    ("train.lr", "true", "true: expected a number, such as {}", 0.01),
    ("train.epochs", "1.5", "1.5: expected a whole number, such as {}", 500),
    ("train.epochs", "'x'", "x: expected a whole number, such as {}", 500),
    ("train.patience", "none", "none: expected a whole number or null", None),
    ("train.compile", "1", "1: expected true or false", None),
    ("train.precision", "float8", "float8: expected auto, float32, bfloat16 or float16", None),
    ("data.on_error", "5", "5: expected stop or skip", None),
    ("augment.scale", "0.5", "0.5: expected two numbers, such as {}", "[0.5,2.0]"),
    ("augment.crop_size", "64", "64: expected two whole numbers, such as {}", "[832,832]"),
    ("augment.crop_size", "64x96", "64x96: expected two whole numbers, such as {}", "[64,96]"),
    ("augment.crop_size", "64,96", "64,96: expected two whole numbers, such as {}", "[64,96]"),
    ("augment.crop_size", "[64]", "[64]: expected two whole numbers, such as {}", "[832,832]"),
    ("augment.crop_size", "[64,64,64]", "[64,64,64]: expected two whole numbers, such as {}", "[832,832]"),
    ("augment.crop_size", "[]", "[]: expected two whole numbers, such as {}", "[832,832]"),
    ("train.trackers", "tensorboard", "tensorboard: expected a list of texts, such as {}", "[tensorboard]"),
    ("train.losses", "dice", "dice: expected a list of mappings, such as {}", "[{name: dice}]"),
    ("train.losses", "{name: dice}", "{name: dice}: expected a list of mappings, such as {}", "[{name: dice}]"),
    ("train.losses", "[dice,ohem]", "[dice,ohem]: expected a list of mappings, such as {}",
     "[{name: dice},{name: ohem}]"),
    ("train.class_weights", "median", "median: expected a list of numbers, median_frequency or null", None),
    ("train.class_weights", "1", "1: expected a list of numbers, median_frequency or null, such as {}", "[1]"),
    ("train.class_weights", "[1,a]", "[1,a]: expected a list of numbers, median_frequency or null", None),
]  # fmt: skip


# In an option, each of them is refused as well; the file has a reader of its own, but the same conversions
@pytest.mark.parametrize(
    ("field", "written", "message", "example"),
    [*WRONG_TYPES[:7], *(pytest.param(*case, marks=pytest.mark.slow) for case in WRONG_TYPES[7:])],
)
def test_a_value_of_the_wrong_type_is_refused_in_a_file(parse_text, tmp_path, field, written, message, example):
    section, key = field.split(".")
    with pytest.raises(UserError) as caught:
        parse_text(f"{section}:\n  {key}: {written}\n")
    line = message.replace("{}", f"{key}: {example}") if example else message
    assert str(caught.value) == f"{tmp_path / 'run.yaml'}: {field} {line}"
    if example:
        parse_text(f"{section}:\n  {key}: {example}\n")  # what the message says works


@pytest.mark.parametrize(("field", "written", "message", "example"), WRONG_TYPES)
def test_a_value_of_the_wrong_type_is_refused_in_an_option(parse, field, written, message, example):
    written = written.strip("'")
    with pytest.raises(UserError) as caught:
        parse(f"--{field}", written)
    option = f"--{field} {shlex.quote(str(example))}"
    line = message.replace("{}", option) if example else message
    assert str(caught.value) == f"--{field} {line}"
    if example:
        parse(*shlex.split(option))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--augment.crop_size 64 96", "--augment.crop_size 64 96: expected two whole numbers, such as "
         "--augment.crop_size '[64,96]'"),
        ("--train.class_weights 1 2", "--train.class_weights 1 2: expected a list of numbers, median_frequency or "
         "null, such as --train.class_weights '[1,2]'"),
        ("--train.losses [{name:dice},", "--train.losses [{name:dice},: expected a list of mappings, such as "
         "--train.losses '[{name: cross_entropy}]'"),
        ("--train 5", "--train: a section of the config: set its fields one by one, such as --train.epochs 500"),
        ("--data DIR", "--data: a section of the config: set its fields one by one, such as --data.dataset cityscapes"),
        ("--train.lr", "--train.lr: expected one argument"),
        ("--train.lr -1e-3", "train.lr -0.001: use a number from 0 to 1000"),
    ],
)  # fmt: skip
def test_what_the_shell_splits_or_leaves_out_is_refused_with_what_works(parse, words, message):
    with pytest.raises(UserError) as caught:
        parse(*words.split())
    assert str(caught.value) == message


def test_a_list_in_brackets_is_accepted_without_quotes(parse):
    assert parse("--augment.crop_size", "[64,", "96]").augment.crop_size == (64, 96)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: 5", "name 5: expected text, such as name: '5'"),
        ("name: on", "name true: expected text, such as name: run"),
        ("name: [a]", "name [a]: expected text, such as name: run"),
    ],
)
def test_text_that_yaml_takes_for_something_else_is_refused(parse_text, tmp_path, text, message):
    with pytest.raises(UserError) as caught:
        parse_text(text)
    assert str(caught.value) == f"{tmp_path / 'run.yaml'}: {message}"


def test_values_keep_their_types(parse, parse_text):
    assert parse("--name", "5").name == "5"
    assert parse_text("name: 2024-05-01").name == "2024-05-01"
    assert parse("--model.weights", "null").model.weights is None
    assert parse("--train.class_weights", "median_frequency").train.class_weights == "median_frequency"
    config = parse_text("augment: {scale: [1, 2e0]}\ntrain: {lr: 1, class_weights: [1, 2], compile: yes}")
    assert (config.augment.scale, config.train.lr, config.train.class_weights) == ((1.0, 2.0), 1.0, [1.0, 2.0])
    assert all(type(value) is float for value in (*config.augment.scale, config.train.lr, *config.train.class_weights))
    assert config.train.compile is True


GARBAGE = [
    *("", " ", "x", "[", "]", "{", "[]", "{}", "{a: 1}", "[{a: 1}]", "[[1]]", "[null]", "null", "1.5", "-1", "true"),
    *("1e999", "nan", "2024-05-01", "64 96", "!!python/object:x", "&a [*a]", "\u0000", "ß", 5, 1.5, True, None),
    *([1, "a", None], {"name": 5}, (1, 2, 3), float("nan"), np.float64(1.5), Path("x"), b"x", {1, 2}),
]


def refusal(field, value) -> str | None:
    try:
        convert(field, value)
    except WrongTypeError as error:
        return wrong_type_message(error)
    return None


@pytest.mark.parametrize("kind", KINDS.values())
def test_whatever_is_written_the_message_is_plain(kind):
    lines = [(field.name, refusal(field, value)) for field in fields_of(kind()) for value in GARBAGE]
    refused = [(name, line) for name, line in lines if line is not None]
    assert len(refused) > len(GARBAGE)
    for name, line in refused:
        assert line.startswith(name)
        assert any(part in line for part in (": expected ", ": unknown field: ", ": nested more than ")), line
        assert not re.search(r"<class|NoneType|typing|Union|Literal|dataclass|Traceback|object at", line), line


def test_a_long_value_is_shortened(parse):
    with pytest.raises(UserError) as caught:
        parse("--train.lr", "x" * 10_000)
    assert len(str(caught.value)) < 200


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
        ("augment.saturation", -0.1),
        ("augment.hue", 0.6),
        ("augment.gamma", 1.0),
        ("augment.color_cast", 1.1),
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


def test_a_key_that_occurs_twice_is_refused_in_a_file_and_in_an_option(parse, parse_text):
    with pytest.raises(UserError, match=r"run\.yaml, line 3, column 3: key 'lr' occurs twice, first in line 2"):
        parse_text("train:\n  lr: 0.1\n  lr: 0.2\n")
    with pytest.raises(UserError, match=r"^--train\.losses .*: key 'name' occurs twice"):
        parse("--train.losses", "[{name: ohem, name: dice}]")


def test_deeply_nested_values_are_refused_in_a_file_and_in_an_option(parse, parse_text):
    with pytest.raises(UserError, match=r"run\.yaml, line 1, .*nested more than 20 levels deep"):
        parse_text("train: " + "[" * 50_000)
    with pytest.raises(UserError, match=r"^--train\.losses .*nested more than 20 levels deep"):
        parse("--train.losses", "[" * 5_000 + "]" * 5_000)


def test_braces_in_a_text_are_text(parse):
    assert parse("--data.root", "{a: 1, a: 2}", "--data.dataset", "camvid").data.root == "{a: 1, a: 2}"


def test_an_assignment_to_a_field_that_does_not_exist_is_refused():
    config = Config()
    with pytest.raises(UserError, match=r"TrainConfig\.epoch: unknown field: did you mean 'epochs'"):
        config.train.epoch = 3
    config.train.epochs = 3
    assert config.train.epochs == 3


@pytest.mark.parametrize("option", [{"gamma": 3.0}, {"threshold": 0.5}, {"min_kept": 0.5}, {"label_smoothing": 0.1}])
def test_an_option_of_another_loss_is_refused(option):
    (name,) = option
    with pytest.raises(UserError, match=rf"train\.losses\[1\]\.{name} .*which dice does not have: leave it out"):
        TrainConfig(losses=[LossConfig(), LossConfig("dice", **option)])


def test_the_number_of_classes_comes_from_the_data_set(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("model: {num_classes: 2}", encoding="utf-8")
    with pytest.raises(UserError, match=r"model\.num_classes: not a field; the data set decides: list the classes"):
        read_config(path)


@pytest.mark.parametrize("text", ["a\0b:C", "a\nb:C", "a" * 5000])
def test_a_text_in_a_list_is_checked_too(text):
    with pytest.raises(UserError, match=r"^train\.trackers .*: use at most 4096 characters, no control characters"):
        TrainConfig(trackers=["tensorboard", text])


def test_a_file_whose_fields_both_commands_have_is_a_segmentation_config(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("train: {epochs: 3}", encoding="utf-8")
    assert type(read_config(path)) is Config


def test_an_empty_section_that_does_not_exist_is_refused(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("trian: {}", encoding="utf-8")
    with pytest.raises(UserError, match=r"unknown field 'trian'"):
        read_config(path)
