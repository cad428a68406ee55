"""Folders that results are written to."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from dlaseg.errors import UserError
from dlaseg.files import write_bytes
from dlaseg.image_suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES

SETTINGS = "infer.json"
"""The file beside results that says which weights and options they are from, see `dlaseg.inference.settings`."""

FAILED = "failed.csv"
"""Table of the files that failed on a Ray cluster, beside the results: columns `image` and `error`."""

SUFFIXES = {"ids": ".png", "color": ".png", "overlay": ".png", "probabilities": ".npz", "contours": ".json"}
"""Kinds of results, which are also the names of their folders, and the suffixes of their files: label ids, the classes'
colours, the colours over the image, the probabilities of all classes, outlines (`dlaseg.inference.contours`)."""


def check_not_empty(paths: Iterable[str | Path]) -> None:
    """Refuses an empty path, such as that of a shell variable that is not set: it would mean the working folder."""
    if any(isinstance(path, str) and not path for path in paths):
        raise UserError("'': an empty path: give a file or a folder; the working folder is .")


def check_output(output: Path) -> None:
    """Checks that a path can be the folder of results.

    Raises:
        UserError: a file, a link that leads nowhere, or the name of an image or a video.
    """
    if os.path.lexists(output) and not output.is_dir():
        what = "a file" if output.exists() else "a link that leads nowhere"
        raise UserError(f"{output}: results cannot be written to {what}: the last path is the output folder: add one")
    if not output.exists() and output.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        raise UserError(
            f"{output}: the last path is a folder, which gets ids/, color/ and overlay/: use a folder's name, such as "
            f"{output.with_suffix('')}"
        )


class Folder(Protocol):
    """A folder of results, wherever it is. Names are relative, with `/` between their parts.

    What cannot be done raises an OSError whose `filename` is what `show` gives, and whose `strerror` is the reason.
    """

    def show(self, name: str = "") -> str:
        """Path or URL of a file, or of the folder itself."""
        ...

    def location(self, name: str) -> str:
        """As `show`, the same for every way to name a folder: compare it with `Source.location`."""
        ...

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""
        ...

    def files(self, below: str) -> Iterator[str]:
        """The names of all files below a folder, `below` included; none if it does not exist."""
        ...

    def read(self, name: str) -> bytes:
        """The content of a file; raises FileNotFoundError."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Writes a file completely or not at all."""
        ...

    def remove(self, name: str) -> None:
        """Removes a file."""
        ...


class LocalFolder:
    """A folder of this machine, created with its first file; see `Folder`."""

    def __init__(self, path: Path):
        self.path = path

    def show(self, name: str = "") -> str:
        """See `Folder`."""
        return str(self.path / name)

    def location(self, name: str) -> str:
        """See `Folder`."""
        return os.path.realpath(self.path / name)

    def exists(self, name: str) -> bool:
        """See `Folder`."""
        return (self.path / name).is_file()

    def files(self, below: str) -> Iterator[str]:
        """See `Folder`."""
        for folder, _, names in os.walk(self.path / below):
            for name in names:
                yield (Path(folder) / name).relative_to(self.path).as_posix()

    def read(self, name: str) -> bytes:
        """See `Folder`."""
        return (self.path / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """See `Folder`."""
        write_bytes(self.path / name, content)

    def remove(self, name: str) -> None:
        """See `Folder`."""
        (self.path / name).unlink()
