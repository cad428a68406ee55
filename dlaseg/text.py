r"""Text that any file and any terminal takes: what is not UTF-8, or controls a terminal, is escaped.

On Linux, a file name is bytes. Python shows those that are not UTF-8 as lone surrogates, such as U+DCE9 for the byte
E9, which no encoding takes. They are written as `\xe9`, the notation of shells (`$'caf\xe9.png'`). Names of files and
what files contain may also hold escape sequences, which change a terminal or hide other text.
"""

import codecs
import json
import re
import unicodedata
from typing import Any

ESCAPE = "dlaseg.escape"
"""Name of the error handler for `str.encode`, `open` and `TextIOWrapper.reconfigure`."""


def printable(text: str) -> str:
    r"""The text with all bytes of file names that are not UTF-8 as escapes.

    Examples:
        >>> print(printable("caf\udce9.png"))
        caf\xe9.png
    """
    return text.encode("utf-8", ESCAPE).decode("utf-8")


LONGEST = 4000
"""Most characters of a line; the middle of a longer one is left out."""

_UNSAFE = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Categories of Unicode: control, format (such as the reversal of the direction of writing), surrogate, separator."""

_JOINERS = "\u200c\u200d"  # format characters that Persian, Hindi and emojis are written with


def escaped(text: str) -> str:
    r"""The text with all characters that control a terminal as escapes, and as `printable`.

    Examples:
        >>> print(escaped("\x1b[31mroad\n"))
        \x1b[31mroad\n
    """
    text = printable(text)
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in _UNSAFE and c not in _JOINERS else c
        for c in text
    )


def one_line(text: str) -> str:
    r"""The text as one `escaped` line, at most `LONGEST` characters of it.

    Examples:
        >>> print(one_line("cannot decode:\n    \x1b[2J"))
        cannot decode: \x1b[2J
    """
    if len(text) > LONGEST:
        text = f"{text[: LONGEST * 3 // 4]} ... {text[-LONGEST // 4 :]}"
    return escaped(re.sub(r"\s*[\r\n]\s*", " ", text).strip())


def padded(text: str, columns: int) -> str:
    """The text and spaces after it, so many columns of a terminal, where e.g. a Chinese character takes two."""
    return text + " " * (columns - width(text))


def width(text: str) -> int:
    """The columns that a text takes in a terminal.

    Examples:
        >>> width("road"), width("道路"), width("cafe\u0301")
        (4, 4, 4)
    """
    shown = [c for c in text if unicodedata.category(c) not in ("Mn", "Me", "Cf")]  # not what is put on another
    return len(shown) + sum(unicodedata.east_asian_width(c) in "WF" for c in shown)


def markdown(text: str) -> str:
    r"""The text as `escaped`, so that Markdown shows it as it is, also in a cell of a table.

    Examples:
        >>> print(markdown("_background_, traffic_light, <b>, a|b, R&D"))
        \_background\_, traffic_light, \<b>, a\|b, R&D
    """
    return re.sub(r"[\\`*<\[|~]|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", escaped(text))


def percent(share: float | None) -> str:
    """A share from 0 to 1 as a percentage without its sign, such as `70.62`; `-` for None."""
    return "-" if share is None else f"{100 * share:.2f}"


def to_json(content: Any, indent: int | None = None) -> str:
    """Plain values as JSON whose strings are all `printable`; raises a ValueError for NaN and infinity."""
    return json.dumps(_printable_strings(content), indent=indent, allow_nan=False)


def _printable_strings(content: Any) -> Any:
    if isinstance(content, str):
        return printable(content)
    if isinstance(content, dict):
        return {_printable_strings(key): _printable_strings(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_printable_strings(value) for value in content]
    return content


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    codes = [ord(character) for character in error.object[error.start : error.end]]
    # U+DC80 to U+DCFF stand for the bytes 80 to FF (PEP 383)
    escapes = [f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else _unicode_escape(code) for code in codes]
    return "".join(escapes), error.end


def _unicode_escape(code: int) -> str:
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


codecs.register_error(ESCAPE, _escape)
