"""Lists of image names: text files with one name per line."""

import os
import re
import unicodedata
from collections.abc import Collection, Iterable
from functools import partial
from pathlib import Path

from dlaseg.errors import UserError
from dlaseg.files import write_text


def escape_name(name: str) -> str:
    r"""A name as printable text of one line: every other character is written as its UTF-8 bytes, `\x0a`.

    So are a backslash, spaces at either end, and a # at the beginning, which a list would take for something else.
    Bytes of a file name that are not UTF-8 (surrogate escapes, see `os.fsdecode`) become themselves.

    Examples:
        >>> print(escape_name("ulm/7"), escape_name("#1 \udcff"))
        ulm/7 \x231 \xff
    """
    name = os.fsencode(name).decode("utf-8", "surrogateescape")  # the same text in every locale
    if name.isprintable() and "\\" not in name and name == name.strip(" ") and not name.startswith("#"):
        return name
    start, end = len(name) - len(name.lstrip(" ")), len(name.rstrip(" "))
    return "".join(
        char
        if char.isprintable() and char != "\\" and start <= i < end and (char != "#" or i)
        else "".join(rf"\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))
        for i, char in enumerate(name)
    )


def unescape_name(text: str) -> str:
    """The name that `escape_name` turned into this text; other backslashes stand for themselves."""

    def decode(match: re.Match[str]) -> str:
        return bytes.fromhex(match[0].replace(r"\x", "")).decode("utf-8", "surrogateescape")

    name = re.sub(r"(?:\\x[0-9a-f]{2})+", decode, text)
    return os.fsdecode(name.encode("utf-8", "surrogateescape"))


def abbreviated(names: Collection[str], limit: int = 3) -> str:
    """The first names of a collection, escaped, and how many more there are."""
    more = len(names) - limit
    return ", ".join(escape_name(name) for name in sorted(names)[:limit]) + (f" and {more} more" if more > 0 else "")


def write_names(path: Path, names: Iterable[str]) -> None:
    """Writes a list that `read_names` reads, UTF-8, atomically."""
    write_text(path, "".join(f"{escape_name(name)}\n" for name in names))


def read_names(path: Path) -> dict[str, int]:
    r"""Reads a list of names.

    Args:
        path: UTF-8 text, one name per line; blank lines and lines that start with # are skipped. `\xNN` stands for a
            byte of a name, see `escape_name`.

    Returns:
        The names, each with its line number.

    Raises:
        UserError: a file that cannot be read, no name, or a name listed twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{path}: {reason}: use a text file with one image name per line") from error
    names: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name = unescape_name(text)
        if name in names:
            raise UserError(f"{path}, line {number}: {text!r} is also in line {names[name]}: list each name once")
        names[name] = number
    if not names:
        raise UserError(f"{path}: lists no image: write one image name per line")
    return names


def near_name(names: Iterable[str], others: Iterable[str]) -> tuple[str, str, str] | None:
    """The first of the names that is one of the others but for case or the form of its accents.

    Returns:
        The name, the other one, and what they differ in; None if there is none.
    """
    names, others = list(names), list(others)
    for difference, normalized in (
        ("upper and lower case", str.casefold),
        ("how its accents are stored (Unicode NFC or NFD)", partial(unicodedata.normalize, "NFC")),
    ):
        similar = {normalized(name): name for name in others}
        for name in names:
            if normalized(name) in similar:
                return name, similar[normalized(name)], difference
    return None
