"""`dlaseg train` and `dlaseg pretrain`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from dlaseg.commands.parsing import parser_of, run_arguments
from dlaseg.config import Config, PretrainConfig

if TYPE_CHECKING:
    from dlaseg.training.task import Task


def train(arguments: Sequence[str]) -> int:
    """Trains as a YAML file says; any field of it can be set by its dotted name, such as --train.lr 0.02."""
    config, output, given = run_arguments(parser_of("train", train), Config, arguments)

    from dlaseg.training.segmentation import Segmentation

    return _run(Segmentation(config), output, given)


def pretrain(arguments: Sequence[str]) -> int:
    """Trains an image classifier, whose backbone `train` can start from (--model.backbone_weights)."""
    config, output, given = run_arguments(parser_of("pretrain", pretrain), PretrainConfig, arguments)

    from dlaseg.training.classification import Classification

    return _run(Classification(config), output, given)


def _run(task: "Task[Any, Any]", output: Path, given: Namespace) -> int:
    if given.dry_run:
        from dlaseg.benchmarking.dry_run import dry_run

        dry_run(task, output, given.resume)
        return 0

    from dlaseg.training.distributed import is_main_process
    from dlaseg.training.trainer import fit

    state = fit(task, output, given.resume)
    if not is_main_process():
        return 0
    metric, title = next(iter(task.metrics.items()))
    print(f"best val {title} {state.best(metric):.4f}  {output / 'best.safetensors'}")
    if (page := output / "report.html").exists():
        print(page)
    return 0
