"""Where the images or the label maps of a split are: paths in which {name} stands for the name of an image."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dlaseg.errors import UserError
from dlaseg.image_suffixes import IMAGE_SUFFIXES, LOSSY_SUFFIXES
from dlaseg.label_images import LOSSLESS


@dataclass(frozen=True)
class FilePattern:
    """The paths of the images or of the label maps of a split.

    A path fits in one way only, because all but {name} is fixed: {name} may contain slashes, and be there twice.

    Attributes:
        folder: is searched with its subfolders, also through symbolic links; hidden files and folders are skipped.
        below: the paths below `folder`, with {name}; `.*` at the end stands for any suffix. A suffix fits in upper and
            in lower case.
        suffixes: lower-case suffixes of the files.

    Examples:
        >>> masks = FilePattern(Path("masks"), "{name}/{name}_mask.*")
        >>> masks.name_of(Path("masks/a/7/a/7_mask.tif")), masks.path_of("7", ".png").as_posix()
        ('a/7', 'masks/7/7_mask.png')
    """

    folder: Path
    below: str = "{name}.*"
    suffixes: frozenset[str] = IMAGE_SUFFIXES

    def find(self, other: "FilePattern | None" = None, twice: list[tuple[Path, Path]] | None = None) -> dict[str, Path]:
        """Finds the files.

        Args:
            other: of the other kind of file. A file that fits both belongs to the pattern that gives it the shorter
                name: `{name}.png` leaves `7_mask.png` to `{name}_mask.png`.
            twice: gets the files of a name that has one already, each after that one; without it, they are an error.

        Returns:
            The files by name.

        Raises:
            UserError: no such folder, a folder that cannot be read, no such file in it, or two files of the same name.
        """
        if not self.folder.is_dir():
            raise self.missing_folder()
        files: dict[str, Path] = {}
        unfit = lossy = of_other_suffix = None
        try:
            for path in files_below(self.folder):
                name = self.name_of(path)
                name_in_other = None if other is None else other.name_of(path)
                if path.suffix.lower() not in self.suffixes:
                    if path.suffix.lower() in LOSSY_SUFFIXES and name is not None and name_in_other is None:
                        lossy = lossy or path
                    of_other_suffix = of_other_suffix or path
                elif name is None or (name_in_other is not None and len(name_in_other) < len(name)):
                    unfit = unfit or path
                elif name in files:
                    if twice is None:
                        raise same_name(files[name], path)
                    twice.append((files[name], path))
                else:
                    files[name] = path
        except OSError as error:
            raise UserError(f"{error.filename}: {error.strerror}: make the folder readable, or move it away") from error
        if not files and lossy:
            raise lossy_labels(lossy)
        if not files:
            any_suffix = f"{{{','.join(sorted(self.suffixes))}}}"
            expected = self._below("NAME", any_suffix)
            example = unfit or of_other_suffix
            found = f"; there is {example}, for example" if example else ""
            remedy = "rename or convert the files, or name another place for them" if example else "add files"
            raise UserError(f"{self.folder}: no file named {expected} in it{found}: {remedy}")
        return files

    def missing_folder(self) -> UserError:
        """The error of a folder that does not exist."""
        return UserError(f"{self.folder}: no such folder; expected files such as {self.path_of('NAME', '.png')}")

    def name_of(self, path: Path) -> str | None:
        """The name of a file's image; None for a path that does not fit."""
        if not path.is_relative_to(self.folder):
            return None
        match = self._regex.fullmatch(path.relative_to(self.folder).as_posix())
        return match and match["name"]

    def path_of(self, name: str, suffix: str) -> Path:
        """The file of an image.

        Args:
            name: of the image.
            suffix: stands for `.*`, such as `.png`.
        """
        return self.folder / self._below(name, suffix)

    def lossy_file(self, name: str) -> Path | None:
        """The file of a label map that was saved in a lossy format, where the suffix is free; None if there is none."""
        suffixes = [cased for suffix in sorted(LOSSY_SUFFIXES) for cased in (suffix, suffix.upper())]
        paths = [self.path_of(name, suffix) for suffix in suffixes] if self.below.endswith(".*") else []
        return next((path for path in paths if path.is_file()), None)

    def any_suffix_advice(self, name: str, partner: Path) -> str | None:
        """What to do if the file of a name differs from the pattern in its suffix alone; None if there is none.

        Args:
            name: of the image.
            partner: the file that was found; images and label maps may lie in one folder.
        """
        if self.below.endswith((".*", "{name}")):
            return None
        path = self.path_of(name, "")
        suffixes = [cased for suffix in sorted(self.suffixes) for cased in (suffix, suffix.upper())]
        others = [other for other in map(path.with_suffix, suffixes) if other != partner and other.is_file()]
        return f"there is {others[0]}: end the pattern in .* instead of {path.suffix}" if others else None

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        before, *between, after = self.below.removesuffix(".*").split("{name}")
        suffix = r"\.[^./]+"
        if not self.below.endswith(".*"):
            after, dot, fixed = after.rpartition(".")
            suffix = f"(?i:{re.escape(dot + fixed)})"  # cameras write .JPG
        again = "".join(f"{re.escape(text)}(?P=name)" for text in between)
        # A slash at either end would belong to the text around the name
        return re.compile(f"{re.escape(before)}(?P<name>(?!/).+(?<!/)){again}{re.escape(after)}{suffix}", re.DOTALL)

    def _below(self, name: str, suffix: str) -> str:
        start = self.below.removesuffix(".*")
        return start.replace("{name}", name) + (suffix if start != self.below else "")


def lossy_labels(path: Path) -> UserError:
    """The error of a label map in a lossy format."""
    return UserError(f"{path}: lossy formats such as JPEG change label values: {LOSSLESS}")


def same_name(first: Path, second: Path) -> UserError:
    """The error of two files of a name."""
    return UserError(f"{first} and {second}: two files of the same name: remove or rename one")


def files_below(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """The files in a folder and its subfolders, sorted, also through symbolic links; hidden ones are left out.

    Args:
        folder: is searched.
        above: the folders that contain it, links resolved.
    """
    real = os.path.realpath(folder)
    if real in above:  # a link back to a folder that contains it
        return
    with os.scandir(folder) as entries:
        visible = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in visible:
        if entry.is_dir():
            yield from files_below(folder / entry.name, (*above, real))
        elif entry.is_file() or entry.is_symlink():  # a link to nowhere fails when it is read, and is not left out
            yield folder / entry.name
