"""Parsers of the command line: whatever is wrong with the arguments raises a `UserError` of one line."""

import argparse
import logging
import re
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from dlaseg.errors import MissingSplitError, UserError, nearest

if TYPE_CHECKING:
    from dlaseg.data.datasets import SegmentationDataset
    from dlaseg.data.label_check import OnMissingClass

logger = logging.getLogger(__name__)

Number = TypeVar("Number", int, float)


class HelpFormatter(argparse.HelpFormatter):
    """Keeps paragraphs, says every default, and has plain placeholders: N a whole number, X a number, PATH a path."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        lines = []
        for paragraph in text.split("\n"):
            lines += textwrap.wrap(paragraph, width, subsequent_indent="  " if paragraph.startswith("- ") else "")
        return lines

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        placeholders = {int: "N", float: "X", Path: "PATH"}
        if action.type in placeholders:
            return placeholders[action.type]
        return action.dest.upper().removesuffix("S" if action.nargs == "+" else "")

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text, default = action.help, action.default
        if text and action.option_strings and action.nargs != 0 and "default" not in text and default not in _NONE:
            value = " ".join(map(str, default)) if isinstance(default, list | tuple) else default
            text += f" (default: {value})".replace("%", "%%")
        return text

    def add_argument(self, action: argparse.Action) -> None:
        """Reserves the width that an option or a command needs."""
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):
            self._action_max_length += self._indent_increment  # argparse forgets that commands are indented

    def _format_action(self, action: argparse.Action) -> str:
        lines = super()._format_action(action).splitlines(keepends=True)
        return "".join(lines[isinstance(action, argparse._SubParsersAction) :])  # without a line for COMMAND

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        shown = super()._format_args(action, default_metavar)
        return str(action.metavar) if "]' [" in shown else shown  # a list in brackets is one argument


_NONE: tuple[Any, ...] = (None, [], argparse.SUPPRESS)


def _whole_number(text: str) -> int:
    return _number(text, int, "a whole number")


def _any_number(text: str) -> float:
    return _number(text, float, "a number")


def _path(text: str) -> Path:
    """A path; an empty one, such as that of a shell variable that is not set, would mean the working folder."""
    if not text:
        raise argparse.ArgumentTypeError("an empty path: the working folder is .")
    return Path(text)


def _number(text: str, kind: type[Number], words: str) -> Number:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: expected {words}") from None


class CommandParser(argparse.ArgumentParser):
    """The parser of a command, or of a family of commands; it raises errors instead of exiting.

    Args:
        run: takes the arguments and returns the exit code. It builds the command's own parser, so that `dlaseg --help`
            builds and imports none of them. None for a parser that has arguments itself.
    """

    def __init__(self, run: Callable[[Sequence[str]], int] | None = None, **kwargs: Any):
        super().__init__(**{"allow_abbrev": False, "formatter_class": HelpFormatter, **kwargs})
        self.run = run
        self.register("type", int, _whole_number)  # plain words for `type=int`
        self.register("type", float, _any_number)
        self.register("type", Path, _path)

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """Leaves all arguments to `run`, if there is one: `namespace.run` is the call, `namespace.prog` its name."""
        if self.run is None:
            return super().parse_known_args(args, namespace)
        return argparse.Namespace(run=partial(self.run, args), prog=self.prog), []

    def error(self, message: str) -> NoReturn:
        """Raises `UserError`."""
        _, _, unknown = message.partition("unrecognized arguments: ")
        if unknown.startswith("--"):
            message = self.unknown_option(unknown.split()[0].partition("=")[0].removeprefix("--"))
        elif unknown:
            message = f"{unknown}: one argument too many: see --help, and put a path with spaces in quotes"
        raise UserError(message.removeprefix("argument "))

    def unknown_option(self, name: str) -> str:
        """The message for the option `--NAME`, which does not exist."""
        known = [option[2:] for option in self._option_string_actions if option.startswith("--")]
        return f"unknown option --{name}: did you mean --{nearest(name, known)}?"


def command_parser(name: str, command: Callable[..., int]) -> CommandParser:
    """A parser for `dlaseg NAME` that is described by the function that runs it."""
    return CommandParser(prog=f"dlaseg {name}", description=command.__doc__)


def add_dataset_arguments(
    parser: argparse.ArgumentParser, root: str, required: bool = True, lists: bool = True
) -> None:
    """Adds the arguments that `open_split` opens a data set by.

    Args:
        parser: gets them.
        root: `root`, a positional argument, or `--root`.
        required: whether a data set must be named.
        lists: whether `--list` chooses a part of a split.
    """
    from dlaseg.data.datasets import DATASETS

    parser.add_argument("--dataset", choices=tuple(DATASETS), required=required, help="name of the data set")
    parser.add_argument(root, type=Path, help="folder of the data set").required = required
    if lists:
        parser.add_argument("--list", type=Path, help="text file that lists the images of the split to use, one "
                            "name per line, such as runs/NAME/val.txt")  # fmt: skip
    for name, what in (("images", "images"), ("labels", "label maps"), ("classes", "classes file (YAML)")):
        parser.add_argument(
            f"--{name}",
            help=f"for dataset folder: path of the {what} below root (default: {DATASETS['folder'].options[name]})"
            + (", or a pattern such as masks/{split}/{name}_mask.png" if name == "labels" else ""),
        )


def add_precision_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--precision`; float32 by default, because scores must be exact."""
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16", "float16"), default="float32",
                        help="float16 needs a GPU; auto is the precision that training uses on this device (default: "
                        "float32)")  # fmt: skip


def add_backend_argument(parser: argparse.ArgumentParser, default: str | None) -> None:
    """Adds `--backend`; None is torch, and for an exported file what reads it; `auto` is as for `dlaseg.infer`."""
    few = ", and torch for fewer than 8 images of a network that would be converted first" if default == "auto" else ""
    parser.add_argument("--backend", choices=("auto", "torch", "torch-compile", "openvino",
                        "onnxruntime"), default=default,
                        help=f"what runs the network; auto is the fastest that is installed and as exact as torch{few} "
                        f"(default: {default or 'torch; for an exported file, what reads it'})")  # fmt: skip


def add_on_missing_class_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--on-missing-class`."""
    parser.add_argument("--on-missing-class", choices=("stop", "warn"), help="for dataset folder, if a "
                        "class has no pixel while 255 has, which is ignored by default (default: stop)")  # fmt: skip


def on_missing_class(given: "OnMissingClass | None", datasets: Sequence[str]) -> "OnMissingClass":
    """What `--on-missing-class` says, by default `stop`.

    Args:
        given: the value of the option; None without it.
        datasets: names of the data sets that are scored.

    Raises:
        UserError: the option has no effect on these data sets.
    """
    from dlaseg.data.datasets import dataset_entry

    if given is not None and datasets and all(dataset_entry(name).label_map is not None for name in datasets):
        fixed = " and ".join(dict.fromkeys(datasets))
        raise UserError(f"--on-missing-class {given}: the ids of the classes of {fixed} are fixed: leave it out")
    return given or "stop"


def add_max_pixels_argument(parser: argparse.ArgumentParser, in_strips: bool = False) -> None:
    """Adds `--max-pixels`; None by default if images are read in strips."""
    from dlaseg.memory import MAX_PIXELS

    more = "; more for PNG and TIFF with engine local, which reads them in strips" if in_strips else ""
    parser.add_argument("--max-pixels", type=int, default=None if in_strips else MAX_PIXELS, help="refuse larger "
                        f"images before they are decoded (default: {MAX_PIXELS:_}{more})")  # fmt: skip


def add_max_memory_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--max-memory`."""
    parser.add_argument("--max-memory", type=size_in_bytes, metavar="SIZE", help="memory that the process may hold, "
                        "such as 4GB or 512MiB; on a GPU, that of the GPU. Images that need more are computed in "
                        "overlapping tiles (default: what is held at first and half of what is free then)")  # fmt: skip


def add_max_short_side_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--max-short-side`."""
    parser.add_argument("--max-short-side", type=int, help="compute images whose shorter side has more pixels at 1/2, "
                        "1/3, ... of their size, the largest that fits; results have the size of the image; 0 for no "
                        "limit (default: that of the weights)")  # fmt: skip


_UNITS = {"": 1, **{f"{letter}B": 1000**power for power, letter in enumerate(["", *"KMGT"])}}
_UNITS |= {f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", start=1)}


def size_in_bytes(text: str) -> int:
    """A size such as 4GB, 1.5 GiB or 4000000000 in bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([a-z]*)", text.strip(), re.IGNORECASE | re.ASCII)
    unit = {name.lower(): size for name, size in _UNITS.items()}.get(match[2].lower()) if match else None
    if match is None or unit is None or not 1 <= float(match[1]) * unit < 1 << 63:
        raise argparse.ArgumentTypeError(f"{text}: expected a size, such as 4GB, 1.5GiB or 512MiB")
    return int(float(match[1]) * unit)


def open_splits(
    args: argparse.Namespace, option: str, named: Sequence[str] | None, default: Sequence[str]
) -> "list[SegmentationDataset]":
    """Opens splits of the data set that the arguments name, see `add_dataset_arguments`.

    Args:
        args: the arguments.
        option: that names the splits, for the message.
        named: the splits that the user named; None for `default`.
        default: the splits to open then; of several, later ones may be missing. A pool, which has none, is opened once.

    Raises:
        UserError: a split of a pool, and as `open_dataset`.
    """
    from dlaseg.data.datasets import check_pool, dataset_entry, open_dataset

    if not dataset_entry(args.dataset).has_splits({"images": args.images, "labels": args.labels}):
        check_pool(option, named or (), args.images, args.labels)
        default = default[:1]
    splits = []
    for split in default if named is None else named:
        try:
            splits.append(
                open_dataset(args.dataset, args.root, split, args.images, args.labels, args.classes, args.list)
            )
        except MissingSplitError as error:
            if named is not None or not splits:
                raise
            logger.warning("split %s left out: %s", split, error)
    return splits
