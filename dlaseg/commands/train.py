"""`dlaseg train` and `dlaseg pretrain`."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dlaseg.config import Config, PretrainConfig

if TYPE_CHECKING:
    from dlaseg.training.task import Task

Kind = TypeVar("Kind", Config, PretrainConfig)


def train(arguments: Sequence[str]) -> int:
    """Train a segmentation network from a config (YAML); --train.lr 0.02 sets a field of it by its dotted name."""
    config, args = _parse("train", train.__doc__, Config, arguments)

    from dlaseg.training.segmentation import Segmentation

    return _run(Segmentation(config), args)


def pretrain(arguments: Sequence[str]) -> int:
    """Train an image classifier, from whose backbone `train` can start (--model.backbone_weights)."""
    config, args = _parse("pretrain", pretrain.__doc__, PretrainConfig, arguments)

    from dlaseg.training.classification import Classification

    return _run(Classification(config), args)


def _parse(name: str, description: str | None, kind: type[Kind], arguments: Sequence[str]) -> tuple[Kind, Namespace]:
    from dlaseg.commands.config_parser import ConfigParser

    parser = ConfigParser(prog=f"dlaseg {name}", description=description)
    parser.add_argument("--output", type=Path | None, help="run folder; runs/NAME by default")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in the run folder, if "
                        "there is one")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="build everything, take two steps, report what the run "
                        "needs, and write nothing")  # fmt: skip
    return parser.parse_config(kind, arguments)


def _run(task: "Task[Any, Any]", args: Namespace) -> int:
    output = args.output or Path("runs") / task.config.name
    if args.dry_run:
        from dlaseg.benchmarking.dry_run import dry_run

        dry_run(task, output, args.resume)
        return 0

    from dlaseg.training.distributed import is_main_process
    from dlaseg.training.trainer import fit

    state = fit(task, output, args.resume)
    if not is_main_process():
        return 0
    metric, title = next(iter(task.metrics.items()))
    print(f"best val {title} {state.best(metric):.4f}  {output / 'best.safetensors'}")
    if (page := output / "report.html").exists():
        print(page)
    return 0
