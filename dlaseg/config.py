"""The experiment records, one a command: one YAML file is one run.

Every field can be set on the command line by its dotted name, `--train.lr 0.02`.
"""

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class DataConfig:
    """Where images and labels come from.

    Args:
        dataset: name of the data set.
        root: the data set's folder.
        train_split: what is learnt from.
        val_split: what the best weights are chosen by.
        train_list: text file that lists the images to train on, one name per line; null for the whole split.
        val_list: text file that lists the images to validate on.
        images: for dataset folder: path of the images below root; null for images/{split}.
        labels: for dataset folder: path of the label maps below root; null for labels/{split}.
        classes: for dataset folder: path of the classes file (YAML) below root; null for classes.yaml.
        workers: processes that load images; changes the speed, never the result.
        on_error: what a training image that cannot be read does: stop ends the run, skip takes the next image in its
            place, counts it and names it. Validation always stops: its score is the whole split's.
    """

    dataset: str = "cityscapes"
    root: str = "data/cityscapes"
    train_split: str = "train"
    val_split: str = "val"
    train_list: str | None = None
    val_list: str | None = None
    images: str | None = None
    labels: str | None = None
    classes: str | None = None
    workers: int = 2
    on_error: Literal["stop", "skip"] = "stop"


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
    """How weights are learnt, whatever the task.

    Args:
        epochs: passes over the training split.
        batch_size: images in an update of the weights, over all processes and parts.
        grad_accum_steps: micro-batches that a process splits its part of a batch into, to save memory; the same update
            but for batch norm, whose statistics are each micro-batch's own.
        optimizer: sgd, with momentum, for long runs; adamw gets further in short ones.
        lr: learning rate after warm-up.
        backbone_lr_factor: factor of the backbone's learning rate; less than 1 spares pretrained weights.
        momentum: of SGD; AdamW has betas of its own, 0.9 and 0.999.
        weight_decay: of every parameter: an L2 penalty for SGD, decoupled for AdamW.
        decay_norm_and_bias: whether batch norm's parameters and biases decay, too.
        clip_grad_norm: largest L2 norm of an update's gradient; a longer one is shortened to it; null for any.
        ema_decay: decay of the weights' exponential moving average, which is then validated and saved; 0 for none. The
            first updates decay faster, (1 + n) / (10 + n) after n of them.
        freeze: what is not learnt: backbone; norm, every batch norm, its statistics included; both; or nothing.
        warmup_steps: steps over which the learning rate rises linearly from 0.
        schedule: how the learning rate falls: poly or cosine, with every step, or step, every few epochs.
        poly_power: of poly: the learning rate falls as (1 - step / steps) ** poly_power.
        step_epochs: of step: epochs after which the learning rate falls, again and again.
        step_gamma: of step: what the learning rate is then multiplied by.
        eval_every: epochs between validations; the last epoch is always validated.
        patience: validations without a new best after which the run ends; null for all epochs.
        checkpoint_minutes: between checkpoints within an epoch; there is one after every epoch in any case.
        max_nonfinite_steps: steps in a row whose loss or gradient is not finite, and which are skipped, before the run
            stops.
        precision: auto takes bfloat16 autocast where the hardware gains from it; float16, on GPUs alone, scales the
            loss.
        compile: whether torch.compile builds the network; takes minutes, for long runs.
        deterministic: whether only algorithms that give the same numbers again are taken; on CPUs all are.
        device: auto, cpu, cuda, cuda:1, mps, ...
        seed: of the first weights, the order and the augmentation.
        trackers: what draws the curves: tensorboard, or MODULE:NAME for a class or function of yours that makes a
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


@dataclass
class LossConfig:
    """A term of the loss.

    Args:
        name: cross_entropy; ohem, the cross-entropy of each image's hardest pixels; focal; dice; lovasz.
        weight: factor of this term in the sum.
        label_smoothing: of cross_entropy: share of the target that is spread over all classes, 0 to 1.
        threshold: of ohem: pixels whose true class has a lower probability are hard.
        min_kept: of ohem: least share of an image's scored pixels that is kept, 0 to 1.
        gamma: of focal: how much less well-classified pixels count; 0 is cross-entropy.
    """

    name: Literal["cross_entropy", "ohem", "focal", "dice", "lovasz"] = "cross_entropy"
    weight: float = 1.0
    label_smoothing: float = 0.0
    threshold: float = 0.7
    min_kept: float = 0.0625
    gamma: float = 2.0


@dataclass
class TrainConfig(LearningConfig):
    """How a segmentation network's weights are learnt.

    Args:
        losses: terms whose weighted sum is minimised.
        class_weights: of cross_entropy, ohem and focal: one number a class; median_frequency, from the pixels of the
            training split; null for equal weights.
    """

    losses: list[LossConfig] = field(default_factory=lambda: [LossConfig()])
    class_weights: list[float] | Literal["median_frequency"] | None = None


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
        on_error: what a training image that cannot be read does: stop ends the run, skip takes the next image in its
            place, counts it and names it.
    """

    root: str = "data/imagenet"
    train_split: str = "train"
    val_split: str = "val"
    workers: int = 2
    on_error: Literal["stop", "skip"] = "stop"


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
