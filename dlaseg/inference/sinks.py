"""Writes results: label maps, colour images and overlays, in a tree that mirrors the input's."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dlaseg.errors import UserError
from dlaseg.images import write_png
from dlaseg.inference.sources import Source
from dlaseg.labels import LabelMap
from dlaseg.visualize import overlay

KINDS = ("ids", "color", "overlay")
"""Kinds of results: stored label ids, the classes' colours, the colours over the image."""


LONGEST_NAME = 255
"""Bytes in the name of a file, as file systems have it."""


class Sink:
    """Writes the results of a source to `OUTPUT/KIND/` and its relative path, as PNG.

    `streets/a.jpg` becomes `OUTPUT/ids/streets/a.png`, and so on; a frame of `a.gif` becomes `OUTPUT/ids/a/0000.png`. A
    file is written completely or not at all.

    Args:
        output: the folder; created with the first result.
        label_map: gives ids and colours.
        save: some of `KINDS`.
        keep_suffix: whether results are called `a.jpg.png`, and frames `a.gif/0000.png`.

    Raises:
        UserError: nothing to save, or an unknown kind.
    """

    def __init__(self, output: Path, label_map: LabelMap, save: Sequence[str] = KINDS, keep_suffix: bool = False):
        unknown = [kind for kind in save if kind not in KINDS]
        if unknown or not save:
            what = repr(unknown[0]) if unknown else "nothing"
            raise UserError(f"save {what}: results are saved as one or more of {', '.join(KINDS)}")
        self._output = output
        self._label_map = label_map
        self._keep_suffix = keep_suffix
        self.kinds = tuple(dict.fromkeys(save))

    def name(self, source: Source) -> Path:
        """The path of a source's results below `OUTPUT/KIND`."""
        image = source.relative
        stem = image if self._keep_suffix else image.with_suffix("")
        return stem.with_name(f"{stem.name}.png") if source.frame is None else stem / f"{source.frame:04}.png"

    def path(self, source: Source, kind: str) -> Path:
        """The file of a result."""
        return self._output / kind / self.name(source)

    def check(self, sources: Sequence[Source]) -> None:
        """Checks that no result would replace a source; call it before the first `write`.

        Raises:
            UserError: names the source.
        """
        inputs = {source.path.resolve() for source in sources}
        folders = [(self._output / kind).resolve() for kind in self.kinds]
        for source in sources:
            for folder in folders:
                if folder / self.name(source) in inputs:
                    raise UserError(
                        f"{folder / self.name(source)}: a result would replace this input: give another output folder"
                    )

    def unnameable(self, sources: Sequence[Source]) -> dict[Path, str]:
        """Finds files whose results would have the same name, such as those of `a.jpg` and `a.png`, or too long a name.

        None of them is chosen, and none is renamed: a name that depends on the other files would change between runs.

        Returns:
            The files, and a message for each.
        """
        named: defaultdict[Path, list[Source]] = defaultdict(list)
        for source in sources:
            named[self.name(source)].append(source)
        messages: dict[Path, str] = {}
        for name, group in named.items():
            for source in group:
                if (length := len(os.fsencode(name.name))) > LONGEST_NAME:
                    message = f"its result's name would have {length} bytes, {LONGEST_NAME} are allowed: rename it"
                    messages[source.path] = f"{source.path}: {message}"
                others = [other.path for other in group if other is not source]
                if others:
                    same_suffix = self._keep_suffix or others[0].suffix == source.path.suffix
                    remedy = "use two output folders" if same_suffix else "use --keep-suffix"
                    message = f"its result and that of {others[0]} would both be {name}: {remedy}, or rename one"
                    messages.setdefault(source.path, f"{source.path}: {message}")
        return messages

    def missing(self, source: Source) -> list[str]:
        """The kinds to be saved whose file does not exist yet."""
        return [kind for kind in self.kinds if not self.path(source, kind).is_file()]

    def write(self, source: Source, image: NDArray[np.uint8], labels: NDArray[np.uint8], kinds: Sequence[str]) -> None:
        """Writes the results of one source; replaces existing ones.

        Args:
            source: of the results.
            image: (H, W, 3) uint8, RGB.
            labels: (H, W) uint8 train ids.
            kinds: to write, see `missing`.

        Raises:
            UserError: the folder cannot be written to, or the disk is full.
        """
        for kind in kinds:
            path = self.path(source, kind)
            with write_errors(path):
                write_png(path, self.picture(kind, image, labels))

    def picture(self, kind: str, image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> NDArray[np.integer]:
        """Draws a result, (H, W) or (H, W, 3), of image and labels or of the same rows of both."""
        if kind == "ids":
            return self._label_map.decode(labels)
        color = self._label_map.colorize(labels)
        return color if kind == "color" else overlay(image, color)


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Makes an error of the system one that names the file and the remedy."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}): make room or give another output folder"
        ) from error
