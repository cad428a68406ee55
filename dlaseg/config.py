"""The experiment records, one a command: one YAML file is one run.

Every field can be set on the command line by its dotted name, `--train.lr 0.02`.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

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
        weights: of a whole network to start from: a file, or a repository on the Hugging Face hub.
        backbone_weights: of the backbone alone, such as timm/dla34.in1k or what `dlaseg pretrain` leaves.
    """

    name: str = "dla34"
    stride: int = 2
    root_kernel_size: int = 3
    weights: str | None = None
    backbone_weights: str | None = None


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
class LearningConfig:
    """How weights are learnt, whatever the task: cross-entropy.

    Args:
        epochs: passes over the training split.
        batch_size: images in a step.
        optimizer: sgd, with momentum, for long runs; adamw gets further in short ones.
        lr: learning rate after warm-up.
        momentum: of SGD; AdamW has betas of its own, 0.9 and 0.999.
        weight_decay: of every parameter: an L2 penalty for SGD, decoupled for AdamW.
        warmup_steps: steps over which the learning rate rises linearly from 0.
        schedule: how the learning rate falls: poly, with every step, or step, every few epochs.
        power: of poly: the learning rate falls as (1 - step / steps) ** power.
        step_epochs: of step: epochs after which the learning rate falls, again and again.
        step_factor: of step: what the learning rate is then multiplied by.
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
    schedule: Literal["poly", "step"] = "poly"
    power: float = 0.9
    step_epochs: int = 30
    step_factor: float = 0.1
    eval_every: int = 5
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"
    seed: int = 0


@dataclass
class TrainConfig(LearningConfig):
    """How a segmentation network's weights are learnt.

    Args:
        class_weights: of the loss, one number a class; null for equal weights.
    """

    class_weights: list[float] | None = None


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


@dataclass
class PretrainDataConfig:
    """Where images come from, one folder a class: root/SPLIT/CLASS/*, as ImageNet is kept.

    Args:
        root: the data set's folder.
        train_split: what is learnt from.
        val_split: what the best weights are chosen by; has the classes of train_split.
        workers: processes that load images; changes the speed, never the result.
    """

    root: str = "data/imagenet"
    train_split: str = "train"
    val_split: str = "val"
    workers: int = 2


@dataclass
class PretrainModelConfig:
    """The classifier.

    Args:
        name: variant, see `dlaseg.list_models()`.
        root_kernel_size: of the aggregation nodes: 1 as in published weights, or 3.
        weights: a classifier's weights to start from; null for none.
    """

    name: str = "dla34"
    root_kernel_size: int = 1
    weights: str | None = None


@dataclass
class PretrainAugmentConfig:
    """What is done to an image: random crop, colour and flip to train, scale and centre crop to validate.

    Args:
        crop_size: height and width of what the network sees in pixels, a multiple of 32.
        resize: length of the shorter side before the centre crop, pixels.
        area: range of a random crop's share of the image's area, before it is scaled to crop_size.
        aspect: range of the random crop's width over its height.
        jitter: strength of brightness, contrast and sharpness changes, 0 to 1; 0.4 means factors 0.6 to 1.4.
        flip: probability of a horizontal flip.
    """

    crop_size: int = 224
    resize: int = 256
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    jitter: float = 0.0
    flip: float = 0.5


def _imagenet_recipe() -> LearningConfig:
    """Of the paper (sec. 5.1) and the authors' code."""
    return LearningConfig(epochs=120, batch_size=256, lr=0.1, schedule="step", eval_every=1)


@dataclass
class PretrainConfig:
    """A run that makes a classifier, whose backbone a segmentation network can start from.

    Args:
        name: of the run; its folder is runs/NAME unless --output says otherwise.
        data: where images come from.
        model: the classifier.
        augment: what is done to images.
        train: how weights are learnt.
    """

    name: str = "pretrain"
    data: PretrainDataConfig = field(default_factory=PretrainDataConfig)
    model: PretrainModelConfig = field(default_factory=PretrainModelConfig)
    augment: PretrainAugmentConfig = field(default_factory=PretrainAugmentConfig)
    train: LearningConfig = field(default_factory=_imagenet_recipe)


def validate(config: Config | PretrainConfig) -> None:
    """Checks every value that a type alone cannot check.

    Raises:
        UserError: names the field, its value and the rule.
    """
    train = config.train
    _at_least("data.workers", config.data.workers, 0)
    _at_least("train.epochs", train.epochs, 1)
    _at_least("train.batch_size", train.batch_size, 1)
    _at_least("train.warmup_steps", train.warmup_steps, 0)
    _at_least("train.step_epochs", train.step_epochs, 1)
    _at_least("train.eval_every", train.eval_every, 1)
    _at_least("train.seed", train.seed, 0)
    _within("train.lr", train.lr, 0, math.inf)
    _within("train.momentum", train.momentum, 0, 1)
    _within("train.weight_decay", train.weight_decay, 0, math.inf)
    _within("train.power", train.power, 0, math.inf)
    _within("train.step_factor", train.step_factor, 0, 1)
    _within("augment.jitter", config.augment.jitter, 0, 1)
    _within("augment.flip", config.augment.flip, 0, 1)
    if isinstance(config, Config):
        _validate_segmentation(config)
    else:
        _validate_classification(config)


def _validate_segmentation(config: Config) -> None:
    made = config.model
    if made.weights is not None and made.backbone_weights is not None:
        raise UserError(
            f"model.weights {made.weights} and model.backbone_weights {made.backbone_weights}: one would undo the "
            "other: leave one out"
        )
    augment, weights = config.augment, config.train.class_weights
    _within("augment.rotation", augment.rotation, 0, 180)
    if not 0 < augment.scale[0] <= augment.scale[1] <= 10:
        raise UserError(f"augment.scale {list(augment.scale)}: use 0 < smallest <= largest <= 10")
    height, width = augment.crop_size
    _check_crop(height, width, config.train.batch_size)
    if weights is not None and not all(w >= 0 and math.isfinite(w) for w in weights):
        raise UserError(f"train.class_weights {weights}: use finite numbers from 0 upwards")


def _validate_classification(config: PretrainConfig) -> None:
    augment = config.augment
    _check_crop(augment.crop_size, augment.crop_size, config.train.batch_size)
    if augment.resize < augment.crop_size:
        raise UserError(
            f"augment.resize {augment.resize}: the centre crop is cut out of it: "
            f"use augment.crop_size ({augment.crop_size}) or more"
        )
    if not 0 < augment.area[0] <= augment.area[1] <= 1:
        raise UserError(f"augment.area {list(augment.area)}: use 0 < smallest <= largest <= 1")
    if not 0 < augment.aspect[0] <= augment.aspect[1] < math.inf:
        raise UserError(f"augment.aspect {list(augment.aspect)}: use 0 < narrowest <= widest")


def _check_crop(height: int, width: int, batch_size: int) -> None:
    if min(height, width) < 32 or height % 32 or width % 32:
        fit = [max(32, round(side / 32) * 32) for side in (height, width)]
        raise UserError(
            f"augment.crop_size {height} x {width}: height and width are multiples of 32, so that no part of a crop is "
            f"padding: use {fit[0]} x {fit[1]}"
        )
    if batch_size == 1 and height * width <= 32 * 32:
        raise UserError("train.batch_size 1 with a crop of 32 x 32: batch norm needs more than one value: use 2")


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(f"{name} {value}: use {least} or more")


def _within(name: str, number: float, low: float, high: float) -> None:
    if not low <= number <= high or math.isinf(number):
        raise UserError(f"{name} {number}: use a number from {low} to {high}")
