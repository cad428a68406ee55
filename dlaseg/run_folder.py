"""The run folder that `dlaseg train` writes: the names of its files, and a reader."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dlaseg.errors import UserError
from dlaseg.yaml_file import parse_yaml

CONFIG = "config.yaml"
LOG = "log.jsonl"
ENVIRONMENT = "environment.json"
BEST_WEIGHTS = "best.safetensors"
TRAIN_NAMES = "train.txt"
VAL_NAMES = "val.txt"
LABEL_COUNTS = "label_counts.json"

_ENVIRONMENT_KEYS = ("command", "python", "platform", "packages", "git_commit", "cpus", "gpus")


@dataclass(frozen=True)
class RunFolder:
    """What a run folder says about the run.

    Attributes:
        config_text: config.yaml as text.
        config: its content.
        log: rows of log.jsonl, one per finished epoch: `epoch`, `loss`, `lr`, the scores of the task, and more.
        environment: content of environment.json: command line, versions, hardware.
    """

    config_text: str
    config: dict[str, Any]
    log: list[dict[str, Any]]
    environment: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "RunFolder":
        """Reads a run folder. The log is empty before the first epoch is finished.

        Raises:
            UserError: a file is missing or broken.
        """
        try:
            text = (path / CONFIG).read_text(encoding="utf-8")
            config = _with_keys(parse_yaml(text), "data")
            _with_keys(config["data"], "train_split", "val_split")
            lines = (path / LOG).read_text(encoding="utf-8").splitlines() if (path / LOG).exists() else []
            log = [_with_keys(json.loads(line), "epoch", "loss", "lr") for line in lines]
            environment = _with_keys(json.loads((path / ENVIRONMENT).read_text(encoding="utf-8")), *_ENVIRONMENT_KEYS)
        except (OSError, ValueError, yaml.YAMLError) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise UserError(f"{path}: not a run folder of dlaseg train ({reason}): give the folder of a run") from error
        return cls(text, config, log, environment)

    def curve(self, key: str) -> tuple[list[int], list[float]]:
        """Epochs and values of one field of the log; epochs without a finite number are left out."""
        rows = [row for row in self.log if isinstance(row.get(key), (int, float)) and math.isfinite(row[key])]
        return [row["epoch"] for row in rows], [row[key] for row in rows]


def _with_keys(content: Any, *keys: str) -> dict[str, Any]:
    """The content, if it is a mapping with these keys."""
    if missing := [key for key in keys if not isinstance(content, dict) or key not in content]:
        raise ValueError(f"no {missing[0]}")
    return dict(content)
