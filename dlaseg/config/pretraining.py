"""The config of a run of `dlaseg pretrain`, which trains an image classifier; see `dlaseg.config.segmentation`."""

from dataclasses import dataclass, field
from typing import Literal

from dlaseg.config.checks import (
    LARGEST_CROP,
    ConfigSection,
    check_batch_norm,
    check_crop_size,
    check_name,
    check_workers,
    convert_values,
    within,
)
from dlaseg.config.training import BaseTrainConfig
from dlaseg.errors import UserError


@dataclass
class PretrainDataConfig(ConfigSection):
    """Images in one folder per class, root/SPLIT/CLASS/*, as ImageNet is stored.

    Args:
        root: folder of the data set.
        train_split: split to train on.
        val_split: split to validate on, with the classes of train_split; the best weights are those with the highest
            score on it.
        workers: processes that load images; affects the speed, never the result.
        on_error: what to do with a training image that cannot be decoded: stop ends the run; skip uses the next image
            instead, and counts and logs it.
        on_changed_files: what --resume does if images came or went since: stop refuses; go continues with the present
            ones.
    """

    root: str = "data/imagenet"
    train_split: str = "train"
    val_split: str = "val"
    workers: int = 2
    on_error: Literal["stop", "skip"] = "stop"
    on_changed_files: Literal["stop", "go"] = "stop"

    def __post_init__(self) -> None:
        convert_values("data", self)
        check_workers("data.workers", self.workers)


@dataclass
class PretrainModelConfig(ConfigSection):
    """Image classifier.

    Args:
        name: variant, see `dlaseg models`.
        root_kernel_size: kernel size of the aggregation nodes: 1 as in published weights, or 3.
        weights: weights of a classifier to start from; null for none.
    """

    name: str = "dla34"
    root_kernel_size: int = 1
    weights: str | None = None

    def __post_init__(self) -> None:
        convert_values("model", self)


@dataclass
class PretrainAugmentConfig(ConfigSection):
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
        convert_values("augment", self)
        within("augment", self, 0, 1, "jitter", "flip")
        check_crop_size(self.crop_size, self.crop_size)
        within("augment", self, 32, 2 * LARGEST_CROP, "resize")
        if self.resize < self.crop_size:
            raise UserError(
                f"augment.resize {self.resize}: the centre crop must fit: use augment.crop_size ({self.crop_size}) or "
                "more"
            )
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise UserError(f"augment.area {list(self.area)}: use 0 < smallest <= largest <= 1")
        if not 0.01 <= self.aspect[0] <= self.aspect[1] <= 100:
            raise UserError(f"augment.aspect {list(self.aspect)}: use 0.01 <= narrowest <= widest <= 100")


def _imagenet_recipe() -> BaseTrainConfig:
    """The recipe of the paper (sec. 5.1) and the authors' code."""
    return BaseTrainConfig(epochs=120, batch_size=256, lr=0.1, schedule="step", eval_every=1)


@dataclass
class PretrainConfig(ConfigSection):
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
        check_name(self.name)
        convert_values("", self)
        crop = self.augment.crop_size
        check_batch_norm(self.train.batch_size, self.train.grad_accum_steps, crop, crop)
