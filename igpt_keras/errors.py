"""The error that a user's mistake raises."""


class InputError(ValueError):
    """An argument, a file or a folder that cannot be used.

    The message names the argument or path, what was received and what would be
    right. The `igpt` command prints it as one line and exits with status 2.
    """
