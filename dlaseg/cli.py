"""The `dlaseg` command: picks the subcommand, and says in one line what went wrong.

Results go to standard output, progress and errors to standard error. What the user got wrong ends with exit code 2;
`--debug` shows where it was noticed.
"""

import argparse
import logging
import re
import sys
from collections.abc import Callable, Sequence

from dlaseg.commands import benchmark, compare, data, evaluate, infer, train, weights
from dlaseg.errors import Stopped, UserError
from dlaseg.version import __version__

COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train.train,
    "pretrain": train.pretrain,
    "eval": evaluate.evaluate,
    "compare": compare.compare,
    "infer": infer.infer,
    "benchmark train": benchmark.train,
    "benchmark pretrain": benchmark.pretrain,
    "models": weights.models,
    "data synthesize": data.synthesize,
    "data stats": data.stats,
    "weights inspect": weights.inspect,
    "weights convert": weights.convert,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: as typed after `dlaseg`; None for those of this process.

    Returns:
        The exit code: 0 done, 2 the user's input is wrong or part of it is broken, 75 a run was stopped by a signal and
        goes on with --resume, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if words[:1] == ["--version"]:
        print(f"dlaseg {__version__}")
        return 0
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0 if words else 2
    families = {name.split()[0] for name in COMMANDS if " " in name}
    name = " ".join(words[:2]) if words[0] in families and words[1:2] != ["--help"] else words[0]
    if name in families and words[1:]:
        print(_overview())
        return 0
    _log_to_standard_error()
    try:
        if name not in COMMANDS:
            raise UserError(f"no command {name!r}; the commands are {', '.join(COMMANDS)}")
        return COMMANDS[name](words[len(name.split()) :])
    except _refusals() as error:
        if debug:
            raise
        print(f"dlaseg {name}: {_one_line(error)}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(f"dlaseg {name}: {stopped}; go on with --resume", file=sys.stderr)
        return 75
    except KeyboardInterrupt:
        if debug:
            raise
        print(f"dlaseg {name}: interrupted; finished files are whole, the same command goes on", file=sys.stderr)
        return 130


def _refusals() -> tuple[type[Exception], ...]:
    """What is said in one line: the user's mistakes, and what the system or the machine refuses."""
    torch = sys.modules.get("torch")  # not imported for this alone
    return (UserError, argparse.ArgumentError, OSError, *([torch.OutOfMemoryError] if torch else []))


class _StandardError(logging.StreamHandler):
    """Writes to what sys.stderr is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _log_to_standard_error() -> None:
    """Shows the package's log, such as what weights were loaded, one line a message."""
    logger = logging.getLogger("dlaseg")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _StandardError) for handler in logger.handlers):
        logger.addHandler(_StandardError())


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: dlaseg COMMAND [--help] ...", "", *lines, "", "  --version, --debug (with any command)"])


def _one_line(error: Exception) -> str:
    """An error's text without line breaks and without the parser's own jargon."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r'(?:Validation failed: )?Parser key "([^"]+)": ', r"\1: ", text)
    text = re.sub(r"Expected an? (?:typing\.)?(?:<class '(\w+)'>|(.+?))\. Got value: (.*)", r"\3 is no \1\2", text)
    text = re.sub(r"Literal\[(.*?)\]", r"one of \1", text)
    union = r"Does not validate against any of the Union subtypes Subtypes: \[(.*)\] Errors: .* Given value: (.*)"
    if given := re.search(union, text):
        kinds = given[1].replace("typing.", "").replace("<class 'NoneType'>", "null")
        kinds = re.sub(r"<class '(\w+)'>", r"\1", kinds)
        text = f"{text[: given.start()]}{given[2]}: use one of: {kinds}"
    return text
