"""The content of a classes file: names, ids and colours of the classes, and what is ignored."""

import colorsys
import unicodedata
from collections.abc import Collection, Mapping
from typing import Any

from dlaseg.errors import UserError

Color = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""

BLACK: Color = (0, 0, 0)


def parse_classes(content: Any) -> dict[str, Any]:
    """The arguments of a `LabelMap`.

    Args:
        content: of a classes file, see `LabelMap.from_dict`.

    Raises:
        UserError: content of another form.
    """
    if isinstance(content, list):
        raise UserError("a list without a key: write 'classes:' above the list")
    try:
        if isinstance(content, str):  # names on lines of their own; its characters are no keys
            raise TypeError
        unknown = set(content) - {"classes", "ignore"}
        if "names" in unknown and "classes" not in content:
            raise UserError("key 'names': unknown; did you mean 'classes', with a list such as [background, leaf]?")
        if unknown:
            raise UserError(f"key {sorted(unknown)[0]!r}: unknown; a classes file has 'classes' and 'ignore'")
        if not isinstance(content["classes"], list):
            raise UserError(f"classes {_shown(content['classes'])}: use a list, such as [background, leaf]")
        entries = [_class_entry(entry, i) for i, entry in enumerate(content["classes"])]
        ignore = content.get("ignore", [])
        if not isinstance(ignore, list):
            raise UserError(f"ignore {_shown(ignore)}: use a list of ids or colours, such as [255] or [[0, 0, 0]]")
        ignored_colors = tuple(_color(c) for c in ignore if isinstance(c, list))
        listed = {*ignored_colors, *(color for _, color, _ in entries)}
        arguments = {
            "names": tuple(name for name, _, _ in entries),
            "palette": tuple(
                _default_color(name, i, listed) if color is None else color
                for i, (name, color, _) in enumerate(entries)
            ),
            "ids": tuple(ids for _, _, ids in entries),
        }
        if "ignore" not in content:
            return arguments
        ignored = tuple(_integer(i, "id") for i in ignore if not isinstance(i, list))
        return {**arguments, "ignored": ignored, "ignored_colors": ignored_colors}
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(
            "a classes file holds 'classes: [background, leaf]' or 'classes: [{name: road, id: 0, color: [128, 64, "
            "128]}, ...]', and 'ignore: [255]'"
        ) from error


def check_name(name: Any) -> None:
    """Raises a UserError for a class name that is not one line of text."""
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


def _class_entry(entry: Mapping[str, Any] | str, index: int) -> tuple[str, Color | None, tuple[int, ...]]:
    if not isinstance(entry, Mapping):
        entry = {"name": entry}
    unknown = set(entry) - {"name", "id", "color"}
    if unknown:
        raise UserError(f"key {sorted(unknown)[0]!r} of class {index}: unknown; a class has 'name', 'id' and 'color'")
    ids = entry.get("id", index)
    ids = tuple(_integer(i, "id") for i in (ids if isinstance(ids, list) else [ids]))
    if not ids:
        raise UserError(f"class {_shown(entry['name'])} has an empty list of ids: list at least one")
    return entry["name"], _color(entry["color"]) if "color" in entry else None, ids


def _default_color(name: Any, index: int, listed: Collection[Color | None]) -> Color:
    """The colour of a class that has none in the file."""
    if index == 0 and isinstance(name, str) and name.lower() == "background" and BLACK not in listed:
        return BLACK
    # Hues that are a golden angle apart, so that neighbours in the list look different
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618 % 1, 0.65 if index % 2 else 0.9, 0.9 if index % 3 else 0.6)
    return round(red * 255), round(green * 255), round(blue * 255)


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


def _shown(value: Any) -> str:
    """A value of a file for a message, of limited length."""
    return f"{value!r:.80}"
