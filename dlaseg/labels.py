"""Classes of a data set: names, colours, and the mapping between stored ids and train ids."""

import colorsys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dlaseg.errors import UserError
from dlaseg.yaml_file import read_yaml

IGNORE_INDEX = 255
"""The train id of pixels that neither training nor scoring uses."""

Color = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""


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

    Example:
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
        class_ids = [i for ids in self.ids for i in ids]
        object.__setattr__(self, "ignores_by_default", self.ignored is None and IGNORE_INDEX not in class_ids)
        if self.ignored is None:
            object.__setattr__(self, "ignored", (IGNORE_INDEX,) if self.ignores_by_default else ())
        for name in self.names:
            _check_name(name)
        if len(self.names) == 1:
            raise UserError(
                f"one class, {self.names[0]!r}: every pixel would get it: use two classes, such as background and "
                f"{self.names[0]}"
            )
        if not 2 <= len(self.names) <= IGNORE_INDEX:
            raise UserError(f"{len(self.names)} classes: use 2 to {IGNORE_INDEX} classes")
        if not len(self.names) == len(self.palette) == len(self.ids):
            raise UserError("names, palette and ids of a label map must have the same length")
        _check_unique("class name", self.names)
        _check_unique("id", [*class_ids, *self.ignored])
        for i in (*class_ids, *self.ignored):
            if not 0 <= i <= 65535:
                raise UserError(f"id {i}: label maps have 8 or 16 bits: use ids from 0 to 65535")
        for color in (*self.palette, *self.ignored_colors):
            if len(color) != 3 or not all(0 <= value <= 255 for value in color):
                raise UserError(f"color {list(color)}: use three values from 0 to 255 (red, green, blue)")

    @property
    def num_classes(self) -> int:
        """The number of classes, C."""
        return len(self.names)

    def encode(self, labels: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Maps stored labels to train ids.

        Three equal channels are also what ids become when a program saves grey as RGB. Such a label map holds ids if it
        contains a colour that is not listed.

        Args:
            labels: (H, W) ids, any integer type, or (H, W, 3) uint8 RGB colours.

        Returns:
            (H, W) uint8, 0 to C - 1 or 255.

        Raises:
            UserError: an id or a colour that belongs to no class and is not ignored; names the first one and its place.
                Or three equal channels that mean one thing as colours and another as ids.
        """
        if labels.ndim != 3:
            encoded = _map_values(labels, self._id_table)
            if (place := _first_unknown(encoded)) is not None:
                raise UserError(
                    f"label {labels[place]} at {_place(place)} belongs to no class and is not ignored: the file was "
                    "read as ids (grey values, or indices of a palette): list the id in the classes file, correct the "
                    "label map, or save it as RGB if colors are meant"
                )
            return encoded.astype(np.uint8)
        encoded = _map_values(_pack_rgb(labels), self._color_table)
        place = _first_unknown(encoded)
        if labels.size and (labels == labels[:, :, :1]).all():
            return self._encode_grey(np.ascontiguousarray(labels[:, :, 0]), encoded, place is None)
        if place is not None:
            raise UserError(
                f"color {labels[place].tolist()} at {_place(place)} belongs to no class and is not ignored: the file "
                "was read as colors (it has three channels that differ): list the color in the classes file, correct "
                "the label map, or save it with one channel if ids are meant"
            )
        return encoded.astype(np.uint8)

    def _encode_grey(
        self, values: NDArray[np.integer], by_color: NDArray[np.int16], are_colors: bool
    ) -> NDArray[np.uint8]:
        """Maps a label map of three equal channels.

        Args:
            values: (H, W), the channel.
            by_color: (H, W) train ids if the values are colours, -1 for an unknown one.
            are_colors: whether all values are known colours.
        """
        if not are_colors:
            by_id = _map_values(values, self._id_table)
            if (place := _first_unknown(by_id)) is not None:
                value = values[place]
                raise UserError(
                    f"value {value} in all three channels at {_place(place)}: color {[int(value)] * 3} and id {value} "
                    "belong to no class and are not ignored: list one of the two in the classes file, or correct the "
                    "label map"
                )
            return by_id.astype(np.uint8)
        # That 255 is ignored by default is no sign that the values are ids: black and white are common colours
        listed = {i: train_id for i, train_id in self._id_table.items() if not (i == 255 and self.ignores_by_default)}
        by_id = _map_values(values, listed)
        differing = by_id != by_color
        if _first_unknown(by_id) is None and differing.any():
            place = tuple(np.argwhere(differing)[0])
            value, as_color, as_id = values[place], self._meaning(by_color[place]), self._meaning(by_id[place])
            raise UserError(
                f"value {value} in all three channels at {_place(place)}: as a color it is {as_color}, as an id "
                f"{as_id}: if ids are meant, save label maps with one channel; if colors are, list the id {value} as "
                f"{as_color}"
            )
        return by_color.astype(np.uint8)

    def _meaning(self, train_id: int) -> str:
        return "ignored" if train_id == IGNORE_INDEX else f"class {self.names[train_id]!r}"

    def decode(self, train_ids: NDArray[np.uint8]) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Maps train ids to stored ids: the first id of each class; 255 becomes the first ignored id.

        Args:
            train_ids: (H, W) uint8.

        Returns:
            (H, W) uint8, or uint16 if an id is above 255.
        """
        return self._decode_table[train_ids]

    def colorize(self, train_ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Maps train ids, (H, W) uint8, to colours, (H, W, 3) uint8 RGB; 255 becomes black."""
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
                ([r, g, b]; default: chosen by position)}. `ignore`: a list of ids or colours; default: [255], unless
                a class has the id 255.

        Raises:
            UserError: content of another form.
        """
        try:
            unknown = set(content) - {"classes", "ignore"}
            if unknown:
                raise UserError(f"key {sorted(unknown)[0]!r}: unknown; a classes file has 'classes' and 'ignore'")
            if not isinstance(content["classes"], list):
                raise UserError(f"classes {_shown(content['classes'])}: use a list, such as [background, leaf]")
            entries = [_class_entry(entry, i) for i, entry in enumerate(content["classes"])]
            names, palette, ids = zip(*entries, strict=True) if entries else ((), (), ())
            if "ignore" not in content:
                return cls(names, palette, ids)
            ignore = content["ignore"]
            if not isinstance(ignore, list):
                raise UserError(f"ignore {_shown(ignore)}: use a list of ids or colours, such as [255] or [[0, 0, 0]]")
            return cls(
                names,
                palette,
                ids,
                ignored=tuple(_integer(i, "id") for i in ignore if not isinstance(i, list)),
                ignored_colors=tuple(_color(c) for c in ignore if isinstance(c, list)),
            )
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise UserError(
                "a classes file holds 'classes: [background, leaf]' or 'classes: [{name: road, id: 0, color: [128, 64, "
                "128]}, ...]', and 'ignore: [255]'"
            ) from error

    @classmethod
    def from_file(cls, path: Path) -> "LabelMap":
        """Reads a classes file (YAML), see `from_dict`.

        Raises:
            UserError: a missing or broken file; names it.
        """
        content = read_yaml(path, "a classes file (YAML)")
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
    def _color_table(self) -> dict[int, int]:
        _check_unique("color", [*self.palette, *self.ignored_colors])
        colors = [*self.ignored_colors, *self.palette]
        train_ids = [IGNORE_INDEX] * len(self.ignored_colors) + list(range(self.num_classes))
        return dict(zip(_pack_rgb(np.array(colors)).tolist(), train_ids, strict=True))

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


def _map_values(values: NDArray[np.integer], table: Mapping[int, int]) -> NDArray[np.int16]:
    """Train ids of stored values, -1 for one that the table does not have."""
    is_uint8 = values.dtype == np.uint8 and values.size > 0
    keys, inverse = (np.arange(256), values) if is_uint8 else np.unique(values, return_inverse=True)
    lookup = np.array([table.get(int(key), -1) for key in keys], np.int16)
    # Indexing with NumPy would be five times as slow, since it converts the indices to 64 bits
    return np.asarray((cv2.LUT(values, lookup) if is_uint8 else lookup[inverse]).reshape(values.shape), np.int16)


def _first_unknown(encoded: NDArray[np.int16]) -> tuple[int, int] | None:
    """Row and column of the first -1, if there is one."""
    if encoded.min(initial=0) >= 0:
        return None
    row, column = np.argwhere(encoded < 0)[0].tolist()
    return row, column


def _place(place: tuple[int, int]) -> str:
    return f"row {place[0]}, column {place[1]}"


def _class_entry(entry: Mapping[str, Any] | str, index: int) -> tuple[str, Color, tuple[int, ...]]:
    if not isinstance(entry, Mapping):
        entry = {"name": entry}
    unknown = set(entry) - {"name", "id", "color"}
    if unknown:
        raise UserError(f"key {sorted(unknown)[0]!r} of class {index}: unknown; a class has 'name', 'id' and 'color'")
    ids = entry.get("id", index)
    ids = tuple(_integer(i, "id") for i in (ids if isinstance(ids, list) else [ids]))
    if not ids:
        raise UserError(f"class {_shown(entry['name'])} has an empty list of ids: list at least one")
    # Hues that are a golden angle apart, so that neighbours in the list look different
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618 % 1, 0.65 if index % 2 else 0.9, 0.9 if index % 3 else 0.6)
    default_color = (round(red * 255), round(green * 255), round(blue * 255))
    return entry["name"], _color(entry["color"]) if "color" in entry else default_color, ids


def _color(values: Any) -> Color:
    if not isinstance(values, list) or len(values) != 3:
        example = "three values from 0 to 255 (red, green, blue), such as [128, 64, 128]"
        raise UserError(f"color {_shown(values)}: use {example}")
    red, green, blue = (_integer(value, "color value") for value in values)
    return red, green, blue


def _integer(value: Any, what: str) -> int:
    # int() would silently accept "26" and 1.5
    if not isinstance(value, int) or isinstance(value, bool):
        raise UserError(f"{what} {_shown(value)}: use an integer, without quotes")
    return value


def _pack_rgb(colors: NDArray[np.integer]) -> NDArray[np.int32]:
    """Packs colours (..., 3) into one integer each (...)."""
    return colors.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)


def _check_name(name: Any) -> None:
    if not isinstance(name, str):
        raise UserError(
            f"class name {_shown(name)}: not text; YAML reads words such as no, on and null, numbers, dates and "
            'brackets as other values: put the name in quotes, such as "no"'
        )
    if not name.strip():
        raise UserError(f"class name {name!r}: empty: give the class a name")
    # Cc: control characters; Cs: halves of a character, which no file can hold; Zl, Zp: other line breaks
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
        raise UserError(f"class name {_shown(name)}: holds a control character or a line break: leave it out")


def _check_unique(what: str, values: Sequence[Any]) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise UserError(f"{what} {value!r} occurs twice in the label map: use each only once")
        seen.add(value)


def _shown(value: Any) -> str:
    """A value of a file for a message, of limited length."""
    return f"{value!r:.80}"
