"""Checks of config values; each raises a `UserError` that names field, value and rule."""

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from numbers import Integral
from typing import Any

from dlaseg.errors import UserError, nearest

MANY = 1_000_000_000
"""Upper bound of counts that may be as good as unlimited, such as steps."""

LARGEST_CROP = 16384
"""Pixels of the longest side of a crop."""

LARGEST_FACTOR = 1_000_000.0
"""Upper bound of weights and other factors; beyond it, float32 overflows."""

MOST_TERMS = 20
"""Terms of a loss, and trackers."""

SMALLEST_SCALE, LARGEST_SCALE = 0.25, 4.0
"""Of the image, for a network that blends several."""

SMALLEST_SHORT_SIDE, LARGEST_SHORT_SIDE = 32, 100_000
"""Limits of the shorter side of images, pixels."""

LARGEST_SEED = (1 << 64) - 1
"""What PyTorch takes as a seed."""


class ConfigSection:
    """Base of a config and its sections: an assignment to a field that does not exist is refused."""

    def __setattr__(self, name: str, value: Any) -> None:
        known = type(self).__dataclass_fields__  # type: ignore[attr-defined]
        if name not in known:
            raise UserError(f"{type(self).__name__}.{name}: unknown field: did you mean {nearest(name, known)!r}?")
        super().__setattr__(name, value)


def check_name(name: Any) -> None:
    """The name of a run names a folder: one part of a path, which no shell takes for anything else."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", name):
        fit = "_".join(re.findall(r"\w[\w.-]*", str(name), re.ASCII))[:100]
        raise UserError(
            f"name {name!r:.120}: use 1 to 100 of the characters A-Z a-z 0-9 . _ - and begin with none of . -, such as "
            f"{fit or 'run'}"
        )


def convert_values(section: str, config: Any) -> None:
    """Each value of a section becomes what a YAML file's would: one of the type of its field.

    Raises:
        UserError: a value of another type; a text with a control character or half a character, which no file name has.
    """
    # Commands that read no config import this module, too, and should not wait for YAML
    from dlaseg.config.fields import Field, WrongTypeError, convert, is_section, wrong_type_message

    for field in dataclasses.fields(config):
        name, value = f"{section}.{field.name}" if section else field.name, getattr(config, field.name)
        if is_section(field.type):
            if not isinstance(value, field.type):
                given, wanted = type(value).__name__, field.type.__name__
                raise UserError(f"{name} of type {given}: use a {wanted}, such as {wanted}()")
            continue
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        try:
            value = convert(Field(name, field.type, default, ""), value)
        except WrongTypeError as error:
            raise UserError(wrong_type_message(error)) from error
        setattr(config, field.name, value)
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and (len(text) > 4096 or not _is_file_name(text)):
                raise UserError(f"{name} {text!r:.80}: use at most 4096 characters, no control characters")


def _is_file_name(text: str) -> bool:
    try:
        text.encode("utf-8", "surrogateescape")  # what os.fsencode does, in any locale
    except UnicodeEncodeError:
        return False
    return not re.search(r"[\x00-\x1f\x7f-\x9f]", text)


def check_workers(option: str, workers: int) -> None:
    """The number of loading processes is one that a machine can run."""
    most = max(32, 4 * (os.cpu_count() or 1))
    if not isinstance(workers, Integral) or not 0 <= workers <= most:
        raise UserError(f"{option} {workers!r}: use 0 to {most}, such as the number of cores")


def check_crop_size(height: int, width: int) -> None:
    """Height and width are multiples of 32, the deepest stride."""
    if max(height, width) > LARGEST_CROP:
        raise UserError(
            f"augment.crop_size {height} x {width}: a batch of such crops fits no memory: use {LARGEST_CROP} x "
            f"{LARGEST_CROP} or less"
        )
    if min(height, width) < 32 or height % 32 or width % 32:
        fit = [max(32, round(side / 32) * 32) for side in (height, width)]
        raise UserError(
            f"augment.crop_size {height} x {width}: height and width must be multiples of 32, so that no part of a "
            f"crop is padding: use {fit[0]} x {fit[1]}"
        )


def check_scales(scales: Sequence[float]) -> None:
    """The scales of a network are not so small or large that an image has no pixel or fits no memory."""
    for scale in scales:
        if not SMALLEST_SCALE <= scale <= LARGEST_SCALE:
            raise UserError(f"model.scales {_short(scale)}: use numbers from {SMALLEST_SCALE:g} to {LARGEST_SCALE:g}")


def check_batch_norm(batch_size: int, grad_accum_steps: int, height: int, width: int, scale: float = 1.0) -> None:
    """Batch norm of the deepest level, at stride 32, sees more than one value per channel.

    Args:
        batch_size: of all processes together, whose batch norm is synchronised where each has one image.
        grad_accum_steps: micro-batches that a batch is split into.
        height: of the crops.
        width: of the crops.
        scale: the smallest at which the network sees them.
    """
    values = batch_size // grad_accum_steps * math.ceil(height * scale / 32) * math.ceil(width * scale / 32)
    if values != 1:
        return
    split = f" in {grad_accum_steps} micro-batches" if grad_accum_steps > 1 else ""
    scaled = f" at scale {scale:g}" if scale != 1 else ""
    raise UserError(
        f"train.batch_size {batch_size}{split} with a crop of {height} x {width}{scaled}: batch norm needs more than "
        f"one value: use {2 * grad_accum_steps}"
    )


def above_zero(section: str, config: object, name: str, high: float) -> None:
    """A field of a section is a number above 0 and not above `high`, or None."""
    value = getattr(config, name)
    if value is not None and not 0 < value <= high:
        raise UserError(f"{section}.{name} {_short(value)}: use a number above 0, at most {high:g}")


def within(section: str, config: object, low: float, high: float, *names: str) -> None:
    """Refuses numbers that are not from `low` to `high`, both included; None is no number."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not low <= value <= high:
            raise UserError(f"{section}.{name} {_short(value)}: use a number from {low} to {high}")


def _short(value: object) -> str:
    """A number for a message; Python does not write integers of thousands of digits as decimals."""
    return f"{value:#x}"[:20] + "..." if isinstance(value, int) and value.bit_length() > 256 else str(value)
