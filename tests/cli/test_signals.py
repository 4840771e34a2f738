"""A second signal, while a call outside Python keeps the main thread."""

import os
import signal
import subprocess
import sys

import pytest

from igpt_keras.cli.signals import ended_by_second_signal

# Calls of C release the interpreter as TensorFlow's do, and Python's handlers wait for their end.
BUSY = """
import ctypes, signal
from igpt_keras.cli.signals import ended_by_second_signal

signal.signal(signal.SIGTERM, lambda number, frame: None)
signal.signal(signal.SIGINT, lambda number, frame: None)
library = ctypes.CDLL(None)
with ended_by_second_signal("ended", first="once more"):
    print("ready", flush=True)
    while True:
        library.poll(None, 0, 1 << 30)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_process_with_a_line(number):
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.stderr.readline() == "once more\n"
    process.send_signal(number)
    assert process.wait(timeout=60) == 128 + number
    assert process.stderr.read() == "ended\n"


def test_one_signal_is_left_to_python(capfd):
    caught = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: caught.append(number))
    descriptors = set(os.listdir("/proc/self/fd"))
    try:
        with ended_by_second_signal("ended", first="once more"):
            signal.raise_signal(signal.SIGTERM)
        with ended_by_second_signal("ended"):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught == [signal.SIGTERM] * 2
    assert capfd.readouterr().err == "once more\n"
    assert set(os.listdir("/proc/self/fd")) == descriptors
    assert signal.set_wakeup_fd(-1) == -1
