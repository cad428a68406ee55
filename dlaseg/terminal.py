r"""Text for a terminal: what files contain may hold escape sequences, which change the terminal or hide other text."""

import re
import unicodedata

LONGEST = 4000
"""Most characters of a line; the middle of a longer one is left out."""

_UNSAFE = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Categories of Unicode: control, format (such as the reversal of the direction of writing), surrogate, separator."""

_JOINERS = "\u200c\u200d"  # format characters that Persian, Hindi and emojis are written with


def escaped(text: str) -> str:
    r"""The text with all characters that control a terminal as escapes.

    Example:
        >>> print(escaped("\x1b[31mroad\n"))
        \x1b[31mroad\n
        >>> print(escaped("caf\udce9.png"))  # a file name's byte that is not UTF-8
        caf\xe9.png
    """
    return "".join(_escape(c) if unicodedata.category(c) in _UNSAFE and c not in _JOINERS else c for c in text)


def one_line(text: str) -> str:
    r"""The text as one line without control characters, at most `LONGEST` characters of it.

    Example:
        >>> print(one_line("cannot decode:\n    \x1b[2J"))
        cannot decode: \x1b[2J
    """
    if len(text) > LONGEST:
        text = f"{text[: LONGEST * 3 // 4]} ... {text[-LONGEST // 4 :]}"
    return escaped(re.sub(r"\s*[\r\n]\s*", " ", text).strip())


def _escape(character: str) -> str:
    if 0xDC80 <= ord(character) <= 0xDCFF:  # Python's stand-in for a byte that is not UTF-8 (PEP 383)
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
