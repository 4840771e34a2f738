"""The log: one line of JSON for each entry, and nothing else."""

import contextlib
import faulthandler
import json
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator

import prometheus_client

# Lines that wait for a reader of the log; about 10 MB.
MAX_WAITING_LINES = 20_000
# A longer line becomes several.
MAX_LINE_LENGTH = 10_000
# Time in seconds for the last lines to be read when the log ends.
LAST_SECONDS = 2.0
STDERR = 2
DROPPED_LINES = prometheus_client.Counter(
    "igpt_serving_dropped_log_lines",
    "Lines of the log that were dropped because nobody read it.",
    registry=None,
)


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON in ASCII, with the fields of a request if it has any."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        line = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        # Of ASCII's control characters, JSON leaves the last as it is.
        return json.dumps(line).replace("\x7f", "\\u007f")


class LineWriter:
    """Writes lines to a file in a thread of its own. It drops and counts those that wait too long.

    Args:
        descriptor: The file's descriptor.
        dropped: The counter of dropped lines.
    """

    def __init__(self, descriptor: int, dropped: prometheus_client.Counter = DROPPED_LINES):
        self._descriptor = descriptor
        self._dropped = dropped
        self._lines: queue.Queue[bytes | None] = queue.Queue(MAX_WAITING_LINES)
        self._thread = threading.Thread(target=self._work, name="log", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Takes a line without its end; never waits."""
        try:
            self._lines.put_nowait(line.encode() + b"\n")
        except queue.Full:
            self._dropped.inc()

    def close(self) -> None:
        """Closes the file when all lines are written, or gives up as nobody reads them."""
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=LAST_SECONDS)
            self._thread.join(LAST_SECONDS)
        if not self._thread.is_alive():
            os.close(self._descriptor)

    def _work(self) -> None:
        while (line := self._lines.get()) is not None:
            while line:
                try:
                    line = line[os.write(self._descriptor, line) :]
                except BlockingIOError:
                    time.sleep(0.01)
                except OSError:
                    # The reader has gone, and takes no line any more.
                    self._dropped.inc()
                    break


class _LineHandler(logging.Handler):
    def __init__(self, writer: LineWriter):
        super().__init__()
        self._writer = writer
        self.setFormatter(JsonFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.write(self.format(record))
        except Exception:
            self.handleError(record)


@contextlib.contextmanager
def json_log() -> Iterator[None]:
    """Makes everything that the process writes to stderr lines of JSON.

    That includes other libraries' log records, warnings, and what C++ code writes, each line of
    which becomes an entry. A reader who stops reading stops nothing: lines are dropped.
    """
    sys.stderr.flush()
    original = os.dup(STDERR)
    writer = LineWriter(original)
    handler = _LineHandler(writer)
    root = logging.getLogger()
    before = root.handlers[:], root.level
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    # What kills the process cannot be wrapped any more.
    tells_crashes = not faulthandler.is_enabled()
    if tells_crashes:
        faulthandler.enable(original)
    logging.getLogger("serving").setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        with _captured(STDERR):
            yield
    finally:
        if tells_crashes:
            faulthandler.disable()
        logging.captureWarnings(False)
        root.handlers[:], root.level = before
        writer.close()


@contextlib.contextmanager
def _captured(descriptor: int) -> Iterator[None]:
    """Makes every line that is written to a descriptor a warning in the log."""
    original = os.dup(descriptor)
    reading, writing = os.pipe()
    os.dup2(writing, descriptor)
    os.close(writing)

    def work():
        logger = logging.getLogger("stderr")
        with open(reading, encoding="utf-8", errors="replace", newline="\n") as lines:
            while line := lines.readline(MAX_LINE_LENGTH):
                if line.strip():
                    logger.warning("%s", line.rstrip())

    thread = threading.Thread(target=work, name="stderr", daemon=True)
    thread.start()
    try:
        yield
    finally:
        sys.stderr.flush()
        # This closes the pipe's last end for writing, which ends the thread.
        os.dup2(original, descriptor)
        os.close(original)
        thread.join(LAST_SECONDS)
