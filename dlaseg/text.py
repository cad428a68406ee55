r"""Text that any file and any terminal takes: names of files that are not UTF-8 are escaped.

On Linux, a file name is bytes. Python shows those that are not UTF-8 as lone surrogates, such as U+DCE9 for the byte
E9, which no encoding takes. They are written as `\xe9`, the notation of shells (`$'caf\xe9.png'`).
"""

import codecs
import json
from typing import Any

ESCAPE = "dlaseg.escape"
"""Name of the error handler for `str.encode`, `open` and `TextIOWrapper.reconfigure`."""


def printable(text: str) -> str:
    r"""The text with all bytes of file names that are not UTF-8 as escapes.

    Example:
        >>> print(printable("caf\udce9.png"))
        caf\xe9.png
    """
    return text.encode("utf-8", ESCAPE).decode("utf-8")


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
