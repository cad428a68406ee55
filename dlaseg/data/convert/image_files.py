"""Finds the images that annotations name: a name chooses among the files below a folder, and never leads out of it."""

import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from dlaseg.data.convert.documents import shown
from dlaseg.data.patterns import files_below
from dlaseg.errors import UserError
from dlaseg.image_suffixes import IMAGE_SUFFIXES, OTHER_IMAGE_SUFFIXES


class ImageFolder:
    """The images of a folder and its subfolders, found by the names in annotation files.

    Args:
        root: the folder.
        remedy: what to do if an image is not found.

    Raises:
        UserError: no such folder.
    """

    def __init__(self, root: Path, remedy: str = "name the folder of the images with --images"):
        if not root.is_dir():
            raise UserError(f"{root}: no such folder: {remedy}")
        self.root = root
        self._remedy = remedy

    def find(self, *names: str, subsets: Sequence[str] = ()) -> tuple[Path, Path]:
        """Finds an image.

        An image fits if its path and the name agree as far as both go, from the right: `cam1/7.png` fits the name
        `data/cam1/7.png`, and `images/cam1/7.png` the name `cam1/7.png`, but `cam2/7.png` fits neither. An accent that
        is a character of its own in one of them only, as in names of macOS, makes no difference.

        Args:
            names: paths as an annotation file holds them, also absolute ones, with `..`, or of Windows; the first that
                fits an image counts.
            subsets: names of folders; of several images that fit, the one in the first such folder is taken.

        Returns:
            The file, and its path as far as it agrees with the name.

        Raises:
            UserError: no image fits, or several do, or one in a format that is not read.
        """
        for name in names:
            words = _words(name)
            fits = [path for path in self._by_name.get(_composed(words[-1]), ()) if _agree(path.parts, words)]
            longest = max((_common(path.parts, words) for path in fits), default=0)
            fits = [path for path in fits if _common(path.parts, words) == longest]
            as_written = [path for path in fits if path.parts[-longest:] == words[-longest:]]
            exact = [path for path in fits if path.parts == words]
            fits = exact or as_written or fits
            if len(fits) > 1:
                inside = ([path for path in fits if subset in path.parts[:-1]] for subset in subsets)
                fits = next(filter(None, inside), fits)
            if len(fits) > 1:
                raise UserError(
                    f"image {shown(name)}: both {self.root / fits[0]} and {self.root / fits[1]} fit: rename one, or "
                    "name a folder that holds only one of them with --images"
                )
            if fits:
                return self.root / fits[0], Path(*fits[0].parts[-longest:])
        for name in names:
            *folders, last = _words(name)
            stem = (*folders, PurePosixPath(last).stem)
            for path in self._unread:
                if _agree(path.with_suffix("").parts, stem):
                    raise UserError(
                        f"image {shown(name)}: {self.root / path} has a format that is not read: convert it to JPEG or "
                        "PNG, and write the new name in the annotations"
                    )
        raise UserError(f"image {shown(names[0])}: no such image below {self.root}: {self._remedy}")

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        """Paths below the folder, by file name."""
        files = defaultdict(list)
        for path in images_below(self.root):
            files[_composed(path.name)].append(path.relative_to(self.root))
        return dict(files)

    @cached_property
    def _unread(self) -> list[Path]:
        """Paths below the folder of images in formats that are not read."""
        return [path.relative_to(self.root) for path in images_below(self.root, OTHER_IMAGE_SUFFIXES)]


def images_below(folder: Path, suffixes: frozenset[str] = IMAGE_SUFFIXES) -> list[Path]:
    """The images in a folder and its subfolders.

    Args:
        folder: is searched.
        suffixes: lower-case suffixes of the formats.
    """
    return [path for path in files_below(folder) if path.suffix.lower() in suffixes]


def _words(name: str) -> tuple[str, ...]:
    """The folders and the file of a path as an annotation file holds it."""
    words = posixpath.normpath(name.replace("\\", "/")).split("/")
    return tuple(word for word in words if word not in ("", "..")) or (".",)


def _composed(name: str) -> str:
    """Unicode's form NFC: accented letters as one character."""
    return unicodedata.normalize("NFC", name)


def _common(path: tuple[str, ...], words: tuple[str, ...]) -> int:
    return min(len(path), len(words))


def _agree(path: tuple[str, ...], words: tuple[str, ...]) -> bool:
    length = _common(path, words)
    return [*map(_composed, path[-length:])] == [*map(_composed, words[-length:])]
