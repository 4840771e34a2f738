"""Code blocks of the documentation, and a shell that runs those with commands."""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parent.parent
# What is shown, not run.
SHOWN = {"text", "json", "yaml", "bibtex"}
SECONDS = 300
# Asks the process of the test to run what it is called with.
STUB = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect({address!r})
    connection.sendall(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]).encode() + b"\\n")
    status, output, errors = json.loads(connection.makefile().readline())
sys.stdout.write(output)
sys.stderr.write(errors)
sys.exit(status)
"""


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        page: The page's path below the repository.
        line: Number of its first line.
        language: "python", "shell", or as written behind the fence.
        text: The code.
    """

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str) -> list[Block]:
    """Returns the fenced and the indented blocks of a page; the latter hold commands."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    blocks, number = [], 0
    while number < len(lines):
        start, line = number, lines[number]
        number += 1
        if line.startswith("```"):
            end = lines.index("```", number)
            language = line[3:] if line[3:] not in ("sh", "bash") else "shell"
            blocks.append(Block(page, start + 2, language, "\n".join(lines[number:end])))
            number = end + 1
        elif line.startswith("    ") and not lines[start - 1].strip():
            while number < len(lines) and (lines[number].startswith("    ") or not lines[number]):
                number += 1
            text = "\n".join(line[4:] for line in lines[start:number])
            blocks.append(Block(page, start + 1, "shell", text.rstrip()))
    return blocks


def run_python(block: Block, text: str, namespace: dict) -> None:
    """Runs Python; a comment behind a call of `print` is what it prints."""
    printed = io.StringIO()
    padding = "\n" * (block.line - 1)
    with contextlib.redirect_stdout(printed):
        exec(compile(padding + text, block.page, "exec"), namespace)
    for expected in re.findall(r"^ *print\(.*\)  # (.+)$", block.text, re.MULTILINE):
        assert expected in printed.getvalue(), f"{block} prints {printed.getvalue()!r}"


class Shell:
    """Runs commands in bash, in which `igpt` and `python -c` are calls of this process.

    That saves importing TensorFlow for each of them. `igpt serve` runs on its own in the
    background, as in a second terminal.

    Args:
        folder: Where the shell's own files are.
        igpt: Runs the command line in this process; returns status, stdout and stderr.
    """

    def __init__(self, folder: pathlib.Path, igpt):
        self._igpt = igpt
        self._servers: list[subprocess.Popen] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(folder / "socket"))
        self._socket.listen()
        self._socket.settimeout(0.1)
        for name in ("igpt", "python"):
            stub = folder / name
            stub.write_text(STUB.format(python=sys.executable, address=str(folder / "socket")))
            stub.chmod(0o755)
        self._printed = folder / "printed"
        path = f"{folder}:{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
        self._environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}

    def run(self, block: Block, text: str) -> None:
        """Runs a block; it fails with what the commands print if one of them fails."""
        with open(self._printed, "w") as printed:
            bash = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", text],
                stdout=printed,
                stderr=subprocess.STDOUT,
                env=self._environment,
            )
            while bash.poll() is None:
                with contextlib.suppress(TimeoutError):
                    self._answer(self._socket.accept()[0])
        assert bash.returncode == 0, f"{block}\n{text}\n{self._printed.read_text()}"

    def _answer(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rw") as file:
            name, *arguments = json.loads(file.readline())
            json.dump(self._call(name, arguments), file)
            file.write("\n")

    def _call(self, name: str, arguments: list[str]) -> tuple[int, str, str]:
        if name == "igpt" and arguments[0] == "serve":
            return self._serve(arguments)
        if name == "igpt":
            return self._igpt(*arguments)
        if arguments[0] == "-c":
            exec(arguments[1], {})
            return 0, "", ""
        result = subprocess.run(
            [sys.executable, *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        return result.returncode, result.stdout, result.stderr

    def _serve(self, arguments: list[str]) -> tuple[int, str, str]:
        server = subprocess.Popen(
            [sys.executable, "-m", "igpt_keras", *arguments],
            env=self._environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._servers.append(server)
        assert server.stdout is not None
        # The address, once it serves; nothing, if it ended.
        line = server.stdout.readline()
        return (0, line, "") if line else (server.wait(), "", "")

    def close(self) -> None:
        """Ends the servers."""
        self._socket.close()
        for server in self._servers:
            server.terminate()
            assert server.wait(timeout=SECONDS) == 0


@contextlib.contextmanager
def opened_shell(folder: pathlib.Path, igpt) -> Iterator[Shell]:
    """Yields a shell and closes it."""
    shell = Shell(folder, igpt)
    try:
        yield shell
    finally:
        shell.close()
