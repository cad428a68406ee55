"""The parser of commands that take a config: from YAML files, and from options such as `--train.lr 0.02`."""

import argparse
import re
import shlex
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from dlaseg.commands.parsing import CommandParser
from dlaseg.config.fields import (
    Field,
    WrongTypeError,
    convert,
    expectation,
    fields_of,
    in_words,
    inline,
    is_section,
    meanings_of,
    shown,
    wrong_type_message,
)
from dlaseg.config.pretraining import PretrainConfig
from dlaseg.config.reading import make_config, read_values
from dlaseg.config.segmentation import Config
from dlaseg.config.training import NOT_FIELDS
from dlaseg.errors import UserError


class ConfigParser(CommandParser):
    """The parser of a command that takes a config.

    Args:
        kind: class of the config.
        hidden: fields that have no effect on this command, so that its help leaves them out.
        kwargs: for `CommandParser`.
    """

    def __init__(self, kind: type[Config | PretrainConfig], hidden: Sequence[str] = (), **kwargs: Any):
        self.fields = {field.name: field for field in fields_of(kind())}
        a_list = next(field for field in self.fields.values() if isinstance(field.default, tuple))
        super().__init__(
            epilog="A value is written as in YAML; one with brackets or spaces needs quotes, such as "
            f"{_option(a_list.name, a_list.default)}.",
            **kwargs,
        )
        self._negative_number_matcher = re.compile(r"-\.?\d")  # argparse takes -1e-3 for an option
        self.kind, self.hidden = kind, hidden
        self.add_argument("--config", action="append", type=Path, default=[], metavar="FILE", help="YAML file with "
                          "the config of the run, see configs/; a later one overrides an earlier one, and the options "
                          "below override all")  # fmt: skip

    def parse(self, arguments: Sequence[str]) -> tuple[Config | PretrainConfig, Namespace]:
        """Parses the config, from `--config` and an option for each field, and the command's other options.

        Returns:
            The config, and the other options.

        Raises:
            UserError: an unknown or renamed field or option, or a wrong value.
        """
        self._add_fields()
        args = self.parse_args(arguments)
        values: dict[str, Any] = {}
        for path in args.config:
            values |= read_values(path, self.kind, self.prog.rpartition(" ")[0])
        for name, field in self.fields.items():
            if name in args:
                written = vars(args).pop(name)
                values[name] = _convert_option(field, " ".join(written) if isinstance(written, list) else written)
        config = make_config(self.kind, values)
        if isinstance(config, Config):
            from dlaseg.data.datasets import DATASETS

            if config.data.dataset not in DATASETS:  # here, before the slow imports of training
                raise UserError(f"data.dataset {config.data.dataset}: unknown: use one of {', '.join(DATASETS)}")
        return config, args

    def _add_fields(self) -> None:
        """Adds an option for each field, in a group for each section."""
        usage = self.format_usage().removeprefix("usage: ").rstrip()
        self.usage = f"{usage}\n{' ' * len(f'usage: {self.prog} ')}[--SECTION.FIELD VALUE ...]"
        titles = meanings_of(self.kind)
        groups: dict[str, Any] = {"": self}
        for field in self.fields.values():
            section = field.name.rpartition(".")[0]
            if section not in groups:
                groups[section] = self.add_argument_group(titles.get(section, section).rstrip("."))
            is_list = any(get_origin(kind) in (list, tuple) for kind in (field.type, *get_args(field.type)))
            groups[section].add_argument(
                f"--{field.name}",
                nargs="+" if is_list else None,  # so that the message for `64 96` shows both
                default=argparse.SUPPRESS,
                metavar=_metavar(field.type),
                help=argparse.SUPPRESS if field.name in self.hidden else _help(field).replace("%", "%%"),
            )

    def unknown_option(self, name: str) -> str:
        """The message for the option `--NAME`, which does not exist."""
        if name in NOT_FIELDS:
            return f"--{name}: not a field; {NOT_FIELDS[name]}"
        if below := [field for field in self.fields.values() if field.name.startswith(f"{name}.")]:
            example = _option(below[0].name, below[0].default)
            return f"--{name}: a section of the config: set its fields one by one, such as {example}"
        return super().unknown_option(name)


def _convert_option(field: Field, written: str) -> Any:
    """The value of an option.

    Raises:
        UserError: it is not of the type of the field.
    """
    try:
        return convert(field, written)
    except WrongTypeError as error:
        if error.name != field.name:  # within a list
            raise UserError(f"--{field.name}: {wrong_type_message(error)}") from error
        example = f", such as {_option(field.name, error.example)}" if error.example is not None else ""
        raise UserError(f"--{field.name} {shown(written)}: {expectation(error)}{example}") from error


def _option(name: str, value: Any) -> str:
    """An option as typed in a shell."""
    return f"--{name} {shlex.quote(inline(value))}"


def _metavar(kind: Any) -> str:
    """A type as a placeholder."""
    origin, members = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"{{{','.join(members)}}}"
    if origin is tuple:
        return f"'[{','.join(map(_metavar, members))}]'"
    if origin is list:
        return f"'[{_metavar(members[0])},...]'"
    if is_section(kind):
        return "{...}"
    return {int: "N", float: "X", str: "TEXT", bool: "{true,false}"}.get(kind) or _metavar(members[0])


def _help(field: Field) -> str:
    """Meaning, type and default; for a list of mappings also the meaning of each key."""
    choices = field.type is bool or get_origin(field.type) is Literal  # which the placeholder shows
    kind = "" if choices else f"{re.sub('^an? ', '', in_words(field.type))}; "
    default = field.default if isinstance(field.default, str) else inline(field.default)
    text = f"{re.sub(r'(?<![.])[.]$', '', field.meaning)} ({kind}default: {default})"
    item = get_args(field.type)[0] if get_origin(field.type) is list else None
    if is_section(item):
        text += "\nEach has:" + "".join(f"\n- {key.name}: {_help(key)}" for key in fields_of(item()))
    return text
