"""The one exception that means: the user can mend this."""


class UserError(ValueError):
    """Something the user gave is wrong. Its message is one line that says what to change.

    The command lines print the message and exit with status 1, without a traceback.
    """
