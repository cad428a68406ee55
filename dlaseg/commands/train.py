"""`dlaseg train` and `dlaseg pretrain`."""

from collections.abc import Callable, Sequence
from pathlib import Path

from dlaseg.config.pretraining import PretrainConfig
from dlaseg.config.segmentation import Config
from dlaseg.errors import UserError

MOST_MINUTES = 1_000_000
"""Two years."""


def train(arguments: Sequence[str]) -> int:
    """Train a segmentation network from a config (YAML); --train.lr 0.02 sets a field of it by its dotted name."""
    return _run("train", train, Config, arguments)


def pretrain(arguments: Sequence[str]) -> int:
    """Train an image classifier, from whose backbone `train` can start (--model.backbone_weights)."""
    return _run("pretrain", pretrain, PretrainConfig, arguments)


def _run(name: str, command: Callable[..., int], kind: type[Config | PretrainConfig], arguments: Sequence[str]) -> int:
    from dlaseg.commands.config_parser import ConfigParser

    parser = ConfigParser(kind, prog=f"dlaseg {name}", description=command.__doc__)
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="run folder (default: runs/NAME)")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in the run folder, if "
                        "there is one")  # fmt: skip
    parser.add_argument("--minutes", type=float, help="train for about X minutes on this machine: some steps are timed "
                        "and train.epochs is set to the number of epochs that fit; with --resume, the run keeps its "
                        "epochs")  # fmt: skip
    parser.add_argument("--allow-trackers", action="store_true", help="import the trackers that the config names as "
                        "MODULE:NAME, which runs their code")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="build everything, take two steps, report what the run "
                        "needs, and write nothing")  # fmt: skip
    config, args = parser.parse(arguments)
    output = args.output or Path("runs") / config.name
    if args.minutes is not None:
        if any(argument.partition("=")[0] == "--train.epochs" for argument in arguments):
            raise UserError("--minutes and --train.epochs: pass only one of them")
        config.train.epochs = _epochs_within(args.minutes, config, output, args.resume)

    if args.dry_run:
        from dlaseg.benchmarking.dry_run import dry_run
        from dlaseg.training.train import make_task

        dry_run(make_task(config), output, args.resume, allow_trackers=args.allow_trackers)
        return 0

    from dlaseg.training.checkpoint import LAST
    from dlaseg.training.distributed import is_main_process
    from dlaseg.training.train import train as run

    result = run(config, output, args.resume, allow_trackers=args.allow_trackers)
    if not is_main_process():
        return 0
    if result.score is None:
        print(f"no val {result.title}, so no best weights; the last ones are in {output / LAST}, for --resume")
        return 0
    print(f"best val {result.title} {result.score:.4f}  {result.weights}")
    if (page := output / "report.html").exists():
        print(page)
    return 0


def _epochs_within(minutes: float, config: Config | PretrainConfig, output: Path, resume: bool) -> int:
    """As many epochs as fit, or as many as the run has that is resumed."""
    if not 0 < minutes < MOST_MINUTES:
        raise UserError(f"--minutes {minutes:g}: use a number above 0 and below {MOST_MINUTES:,}")

    from dlaseg.benchmarking.time_limit import epochs_within
    from dlaseg.config.reading import read_config
    from dlaseg.run_folder import CONFIG
    from dlaseg.training.run_folder import check_output
    from dlaseg.training.train import make_task

    if resume and (output / CONFIG).exists():
        return read_config(output / CONFIG).train.epochs
    check_output(config, output, resume)
    epochs, message = epochs_within(make_task(config), minutes)
    print(message)
    return epochs
