"""The run folder that `dlaseg train` writes: the names of its files, and a reader."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dlaseg.errors import UserError
from dlaseg.strict_json import parse_json, read_text
from dlaseg.yaml_file import parse_yaml

CONFIG = "config.yaml"
LOG = "log.jsonl"
ENVIRONMENT = "environment.json"
BEST_WEIGHTS = "best.safetensors"
TRAIN_NAMES = "train.txt"
VAL_NAMES = "val.txt"
LABEL_COUNTS = "label_counts.json"

_ENVIRONMENT_KEYS = ("command", "python", "platform", "packages", "git_commit", "cpus", "gpus")

_LARGEST = 1e30
"""Largest number of the log that a chart can show."""


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
            text = read_text(path / CONFIG, most=1 << 20)
            config = _with_keys(parse_yaml(text), "data")
            _with_keys(config["data"], "train_split", "val_split")
            lines = read_text(path / LOG).splitlines() if (path / LOG).exists() else []
            log = [_log_row(line) for line in lines]
            environment = _environment(read_text(path / ENVIRONMENT))
        except (OSError, ValueError, yaml.YAMLError) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise UserError(f"{path}: not a run folder of dlaseg train ({reason}): give the folder of a run") from error
        return cls(text, config, log, environment)

    def curve(self, key: str) -> tuple[list[int], list[float]]:
        """Epochs and values of one field of the log; epochs without a finite number are left out."""
        rows = [row for row in self.log if type(row.get(key)) in (int, float) and abs(row[key]) <= _LARGEST]
        return [row["epoch"] for row in rows], [row[key] for row in rows]


def _log_row(line: str) -> dict[str, Any]:
    row = _with_keys(parse_json(line, allow_nan=True), "epoch", "loss", "lr")
    if type(row["epoch"]) is not int:
        raise ValueError(f"epoch {row['epoch']!r:.80} in {LOG}")
    return row


def _environment(text: str) -> dict[str, Any]:
    content = _with_keys(parse_json(text), *_ENVIRONMENT_KEYS)
    for key in ("command", "gpus"):
        if not isinstance(content[key], list) or not all(isinstance(item, str) for item in content[key]):
            raise ValueError(f"{key} {content[key]!r:.80} in {ENVIRONMENT}")
    if not isinstance(content["packages"], dict):
        raise ValueError(f"packages {content['packages']!r:.80} in {ENVIRONMENT}")
    return content


def _with_keys(content: Any, *keys: str) -> dict[str, Any]:
    """The content, if it is a mapping with these keys."""
    if missing := [key for key in keys if not isinstance(content, dict) or key not in content]:
        raise ValueError(f"no {missing[0]}")
    return dict(content)
