"""What is raised on purpose."""


class UserError(ValueError):
    """Wrong input, said in one line that names the value, the rule and the remedy.

    The command line prints the message and exits with code 2; anything else that is raised is a defect of ours.
    """


class Stopped(BaseException):
    """A run was asked to stop by a signal, and did: its checkpoint is whole. Says in one line where it stands.

    The command line prints the message and exits with code 75, which sysexits.h calls a temporary failure: try again.
    """
