"""`dlaseg train` and `dlaseg pretrain`."""

from collections.abc import Callable, Sequence
from pathlib import Path

from dlaseg.config.pretraining import PretrainConfig
from dlaseg.config.segmentation import Config


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
    parser.add_argument("--allow-trackers", action="store_true", help="import the trackers that the config names as "
                        "MODULE:NAME, which runs their code")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="build everything, take two steps, report what the run "
                        "needs, and write nothing")  # fmt: skip
    config, args = parser.parse(arguments)
    output = args.output or Path("runs") / config.name

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
