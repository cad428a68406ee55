"""What all subcommands parse by."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from jsonargparse import ArgumentParser, Namespace

from dlaseg.config import Config, PretrainConfig
from dlaseg.errors import UserError
from dlaseg.records import check_keys, flatten, nearest, read_yaml, unknown_keys

Kind = TypeVar("Kind", Config, PretrainConfig)


class _Parser(ArgumentParser):
    """Says what an unknown option might have meant."""

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        """Raises instead of exiting, so that `main` prints every error alike."""
        unknown = re.search(r"unrecognized arguments: --([\w.\-]+)", message)
        if unknown:
            names = flatten(self.get_defaults().as_dict())
            known = [name if "." in name else name.replace("_", "-") for name in names]  # fields are typed as they are
            message = f"unknown option --{unknown[1]}: did you mean --{nearest(unknown[1], known)}?"
        elif surplus := re.search(r"unrecognized arguments: (.+)", message):
            message = f"{surplus[1]}: one argument too many: see --help, and put a path with spaces in quotes"
        raise UserError(message) from ex


def parser_of(name: str, command: Callable[..., int]) -> ArgumentParser:
    """A parser for `dlaseg NAME`, described by the function that runs it."""
    return _Parser(prog=f"dlaseg {name}", description=command.__doc__, allow_abbrev=False)


def record_arguments(parser: ArgumentParser, kind: type[Kind], arguments: Sequence[str]) -> tuple[Kind, Namespace]:
    """A run's record, and all that was given, the options that the command has beside it included."""
    parser.add_argument("--config", action="config", help="the record of the run (YAML), see configs/")
    parser.add_class_arguments(kind, as_group=False)
    family, _, _ = parser.prog.rpartition(" ")
    for path in _config_files(arguments):
        content = read_yaml(path)
        for command, other in (("train", Config), ("pretrain", PretrainConfig)):
            if isinstance(content, Mapping) and unknown_keys(content, kind) and not unknown_keys(content, other):
                raise UserError(f"{path}: a record of another command: use {family} {command}")
        check_keys(content, str(path), kind)
    given = parser.instantiate(parser.parse_args(arguments))
    return kind(**{entry.name: given[entry.name] for entry in dataclasses.fields(kind)}), given


def run_arguments(parser: ArgumentParser, kind: type[Kind], arguments: Sequence[str]) -> tuple[Kind, Path, Namespace]:
    """A run's record, its folder, and all that was given."""
    parser.add_argument("--output", type=Path | None, help="the run folder; runs/NAME if left out")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's last.ckpt, if it is there")
    parser.add_argument("--dry-run", action="store_true", help="build everything, take a step, say what the run would "
                        "need, and write nothing")  # fmt: skip
    record, given = record_arguments(parser, kind, arguments)
    return record, given.output or Path("runs") / given.name, given


def _config_files(arguments: Sequence[str]) -> list[Path]:
    """The values of --config, whose keys are looked at before the parser reads them."""
    following = [value for option, value in pairwise(arguments) if option == "--config"]
    joined = [word.removeprefix("--config=") for word in arguments if word.startswith("--config=")]
    return [Path(value) for value in following + joined]
