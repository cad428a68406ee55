"""`dlaseg benchmark ...`."""

import json
from collections.abc import Callable, Sequence

from dlaseg.config.pretraining import PretrainConfig
from dlaseg.config.segmentation import Config


def train(arguments: Sequence[str]) -> int:
    """Measure how fast `train` runs on this machine, and whether the data or the network limits it."""
    return _measure("train", train, Config, arguments)


def pretrain(arguments: Sequence[str]) -> int:
    """Measure how fast `pretrain` runs on this machine, and whether the data or the network limits it."""
    return _measure("pretrain", pretrain, PretrainConfig, arguments)


def _measure(
    name: str, command: Callable[..., int], kind: type[Config | PretrainConfig], arguments: Sequence[str]
) -> int:
    from dlaseg.commands.config_parser import ConfigParser

    parser = ConfigParser(kind, prog=f"dlaseg benchmark {name}", description=command.__doc__)
    parser.add_argument("--steps", type=int, default=10, help="batches per measurement, in each of 5 rounds")
    parser.add_argument("--json", action="store_true", help="print all results, round by round, as JSON")
    config, args = parser.parse(arguments)

    from dlaseg.benchmarking.throughput import measure, table, to_dict
    from dlaseg.training.train import make_task

    throughput = measure(make_task(config), args.steps)
    if throughput is not None:
        print(json.dumps(to_dict(throughput), indent=2) if args.json else table(throughput))
    return 0
