"""Exceptions of the package."""


class InputError(ValueError):
    """An argument, a file or a folder that cannot be used.

    The message names the argument or path, what was received and what would be
    right. The `igpt` command prints it as one line and exits with status 2.
    """


def first_line(error: BaseException) -> str:
    """Returns the first line of another library's message, or the name of its exception."""
    return next((line for line in str(error).splitlines() if line), type(error).__name__)


class Diverged(Exception):
    """Training diverged: the loss is not finite, or it spiked and did not recover.

    Attributes:
        step: The step after which this was detected.
        reason: What was detected, in words.
    """

    def __init__(self, step: int, reason: str):
        super().__init__(f"training diverged at step {step}: {reason}")
        self.step = step
        self.reason = reason


class Interrupted(Exception):
    """Training was told to stop; a checkpoint of `step` is on disk.

    Attributes:
        step: The last step that was trained.
        signal_number: The signal that stopped training; None where none did.
    """

    def __init__(self, step: int, signal_number: int | None = None):
        super().__init__(f"training was stopped after step {step}")
        self.step = step
        self.signal_number = signal_number


class InputWarning(UserWarning):
    """Something in the input that is left out, or not taken for what it may have been meant as.

    The `igpt` command prints it as one line.
    """
