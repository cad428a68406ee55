"""A config as a YAML file and as one level of dotted names such as `train.lr`."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from dlaseg.config.pretraining import PretrainConfig
from dlaseg.config.segmentation import Config
from dlaseg.config.training import RENAMED
from dlaseg.errors import UserError


def to_dict(config: Config | PretrainConfig) -> dict[str, Any]:
    """The whole config, defaults included, as a file holds it: dicts, lists, strings, numbers, booleans and None."""
    content: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))  # tuples become lists
    return content


def to_yaml(config: Config | PretrainConfig) -> str:
    """The whole config as YAML, defaults included."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one level of dotted names."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def refuse_old_names(fields: Iterable[str], source: Path | str) -> None:
    """Refuses a field's former name; the error names the source, the old and the new name."""
    for field in fields:
        if field in RENAMED:
            raise UserError(f"{source}: {field} is now {RENAMED[field]}: rename it")
