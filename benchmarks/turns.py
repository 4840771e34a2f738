"""What the benchmarks of several sides share: each in a process of its own, and their clocks.

TensorFlow and PyTorch in one process disturb each other's threads.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable

# Wall and CPU seconds.
Times = tuple[float, float]


def timed(function: Callable) -> list[Times]:
    """One call. CPU time is that of all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return [(time.perf_counter() - wall, time.process_time() - cpu)]


def peak_memory() -> int:
    """The most that this process held, in bytes."""
    # Linux counts in KiB.
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run_apart(script: str, *arguments: str):
    """Runs a script in a process of its own; returns the JSON of its last line."""
    output = subprocess.run(
        [sys.executable, script, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    ).stdout
    return json.loads(output.splitlines()[-1])
