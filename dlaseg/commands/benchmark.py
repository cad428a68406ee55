"""`dlaseg benchmark ...`."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from dlaseg.commands.parsing import parser_of, record_arguments
from dlaseg.config import Config, PretrainConfig

if TYPE_CHECKING:
    from dlaseg.training.task import Task


def train(arguments: Sequence[str]) -> int:
    """Measures how fast `train` goes on this machine, and whether data or network is the limit."""
    config, given = record_arguments(_with_options(parser_of("benchmark train", train)), Config, arguments)

    from dlaseg.training.segmentation import Segmentation

    return _measure(Segmentation(config), given)


def pretrain(arguments: Sequence[str]) -> int:
    """Measures how fast `pretrain` goes on this machine, and whether data or network is the limit."""
    config, given = record_arguments(
        _with_options(parser_of("benchmark pretrain", pretrain)), PretrainConfig, arguments
    )

    from dlaseg.training.classification import Classification

    return _measure(Classification(config), given)


def _with_options(parser: ArgumentParser) -> ArgumentParser:
    parser.add_argument("--steps", type=int, default=10, help="batches of each measurement, in each of 5 rounds")
    parser.add_argument("--json", action="store_true", help="all figures, round by round, as JSON")
    return parser


def _measure(task: "Task[Any, Any]", given: Namespace) -> int:
    from dlaseg.benchmarking.throughput import measure, record, table

    found = measure(task, given.steps)
    if found is not None:
        print(json.dumps(record(found), indent=2) if given.json else table(found))
    return 0
