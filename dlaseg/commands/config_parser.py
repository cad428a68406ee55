"""The parser of commands that take a config: from YAML files, and from options such as `--train.lr 0.02`."""

import dataclasses
import re
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import jsonargparse

from dlaseg.commands.parsing import CommandParser, nearest
from dlaseg.config import RENAMED, Config, PretrainConfig
from dlaseg.config_files import flatten, read_yaml, refuse_old_names
from dlaseg.errors import UserError

Kind = TypeVar("Kind", Config, PretrainConfig)

# jsonargparse reports a value of the wrong type as text alone, with Python's own names of types
_REWORDED = (
    (r'Parser key "([^"]+)":', r"\1:"),
    (r"<class 'NoneType'>", "null"),
    (r"(?:a )?<class '(\w+)'>", r"\1"),
    (r"(?:a )?(?:typing\.)?Literal\[(.*?)\]", r"one of \1"),
    (r"Does not validate .* Subtypes: \[(.*)\] Errors: .* Given value: (.*)", r"expected one of: \1; got \2"),
    (r"Expected (.*)\. Got value: ?(.*)", r"expected \1, got \2"),
    (r"Group '(.+)' does not accept option '(.+)'", r"unrecognized arguments: --\1.\2"),
)


class ConfigParser(CommandParser, jsonargparse.ArgumentParser):
    """The parser of a command that takes a config."""

    def parse_config(self, kind: type[Kind], arguments: Sequence[str]) -> tuple[Kind, Namespace]:
        """Adds `--config` and an option for each field of the config, and parses.

        Args:
            kind: class of the config.
            arguments: as typed after the command.

        Returns:
            The config, and the values of the command's other options.

        Raises:
            UserError: an unknown or renamed field or option, or a wrong value.
        """
        self.add_argument("--config", action="config", help="YAML file with the config of the run, see configs/")
        self.add_class_arguments(kind, as_group=False)
        files = CommandParser(prog=self.prog, add_help=False)
        files.add_argument("--config", action="append", type=Path, default=[])
        for path in files.parse_known_args(arguments)[0].config:
            _check_file(path, kind, family=self.prog.rpartition(" ")[0])
        parsed = self.parse_args(arguments)
        fields = [field.name for field in dataclasses.fields(kind)]
        check_keys({name: parsed.as_dict()[name] for name in fields}, "command line", kind)  # null in a list's entry
        args = self.instantiate(parsed)
        config = kind(**{name: args[name] for name in fields})
        if isinstance(config, Config):
            _check_dataset(config.data.dataset)
        return config, args

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        """Raises `UserError` in plain words."""
        message = " ".join(message.split())
        for pattern, replacement in _REWORDED:
            message = re.sub(pattern, replacement, message)
        super().error(message, ex)

    def unknown_option(self, name: str) -> str:
        """The message for the option `--NAME`, which does not exist."""
        return f"--{name} is now --{RENAMED[name]}: rename it" if name in RENAMED else super().unknown_option(name)


def check_keys(content: Any, file: Path | str, kind: type[Config | PretrainConfig]) -> None:
    """Refuses a key that is not a field, and names the nearest field.

    Args:
        content: of the YAML file.
        file: for the message.
        kind: class of the config.

    Raises:
        UserError: the content is not a config, or has an unknown or renamed field, or a field without a value.
    """
    unknown = dict(unknown_fields(content, kind, file))
    refuse_old_names(unknown, file)
    for name, known in unknown.items():
        raise UserError(f"{file}: unknown field {name!r}: did you mean {nearest(name, known)!r}?")


def field_names(kind: type, prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields of a config: `name`, `data.root`, ..."""
    for field in dataclasses.fields(kind):
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            yield from field_names(field.type, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def unknown_fields(
    content: Any, kind: type, file: Path | str, prefix: str = "", known: Sequence[str] = ()
) -> Iterator[tuple[str, Sequence[str]]]:
    """Dotted names of keys that are not fields, each with the names of fields to suggest instead.

    Args:
        content: of a YAML file, or of a section of it.
        kind: dataclass of the content.
        file: for messages.
        prefix: dotted name of the section, with a dot at the end.
        known: names to suggest; all of `kind` by default.

    Raises:
        UserError: a section is not a mapping, or a field has no value.
    """
    if not isinstance(content, Mapping):
        example = f"{{{dataclasses.fields(kind)[0].name}: ...}}"
        raise UserError(f"{file}: {prefix[:-1] or 'content'} {content!r}: expected a mapping such as {example}")
    known = known or list(field_names(kind, prefix))
    types = {field.name: field.type for field in dataclasses.fields(kind)}
    for key, value in content.items():
        name, of = f"{prefix}{key}", types.get(key)
        item = get_args(of)[0] if get_origin(of) is list else None
        if of is None:
            yield from ((unknown, known) for unknown in flatten({name: value}))
        elif isinstance(of, type) and dataclasses.is_dataclass(of):
            yield from unknown_fields(value, of, file, f"{name}.", known)
        elif isinstance(item, type) and dataclasses.is_dataclass(item) and isinstance(value, list):
            for i, entry in enumerate(value):
                yield from unknown_fields(entry, item, file, f"{name}[{i}].")
        elif value is None and type(None) not in get_args(of):
            raise UserError(f"{file}: {name} has no value: give it one, or remove it to get the default")


def _check_dataset(name: str) -> None:
    """Refuses an unknown data set before the slow imports of training."""
    from dlaseg.data.datasets import DATASETS  # here, so that --help and errors come at once

    if name not in DATASETS:
        raise UserError(f"data.dataset {name}: unknown: use one of {', '.join(DATASETS)}")


def _check_file(path: Path, kind: type[Config | PretrainConfig], family: str) -> None:
    """Refuses a file with unknown fields; if it is a config of another command, the error names that."""
    content = read_yaml(path)
    if isinstance(content, Mapping) and any(unknown_fields(content, kind, path)):
        for command, other in (("train", Config), ("pretrain", PretrainConfig)):
            if not any(unknown_fields(content, other, path)):
                raise UserError(f"{path}: a config of another command: use {family} {command}")
    check_keys(content, path, kind)
