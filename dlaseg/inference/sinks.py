"""Writes results: label maps, colour images and overlays, in a tree that mirrors the input's."""

from collections.abc import Sequence
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


class Sink:
    """Writes the results of a source to `OUTPUT/KIND/` and its relative path, as PNG.

    `streets/a.jpg` becomes `OUTPUT/ids/streets/a.png`, and so on. A file is written completely or not at all.

    Args:
        output: the folder; created with the first result.
        label_map: gives ids and colours.
        save: some of `KINDS`.

    Raises:
        UserError: nothing to save, or an unknown kind.
    """

    def __init__(self, output: Path, label_map: LabelMap, save: Sequence[str] = KINDS):
        unknown = [kind for kind in save if kind not in KINDS]
        if unknown or not save:
            what = repr(unknown[0]) if unknown else "nothing"
            raise UserError(f"save {what}: results are saved as one or more of {', '.join(KINDS)}")
        self._output = output
        self._label_map = label_map
        self.kinds = tuple(dict.fromkeys(save))

    def path(self, source: Source, kind: str) -> Path:
        """The file of a result."""
        return self._output / kind / source.relative.with_suffix(".png")

    def check(self, sources: Sequence[Source]) -> None:
        """Refuses sources whose results would have the same name; call it before the first `write`.

        `a.jpg` and `a.png` in one folder are refused and not renamed: a name that depends on the other files would
        change between runs.

        Raises:
            UserError: two sources that differ only in suffix, or a result that would replace a source.
        """
        inputs = {source.path.resolve() for source in sources}
        folders = [(self._output / kind).resolve() for kind in self.kinds]
        source_of: dict[Path, Source] = {}
        for source in sources:
            result = source.relative.with_suffix(".png")
            if result in source_of:
                raise UserError(
                    f"{source_of[result].path} and {source.path}: both results would be called {result}: "
                    "rename or move one of the two"
                )
            for folder in folders:
                if folder / result in inputs:
                    raise UserError(f"{folder / result}: a result would replace this input: give another output folder")
            source_of[result] = source

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
            try:
                write_png(path, self._picture(kind, image, labels))
            except OSError as error:
                raise UserError(
                    f"{path}: cannot be written ({error.strerror or error}): make room or give another output folder"
                ) from error

    def _picture(self, kind: str, image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> NDArray[np.integer]:
        if kind == "ids":
            return self._label_map.decode(labels)
        color = self._label_map.colorize(labels)
        return color if kind == "color" else overlay(image, color)
