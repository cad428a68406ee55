"""The one exception that means: what the user gave is wrong."""


class UserError(ValueError):
    """Wrong input, said in one line that names the value, the rule and the remedy.

    The command line prints the message and exits with code 2; anything else that is raised is a defect of ours.
    """
