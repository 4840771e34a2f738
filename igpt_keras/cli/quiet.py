"""Keeps TensorFlow's start-up messages off the terminal."""

import contextlib
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator

# Lines that TensorFlow's libraries log at INFO, WARNING and ERROR while they are loaded, and the
# lines that go with them. A fatal line (F) says why the process ends, so it is not among them.
START_UP_LINE = re.compile(
    rb"[IWE]\d{4} \d\d:\d\d:|"
    rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IWE] |"
    rb"WARNING: All log messages before absl::InitializeLog|"
    rb"To enable the following instructions: |"
    rb"Skipping registering GPU devices"
)


def load_tensorflow() -> None:
    """Imports TensorFlow without the messages that say nothing to a user of `igpt`.

    `TF_CPP_MIN_LOG_LEVEL` does not apply to what the libraries log while they are loaded, so
    these lines are filtered out of file descriptor 2. Everything else written there is passed on.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _filtered_stderr():
        import absl.logging
        import tensorflow  # noqa: F401
    absl.logging.set_verbosity(absl.logging.ERROR)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


@contextlib.contextmanager
def _filtered_stderr() -> Iterator[None]:
    """Drops start-up lines from what this process writes to file descriptor 2.

    The filter is a process of its own: what TensorFlow says before it aborts is passed on too.
    """
    if not hasattr(os, "fork") or sys.stderr is None:
        yield
        return
    sys.stderr.flush()
    original = os.dup(2)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        _pass_on(reading, original)
        os._exit(0)
    os.close(reading)
    os.dup2(writing, 2)
    os.close(writing)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(original, 2)
        os.close(original)
        # Where SIGCHLD is ignored, there is nothing to wait for.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)


def _pass_on(reading: int, writing: int) -> None:
    """Copies lines between file descriptors, without start-up lines, until there are no more."""
    # A signal to the terminal's processes ends the one that writes; the rest is still copied.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open(reading, "rb") as lines:
        for line in lines:
            if not START_UP_LINE.match(line):
                os.write(writing, line)
