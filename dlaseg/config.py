"""The experiment record: one YAML file is one run.

Every field can be set on the command line by its dotted name, `--train.lr 0.02`.
"""

import dataclasses
import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from dlaseg.errors import UserError


@dataclass
class DataConfig:
    """Where images and labels come from.

    Args:
        dataset: layout of the folders.
        root: the data set's folder.
        train_split: what is learnt from.
        val_split: what the best weights are chosen by.
        images: for `folder`, the images' place under root; {split} stands for the split.
        labels: for `folder`, the label maps' place under root.
        classes: for `folder`, the classes file (YAML), its place under root.
        workers: processes that load images; changes the speed, never the result.
    """

    dataset: Literal["cityscapes", "camvid", "folder"] = "cityscapes"
    root: str = "data/cityscapes"
    train_split: str = "train"
    val_split: str = "val"
    images: str = "images/{split}"
    labels: str = "labels/{split}"
    classes: str = "classes.yaml"
    workers: int = 2


@dataclass
class ModelConfig:
    """The network.

    Args:
        name: backbone variant, see `dlaseg.list_models()`.
        stride: output stride of the decoder: 2, 4 or 8.
        root_kernel_size: of the backbone's aggregation nodes: 3, or 1 as in published weights.
    """

    name: str = "dla34"
    stride: int = 2
    root_kernel_size: int = 3


@dataclass
class AugmentConfig:
    """What is done to a training image, in this order.

    Args:
        scale: range of the random scale.
        crop_size: height and width of the crop in pixels, multiples of 32; smaller images are padded.
        rotation: largest angle in degrees, either way.
        jitter: strength of brightness, contrast and sharpness changes, 0 to 1; 0.4 means factors 0.6 to 1.4.
        flip: probability of a horizontal flip.
    """

    scale: tuple[float, float] = (0.5, 2.0)
    crop_size: tuple[int, int] = (832, 832)
    rotation: float = 10.0
    jitter: float = 0.4
    flip: float = 0.5


@dataclass
class TrainConfig:
    """How weights are learnt: poly schedule, cross-entropy.

    Args:
        epochs: passes over the training split.
        batch_size: images in a step.
        optimizer: sgd, with momentum, for long runs; adamw gets further in short ones.
        lr: learning rate after warm-up.
        momentum: of SGD; AdamW has betas of its own, 0.9 and 0.999.
        weight_decay: of every parameter: an L2 penalty for SGD, decoupled for AdamW.
        warmup_steps: steps over which the learning rate rises linearly from 0.
        power: the learning rate falls as (1 - step / steps) ** power.
        class_weights: of the loss, one number a class; null for equal weights.
        eval_every: epochs between validations; the last epoch is always validated.
        precision: auto takes bfloat16 autocast where the hardware gains from it.
        device: auto, cpu, cuda, cuda:1, mps, ...
        seed: of the first weights, the order and the augmentation.
    """

    epochs: int = 500
    batch_size: int = 16
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup_steps: int = 0
    power: float = 0.9
    class_weights: list[float] | None = None
    eval_every: int = 5
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"
    seed: int = 0


@dataclass
class Config:
    """A run.

    Args:
        name: of the run; its folder is runs/NAME unless --output says otherwise.
        data: where images and labels come from.
        model: the network.
        augment: what is done to training images.
        train: how weights are learnt.
    """

    name: str = "run"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def validate(config: Config) -> None:
    """Checks every value that a type alone cannot check.

    Raises:
        UserError: names the field, its value and the rule.
    """
    augment, train = config.augment, config.train
    for name, value, least in (
        ("data.workers", config.data.workers, 0),
        ("train.epochs", train.epochs, 1),
        ("train.batch_size", train.batch_size, 1),
        ("train.warmup_steps", train.warmup_steps, 0),
        ("train.eval_every", train.eval_every, 1),
        ("train.seed", train.seed, 0),
    ):
        if value < least:
            raise UserError(f"{name} {value}: use {least} or more")
    for name, number, low, high in (
        ("augment.rotation", augment.rotation, 0, 180),
        ("augment.jitter", augment.jitter, 0, 1),
        ("augment.flip", augment.flip, 0, 1),
        ("train.lr", train.lr, 0, math.inf),
        ("train.momentum", train.momentum, 0, 1),
        ("train.weight_decay", train.weight_decay, 0, math.inf),
        ("train.power", train.power, 0, math.inf),
    ):
        if not low <= number <= high or math.isinf(number):
            raise UserError(f"{name} {number}: use a number from {low} to {high}")
    if not 0 < augment.scale[0] <= augment.scale[1] <= 10:
        raise UserError(f"augment.scale {list(augment.scale)}: use 0 < smallest <= largest <= 10")
    height, width = augment.crop_size
    if min(height, width) < 32 or height % 32 or width % 32:
        fit = [max(32, round(side / 32) * 32) for side in (height, width)]
        raise UserError(
            f"augment.crop_size {height} x {width}: height and width are multiples of 32, so that no part of a crop is "
            f"padding: use {fit[0]} x {fit[1]}"
        )
    if train.batch_size == 1 and height * width <= 32 * 32:
        raise UserError("train.batch_size 1 with a crop of 32 x 32: batch norm needs more than one value: use 2")
    if train.class_weights is not None and not all(w >= 0 and math.isfinite(w) for w in train.class_weights):
        raise UserError(f"train.class_weights {train.class_weights}: use finite numbers from 0 upwards")


def to_yaml(config: Config) -> str:
    """The whole record as YAML, defaults included."""
    return yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False, allow_unicode=True)


def field_names(kind: type = Config, prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields: `name`, `data.root`, ..."""
    for entry in dataclasses.fields(kind):
        if isinstance(entry.type, type) and dataclasses.is_dataclass(entry.type):
            yield from field_names(entry.type, f"{prefix}{entry.name}.")
        else:
            yield prefix + entry.name


def check_keys(content: Any, source: str) -> None:
    """Refuses a key that no field has, and names the nearest one.

    Args:
        content: what a YAML file held.
        source: the file, for the message.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{source}: no mapping; a config is YAML such as 'train: {{lr: 0.01}}'")
    known = list(field_names())
    for key in flatten(content):
        if key not in known and not any(name.startswith(f"{key}.") for name in known):
            raise UserError(f"{source}: unknown field {key!r}: did you mean {nearest(key, known)!r}?")


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one level of dotted names."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def nearest(name: str, known: Sequence[str]) -> str:
    """The known name that looks most like `name`; of dotted names the last part counts double."""

    def likeness(candidate: str) -> float:
        whole = difflib.SequenceMatcher(None, name, candidate).ratio()
        return whole + difflib.SequenceMatcher(None, name.split(".")[-1], candidate.split(".")[-1]).ratio()

    return max(known, key=likeness)


def read_yaml(path: Path) -> Any:
    """Reads a YAML file, or says in one line why not."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: name a YAML file that can be read") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())})") from error


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value
