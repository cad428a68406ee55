"""A config as a YAML file and as one level of dotted names such as `train.lr`."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import yaml

from dlaseg.config.pretraining import PretrainConfig
from dlaseg.config.segmentation import Config


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
