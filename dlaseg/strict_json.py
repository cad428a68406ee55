"""Reads JSON of unknown origin: each key once, finite numbers, and bounds on size and nesting."""

import json
import math
import re
from pathlib import Path
from typing import Any

from dlaseg.errors import UserError

MAX_BYTES = 1 << 28
"""Largest file: the `scores.json` of 100,000 images and 150 classes is smaller."""

MAX_DEPTH = 20
"""Deepest nesting of lists and objects."""

MAX_CONTAINERS = 5_000_000
"""Most lists and objects. They take far more memory than the text they are written in."""


class InvalidJSONError(ValueError):
    """Text that is not JSON or is refused; the message says what is wrong."""


def read_json(path: Path, what: str) -> Any:
    """Reads a JSON file.

    Args:
        path: the file.
        what: what the file should be, for the message.

    Raises:
        UserError: the file cannot be read, or as `parse_json`; names the file.
    """
    try:
        return parse_json(read_text(path))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: not {what} ({reason}): use {what}") from error


def read_text(path: Path, most: int = MAX_BYTES) -> str:
    """Reads a UTF-8 text file.

    Args:
        path: the file.
        most: bytes that it may have.

    Raises:
        OSError, ValueError: it cannot be read, is larger, or is not UTF-8.
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"more than {most} bytes")
    return content.decode("utf-8")


def parse_json(text: str, allow_nan: bool = False) -> Any:
    """Parses JSON: dicts, lists, strings, finite numbers, booleans and None.

    Args:
        text: the JSON.
        allow_nan: whether NaN and Infinity, which Python's writer knows, are numbers.

    Raises:
        InvalidJSONError: not JSON, a key that occurs twice in an object, a number beyond 64-bit floats or integers,
            half a surrogate pair, nesting beyond `MAX_DEPTH`, or more than `MAX_CONTAINERS` lists and objects.
    """
    if text.count("[") + text.count("{") > MAX_CONTAINERS:
        raise InvalidJSONError(f"more than {MAX_CONTAINERS} lists and objects")
    try:
        constant = float if allow_nan else _refuse_constant
        content = json.loads(
            text, object_pairs_hook=_object, parse_int=_integer, parse_float=_finite, parse_constant=constant
        )
    except RecursionError as error:
        raise InvalidJSONError(f"nested more than {MAX_DEPTH} levels deep") from error
    except json.JSONDecodeError as error:
        raise InvalidJSONError(f"not JSON: {error}") from error
    _check_depth(content)
    if re.search(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]", text):
        _check_surrogates(content)
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise InvalidJSONError(f"key {twice[:80]!r} occurs twice")
    return content


def _integer(text: str) -> int:
    if len(text) > 20 or not -(1 << 63) <= (value := int(text)) < 1 << 63:
        raise InvalidJSONError(f"number {text[:20]}{'...' if len(text) > 20 else ''}: more than 64 bits")
    return value


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise InvalidJSONError(f"number {text[:20]}: not finite")
    return value


def _refuse_constant(text: str) -> Any:
    raise InvalidJSONError(f"{text}: not a number of JSON")


def _check_surrogates(content: Any) -> None:
    try:
        json.dumps(content, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidJSONError("half a surrogate pair, which is no character") from error


def _check_depth(content: Any) -> None:
    level, depth = [content], 0
    while level := [item for item in level if isinstance(item, list | dict)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise InvalidJSONError(f"nested more than {MAX_DEPTH} levels deep")
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
