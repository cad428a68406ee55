"""The parser of commands that take a config: from YAML files, and from options such as `--train.lr 0.02`."""

import dataclasses
import re
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

import jsonargparse
import yaml

from dlaseg.commands.parsing import CommandParser, nearest
from dlaseg.config.files import flatten, refuse_old_names
from dlaseg.config.pretraining import PretrainConfig
from dlaseg.config.segmentation import Config
from dlaseg.config.training import RENAMED
from dlaseg.errors import UserError
from dlaseg.yaml_file import RefusedYAML, parse_yaml, read_yaml

if TYPE_CHECKING:
    from dlaseg.training.task import Task

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


def _load_value(text: str) -> Any:
    """Reads YAML as jsonargparse does, except for what `dlaseg.yaml_file` refuses."""
    try:
        parse_yaml(text)
    except RefusedYAML as error:
        raise UserError(f"{text:.80}: {error.problem}") from error
    except yaml.YAMLError:
        pass  # not YAML: the loader below says so, and the text counts as a string
    return jsonargparse.get_loader("yaml")(text)


jsonargparse.set_loader("dlaseg", _load_value, exceptions=(yaml.YAMLError,))


class ConfigParser(CommandParser, jsonargparse.ArgumentParser):
    """The parser of a command that takes a config."""

    def __init__(self, **kwargs: Any):
        super().__init__(**{"parser_mode": "dlaseg", **kwargs})

    def parse_task(
        self, kind: type[Config | PretrainConfig], arguments: Sequence[str]
    ) -> "tuple[Task[Any, Any], Namespace]":
        """Parses the config, from `--config` and an option for each field, and the command's other options.

        Returns:
            The task that the config describes, and the other options.

        Raises:
            UserError: an unknown or renamed field or option, or a wrong value.
        """
        config, args = self._parse_config(kind, arguments)
        if isinstance(config, PretrainConfig):
            from dlaseg.training.classification import Classification

            return Classification(config), args

        from dlaseg.data.datasets import DATASETS

        if config.data.dataset not in DATASETS:  # here, before the slow imports of training
            raise UserError(f"data.dataset {config.data.dataset}: unknown: use one of {', '.join(DATASETS)}")

        from dlaseg.training.segmentation import Segmentation

        return Segmentation(config), args

    def _parse_config(
        self, kind: type[Config | PretrainConfig], arguments: Sequence[str]
    ) -> tuple[Config | PretrainConfig, Namespace]:
        self.add_argument("--config", action="config", help="YAML file with the config of the run, see configs/")
        self.add_class_arguments(kind, as_group=False)
        files = CommandParser(prog=self.prog, add_help=False)
        files.add_argument("--config", action="append", type=Path, default=[])
        for path in files.parse_known_args(arguments)[0].config:
            check_keys(read_yaml(path, "a config (YAML)"), path, kind, self.prog)
        parsed = self.parse_args(arguments)
        fields = [field.name for field in dataclasses.fields(kind)]
        # Again with the options: jsonargparse takes null for the value of any field in an entry of a list
        check_keys({name: parsed.as_dict()[name] for name in fields}, "command line", kind)
        args = self.instantiate(parsed)
        return kind(**{name: args[name] for name in fields}), args

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        """Raises `UserError` in plain words."""
        message = " ".join(message.split())
        for pattern, replacement in _REWORDED:
            message = re.sub(pattern, replacement, message)
        super().error(message, ex)

    def unknown_option(self, name: str) -> str:
        """The message for the option `--NAME`, which does not exist."""
        return f"--{name} is now --{RENAMED[name]}: rename it" if name in RENAMED else super().unknown_option(name)


def check_keys(content: Any, source: Path | str, kind: type[Config | PretrainConfig], prog: str = "") -> None:
    """Refuses a key that is not a field, and names the nearest field, or the command that has such fields.

    Args:
        content: a config as YAML holds it.
        source: the file, for the message.
        kind: class of the config.
        prog: the command.

    Raises:
        UserError: see `unknown_fields`; or an unknown or renamed field.
    """
    unknown = dict(unknown_fields(content, kind, source))
    command, other = ("pretrain", PretrainConfig) if kind is Config else ("train", Config)
    if unknown and not any(unknown_fields(content, other, source)):
        raise UserError(f"{source}: a config of another command: use {prog.rpartition(' ')[0]} {command}")
    refuse_old_names(unknown, source)
    for name, known in unknown.items():
        raise UserError(f"{source}: unknown field {name!r}: did you mean {nearest(name, known)!r}?")


def field_names(kind: type, prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields of a config: `name`, `data.root`, ..."""
    for field in dataclasses.fields(kind):
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            yield from field_names(field.type, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def unknown_fields(
    content: Any, kind: type, source: Path | str, prefix: str = "", known: Sequence[str] = ()
) -> Iterator[tuple[str, Sequence[str]]]:
    """Dotted names of keys that are not fields, each with the names of fields to suggest instead.

    Raises:
        UserError: a section is not a mapping, or a field has no value.
    """
    if not isinstance(content, Mapping):
        example = f"{{{dataclasses.fields(kind)[0].name}: ...}}"
        raise UserError(f"{source}: {prefix[:-1] or 'content'} {content!r}: expected a mapping such as {example}")
    known = known or list(field_names(kind, prefix))
    types = {field.name: field.type for field in dataclasses.fields(kind)}
    for key, value in content.items():
        name, of = f"{prefix}{key}", types.get(key)
        item = get_args(of)[0] if get_origin(of) is list else None
        if of is None:
            yield from ((unknown, known) for unknown in flatten({name: value}))
        elif isinstance(of, type) and dataclasses.is_dataclass(of):
            yield from unknown_fields(value, of, source, f"{name}.", known)
        elif isinstance(item, type) and dataclasses.is_dataclass(item) and isinstance(value, list):
            for i, entry in enumerate(value):
                yield from unknown_fields(entry, item, source, f"{name}[{i}].")
        elif value is None and type(None) not in get_args(of):
            raise UserError(f"{source}: {name} has no value: give it one, or remove it to get the default")
