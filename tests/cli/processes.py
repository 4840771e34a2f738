"""The command line in processes of their own, to be killed and told to stop."""

import os
import pathlib
import subprocess
import sys
import time

IGPT = pathlib.Path(sys.executable).with_name("igpt")


def start(*arguments, **variables):
    """Starts `igpt` with these arguments and environment variables, as one worker alone."""
    environment = {name: value for name, value in os.environ.items() if name != "TF_CONFIG"}
    return subprocess.Popen(
        [IGPT, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment | variables,
    )


def finish(process):
    """Waits for its end; status, what it printed and its errors."""
    output, errors = process.communicate(timeout=300)
    return process.returncode, output, errors


def last_checkpoint(checkpoints):
    """The step of the last one in a folder of checkpoints, 0 without one."""
    names = [path.parent.name for path in checkpoints.glob("step-*/checkpoint.json")]
    return max((int(name.removeprefix("step-")) for name in names), default=0)


def wait_for_checkpoint(process, checkpoints, step):
    """Until the state at `step`, or a later one, is on disk."""
    while process.poll() is None and last_checkpoint(checkpoints) < step:
        time.sleep(0.01)
