"""Writes results: label maps, colour images and overlays, in a tree that mirrors the input's."""

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dlaseg.errors import UserError
from dlaseg.images import encode_png
from dlaseg.inference.folders import Folder, LocalFolder
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
        output: the folder; a local one is created with the first result.
        label_map: gives ids and colours.
        save: some of `KINDS`.
        keep_suffix: whether results are called `a.jpg.png`, and frames `a.gif/0000.png`.

    Raises:
        UserError: nothing to save, or an unknown kind.
    """

    def __init__(
        self, output: Path | Folder, label_map: LabelMap, save: Sequence[str] = KINDS, keep_suffix: bool = False
    ):
        unknown = [kind for kind in save if kind not in KINDS]
        if unknown or not save:
            what = repr(unknown[0]) if unknown else "nothing"
            raise UserError(f"save {what}: results are saved as one or more of {', '.join(KINDS)}")
        self.folder: Folder = LocalFolder(output) if isinstance(output, Path) else output
        self._label_map = label_map
        self._keep_suffix = keep_suffix
        self.kinds = tuple(dict.fromkeys(save))

    def name(self, source: Source) -> Path:
        """The path of a source's results below `OUTPUT/KIND`."""
        image = source.relative
        stem = image if self._keep_suffix else image.with_suffix("")
        return stem.with_name(f"{stem.name}.png") if source.frame is None else stem / f"{source.frame:04}.png"

    def file(self, source: Source, kind: str) -> str:
        """The name of a result in the folder."""
        return f"{kind}/{self.name(source).as_posix()}"

    def check(self, sources: Sequence[Source]) -> None:
        """Checks that no result would replace a source; call it before the first `write`.

        Raises:
            UserError: names the source.
        """
        inputs = {source.location for source in sources}
        folders = [self.folder.location(kind) for kind in self.kinds]
        for source in sources:
            for folder in folders:
                if (file := f"{folder}/{self.name(source).as_posix()}") in inputs:
                    raise UserError(f"{file}: a result would replace this input: give another output folder")

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
                if ".." in name.parts:  # the key of an object store may have one
                    messages[source.path] = f"{source.path}: a name with ..: rename it"
                others = [other.path for other in group if other is not source]
                if others:
                    same_suffix = self._keep_suffix or others[0].suffix == source.path.suffix
                    remedy = "use two output folders" if same_suffix else "use --keep-suffix"
                    message = f"its result and that of {others[0]} would both be {name}: {remedy}, or rename one"
                    messages.setdefault(source.path, f"{source.path}: {message}")
        return messages

    def missing(self, source: Source) -> list[str]:
        """The kinds to be saved whose file does not exist yet."""
        return [kind for kind in self.kinds if not self.folder.exists(self.file(source, kind))]

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
            file = self.file(source, kind)
            try:
                self.folder.write(file, encode_png(self._picture(kind, image, labels)))
            except OSError as error:
                raise UserError(
                    f"{self.folder.show(file)}: cannot be written ({error.strerror or error}): make room or give "
                    "another output folder"
                ) from error

    def _picture(self, kind: str, image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> NDArray[np.integer]:
        if kind == "ids":
            return self._label_map.decode(labels)
        color = self._label_map.colorize(labels)
        return color if kind == "color" else overlay(image, color)
