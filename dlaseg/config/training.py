"""Fields of training that all tasks share."""

from dataclasses import dataclass, field
from typing import Literal

from dlaseg.config.checks import LARGEST_SEED, MANY, MOST_TERMS, ConfigSection, above_zero, convert_values, within
from dlaseg.errors import UserError

NOT_FIELDS = {"model.num_classes": "the data set decides: list the classes in its classes file (data.classes)"}
"""What other toolkits set in a config, and what sets it here."""


@dataclass
class BaseTrainConfig(ConfigSection):
    """Training, as segmentation and classification share it.

    Args:
        epochs: passes over the training split.
        batch_size: images per update of the weights, summed over all processes and micro-batches.
        grad_accum_steps: micro-batches into which each process splits its share of a batch, to save memory. The update
            stays the same except for batch norm, whose statistics are those of each micro-batch.
        optimizer: sgd, with momentum; adamw, which gets further in short runs; muon, which gets furthest from random
            weights (docs/experiments.md): it orthogonalises the updates of all convolutions but the first, the last,
            and depthwise and transposed ones, and is AdamW for the other parameters. A step takes some 10 % longer on a
            CPU.
        lr: learning rate after warm-up.
        min_lr: for schedules poly and cosine: learning rate that they fall to; as lr, for the backbone times
            backbone_lr_factor.
        backbone_lr_factor: factor on the learning rate of the backbone; below 1 it preserves pretrained weights.
        attention_lr_factor: factor on the learning rate of attention; below 1, such as 0.1, it helps short runs from
            random weights.
        momentum: momentum of SGD; AdamW always uses betas 0.9 and 0.999, Muon 0.95.
        weight_decay: weight decay of every parameter: an L2 penalty for SGD, decoupled for AdamW and Muon,
            which take 0.1 well.
        decay_norm_and_bias: whether weight decay also applies to batch norm parameters and biases.
        clip_grad_norm: largest L2 norm of a gradient; a larger gradient is scaled down to it; null for no limit.
        ema_decay: decay of the exponential moving average of the weights, which is then validated and saved; 0 for no
            average. The first update copies the weights; after n, it is at most (1 + n) / (10 + n).
        freeze: what is not trained: the backbone; norm, which is every batch norm including its statistics; both; or
            nothing.
        warmup_steps: steps over which the learning rate rises linearly to that of the schedule.
        warmup_start: share of the learning rate that the warm-up begins with, 0 to 1; 0.01 means one per cent.
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
        trackers: writers of the curves: tensorboard, or MODULE:NAME of your own subclass of
            `dlaseg.training.trackers.Tracker`, which is imported only with --allow-trackers.
    """

    epochs: int = 500
    batch_size: int = 16
    grad_accum_steps: int = 1
    optimizer: Literal["sgd", "adamw", "muon"] = "sgd"
    lr: float = 0.01
    min_lr: float = 0.0
    backbone_lr_factor: float = 1.0
    attention_lr_factor: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay_norm_and_bias: bool = True
    clip_grad_norm: float | None = None
    ema_decay: float = 0.0
    freeze: Literal["nothing", "backbone", "norm", "backbone_and_norm"] = "nothing"
    warmup_steps: int = 0
    warmup_start: float = 0.0
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
        convert_values("train", self)
        within("train", self, 1, MANY, "epochs", "step_epochs", "eval_every", "patience")
        within("train", self, 1, 1_000_000, "batch_size", "grad_accum_steps")
        within("train", self, 0, MANY, "max_nonfinite_steps", "warmup_steps", "checkpoint_minutes")
        within("train", self, 0, LARGEST_SEED, "seed")
        within("train", self, 0, 1000, "lr", "min_lr", "weight_decay", "poly_power")
        within("train", self, 0, 1000, "backbone_lr_factor", "attention_lr_factor")
        within("train", self, 0, 1, "momentum", "step_gamma", "warmup_start")
        above_zero("train", self, "clip_grad_norm", 1e30)
        if len(self.trackers) > MOST_TERMS:
            raise UserError(f"train.trackers of {len(self.trackers)} entries: use {MOST_TERMS} or less")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"train.ema_decay {self.ema_decay}: use 0 (no average) or a decay below 1, such as 0.999")
        if self.min_lr > self.lr:
            raise UserError(f"train.min_lr {self.min_lr}: above train.lr {self.lr}: use a number from 0 to {self.lr}")
        if self.min_lr and self.schedule == "step":
            raise UserError(f"train.min_lr {self.min_lr}: only schedules poly and cosine have a floor, not step: use 0")
