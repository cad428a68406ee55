"""Names of splits, as annotation tools write them."""

import re
from pathlib import Path

from dlaseg.errors import UserError

_USUAL = {"default": "train", "training": "train", "valid": "val", "validation": "val", "testing": "test"}


def check_split(name: str, source: str) -> None:
    """Raises a UserError for the name of a split that is no plain folder name."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", name):
        raise UserError(f"{source}: split {name[:80]!r}: use letters, digits, '_', '-' and '.' alone: rename it")


def split_name(name: str, source: str) -> str:
    """The usual name of a split: `valid` and `Validation` are `val`, CVAT's `default` is `train`.

    Args:
        name: as the annotation tool writes it.
        source: file and id of the entry, for messages.

    Raises:
        UserError: a name that is no plain folder name.
    """
    lower = name.strip().lower()
    check_split(lower, source)
    return _USUAL.get(lower, lower)


def split_of_file(path: Path) -> str:
    """The split that the name of an annotation file says, such as `instances_val2017.json`; else train.

    Roboflow names all files `_annotations.coco.json` and their folders by the split.
    """
    name = path.parent.name if path.stem.startswith("_annotations") else path.stem
    found = re.search(r"(?:^|[_\W])(train|training|val|valid|validation|test|testing)\d*(?:$|[_\W])", name.lower())
    return split_name(found[1], str(path)) if found else "train"
