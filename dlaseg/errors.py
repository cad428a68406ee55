"""Errors that are raised on purpose."""

import difflib
from collections.abc import Sequence

from dlaseg.text import one_line


class UserError(ValueError):
    """Wrong input; the message is one line that names the value, the rule and the remedy.

    The command line prints the message and exits with code 2; any other exception is a defect of dlaseg. Control
    characters in the message, which come from values that it names, are escaped.
    """

    def __init__(self, message: str = ""):
        super().__init__(one_line(message))


class UnreadableFileError(UserError):
    """A file that is missing, or whose content cannot be decoded. `data.on_error: skip` skips such files and no others.

    A sound file with wrong content, such as a label outside the label map, is a plain `UserError`.
    """


class MissingSplitError(UserError):
    """The folder of a split's images does not exist."""


class Stopped(BaseException):
    """A signal stopped a run, after it wrote its checkpoint; the message is one line.

    The command line prints the message and exits with code 75, which sysexits.h calls a temporary failure: try again.
    """


def nearest(name: str, known: Sequence[str]) -> str:
    """The known name that is most like `name`. In dotted names the last part counts double; initials match, too."""

    def likeness(candidate: str) -> float:
        last, last_known = name.split(".")[-1], candidate.split(".")[-1]
        whole = difflib.SequenceMatcher(None, name, candidate).ratio()
        same = last in (_initials(last_known), last_known) or last_known == _initials(last)  # wd, learning_rate
        return whole + (2 if same else difflib.SequenceMatcher(None, last, last_known).ratio())

    return max(known, key=likeness)


def _initials(name: str) -> str:
    return "".join(word[:1] for word in name.split("_"))
