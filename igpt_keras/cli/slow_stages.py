"""Tells what a command is busy with, where that takes more than a few seconds."""

import contextlib
import logging
import threading
from collections.abc import Iterator

import click

from igpt_keras.stages import FINISHED, LOGGER

SECONDS = 3.0


class SlowStages(logging.Handler):
    """Prints a stage on stderr, once it has lasted for some seconds.

    Args:
        seconds: For how long a stage may last in silence; None for `SECONDS`.
    """

    def __init__(self, seconds: float | None = None):
        super().__init__(logging.INFO)
        self._seconds = SECONDS if seconds is None else seconds
        self._timer: threading.Timer | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Waits for the end of the stage that a record begins; another record ends it."""
        self._forget()
        if not getattr(record, FINISHED, False):
            line = f"igpt: {record.getMessage()} …"
            self._timer = threading.Timer(self._seconds, click.echo, (line,), {"err": True})
            self._timer.daemon = True
            self._timer.start()

    def close(self) -> None:
        """Ends the last stage."""
        self._forget()
        super().close()

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


@contextlib.contextmanager
def slow_stages(handler: SlowStages) -> Iterator[None]:
    """Gives the records of stages to a handler, and to no other one."""
    logger = logging.getLogger(LOGGER)
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
        handler.close()
