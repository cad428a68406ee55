"""Configs from YAML files and from single values."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from dlaseg.config.fields import WrongTypeError, convert, fields_of, inline, is_section, shown, wrong_type_message
from dlaseg.config.files import flatten
from dlaseg.config.pretraining import PretrainConfig
from dlaseg.config.segmentation import Config
from dlaseg.config.training import NOT_FIELDS
from dlaseg.errors import UserError, nearest
from dlaseg.yaml_file import read_yaml

AnyConfig = TypeVar("AnyConfig", bound=Config | PretrainConfig)


def read_config(path: Path | str) -> Config | PretrainConfig:
    """Reads the config of a run; fields that the file leaves out keep their defaults.

    Args:
        path: a YAML file.

    Returns:
        A `PretrainConfig` if all fields of the file are fields of it, and not all are fields of `Config`.

    Raises:
        UserError: the file cannot be read, an unknown or renamed field, a value of the wrong type or out of its range.
    """
    path = Path(path)
    content = read_yaml(path, "a config (YAML)")
    kinds = [kind for kind in (Config, PretrainConfig) if not any(unknown_fields(content, kind, path))]
    kind = kinds[0] if kinds else Config
    return make_config(kind, values_of(content, path, kind))


def checked(config: AnyConfig) -> AnyConfig:
    """The config, after a check of all types and values, which an assignment to a field does not check.

    Raises:
        UserError: another object than a config, a value of the wrong type or out of its range.
    """
    kind = type(config)
    if not isinstance(config, Config | PretrainConfig):
        raise UserError(f"config of type {kind.__name__}: use a dlaseg.Config, or the path of a YAML file")
    return make_config(kind, values_of(dataclasses.asdict(config), "config", kind))


def read_values(path: Path, kind: type[AnyConfig], prog: str = "dlaseg") -> dict[str, Any]:
    """The values that a YAML file sets, by dotted name.

    Args:
        path: the file.
        kind: class of the config.
        prog: the program, for the message about a config of another command.

    Raises:
        UserError: the file cannot be read, an unknown or renamed field, or a value of the wrong type.
    """
    return values_of(read_yaml(path, "a config (YAML)"), path, kind, prog)


def values_of(content: Any, source: Path | str, kind: type[AnyConfig], prog: str = "dlaseg") -> dict[str, Any]:
    """The values of a config as YAML holds it, by dotted name and of the types of their fields.

    Args:
        content: the config.
        source: where it comes from, for messages.
        kind: class of the config.
        prog: as for `read_values`.

    Raises:
        UserError: as `read_values`.
    """
    check_keys(content, source, kind, prog)
    values = {}
    try:
        for field in fields_of(kind()):
            found, value = _find(content, field.name)
            if found:
                values[field.name] = convert(field, value)
    except WrongTypeError as error:
        raise UserError(f"{source}: {wrong_type_message(error)}") from error
    return values


def _find(content: Mapping[str, Any], name: str) -> tuple[bool, Any]:
    """Whether a nested mapping has a dotted name, and its value."""
    value: Any = content
    for key in name.split("."):
        if key not in value:
            return False, None
        value = value[key]
    return True, value


def make_config(kind: type[AnyConfig], values: Mapping[str, Any]) -> AnyConfig:
    """The config of these values by dotted name; all others are at their defaults.

    Raises:
        UserError: a value out of its range.
    """
    return _replaced(kind(), {tuple(name.split(".")): value for name, value in values.items()})


def _replaced(config: Any, values: Mapping[tuple[str, ...], Any]) -> Any:
    changes = {}
    for field in dataclasses.fields(config):
        own = {name[1:]: value for name, value in values.items() if name[0] == field.name}
        if own:
            changes[field.name] = own[()] if () in own else _replaced(getattr(config, field.name), own)
    return dataclasses.replace(config, **changes)


def check_keys(content: Any, source: Path | str, kind: type[AnyConfig], prog: str = "dlaseg") -> None:
    """Refuses a key that is not a field, and names the nearest field, or the command that has such fields.

    Args:
        content: a config as YAML holds it.
        source: the file, for the message.
        kind: class of the config.
        prog: the program, for the message.

    Raises:
        UserError: see `unknown_fields`; or an unknown field.
    """
    unknown = dict(unknown_fields(content, kind, source))
    command, other = ("pretrain", PretrainConfig) if kind is Config else ("train", Config)
    if unknown and not any(unknown_fields(content, other, source)):
        raise UserError(f"{source}: a config of another command: use {prog} {command}")
    for name, known in unknown.items():
        if name in known:
            section, _, field = name.rpartition(".")
            raise UserError(f"{source}: {name}: write the field below its section: {section}: {{{field}: ...}}")
        if name in NOT_FIELDS:
            raise UserError(f"{source}: {name}: not a field; {NOT_FIELDS[name]}")
        raise UserError(f"{source}: unknown field {name!r}: did you mean {nearest(name, known)!r}?")


def unknown_fields(
    content: Any, kind: type, source: Path | str, prefix: str = "", known: Sequence[str] = ()
) -> Iterator[tuple[str, Sequence[str]]]:
    """Dotted names of keys that are not fields, each with the names of fields to suggest instead.

    Raises:
        UserError: a section is not a mapping.
    """
    first = next(fields_of(kind()))
    if not isinstance(content, Mapping):
        example = {first.name: first.default}
        if not prefix:
            found = "empty" if content is None else shown(content)
            raise UserError(f"{source}: {found}: expected the fields of a config, such as {inline(example)[1:-1]}")
        raise UserError(f"{source}: {wrong_type_message(WrongTypeError(prefix[:-1], content, 'a mapping', example))}")
    known = known or [field.name for field in fields_of(kind(), prefix)]
    types = {field.name: field.type for field in dataclasses.fields(kind)}
    for key, value in content.items():
        name, of = f"{prefix}{key}", types.get(key)
        if of is None:
            yield from ((unknown, known) for unknown in flatten({name: value}))
        elif is_section(of):
            yield from unknown_fields(value, of, source, f"{name}.", known)
