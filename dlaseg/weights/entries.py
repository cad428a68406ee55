"""Metadata of a network as entries of text, which weights files and exported files carry; does not import torch."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from dlaseg.errors import UserError
from dlaseg.labels import LabelMap
from dlaseg.metadata import MAX_TEXT, ModelMetadata, Origin
from dlaseg.strict_json import InvalidJSONError, parse_json

FORMAT = "dlaseg-1"
"""Format version; a file of another version is refused."""

SEGMENTATION_ARGUMENTS = ("name", "num_classes", "stride", "root_kernel_size", "in_channels")
OPTIONAL_ARGUMENTS = {"decoder", "head", "scales", "activation"}
BACKBONE_ARGUMENTS = ("name", "num_classes", "in_channels", "root_kernel_size")
"""What a file says about the network; never where weights come from, or anything else that is opened."""

MAX_METADATA = 1 << 24
"""Most characters of an entry of the metadata; the class names of a large classifier have fewer."""

MAX_ARGUMENTS = 50
"""Most arguments of a network of another family."""

_REQUIRED = ("model", "mean", "std")
_SIDES = ("max_short_side", "training_short_side")
_OPTIONAL = ("labels", "classes", "origin", *_SIDES)


def encode_metadata(metadata: ModelMetadata) -> dict[str, str]:
    """Metadata as a safetensors file keeps them: a JSON text for each key."""
    if metadata.label_map is not None:
        classes = {"labels": json.dumps(metadata.label_map.to_dict())}
    else:
        classes = {"classes": json.dumps(metadata.class_names)}
    return {
        "format": FORMAT,
        "model": json.dumps(metadata.architecture),
        **classes,
        "mean": json.dumps(metadata.mean),
        "std": json.dumps(metadata.std),
        "origin": json.dumps([asdict(origin) for origin in metadata.origin]),
        **{key: json.dumps(getattr(metadata, key)) for key in _SIDES if getattr(metadata, key) is not None},
    }


def decode_metadata(path: Path, entries: Mapping[str, str], any_network: bool = False) -> ModelMetadata:
    """The reverse of `encode_metadata`, for files of any origin: what comes out describes a network of ours.

    Args:
        path: the file, for messages.
        entries: its metadata.
        any_network: whether the architecture may be that of another family than ours, since no network is built from
            it: an exported file is one.

    Raises:
        UserError: another format, damaged, an argument that is unknown or out of range, or classes, mean or std of
            another number.
    """
    if (written := entries.get("format")) != FORMAT:
        reads = f"{path}: weights format {written!r:.80}, this release reads {FORMAT!r} files"
        if re.fullmatch(r"dlaseg-\d+", str(written)):
            raise UserError(f"{reads}: update dlaseg")
        raise UserError(
            f"{reads}, written by dlaseg.save_model and by training: convert others by `dlaseg weights convert`"
        )
    try:
        content = {key: _parse(key, entries[key]) for key in (*_REQUIRED, *_OPTIONAL) if key in entries}
        if missing := [key for key in _REQUIRED if key not in content]:
            raise InvalidJSONError(f"no {missing[0]!r} in its metadata")
        if ("labels" in content) == ("classes" in content):
            raise InvalidJSONError("not exactly one of 'labels' and 'classes' in its metadata")
        is_segmentation = "labels" in content
        metadata = ModelMetadata(
            (_check_plain if any_network else _check_architecture)(content["model"], is_segmentation),
            LabelMap.from_dict(content["labels"]) if is_segmentation else None,
            tuple(_check_list("classes", content.get("classes", []))),
            tuple(_check_list("mean", content["mean"])),
            tuple(_check_list("std", content["std"])),
            tuple(_origin(entry) for entry in _check_list("origin", content.get("origin", []))),
            *map(content.get, _SIDES),
        )
        if any_network:
            metadata.check(metadata.num_classes, metadata.in_channels)
        else:
            metadata.check(metadata.architecture["num_classes"] or 0, metadata.architecture["in_channels"])
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except InvalidJSONError as error:
        raise UserError(f"{path}: broken or no weights file ({error}): copy it again") from error
    return metadata


def _parse(key: str, text: str) -> Any:
    if len(text) > MAX_METADATA:
        raise InvalidJSONError(f"{key!r} of {len(text)} characters, the most are {MAX_METADATA}")
    return parse_json(text)


def _check_architecture(arguments: Any, is_segmentation: bool) -> dict[str, Any]:
    """The arguments of a network, if they are those and no others."""
    known = SEGMENTATION_ARGUMENTS if is_segmentation else BACKBONE_ARGUMENTS
    optional = OPTIONAL_ARGUMENTS if is_segmentation else set()
    if not isinstance(arguments, dict) or arguments.keys() - optional != set(known):
        found = list(arguments) if isinstance(arguments, dict) else arguments
        raise UserError(f"arguments of the network {found!r:.200}: a weights file has exactly {', '.join(known)}")
    # What networks are made of is torch's, which reading an exported file does without
    from dlaseg.models.build import Architecture
    from dlaseg.models.dla import check_backbone

    (Architecture if is_segmentation else check_backbone)(**arguments)
    return arguments


def _check_plain(arguments: Any, _: bool) -> dict[str, Any]:
    """A few named texts, numbers and lists of numbers."""
    if not isinstance(arguments, dict) or len(arguments) > MAX_ARGUMENTS:
        raise InvalidJSONError(f"'model' is not a dictionary of at most {MAX_ARGUMENTS} entries")
    for name, value in arguments.items():
        numbers = isinstance(value, list) and all(isinstance(number, int | float) for number in value)
        if (isinstance(value, dict | list) and not numbers) or len(str(value)) > MAX_TEXT or len(name) > MAX_TEXT:
            raise InvalidJSONError(f"{name!r:.80} in 'model' is no text, number or list of numbers")
    return arguments


def _check_list(key: str, content: Any) -> list[Any]:
    if not isinstance(content, list):
        raise InvalidJSONError(f"{key!r} is no list")
    return content


def _origin(entry: Any) -> Origin:
    if not isinstance(entry, dict) or entry.keys() != {field.name for field in fields(Origin)}:
        raise InvalidJSONError(f"{entry!r:.80} in 'origin'")
    return Origin(**entry)
