"""What a record may hold beyond what types can say."""

import math

from dlaseg.config import Config, PretrainConfig
from dlaseg.errors import UserError


def validate(config: Config | PretrainConfig) -> None:
    """Checks every value that a type alone cannot check.

    Raises:
        UserError: names the field, its value and the rule.
    """
    train = config.train
    _at_least("data.workers", config.data.workers, 0)
    _at_least("train.epochs", train.epochs, 1)
    _at_least("train.batch_size", train.batch_size, 1)
    _at_least("train.grad_accum_steps", train.grad_accum_steps, 1)
    _at_least("train.max_nonfinite_steps", train.max_nonfinite_steps, 0)
    _at_least("train.warmup_steps", train.warmup_steps, 0)
    _at_least("train.step_epochs", train.step_epochs, 1)
    _at_least("train.eval_every", train.eval_every, 1)
    _at_least("train.seed", train.seed, 0)
    if train.patience is not None:
        _at_least("train.patience", train.patience, 1)
    if train.clip_grad_norm is not None:
        _above_zero("train.clip_grad_norm", train.clip_grad_norm)
    _within("train.lr", train.lr, 0, math.inf)
    _within("train.backbone_lr_factor", train.backbone_lr_factor, 0, math.inf)
    _within("train.checkpoint_minutes", train.checkpoint_minutes, 0, math.inf)
    if not 0 <= train.ema_decay < 1:
        raise UserError(
            f"train.ema_decay {train.ema_decay}: a decay is 0, for no average, or more, and less than 1: use 0.999, say"
        )
    _within("train.momentum", train.momentum, 0, 1)
    _within("train.weight_decay", train.weight_decay, 0, math.inf)
    _within("train.poly_power", train.poly_power, 0, math.inf)
    _within("train.step_gamma", train.step_gamma, 0, 1)
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
    if not config.train.losses:
        raise UserError("train.losses []: nothing to minimise: use [{name: cross_entropy}]")
    for i, loss in enumerate(config.train.losses):
        _above_zero(f"train.losses[{i}].weight", loss.weight)
        _within(f"train.losses[{i}].label_smoothing", loss.label_smoothing, 0, 1)
        _within(f"train.losses[{i}].threshold", loss.threshold, 0, 1)
        _within(f"train.losses[{i}].min_kept", loss.min_kept, 0, 1)
        _within(f"train.losses[{i}].gamma", loss.gamma, 0, math.inf)
    if isinstance(weights, list) and not all(w >= 0 and math.isfinite(w) for w in weights):
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


def _above_zero(name: str, number: float) -> None:
    if not 0 < number < math.inf:
        raise UserError(f"{name} {number}: use a number above 0")


def _within(name: str, number: float, low: float, high: float) -> None:
    if not low <= number <= high or math.isinf(number):
        raise UserError(f"{name} {number}: use a number from {low} to {high}")
