"""Measures the CPU time of starting the command line, compared with importing TensorFlow.

python benchmarks/startup.py
"""

import argparse
import os
import resource
import subprocess
import sys

COMMANDS = {
    "igpt --help": ["-m", "igpt_keras", "--help"],
    "igpt --version": ["-m", "igpt_keras", "--version"],
    "igpt pretrain --help": ["-m", "igpt_keras", "pretrain", "--help"],
    "igpt client --help": ["-m", "igpt_keras", "client", "--help"],
    "igpt pretrian (a usage error)": ["-m", "igpt_keras", "pretrian"],
    "from serving import Client": ["-c", "from serving import Client"],
    "import igpt_keras": ["-c", "import igpt_keras"],
    "import tensorflow": ["-c", "import tensorflow"],
}


def cpu_seconds(command: list[str]) -> float:
    """Returns the user and system time of a Python process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([sys.executable, *command], capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Prints the least CPU time of each command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each command")
    repeats = parser.parse_args().repeats
    # Files are read from disk only once.
    seconds = {name: float("inf") for name in COMMANDS}
    for _ in range(repeats):
        for name, command in COMMANDS.items():
            seconds[name] = min(seconds[name], cpu_seconds(command))
    tensorflow = seconds["import tensorflow"]
    print(f"{'CPU seconds':>44}   of `import tensorflow`")
    for name, value in seconds.items():
        print(f"{name:<32}{value:>12.2f}{value / tensorflow:>12.0%}")


if __name__ == "__main__":
    main()
