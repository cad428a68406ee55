"""Reads JSON files and text of strangers, and checks their form: what is wrong is named with file and entry."""

import json
import reprlib
from collections.abc import Hashable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from dlaseg.errors import UserError

T = TypeVar("T")


class Entry(BaseModel):
    """An entry of an annotation file, described by its fields; further ones are not read."""

    model_config = ConfigDict(extra="ignore", frozen=True)


def read_text(path: Path) -> str:
    """Reads a UTF-8 text file, with or without byte order mark.

    Raises:
        UserError: the file cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}: use a file that can be read") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text: export the file again") from error


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        UserError: the file cannot be read or is not JSON.
    """
    try:
        return json.loads(read_text(path))
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({' '.join(str(error).split())}): export the file again") from error


def check(kind: type[T], entry: Any, source: str) -> T:
    """Reads an entry as an `Entry` or a type such as `list[str]`.

    Args:
        kind: what the entry shall be.
        entry: as JSON or YAML gives it.
        source: file and id of the entry, for messages.

    Raises:
        UserError: a field is missing or of another type; names field and value.
    """
    try:
        checked: T = _adapter(cast(Hashable, kind)).validate_python(entry)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        # Of a value of several types, pydantic names the one that it tried last
        field = ".".join(str(word) for word in first["loc"] if word not in ("int", "str", "list[int]", "list[str]"))
        value = "" if first["type"] == "missing" else shown(first["input"])
        place = " ".join(word for word in (source, field, value) if word)
        message = first["msg"][:1].lower() + first["msg"][1:].partition(" or instance of ")[0]
        raise UserError(f"{place}: {message}: correct the entry or export the file again") from error
    return checked


@lru_cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def id_of(entry: Any, key: str = "id") -> str:
    """The id of an entry, for messages; a question mark for none."""
    return shown(entry[key]) if isinstance(entry, Mapping) and key in entry else "?"


def shown(value: Any) -> str:
    """A value for messages: one short line, whatever it is."""
    try:
        return reprlib.repr(value)[:80]
    except Exception:  # such as an integer of more digits than Python prints
        return type(value).__name__
