"""Errors that are raised on purpose."""


class UserError(ValueError):
    """Wrong input; the message is one line that names the value, the rule and the remedy.

    The command line prints the message and exits with code 2; any other exception is a defect of dlaseg.
    """


class UnreadableFileError(UserError):
    """A file that is missing, or whose content cannot be decoded. `data.on_error: skip` skips such files and no others.

    A sound file with wrong content, such as a label outside the label map, is a plain `UserError`.
    """


class Stopped(BaseException):
    """A signal stopped a run, after it wrote its checkpoint; the message is one line.

    The command line prints the message and exits with code 75, which sysexits.h calls a temporary failure: try again.
    """
