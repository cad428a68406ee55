"""The `dlaseg` command: runs a subcommand, and reports what is wrong in one line.

Results go to standard output, progress and errors to standard error. Wrong use and broken input end with exit code 2;
`--debug` shows the traceback.
"""

import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence

from dlaseg.commands import benchmark, compare, data, demo, doctor, evaluate, export, infer, train, weights
from dlaseg.commands.parsing import CommandParser
from dlaseg.commands.streams import reader_is_gone, standard_streams
from dlaseg.errors import Stopped, UserError
from dlaseg.text import one_line
from dlaseg.version import __version__

COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train.train,
    "pretrain": train.pretrain,
    "eval": evaluate.evaluate,
    "compare": compare.compare,
    "infer": infer.infer,
    "export": export.export,
    "models": weights.models,
    "benchmark train": benchmark.train,
    "benchmark pretrain": benchmark.pretrain,
    "benchmark speed": benchmark.speed,
    "benchmark accuracy": benchmark.accuracy,
    "data synthesize": data.synthesize,
    "data stats": data.stats,
    "data check": data.check,
    "data convert": data.convert,
    "data draft": data.draft,
    "demo": demo.demo,
    "doctor": doctor.doctor,
    "weights list": weights.list_builtin,
    "weights inspect": weights.inspect,
    "weights convert": weights.convert,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: as typed after `dlaseg`; None for those of this process.

    Returns:
        The exit code: 0 success, 2 wrong use or broken input, 75 a run was stopped by a signal and continues with
        --resume, 130 interrupted.
    """
    with standard_streams():
        return _run(arguments)


def _run(arguments: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    parser = make_parser()
    if not words:
        parser.print_help()
        return 2
    _log_to_standard_error()
    prog = parser.prog
    try:
        args, unknown = parser.parse_known_args(words)
        if unknown or "run" not in args:
            raise UserError(f"{' '.join(words)}: not a command; the commands are {', '.join(COMMANDS)}")
        prog = args.prog
        code: int = args.run()
        return code
    except _one_line_errors() as error:
        if debug or (isinstance(error, BrokenPipeError) and reader_is_gone()):
            raise
        print(f"{prog}: {one_line(str(error)) or type(error).__name__}", file=sys.stderr)
        return 2
    except UnicodeEncodeError as error:
        if debug or sys.getfilesystemencoding() == "utf-8":
            raise
        reason = f"the locale of this shell has no file names with {error.object[error.start]}"
        print(f"{prog}: {one_line(str(error.object))}: {reason}: set LC_ALL=C.UTF-8 or PYTHONUTF8=1", file=sys.stderr)
        return 2
    except Stopped as stopped:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)  # a second one ends what is left of the process at once
        print(f"{prog}: {stopped}; continue with --resume", file=sys.stderr)
        return 75
    except KeyboardInterrupt:
        if debug:
            raise
        advice = ": the same command continues" if prog.endswith(" infer") else ""
        print(f"{prog}: interrupted; finished files are complete{advice}", file=sys.stderr)
        return 130


def make_parser() -> CommandParser:
    """The parser of `dlaseg`, with a subparser for every command and for every family of commands."""
    parser = CommandParser(prog="dlaseg", description="Semantic segmentation with Deep Layer Aggregation.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error, with any command")
    families = {"": parser.add_subparsers(title="commands", metavar="COMMAND")}
    summaries = {name: (command.__doc__ or "").partition("\n")[0] for name, command in COMMANDS.items()}
    for name, command in COMMANDS.items():
        family, _, leaf = name.rpartition(" ")
        if family not in families:
            members = [member for member in COMMANDS if member.startswith(f"{family} ")]
            family_parser = families[""].add_parser(family, help="\n".join(f"{m}: {summaries[m]}" for m in members))
            families[family] = family_parser.add_subparsers(title="commands", metavar="COMMAND")
        families[family].add_parser(leaf, run=command, help=summaries[name])
    return parser


def _one_line_errors() -> tuple[type[Exception], ...]:
    """Errors that are reported in one line: the user's mistakes, and what the system or the device refuses."""
    torch = sys.modules.get("torch")  # not imported for this alone
    return (UserError, OSError, *([torch.OutOfMemoryError] if torch else []))


class _StandardError(logging.StreamHandler):
    """Writes to the current sys.stderr; a message may name what a file contains, such as its classes."""

    def format(self, record: logging.LogRecord) -> str:
        return one_line(super().format(record))

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _log_to_standard_error() -> None:
    """Shows the package's log, such as which weights were loaded, one line per message."""
    logger = logging.getLogger("dlaseg")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _StandardError) for handler in logger.handlers):
        logger.addHandler(_StandardError())
