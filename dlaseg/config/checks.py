"""Checks of config values; each raises a `UserError` that names field, value and rule."""

import math

from dlaseg.errors import UserError


def check_crop_size(height: int, width: int) -> None:
    """Height and width are multiples of 32, the deepest stride."""
    if min(height, width) < 32 or height % 32 or width % 32:
        fit = [max(32, round(side / 32) * 32) for side in (height, width)]
        raise UserError(
            f"augment.crop_size {height} x {width}: height and width must be multiples of 32, so that no part of a "
            f"crop is padding: use {fit[0]} x {fit[1]}"
        )


def check_batch_norm(batch_size: int, height: int, width: int) -> None:
    """Batch norm of the deepest level sees more than one value per channel."""
    if batch_size == 1 and height * width <= 32 * 32:
        raise UserError("train.batch_size 1 with a crop of 32 x 32: batch norm needs more than one value: use 2")


def above_zero(section: str, config: object, name: str) -> None:
    """A field of a section is a finite number above 0, or None."""
    value = getattr(config, name)
    if value is not None and not 0 < value < math.inf:
        raise UserError(f"{section}.{name} {value}: use a number above 0")


def within(section: str, config: object, low: float, high: float, *names: str) -> None:
    """Refuses numbers that are not finite or not from `low` to `high`, both included."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not (low <= value <= high and math.isfinite(value)):
            allowed = f"a finite number, {low} or more" if math.isinf(high) else f"a number from {low} to {high}"
            raise UserError(f"{section}.{name} {value}: use {allowed}")
