"""Classes of a data set: names, colours, and the mapping between stored ids and train ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlaseg.classes_file import Color, check_name, parse_classes
from dlaseg.errors import UserError
from dlaseg.label_values import check_stored, first_unknown, map_values, pack_rgb
from dlaseg.yaml_file import read_yaml

IGNORE_INDEX = 255
"""The train id of pixels that neither training nor scoring uses."""


@dataclass(frozen=True)
class LabelMap:
    """Names and colours of the classes, and the mapping from stored ids to train ids.

    Train ids are 0 to C - 1 in the order of `names`; 255 is ignored. A stored id that belongs to no class and is not
    ignored is an error, never a silent 255.

    Attributes:
        names: names of the C classes.
        palette: RGB colours of the classes.
        ids: stored ids of each class, at least one; `decode` writes the first.
        ignored: stored ids that become 255. The default, None, stands for 255, unless that is the id of a class.
        ignored_colors: colours that become 255, in label maps that are stored as colours.
        ignores_by_default: whether 255 is ignored by default: nobody listed it.

    Examples:
        >>> labels = LabelMap(("road", "car"), ((128, 64, 128), (0, 0, 142)), ids=((7,), (26, 27)), ignored=(0,))
        >>> labels.encode(np.array([[7, 27], [26, 0]], np.uint8))
        array([[  0,   1],
               [  1, 255]], dtype=uint8)
    """

    names: tuple[str, ...]
    palette: tuple[Color, ...]
    ids: tuple[tuple[int, ...], ...]
    ignored: tuple[int, ...] = None  # type: ignore[assignment]  # a tuple from __post_init__ on
    ignored_colors: tuple[Color, ...] = field(default=())
    ignores_by_default: bool = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        self._make_tuples()
        class_ids = [i for ids in self.ids for i in ids]
        object.__setattr__(self, "ignores_by_default", self.ignored is None and IGNORE_INDEX not in class_ids)
        if self.ignored is None:
            object.__setattr__(self, "ignored", (IGNORE_INDEX,) if self.ignores_by_default else ())
        for name in self.names:
            check_name(name)
        if len(self.names) == 1:
            raise UserError(
                f"one class, {self.names[0]!r}: every pixel would get it: use two classes, such as background and "
                f"{self.names[0]}"
            )
        if not 2 <= len(self.names) <= IGNORE_INDEX:
            raise UserError(f"{len(self.names)} classes: use 2 to {IGNORE_INDEX} classes")
        if not (len(self.names) == len(self.palette) == len(self.ids) and all(self.ids)):
            raise UserError("names, palette and ids of a label map: one lacks a class: give one of each per class")
        _check_unique("class name", self.names)
        _check_unique("id", class_ids)
        _check_unique("ignored id", self.ignored)
        for name, ids in zip(self.names, self.ids, strict=True):
            for i in set(ids) & set(self.ignored):
                raise UserError(f"id {i} is class {name!r} and also ignored: list it once")
        for i in (*class_ids, *self.ignored):
            if not 0 <= i <= 65535:
                raise UserError(f"id {i}: label maps have 8 or 16 bits: use ids from 0 to 65535")
        for color in (*self.palette, *self.ignored_colors):
            if len(color) != 3 or not all(0 <= value <= 255 for value in color):
                raise UserError(f"color {list(color)}: use three values from 0 to 255 (red, green, blue)")

    def _make_tuples(self) -> None:
        """Lists become tuples, which are compared with others, and NumPy's integers those that JSON takes."""
        try:
            values = {
                "names": tuple(self.names),
                "ids": tuple(tuple(map(index, ids)) for ids in self.ids),
                "ignored": None if self.ignored is None else tuple(map(index, self.ignored)),
                **{
                    name: tuple(tuple(map(index, color)) for color in getattr(self, name))
                    for name in ("palette", "ignored_colors")
                },
            }
        except TypeError as error:
            raise UserError(
                "a label map of other types: use names ('road', 'sky'), palette ((128, 64, 128), (70, 130, 180)), ids "
                "((7,), (23, 24)): ids and colors are whole numbers"
            ) from error
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def num_classes(self) -> int:
        """The number of classes, C."""
        return len(self.names)

    def encode(self, labels: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Maps stored labels to train ids.

        Three equal channels are also what ids become when a program saves grey as RGB. Such a label map holds ids if it
        contains a colour that is not listed.

        Args:
            labels: (H, W) ids, or (H, W, 3) RGB colours, 0 to 255; any integer type.

        Returns:
            (H, W) uint8, 0 to C - 1 or 255.

        Raises:
            UserError: an id or a colour that belongs to no class and is not ignored; names the first one and its place.
                Three equal channels that mean one thing as colours and another as ids. Or another shape or type.
        """
        check_stored(labels)
        if labels.ndim != 3:
            encoded = map_values(labels, self._id_table)
            if (place := first_unknown(encoded)) is not None:
                raise UserError(
                    f"label {labels[place]} at {_place(place)} belongs to no class and is not ignored: the file was "
                    "read as ids (grey values, or indices of a palette): list the id in the classes file, correct the "
                    "label map, or save it as RGB if colors are meant"
                )
            return encoded.astype(np.uint8)
        encoded = map_values(pack_rgb(labels), self._color_table)
        if labels.size and (labels == labels[:, :, :1]).all():
            return self._encode_grey(np.ascontiguousarray(labels[:, :, 0]), encoded)
        if (place := first_unknown(encoded)) is not None:
            raise UserError(
                f"color {labels[place].tolist()} at {_place(place)} belongs to no class and is not ignored: the file "
                "was read as colors (it has three channels that differ): list the color in the classes file, correct "
                "the label map, or save it with one channel if ids are meant"
            )
        return encoded.astype(np.uint8)

    def _encode_grey(self, values: NDArray[np.integer], by_color: NDArray[np.int16]) -> NDArray[np.uint8]:
        """Maps a label map of three equal channels.

        Args:
            values: (H, W), the channel.
            by_color: (H, W) train ids if the values are colours, -1 for an unknown one.
        """
        if first_unknown(by_color) is not None:
            by_id = map_values(values, self._id_table)
            if (place := first_unknown(np.maximum(by_id, by_color))) is not None:
                value = int(values[place])
                raise UserError(
                    f"value {value} in all three channels at {_place(place)}: color {[value] * 3} and id {value} "
                    "belong to no class and are not ignored: list one of the two in the classes file, or correct the "
                    "label map"
                )
            if (place := first_unknown(by_id)) is not None:
                raise UserError(
                    f"value {values[place]} in all three channels at {_place(place)}: listed as a color, while others "
                    "are only listed as ids: list its id in the classes file as well, or correct the label map"
                )
            return by_id.astype(np.uint8)
        # That 255 is ignored by default is no sign that the values are ids: black and white are common colours
        listed = {i: train_id for i, train_id in self._id_table.items() if not (i == 255 and self.ignores_by_default)}
        by_id = map_values(values, listed)
        differing = by_id != by_color
        if first_unknown(by_id) is None and differing.any():
            place = tuple(np.argwhere(differing)[0])
            value, as_color, as_id = values[place], self._meaning(by_color[place]), self._meaning(by_id[place])
            raise UserError(
                f"value {value} in all three channels at {_place(place)}: as a color it is {as_color}, as an id "
                f"{as_id}: if ids are meant, save label maps with one channel; if colors are, list the id {value} as "
                f"{as_color}"
            )
        return by_color.astype(np.uint8)

    def encode_palette(self, indices: NDArray[np.integer], palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Maps a label map that is stored with a palette to train ids, by its indices.

        A program that reduces RGB to a palette numbers the colours as it likes. So the listed colours must give the
        same train ids as the indices. One that differs may be chance where others are not listed: black, say.

        Args:
            indices: (H, W).
            palette: (N, 3) RGB, the colour of each index; an index of N or more has none.

        Returns:
            (H, W) uint8, 0 to C - 1 or 255.

        Raises:
            UserError: an index that is no id of a class and not ignored, or listed colours that mean other classes.
        """
        used = np.bincount(indices.ravel()).nonzero()[0]
        if not used.size or used[-1] >= len(palette) or not self._has_distinct_colors:
            return self.encode(indices)
        by_color = map_values(pack_rgb(palette[used]), self._color_table)
        by_id = map_values(used, self._id_table)
        all_listed = by_color.min() >= 0
        if by_id.min() < 0:
            try:
                return self.encode(indices)
            except UserError as error:
                if not all_listed:
                    raise
                raise UserError(f"{error}; all its colors are listed, so saving it as RGB would do") from error
        differing = used[(by_color >= 0) & (by_id != by_color)]
        if differing.size > (0 if all_listed else 1):
            row, column = np.argwhere(np.isin(indices, differing))[0].tolist()
            index = indices[row, column]
            entry = np.searchsorted(used, index)
            raise UserError(
                f"{_place((row, column))}: palette index {index} is {self._meaning(by_id[entry])} as an id, its color "
                f"{tuple(palette[index].tolist())} is {self._meaning(by_color[entry])}: save it as RGB if the colors "
                "are meant, as one grey channel if the ids are"
            )
        return self.encode(indices)

    def check_colors(self) -> None:
        """Checks that label maps may be stored as colours.

        Raises:
            UserError: a colour of two classes, or of a class and ignored: a fault of the classes, not of a label map.
        """
        if self._has_distinct_colors:
            return
        meanings: dict[Color, int] = {}
        for color, train_id in self._listed_colors:
            if color in meanings:
                first, second = self._meaning(meanings[color]), self._meaning(train_id)
                raise UserError(
                    f"color {color} is {first} and also {second} in the classes: the label maps are stored as colors, "
                    "so list each color once"
                )
            meanings[color] = train_id

    def _meaning(self, train_id: int) -> str:
        return "ignored" if train_id == IGNORE_INDEX else f"class {self.names[train_id]!r}"

    def decode(self, train_ids: NDArray[np.uint8]) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Maps train ids to stored ids: the first id of each class; 255 becomes the first ignored id.

        Where the label map ignores nothing, 255 stays 255, also if that is the id of a class.

        Args:
            train_ids: (H, W) uint8, 0 to C - 1 or 255.

        Returns:
            (H, W) uint8, or uint16 if an id is above 255.

        Raises:
            UserError: a train id of no class.
        """
        unknown = ((train_ids < 0) | (train_ids >= self.num_classes)) & (train_ids != IGNORE_INDEX)
        if unknown.any():
            raise UserError(f"train id {train_ids[unknown][0]}: train ids are 0 to {self.num_classes - 1}, or 255")
        return self._decode_table[train_ids]

    def colorize(self, train_ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Maps train ids, (H, W) uint8, to colours, (H, W, 3) uint8 RGB; ids of no class become black."""
        return self._palette_table[train_ids]

    def to_dict(self) -> dict[str, Any]:
        """The content of a classes file, see `from_dict`: only dicts, lists, strings and numbers."""
        classes = [
            {"name": name, "id": list(ids), "color": list(color)}
            for name, ids, color in zip(self.names, self.ids, self.palette, strict=True)
        ]
        return {"classes": classes, "ignore": [*self.ignored, *map(list, self.ignored_colors)]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "LabelMap":
        """Builds a label map from the content of a classes file.

        Args:
            content: `classes`: a list of names or of {name, id (one or a list; default: position in the list), color
                ([r, g, b]; default: chosen by position, black for a first class `background`)}. `ignore`: a list of ids
                or colours; default: [255], unless a class has the id 255.

        Raises:
            UserError: content of another form.
        """
        return cls(**parse_classes(content))

    @classmethod
    def from_file(cls, path: str | Path) -> "LabelMap":
        """Reads a classes file (YAML), see `from_dict`.

        Raises:
            UserError: a missing or broken file; names it.
        """
        content = read_yaml(Path(path), "a classes file (YAML)")
        try:
            return cls.from_dict(content)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    @classmethod
    def numbered(cls, num_classes: int) -> "LabelMap":
        """Classes named `class 0`, `class 1`, ..., stored as their train ids."""
        return cls.from_dict({"classes": [{"name": f"class {i}"} for i in range(num_classes)]})

    @cached_property
    def _id_table(self) -> dict[int, int]:
        table = dict.fromkeys(self.ignored, IGNORE_INDEX)
        table.update({i: train_id for train_id, ids in enumerate(self.ids) for i in ids})
        return table

    @cached_property
    def _listed_colors(self) -> list[tuple[Color, int]]:
        """Each colour of a class, then each ignored one, with its train id."""
        classes = [(color, train_id) for train_id, color in enumerate(self.palette)]
        return classes + [(color, IGNORE_INDEX) for color in self.ignored_colors]

    @cached_property
    def _has_distinct_colors(self) -> bool:
        return len({color for color, _ in self._listed_colors}) == len(self._listed_colors)

    @cached_property
    def _color_table(self) -> dict[int, int]:
        self.check_colors()
        colors, train_ids = zip(*self._listed_colors, strict=True)
        return dict(zip(pack_rgb(np.array(colors)).tolist(), train_ids, strict=True))

    @cached_property
    def _decode_table(self) -> NDArray[np.uint8] | NDArray[np.uint16]:
        first = [ids[0] for ids in self.ids]
        ignored = self.ignored[0] if self.ignored else IGNORE_INDEX
        table = np.full(256, ignored, np.uint16)
        table[: self.num_classes] = first
        return table if table.max() > 255 else table.astype(np.uint8)

    @cached_property
    def _palette_table(self) -> NDArray[np.uint8]:
        table = np.zeros((256, 3), np.uint8)
        table[: self.num_classes] = self.palette
        return table


def _place(place: tuple[int, int]) -> str:
    return f"row {place[0]}, column {place[1]}"


def _check_unique(what: str, values: Sequence[Any]) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise UserError(f"{what} {value!r} occurs twice in the classes: use each only once")
        seen.add(value)
