"""The config of a run: one YAML file is one run.

Every field can be set on the command line by its dotted name, `--train.lr 0.02`. Each dataclass checks its own values
when it is constructed, also by `dataclasses.replace`, and raises a `UserError` that names the field. What it does not
check is types: the command line does. Whether a data set of the given name exists is checked where data sets are known.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

from dlaseg.errors import UserError

RENAMED = {
    "train.accumulate": "train.grad_accum_steps",
    "train.backbone_lr": "train.backbone_lr_factor",
    "train.clip_norm": "train.clip_grad_norm",
    "train.ema": "train.ema_decay",
    "train.power": "train.poly_power",
    "train.skip_limit": "train.max_nonfinite_steps",
    "train.step_factor": "train.step_gamma",
}
"""Former names of fields, which are refused with the new name. Meaning and values are the same."""


@dataclass
class DataConfig:
    """Images and labels.

    Args:
        dataset: name of the data set; `dlaseg eval --help` lists them.
        root: folder of the data set.
        train_split: split to train on.
        val_split: split to validate on; the best weights are those with the highest score on it.
        train_list: text file that lists the images to train on, one name per line; null for the whole split.
        val_list: text file that lists the images to validate on.
        images: for dataset folder: path of the images below root; {split} stands for the split.
        labels: for dataset folder: path of the label maps below root.
        classes: for dataset folder: path of the classes file (YAML) below root.
        workers: processes that load images; affects the speed, never the result.
        on_error: what to do with a training image that cannot be read: stop ends the run; skip uses the next image
            instead, and counts and logs it. Validation always stops: its score covers the whole split.
    """

    dataset: str = "cityscapes"
    root: str = "data/cityscapes"
    train_split: str = "train"
    val_split: str = "val"
    train_list: str | None = None
    val_list: str | None = None
    images: str = "images/{split}"
    labels: str = "labels/{split}"
    classes: str = "classes.yaml"
    workers: int = 2
    on_error: Literal["stop", "skip"] = "stop"

    def __post_init__(self) -> None:
        _within("data", self, 0, math.inf, "workers")


@dataclass
class ModelConfig:
    """Segmentation network.

    Args:
        name: backbone variant, see `dlaseg models`.
        stride: output stride of the decoder: 2, 4 or 8.
        root_kernel_size: kernel size of the backbone's aggregation nodes: 3, or 1 as in published weights.
        weights: weights of a whole network to start from: a file, or a repository on the Hugging Face hub.
        backbone_weights: weights of the backbone to start from, such as timm/dla34.in1k or the result of
            `dlaseg pretrain`.
    """

    name: str = "dla34"
    stride: int = 2
    root_kernel_size: int = 3
    weights: str | None = None
    backbone_weights: str | None = None

    def __post_init__(self) -> None:
        if self.weights is not None and self.backbone_weights is not None:
            raise UserError(
                f"model.weights {self.weights} and model.backbone_weights {self.backbone_weights}: one would overwrite "
                "the other: set only one of them"
            )


@dataclass
class AugmentConfig:
    """Random augmentation of training images, in the order of the fields.

    Args:
        scale: smallest and largest random scale.
        crop_size: height and width of the crop in pixels, multiples of 32; smaller images are padded.
        rotation: largest angle in degrees, in either direction.
        jitter: strength of brightness, contrast and sharpness changes, 0 to 1; 0.4 means factors 0.6 to 1.4.
        flip: probability of a horizontal flip.
    """

    scale: tuple[float, float] = (0.5, 2.0)
    crop_size: tuple[int, int] = (832, 832)
    rotation: float = 10.0
    jitter: float = 0.4
    flip: float = 0.5

    def __post_init__(self) -> None:
        _within("augment", self, 0, 180, "rotation")
        _within("augment", self, 0, 1, "jitter", "flip")
        if not 0 < self.scale[0] <= self.scale[1] <= 10:
            raise UserError(f"augment.scale {list(self.scale)}: use 0 < smallest <= largest <= 10")
        _check_crop_size(*self.crop_size)


@dataclass
class BaseTrainConfig:
    """Training, as segmentation and classification share it.

    Args:
        epochs: passes over the training split.
        batch_size: images per update of the weights, summed over all processes and micro-batches.
        grad_accum_steps: micro-batches into which each process splits its share of a batch, to save memory. The update
            stays the same except for batch norm, whose statistics are those of each micro-batch.
        optimizer: sgd, with momentum, for long runs; adamw gets further in short ones.
        lr: learning rate after warm-up.
        backbone_lr_factor: factor on the learning rate of the backbone; below 1 it preserves pretrained weights.
        momentum: momentum of SGD; AdamW always uses betas 0.9 and 0.999.
        weight_decay: weight decay of every parameter: an L2 penalty for SGD, decoupled for AdamW.
        decay_norm_and_bias: whether weight decay also applies to batch norm parameters and biases.
        clip_grad_norm: largest L2 norm of a gradient; a larger gradient is scaled down to it; null for no limit.
        ema_decay: decay of the exponential moving average of the weights, which is then validated and saved; 0 for no
            average. The first updates decay faster, (1 + n) / (10 + n) after n updates.
        freeze: what is not trained: the backbone; norm, which is every batch norm including its statistics; both; or
            nothing.
        warmup_steps: steps over which the learning rate rises linearly from 0.
        schedule: how the learning rate falls: poly or cosine after every step; step, after every few epochs.
        poly_power: for schedule poly: the learning rate falls as (1 - step / steps) ** poly_power.
        step_epochs: for schedule step: epochs between two falls of the learning rate.
        step_gamma: for schedule step: factor on the learning rate at each fall.
        eval_every: epochs between validations; the last epoch is always validated.
        patience: validations without a new best score after which the run ends; null for all epochs.
        checkpoint_minutes: minutes between checkpoints within an epoch; every epoch also ends with a checkpoint.
        max_nonfinite_steps: steps in a row that may be skipped because loss or gradient is not finite; one more stops
            the run.
        precision: auto uses bfloat16 autocast where the hardware gains from it; float16 needs a GPU and scales the
            loss.
        compile: whether to build the network with torch.compile; this takes minutes and pays off in long runs.
        deterministic: whether to use deterministic algorithms only; on CPUs all are.
        device: auto, cpu, cuda, cuda:1, mps, ...
        seed: seed of the initial weights, the order of the images and the augmentation.
        trackers: writers of the curves: tensorboard, or MODULE:NAME of your own class or function that makes a
            `dlaseg.training.trackers.Tracker` from the run folder.
    """

    epochs: int = 500
    batch_size: int = 16
    grad_accum_steps: int = 1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.01
    backbone_lr_factor: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay_norm_and_bias: bool = True
    clip_grad_norm: float | None = None
    ema_decay: float = 0.0
    freeze: Literal["nothing", "backbone", "norm", "backbone_and_norm"] = "nothing"
    warmup_steps: int = 0
    schedule: Literal["poly", "cosine", "step"] = "poly"
    poly_power: float = 0.9
    step_epochs: int = 30
    step_gamma: float = 0.1
    eval_every: int = 5
    patience: int | None = None
    checkpoint_minutes: float = 10.0
    max_nonfinite_steps: int = 10
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    compile: bool = False
    deterministic: bool = False
    device: str = "auto"
    seed: int = 0
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])

    def __post_init__(self) -> None:
        at_least_1 = ("epochs", "batch_size", "grad_accum_steps", "step_epochs", "eval_every", "patience")
        _within("train", self, 1, math.inf, *at_least_1)
        _within("train", self, 0, math.inf, "max_nonfinite_steps", "warmup_steps", "checkpoint_minutes", "seed")
        _within("train", self, 0, math.inf, "lr", "backbone_lr_factor", "weight_decay", "poly_power")
        _within("train", self, 0, 1, "momentum", "step_gamma")
        _above_zero("train", self, "clip_grad_norm")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"train.ema_decay {self.ema_decay}: use 0 (no average) or a decay below 1, such as 0.999")


@dataclass
class LossConfig:
    """A term of the loss. `TrainConfig` checks it, because only that knows the position for the message.

    Args:
        name: cross_entropy; ohem, the cross-entropy of each image's hardest pixels; focal; dice; lovasz.
        weight: factor of this term in the sum.
        label_smoothing: for cross_entropy: share of the target that is spread over all classes, 0 to 1.
        threshold: for ohem: pixels whose true class has a lower probability are hard.
        min_kept: for ohem: least share of an image's scored pixels that is kept, 0 to 1.
        gamma: for focal: how much less well-classified pixels count; 0 is cross-entropy.
    """

    name: Literal["cross_entropy", "ohem", "focal", "dice", "lovasz"] = "cross_entropy"
    weight: float = 1.0
    label_smoothing: float = 0.0
    threshold: float = 0.7
    min_kept: float = 0.0625
    gamma: float = 2.0


@dataclass
class TrainConfig(BaseTrainConfig):
    """Training of a segmentation network.

    Args:
        losses: terms whose weighted sum is minimised.
        class_weights: for cross_entropy, ohem and focal: one number per class; median_frequency, computed from the
            pixels of the training split; or null for equal weights.
    """

    losses: list[LossConfig] = field(default_factory=lambda: [LossConfig()])
    class_weights: list[float] | Literal["median_frequency"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.losses:
            raise UserError("train.losses []: there is nothing to minimise: use [{name: cross_entropy}]")
        for i, loss in enumerate(self.losses):
            _above_zero(f"train.losses[{i}]", loss, "weight")
            _within(f"train.losses[{i}]", loss, 0, 1, "label_smoothing", "threshold", "min_kept")
            _within(f"train.losses[{i}]", loss, 0, math.inf, "gamma")
        weights = self.class_weights
        if isinstance(weights, list) and not all(w >= 0 and math.isfinite(w) for w in weights):
            raise UserError(f"train.class_weights {weights}: use finite numbers, 0 or more")


@dataclass
class Config:
    """A segmentation run.

    Args:
        name: name of the run; its folder is runs/NAME unless --output names another.
        data: images and labels.
        model: the network.
        augment: augmentation of training images.
        train: training.
    """

    name: str = "run"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        _check_batch_norm(self.train.batch_size, *self.augment.crop_size)


@dataclass
class PretrainDataConfig:
    """Images in one folder per class, root/SPLIT/CLASS/*, as ImageNet is stored.

    Args:
        root: folder of the data set.
        train_split: split to train on.
        val_split: split to validate on, with the classes of train_split; the best weights are those with the highest
            score on it.
        workers: processes that load images; affects the speed, never the result.
        on_error: what to do with a training image that cannot be read: stop ends the run; skip uses the next image
            instead, and counts and logs it.
    """

    root: str = "data/imagenet"
    train_split: str = "train"
    val_split: str = "val"
    workers: int = 2
    on_error: Literal["stop", "skip"] = "stop"

    def __post_init__(self) -> None:
        _within("data", self, 0, math.inf, "workers")


@dataclass
class PretrainModelConfig:
    """Image classifier.

    Args:
        name: variant, see `dlaseg models`.
        root_kernel_size: kernel size of the aggregation nodes: 1 as in published weights, or 3.
        weights: weights of a classifier to start from; null for none.
    """

    name: str = "dla34"
    root_kernel_size: int = 1
    weights: str | None = None


@dataclass
class PretrainAugmentConfig:
    """Random crop, colour and flip of training images; scale and centre crop of validation images.

    Args:
        crop_size: height and width of the network's input in pixels, a multiple of 32.
        resize: length of the shorter side before the centre crop, in pixels.
        area: smallest and largest share of the image's area in a random crop, before it is scaled to crop_size.
        aspect: smallest and largest ratio of width to height of a random crop.
        jitter: strength of brightness, contrast and sharpness changes, 0 to 1; 0.4 means factors 0.6 to 1.4.
        flip: probability of a horizontal flip.
    """

    crop_size: int = 224
    resize: int = 256
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    jitter: float = 0.0
    flip: float = 0.5

    def __post_init__(self) -> None:
        _within("augment", self, 0, 1, "jitter", "flip")
        _check_crop_size(self.crop_size, self.crop_size)
        if self.resize < self.crop_size:
            raise UserError(
                f"augment.resize {self.resize}: the centre crop must fit: use augment.crop_size ({self.crop_size}) or "
                "more"
            )
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise UserError(f"augment.area {list(self.area)}: use 0 < smallest <= largest <= 1")
        if not 0 < self.aspect[0] <= self.aspect[1] < math.inf:
            raise UserError(f"augment.aspect {list(self.aspect)}: use 0 < narrowest <= widest")


def _imagenet_recipe() -> BaseTrainConfig:
    """The recipe of the paper (sec. 5.1) and the authors' code."""
    return BaseTrainConfig(epochs=120, batch_size=256, lr=0.1, schedule="step", eval_every=1)


@dataclass
class PretrainConfig:
    """A run that trains a classifier, from whose backbone a segmentation network can start.

    Args:
        name: name of the run; its folder is runs/NAME unless --output names another.
        data: images.
        model: the classifier.
        augment: augmentation.
        train: training.
    """

    name: str = "pretrain"
    data: PretrainDataConfig = field(default_factory=PretrainDataConfig)
    model: PretrainModelConfig = field(default_factory=PretrainModelConfig)
    augment: PretrainAugmentConfig = field(default_factory=PretrainAugmentConfig)
    train: BaseTrainConfig = field(default_factory=_imagenet_recipe)

    def __post_init__(self) -> None:
        _check_batch_norm(self.train.batch_size, self.augment.crop_size, self.augment.crop_size)


def _check_crop_size(height: int, width: int) -> None:
    if min(height, width) < 32 or height % 32 or width % 32:
        fit = [max(32, round(side / 32) * 32) for side in (height, width)]
        raise UserError(
            f"augment.crop_size {height} x {width}: height and width must be multiples of 32, so that no part of a "
            f"crop is padding: use {fit[0]} x {fit[1]}"
        )


def _check_batch_norm(batch_size: int, height: int, width: int) -> None:
    if batch_size == 1 and height * width <= 32 * 32:
        raise UserError("train.batch_size 1 with a crop of 32 x 32: batch norm needs more than one value: use 2")


def _above_zero(section: str, config: object, name: str) -> None:
    value = getattr(config, name)
    if value is not None and not 0 < value < math.inf:
        raise UserError(f"{section}.{name} {value}: use a number above 0")


def _within(section: str, config: object, low: float, high: float, *names: str) -> None:
    """Refuses numbers that are not finite or not from `low` to `high`, both included."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not (low <= value <= high and math.isfinite(value)):
            allowed = f"a finite number, {low} or more" if math.isinf(high) else f"a number from {low} to {high}"
            raise UserError(f"{section}.{name} {value}: use {allowed}")
