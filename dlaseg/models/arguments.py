"""Checks of the arguments that networks are built from; a weights file brings its own along."""

from collections.abc import Collection
from typing import Any

from dlaseg.errors import UserError


def check_integer(name: str, value: Any, low: int, high: int) -> None:
    """Checks that an argument is an integer from `low` to `high`, both included."""
    if type(value) is not int or not low <= value <= high:
        raise UserError(f"{name} {value!r:.80}: use an integer from {low} to {high}")


def check_choice(name: str, value: Any, choices: Collection[int]) -> None:
    """Checks that an argument is one of a few integers."""
    if type(value) is not int or value not in choices:
        *others, last = map(str, choices)
        raise UserError(f"{name} {value!r:.80}: use {', '.join(others)} or {last}")
