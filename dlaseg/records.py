"""Records, which are dataclasses of dataclasses, as YAML and as dotted names such as `train.lr`."""

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args, get_origin

import yaml

from dlaseg.errors import UserError


def to_yaml(record: Any) -> str:
    """The whole record as YAML, defaults included."""
    return yaml.safe_dump(_plain(dataclasses.asdict(record)), sort_keys=False, allow_unicode=True)


def field_names(kind: type, prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields of a record: `name`, `data.root`, ..."""
    for entry in dataclasses.fields(kind):
        if isinstance(entry.type, type) and dataclasses.is_dataclass(entry.type):
            yield from field_names(entry.type, f"{prefix}{entry.name}.")
        else:
            yield prefix + entry.name


def check_keys(content: Any, source: str, kind: type) -> None:
    """Refuses a key that no field has, and names the nearest one.

    Args:
        content: what a YAML file held.
        source: the file, for the message.
        kind: the record's dataclass.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{source}: no mapping; a config is YAML such as 'train: {{lr: 0.01}}'")
    known = list(field_names(kind))
    for key in unknown_keys(content, kind):
        raise UserError(f"{source}: unknown field {key!r}: did you mean {nearest(key, known)!r}?")
    for name, position, item, entry in _entries(content, kind):
        fields = [known.name for known in dataclasses.fields(entry)]
        if not isinstance(item, Mapping):
            raise UserError(f"{source}: {name}[{position}] {item!r}: no mapping; use one such as {{{fields[0]}: ...}}")
        for key in item.keys() - set(fields):
            raise UserError(f"{source}: unknown field {name}[{position}].{key}: did you mean {nearest(key, fields)!r}?")


def unknown_keys(content: Mapping[str, Any], kind: type) -> list[str]:
    """Dotted names in a record's YAML that no field of `kind` has."""
    known = list(field_names(kind))
    return [key for key in flatten(content) if not any(name == key or name.startswith(f"{key}.") for name in known)]


def _entries(content: Mapping[str, Any], kind: type, prefix: str = "") -> Iterator[tuple[str, int, Any, type]]:
    """What stands in lists of dataclasses: the list's dotted name, the position, the entry, the dataclass."""
    for field in dataclasses.fields(kind):
        value, of = content.get(field.name), get_args(field.type)
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type) and isinstance(value, Mapping):
            yield from _entries(value, field.type, f"{prefix}{field.name}.")
        elif get_origin(field.type) is list and dataclasses.is_dataclass(of[0]) and isinstance(value, list):
            for position, item in enumerate(value):
                yield f"{prefix}{field.name}", position, item, cast(type, of[0])


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one level of dotted names."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def nearest(name: str, known: Sequence[str]) -> str:
    """The known name that looks most like `name`; of dotted names the last part counts double, also by initials."""

    def likeness(candidate: str) -> float:
        last, theirs = name.split(".")[-1], candidate.split(".")[-1]
        whole = difflib.SequenceMatcher(None, name, candidate).ratio()
        short = last in (_initials(theirs), theirs) or theirs == _initials(last)  # wd, learning_rate
        return whole + (2 if short else difflib.SequenceMatcher(None, last, theirs).ratio())

    return max(known, key=likeness)


def _initials(name: str) -> str:
    return "".join(word[:1] for word in name.split("_"))


def read_yaml(path: Path) -> Any:
    """Reads a YAML file, or says in one line why not."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: name a YAML file that can be read") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())})") from error


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value
