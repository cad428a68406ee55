"""Names of splits, as annotation tools write them."""

import re
from collections.abc import Sequence
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


def folders_of(split: str) -> list[str]:
    """Names of folders that hold the images of a split: its own, and those that are usual for it, but for `default`."""
    return [split, *(name for name, usual in _USUAL.items() if usual == split and name != "default")]


def split_of_file(path: Path, by_folder: bool = False) -> str | None:
    """The split that the name of an annotation file says, such as `instances_val2017.json`; None if it says none.

    Roboflow names all files `_annotations.coco.json` and their folders by the split.

    Args:
        path: of the file.
        by_folder: whether the folder of any other file says it, too, if the whole name is that of a split.
    """
    names = r"(train|training|val|valid|validation|test|testing)\d*"
    folder = path.parent.name.lower()
    name = folder if path.stem.startswith("_annotations") else path.stem.lower()
    found = re.search(rf"(?:^|[_\W]){names}(?:$|[_\W])", name) or (re.fullmatch(names, folder) if by_folder else None)
    return split_name(found[1], str(path)) if found else None


def check_order(paths: Sequence[Path], splits: Sequence[str]) -> None:
    """Checks that the names of files do not say that splits were named in another order than the files.

    A name may say another split than the user does, unless that one is given to files whose names do not say it.

    Args:
        paths: annotation files.
        splits: of each.

    Raises:
        UserError: names a file that says the split of another one.
    """
    given = [_USUAL.get(split.lower(), split) for split in splits]
    said = [split_of_file(path, by_folder=True) for path in paths]
    confirmed = {own for own, split in zip(said, given, strict=True) if own == split}
    for path, own, split in zip(paths, said, splits, strict=True):
        if own in given and own not in confirmed:
            raise wrong_order(split, path, f"its name says {own}", own)


def wrong_order(split: str, path: Path, sign: str, other: str) -> UserError:
    """The error of a file that has the split of another one.

    Args:
        split: that the user names for the file.
        path: of the file.
        sign: what says so.
        other: the split of the other file.
    """
    return UserError(
        f"--split {split} for {path}: {sign}, and --split names another input {other}: name the splits in the order of "
        "the inputs"
    )
