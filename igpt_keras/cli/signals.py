"""How commands end on signals."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

import click

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def ended_by_second_signal(ending: str, first: str | None = None) -> Iterator[None]:
    """Ends the process when a second Ctrl-C or SIGTERM arrives within the block.

    Python runs its signal handlers between two instructions of the main thread, so they wait for
    a call of TensorFlow, which may take minutes. A thread of this block is told of signals by
    the operating system's handler instead. It sees SIGTERM where Python handles it, and needs no
    handler of its own.

    Args:
        ending: Line to print on stderr at the second signal.
        first: Line to print on stderr at the first one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def on_signal(number: int, count: int) -> None:
        if count == 1 and first is not None:
            click.echo(first, err=True)
        elif count == 2:
            _end_now(number, ending)

    thread = threading.Thread(target=_watch, args=(reading, on_signal), daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        # The thread reads what was written before, and ends.
        os.close(writing)
        thread.join()
        os.close(reading)


@contextlib.contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """Lets SIGTERM unwind the block, as Ctrl-C does, so that temporary files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(reading: int, on_signal: Callable[[int, int], None]) -> None:
    """Calls `on_signal` with the number and the count of each signal until there are no more."""
    count = 0
    while number := os.read(reading, 1):
        if number[0] in SIGNALS:
            count += 1
            on_signal(number[0], count)


def _end_now(number: int, line: str) -> None:
    # The main thread may hold the locks of Python's streams.
    if sys.stdout is not None and sys.stdout.isatty():
        os.write(1, b"\x1b[?25h\n")  # A progress bar hides the cursor.
    os.write(2, f"{line}\n".encode())
    os._exit(128 + number)
