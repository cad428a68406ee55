"""The config of a run: one YAML file is one run.

Every field can be set on the command line by its dotted name, `--train.lr 0.02`. Each dataclass checks its own values
when it is constructed, also by `dataclasses.replace`, and raises a `UserError` that names the field. It does not check
types: `dlaseg.config.reading` does. Whether a data set of the given name exists is checked where data sets are known.
"""

from dataclasses import dataclass, field
from typing import Literal

from dlaseg.config.checks import (
    LARGEST_FACTOR,
    LARGEST_SEED,
    LARGEST_SHORT_SIDE,
    MOST_TERMS,
    SMALLEST_SHORT_SIDE,
    ConfigSection,
    above_zero,
    check_batch_norm,
    check_crop_size,
    check_name,
    check_scales,
    check_workers,
    convert_values,
    within,
)
from dlaseg.config.training import BaseTrainConfig
from dlaseg.errors import UserError


@dataclass
class DataConfig(ConfigSection):
    """Images and labels.

    Args:
        dataset: name of the data set; `dlaseg eval --help` lists them.
        root: folder of the data set.
        train_split: split to train on; train+val for both together, with val_share or lists for validation.
        val_split: split to validate on; the best weights are those with the highest score on it.
        train_list: text file that lists the images to train on, one name per line; null for the whole split.
        val_list: text file that lists the images to validate on.
        val_share: share of the images of train_split that are validated on instead of val_split, such as 0.1; they are
            drawn by split_seed. null to use val_split.
        split_seed: seed of the images that val_share draws.
        images: for dataset folder: path of the images below root, a folder or a pattern; {split} stands for the split,
            {name} for the name of an image, .* at the end for any suffix.
        labels: for dataset folder: path of the label maps below root, such as masks/{split}/{name}_mask.png.
        classes: for dataset folder: path of the classes file (YAML) below root.
        class_uniform: share of an epoch's crops that are drawn by class, 0 to 1, such as 0.5: as many for each class
            that occurs, each around pixels of the class, so that rare classes are seen often; 0 for none. See
            docs/training.md.
        class_uniform_tile: for class_uniform: height and width of the tiles of an image, in pixels; each class has one
            place in each tile.
        workers: processes that load images; affects the speed, never the result.
        on_error: what to do with a training image or label map that cannot be decoded: stop ends the run; skip uses the
            next image instead, and counts and logs it. Wrong content always stops, and so does validation: its score
            covers the whole split.
        on_missing_class: for dataset folder: what to do before the first epoch if a class has no pixel while 255 has,
            which is ignored by default, or if fewer than two classes have pixels: stop ends the run; warn goes on. For
            any dataset, what to do if no pixel of the validation split is labelled.
        on_changed_files: what --resume does if images came or went since: stop refuses; go continues with the present
            ones.
    """

    dataset: str = "cityscapes"
    root: str = "data/cityscapes"
    train_split: str = "train"
    val_split: str = "val"
    train_list: str | None = None
    val_list: str | None = None
    val_share: float | None = None
    split_seed: int = 0
    images: str = "images/{split}"
    labels: str = "labels/{split}"
    classes: str = "classes.yaml"
    class_uniform: float = 0.0
    class_uniform_tile: int = 1024
    workers: int = 2
    on_error: Literal["stop", "skip"] = "stop"
    on_missing_class: Literal["stop", "warn"] = "stop"
    on_changed_files: Literal["stop", "go"] = "stop"

    def __post_init__(self) -> None:
        convert_values("data", self)
        check_workers("data.workers", self.workers)
        within("data", self, 0, LARGEST_SEED, "split_seed")
        within("data", self, 0, 1, "class_uniform")
        within("data", self, 32, 1_000_000, "class_uniform_tile")
        if self.val_share is not None and not 0 < self.val_share < 1:
            raise UserError(f"data.val_share {self.val_share}: use a number above 0 and below 1, such as 0.1")
        if self.val_share is not None and self.val_list is not None:
            raise UserError(
                f"data.val_share {self.val_share} and data.val_list {self.val_list}: both choose the images to "
                "validate on: set only one of them"
            )


@dataclass
class ModelConfig(ConfigSection):
    """Segmentation network.

    Args:
        name: backbone variant, see `dlaseg models`.
        stride: output stride of the decoder: 2, 4 or 8.
        root_kernel_size: kernel size of the backbone's aggregation nodes: 3, or 1 as in published weights.
        decoder: plain, iterative deep aggregation; or afa, attentive feature aggregation.
        head: linear, a 1x1 convolution; or ocr, object-contextual representations.
        scales: of the image, such as [0.5, 1], whose scores the network blends by weights that it learns (scale-space
            rendering); [] for a network of one scale.
        activation: of decoder and head: relu; or leaky_relu, to start from weights that have it.
        max_short_side: images whose shorter side has more pixels are computed at 1/2, 1/3, ... of their size, the
            largest that fits, in training, validation, dlaseg infer and dlaseg eval; null for no limit.
        weights: weights of a whole network to start from: a file, a name such as camvid (dlaseg weights list), or a
            repository on the Hugging Face hub.
        backbone_weights: weights of the backbone to start from, such as timm/dla34.in1k or the result of
            `dlaseg pretrain`.
    """

    name: str = "dla34"
    stride: int = 2
    root_kernel_size: int = 3
    decoder: str = "plain"
    head: str = "linear"
    scales: list[float] = field(default_factory=list)
    activation: str = "relu"
    max_short_side: int | None = None
    weights: str | None = None
    backbone_weights: str | None = None

    def __post_init__(self) -> None:
        convert_values("model", self)
        check_scales(self.scales)
        within("model", self, SMALLEST_SHORT_SIDE, LARGEST_SHORT_SIDE, "max_short_side")
        if self.weights is not None and self.backbone_weights is not None:
            raise UserError(
                f"model.weights {self.weights} and model.backbone_weights {self.backbone_weights}: one would overwrite "
                "the other: set only one of them"
            )


@dataclass
class AugmentConfig(ConfigSection):
    """Random augmentation of training images, in the order of the fields.

    Args:
        scale: smallest and largest random scale.
        crop_size: height and width of the crop in pixels, multiples of 32; smaller images are padded.
        rotation: largest angle in degrees, in either direction.
        jitter: strength of brightness, contrast and sharpness changes, 0 to 1; 0.4 means factors 0.6 to 1.4.
        saturation: strength of saturation changes, 0 to 1; 0.4 means factors 0.6 to 1.4.
        hue: largest turn of the hue in either direction, as a share of the colour wheel, 0 to 0.5.
        gamma: strength of gamma changes, 0 to 0.9; 0.4 means exponents 0.6 to 1.4.
        color_cast: strength of a factor for each of red, green and blue, 0 to 1, as another white balance has it; 0.15
            means factors 0.85 to 1.15.
        flip: probability of a horizontal flip; 0 for classes that tell left from right.
    """

    scale: tuple[float, float] = (0.5, 2.0)
    crop_size: tuple[int, int] = (832, 832)
    rotation: float = 10.0
    jitter: float = 0.4
    saturation: float = 0.0
    hue: float = 0.0
    gamma: float = 0.0
    color_cast: float = 0.0
    flip: float = 0.5

    def __post_init__(self) -> None:
        convert_values("augment", self)
        within("augment", self, 0, 180, "rotation")
        within("augment", self, 0, 1, "jitter", "saturation", "color_cast", "flip")
        within("augment", self, 0, 0.9, "gamma")
        within("augment", self, 0, 0.5, "hue")
        if not 0 < self.scale[0] <= self.scale[1] <= 10:
            raise UserError(f"augment.scale {list(self.scale)}: use 0 < smallest <= largest <= 10")
        check_crop_size(*self.crop_size)


@dataclass
class LossConfig(ConfigSection):
    """A term of the loss. `TrainConfig` checks it, because only that knows the position for the message.

    Args:
        name: cross_entropy; ohem, the cross-entropy of each image's hardest pixels; focal; dice; lovasz;
            binary_cross_entropy, of each class for itself; rmi, region mutual information.
        weight: factor of this term in the sum.
        label_smoothing: for cross_entropy: share of the target that is spread over all classes, 0 to 1.
        threshold: for ohem: pixels whose true class has a lower probability are hard.
        min_kept: for ohem: least share of an image's scored pixels that is kept, 0 to 1.
        gamma: for focal: how much less well-classified pixels count; 0 is cross-entropy.
    """

    name: Literal["cross_entropy", "ohem", "focal", "dice", "lovasz", "binary_cross_entropy", "rmi"] = "cross_entropy"
    weight: float = 1.0
    label_smoothing: float = 0.0
    threshold: float = 0.7
    min_kept: float = 0.0625
    gamma: float = 2.0


_OPTIONS_OF_LOSSES = {
    "label_smoothing": "cross_entropy",
    "threshold": "ohem",
    "min_kept": "ohem",
    "gamma": "focal",
}

_WEIGHTED_LOSSES = ("cross_entropy", "ohem", "focal")
"""Those that class weights have an effect on."""


def _check_losses(name: str, losses: list[LossConfig]) -> None:
    """The terms of a field of this name are some, with weights and options that they have."""
    if not losses:
        raise UserError(f"{name} []: there is nothing to minimise: use [{{name: cross_entropy}}]")
    if len(losses) > MOST_TERMS:
        raise UserError(f"{name} of {len(losses)} terms: use {MOST_TERMS} or less")
    for i, loss in enumerate(losses):
        above_zero(f"{name}[{i}]", loss, "weight", LARGEST_FACTOR)
        within(f"{name}[{i}]", loss, 0, 1, "label_smoothing", "threshold", "min_kept")
        within(f"{name}[{i}]", loss, 0, 1000, "gamma")
        for option, of in _OPTIONS_OF_LOSSES.items():
            if loss.name != of and getattr(loss, option) != getattr(LossConfig(), option):
                raise UserError(
                    f"{name}[{i}].{option} {getattr(loss, option)}: an option of {of}, which {loss.name} does not "
                    "have: leave it out"
                )


@dataclass
class TrainConfig(BaseTrainConfig):
    """Training of a segmentation network.

    Args:
        losses: terms whose weighted sum is minimised.
        auxiliary_losses: terms for the auxiliary outputs of networks that have some; null for those of losses.
        class_weights: for cross_entropy, ohem and focal: one number per class; median_frequency, computed from the
            pixels of the training split; or null for equal weights.
    """

    losses: list[LossConfig] = field(default_factory=lambda: [LossConfig()])
    auxiliary_losses: list[LossConfig] | None = None
    class_weights: list[float] | Literal["median_frequency"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_losses("train.losses", self.losses)
        if self.auxiliary_losses is not None:
            _check_losses("train.auxiliary_losses", self.auxiliary_losses)
        weights = self.class_weights
        if isinstance(weights, list) and not (all(0 <= w <= LARGEST_FACTOR for w in weights) and any(weights)):
            raise UserError(
                f"train.class_weights {weights}: use numbers from 0 to {LARGEST_FACTOR:g}, at least one of them above 0"
            )
        terms = {loss.name for loss in (*self.losses, *(self.auxiliary_losses or ()))}
        if weights is not None and terms.isdisjoint(_WEIGHTED_LOSSES):
            raise UserError(
                f"train.class_weights {weights}: only {', '.join(_WEIGHTED_LOSSES)} take them, and train.losses has "
                "none of these: use null"
            )


@dataclass
class Config(ConfigSection):
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
        check_name(self.name)
        convert_values("", self)
        train, smallest = self.train, min(self.model.scales, default=1.0)
        check_batch_norm(train.batch_size, train.grad_accum_steps, *self.augment.crop_size, min(1.0, smallest))
