"""Errors that are raised on purpose."""

from dlaseg.terminal import one_line


class UserError(ValueError):
    """Wrong input; the message is one line that names the value, the rule and the remedy.

    The command line prints the message and exits with code 2; any other exception is a defect of dlaseg. Control
    characters in the message, which come from values that it names, are escaped.
    """

    def __init__(self, message: str = ""):
        super().__init__(one_line(message))


class Stopped(BaseException):
    """A signal stopped a run, after it wrote its checkpoint; the message is one line.

    The command line prints the message and exits with code 75, which sysexits.h calls a temporary failure: try again.
    """
