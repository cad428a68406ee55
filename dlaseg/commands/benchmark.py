"""`dlaseg benchmark ...`."""

import json
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from dlaseg.config import Config, PretrainConfig

if TYPE_CHECKING:
    from dlaseg.training.task import Task

Kind = TypeVar("Kind", Config, PretrainConfig)


def train(arguments: Sequence[str]) -> int:
    """Measure how fast `train` runs on this machine, and whether the data or the network limits it."""
    config, args = _parse("benchmark train", train.__doc__, Config, arguments)

    from dlaseg.training.segmentation import Segmentation

    return _measure(Segmentation(config), args)


def pretrain(arguments: Sequence[str]) -> int:
    """Measure how fast `pretrain` runs on this machine, and whether the data or the network limits it."""
    config, args = _parse("benchmark pretrain", pretrain.__doc__, PretrainConfig, arguments)

    from dlaseg.training.classification import Classification

    return _measure(Classification(config), args)


def _parse(name: str, description: str | None, kind: type[Kind], arguments: Sequence[str]) -> tuple[Kind, Namespace]:
    from dlaseg.commands.config_parser import ConfigParser

    parser = ConfigParser(prog=f"dlaseg {name}", description=description)
    parser.add_argument("--steps", type=int, default=10, help="batches per measurement, in each of 5 rounds")
    parser.add_argument("--json", action="store_true", help="print all results, round by round, as JSON")
    return parser.parse_config(kind, arguments)


def _measure(task: "Task[Any, Any]", args: Namespace) -> int:
    from dlaseg.benchmarking.throughput import measure, table, to_dict

    throughput = measure(task, args.steps)
    if throughput is not None:
        print(json.dumps(to_dict(throughput), indent=2) if args.json else table(throughput))
    return 0
