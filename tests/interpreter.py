"""A Python process that runs programs one after another, and imports its libraries once."""

import json
import os
import subprocess
import sys
import textwrap

LOOP = """
import contextlib, io, json, sys, traceback

for line in sys.stdin:
    program, sys.argv[1:] = json.loads(line)
    printed, error = io.StringIO(), ""
    with contextlib.redirect_stdout(printed):
        try:
            exec(program, {"__name__": "__main__"})
        except BaseException:
            error = traceback.format_exc()
    print(json.dumps([printed.getvalue(), error]), flush=True)
"""


class Interpreter:
    """Runs programs in a process with an environment of its own, until the `with` block ends.

    Args:
        preamble: Code to run first.
        **environment: Variables to add to this process' environment.
    """

    def __init__(self, preamble: str = "", **environment: str):
        self._process = subprocess.Popen(
            [sys.executable, "-c", preamble + LOOP],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, program: str, *arguments: object) -> str:
        """Returns what `program` prints; `arguments` are its `sys.argv[1:]`."""
        message = [textwrap.dedent(program), [str(argument) for argument in arguments]]
        print(json.dumps(message), file=self._process.stdin, flush=True)
        printed, error = json.loads(self._process.stdout.readline())
        assert not error, error
        return printed

    @classmethod
    def on_jax(cls, **environment: str) -> "Interpreter":
        """Returns one with Keras on JAX, which cannot import TensorFlow."""
        without_tensorflow = "import sys; sys.modules['tensorflow'] = None\n"
        return cls(without_tensorflow, KERAS_BACKEND="jax", **environment)

    def __enter__(self) -> "Interpreter":
        return self

    def __exit__(self, *exception) -> None:
        self._process.communicate()
