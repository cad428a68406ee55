"""Records, which are dataclasses of dataclasses, as YAML and as dotted names such as `train.lr`."""

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

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
    for key in flatten(content):
        if key not in known and not any(name.startswith(f"{key}.") for name in known):
            raise UserError(f"{source}: unknown field {key!r}: did you mean {nearest(key, known)!r}?")


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
    """The known name that looks most like `name`; of dotted names the last part counts double."""

    def likeness(candidate: str) -> float:
        whole = difflib.SequenceMatcher(None, name, candidate).ratio()
        return whole + difflib.SequenceMatcher(None, name.split(".")[-1], candidate.split(".")[-1]).ratio()

    return max(known, key=likeness)


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
