"""Reads a `scores.json`; who reads one did not necessarily write it."""

from pathlib import Path
from typing import Any

from dlaseg.errors import UserError
from dlaseg.strict_json import read_json

WHAT = "a scores.json of dlaseg eval"

_PROTOCOL = {"dataset": str, "split": str, "images": int, "flip": bool, "weights_sha256": str}
"""Types of fields that readers use."""


def read_scores(path: Path, *required: str) -> dict[str, Any]:
    """Reads a `scores.json`.

    Args:
        path: the file.
        required: keys that it must have besides `classes` and `protocol`.

    Returns:
        Its content. `classes` and `protocol` with `dataset` and `split` are there. Scores are None or 0 to 1, and
        fields that exist have the type that `dlaseg eval` gives them.

    Raises:
        UserError: the file cannot be read, or dlaseg did not write this content.
    """
    content = read_json(path, WHAT)
    try:
        _check(content, required)
    except ValueError as error:
        raise UserError(f"{path}: not {WHAT} ({error}): score again") from error
    return dict(content)


def _check(content: Any, required: tuple[str, ...]) -> None:
    for key in ("classes", "protocol", *required):
        if not isinstance(content, dict) or key not in content:
            raise ValueError(f"no {key!r}")
    classes, protocol = content["classes"], content["protocol"]
    if not isinstance(classes, dict) or not classes:
        raise ValueError("'classes' does not hold a row for each class")
    for name, row in classes.items():
        if not isinstance(row, dict):
            raise ValueError(f"class {name[:80]!r} has no scores")
        for key in ("iou", "accuracy"):
            _check_share(f"{key} of {name[:80]!r}", row.get(key))
    for key in ("miou", "pixel_accuracy", "mean_accuracy"):
        _check_share(key, content.get(key))
    for key in ("dataset", "split"):
        if not isinstance(protocol, dict) or key not in protocol:
            raise ValueError(f"no {key!r} in 'protocol'")
    for key, kind in _PROTOCOL.items():
        if key in protocol and type(protocol[key]) is not kind:
            raise ValueError(f"{key} {_short(protocol[key])} in 'protocol'")
    scales = protocol.get("scales", [])
    if not isinstance(scales, list) or not all(type(scale) in (int, float) for scale in scales):
        raise ValueError(f"scales {_short(scales)} in 'protocol'")


def _check_share(name: str, value: Any) -> None:
    if value is not None and not (type(value) in (int, float) and 0 <= value <= 1):
        raise ValueError(f"{name} {_short(value)}, which is not from 0 to 1")


def _short(value: Any) -> str:
    return f"{value!r:.80}"
