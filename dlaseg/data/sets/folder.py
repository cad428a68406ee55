"""Any data set in folders of its own: the user says where images and label maps are."""

import re
import shlex
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path, PurePosixPath

from dlaseg.data.names import abbreviated
from dlaseg.data.pairs import SplitFiles
from dlaseg.data.patterns import FilePattern
from dlaseg.errors import MissingSplitError, UserError
from dlaseg.image_suffixes import IMAGE_SUFFIXES, LOSSY_SUFFIXES
from dlaseg.labels import LabelMap

_SUFFIXES = {"images": IMAGE_SUFFIXES, "labels": IMAGE_SUFFIXES - LOSSY_SUFFIXES}
PLACES = {"images": "images/{split}", "labels": "labels/{split}"}
"""Of images and label maps, by default."""

_EXAMPLES = {"images": "photos/{split}/{name}.jpg", "labels": "masks/{split}/{name}_mask.png"}


def find_folder(root: Path, split: str, with_labels: bool, images: str, labels: str, classes: str) -> SplitFiles:
    """Finds the files of a split.

    A path is a folder, or a pattern with {name}. The folder F is the pattern F/{name}.*: images and label maps have the
    same paths below their folders, except the suffix. If only one of `images` and `labels` has {split}, it alone
    decides which images are in the split.

    Args:
        root: the other paths are relative to it.
        split: replaces `{split}` in the paths.
        with_labels: whether label maps are needed; without them, their folder may be missing.
        images: path of the images.
        labels: path of the label maps: ids (8 or 16 bits, or a palette), or RGB colours as in the classes file.
        classes: the classes file, see `LabelMap.from_dict`.

    Raises:
        UserError: a path that is not allowed, no image with the name of a label map, a file that fits both paths, and
            as `SplitFiles.find`.
    """
    if not (root / classes).exists():
        given = {"images": images, "labels": labels}.items() - PLACES.items()
        places = [word for name, place in sorted(given) for word in (f"--{name}", place)]
        raise UserError(
            f"{root / classes}: no such file: list the classes in it, or have a first one written by dlaseg data check "
            f"{shlex.join([str(root), '--dataset', 'folder', *places, '--write-classes', str(root / classes)])}"
        )
    label_map = LabelMap.from_file(root / classes)
    image_pattern, label_pattern = _pattern("images", images, root, split), _pattern("labels", labels, root, split)
    try:
        files = SplitFiles.find(image_pattern, label_pattern, label_map, with_labels)
    except MissingSplitError as error:
        pool = image_pattern.folder.parent
        if images.endswith("/{split}") and pool.is_dir() and any(map(_is_image, pool.iterdir())):
            raise MissingSplitError(
                f"{error}; there are images in {pool}, though: if they are in no split, set images (--images) to "
                f"{images.replace('/{split}', '')} and labels (--labels) to {labels.replace('/{split}', '')}"
            ) from error
        if image_pattern.folder.name == split and (splits := _visible_folders(pool)):
            raise MissingSplitError(f"{error}; the splits there are called {abbreviated(splits)}") from error
        if images == PLACES["images"] and not pool.is_dir() and (folders := _visible_folders(root)):
            raise MissingSplitError(
                f"{error}; there are folders {abbreviated(folders)}, though: set images (--images) and labels "
                "(--labels) to yours"
            ) from error
        raise
    if files.labels is None:
        return files
    common = files.images.keys() & files.labels.keys()
    if not common:
        raise UserError(
            f"{files.images[min(files.images)]} and {files.labels[min(files.labels)]}: no image has the name of a "
            f"label map: use {_advice(images, labels, split, files.images.keys(), files.labels.keys())}"
        )
    if both := [name for name in common if files.images[name] == files.labels[name]]:
        raise UserError(
            f"{files.images[min(both)]}: fits images {images!r} and labels {labels!r}: use paths that tell them apart, "
            f"such as images {_EXAMPLES['images']} and labels {_EXAMPLES['labels']}"
        )
    if "{split}" in images and "{split}" not in labels:
        return replace(files, labels={name: files.labels[name] for name in common})
    if "{split}" in labels and "{split}" not in images:
        return replace(files, images={name: files.images[name] for name in common})
    return files


def _visible_folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _pattern(option: str, path: str, root: Path, split: str) -> FilePattern:
    """The files that `images` or `labels` names.

    Raises:
        UserError: a path that is not allowed.
    """
    parts, suffixes = PurePosixPath(path).parts, _SUFFIXES[option]
    placeholders = re.findall(r"\{[^{}]*\}|[{}]", path)
    unknown = [text for text in placeholders if text not in ("{name}", "{split}")]
    suffix = PurePosixPath(path).suffix
    problem = None
    if not path.strip():
        problem = "names no files"
    elif Path(path).is_absolute() or ".." in parts:
        problem = "leads out of the data set's folder, which it is relative to"
    elif unknown:
        problem = f"{unknown[0]} is neither {{name}} nor {{split}}"
    elif "*" in path and ("{name}" not in path or "*" in path.removesuffix(".*")):
        problem = "* stands only for a suffix, as in {name}.*, and {name} for the name of an image"
    elif "{name}" in path and not path.endswith(("{name}", ".*")) and suffix.lower() not in suffixes:
        problem = f"does not end in .* or one of {', '.join(sorted(suffixes))}"
        if suffix.lower() in LOSSY_SUFFIXES:
            problem = "lossy compression changes label values"
    if problem is not None:
        raise UserError(f"{option} {path!r}: {problem}: use a folder, or a pattern such as {_EXAMPLES[option]}")
    number = next((i for i, part in enumerate(parts) if "{name}" in part), len(parts))
    folder, below = ("/".join(part).replace("{split}", split) for part in (parts[:number], parts[number:]))
    return FilePattern(root / folder, below or "{name}.*", suffixes)


def _advice(images: str, labels: str, split: str, image_names: Collection[str], label_names: Collection[str]) -> str:
    """A pattern under which all images or all label maps match, where one kind's names are the other's and an addition.

    Args:
        images: path of the images.
        labels: path of the label maps.
        split: a folder of this name becomes {split}: other splits would get the label maps of this one.
        image_names: names of the images.
        label_names: names of the label maps.
    """
    for option, path, short, long in (
        ("labels", labels, image_names, label_names),
        ("images", images, label_names, image_names),
    ):
        first = min(long)
        inside = max((name for name in short if name in first), key=len, default="")
        added = first.replace(inside, "{name}", 1) if inside else ""
        matching = {added.replace("{name}", name) for name in short}
        if added and (matching <= set(long) or matching >= set(long)):
            added = "/".join("{split}" if part == split else part for part in added.split("/"))
            return f"{option} {path.replace('{name}', added) if '{name}' in path else f'{path}/{added}.*'}"
    return f"patterns, such as images {_EXAMPLES['images']} and labels {_EXAMPLES['labels']}"
