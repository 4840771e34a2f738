"""The `igpt` command."""

import atexit
import difflib
import functools
import importlib
import io
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import click

from igpt_keras.errors import Diverged, InputError, InputWarning

COMMANDS = (
    "client",
    "complete",
    "convert",
    "demo",
    "draft",
    "evaluate",
    "export",
    "features",
    "finetune",
    "pretrain",
    "probe",
    "quickstart",
    "report",
    "sample",
    "score",
    "serve",
    "tokenize",
    "tokenizer",
    "tune",
)


class Group(click.Group):
    """Commands, the nearest of which is suggested for a name that is not among them."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command that `args` begin with.

        Raises:
            click.UsageError: There is no such command.
        """
        name = args[0]
        if self.get_command(ctx, name) is None:
            nearest = difflib.get_close_matches(name, self.list_commands(ctx), n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            ctx.fail(f"No such command {name!r}{hint}")
        return super().resolve_command(ctx, args)


class LazyGroup(Group):
    """Commands, each in the module of its name, which is imported when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Returns the command, or None if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        return getattr(importlib.import_module(f"igpt_keras.cli.{cmd_name}"), cmd_name)


@click.group(cls=LazyGroup, context_settings={"show_default": True})
@click.version_option(package_name="igpt-keras")
@click.option("--verbose", is_flag=True, help="Show TensorFlow's log messages.")
def igpt(verbose: bool) -> None:
    """Image GPT: generative pretraining from pixels."""


def main() -> NoReturn:
    """Runs the command line and ends the process with the status that `run` returns.

    The process ends as soon as its exit functions have run. Threads of TensorFlow that read data
    call Python, and would wait for an interpreter that shuts down, which waits for them.
    """
    status = 1

    def end() -> None:
        try:
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()
        except (OSError, ValueError):
            # Python's own status where its output cannot be written.
            os._exit(120)
        os._exit(status)

    # Registered first, it is called last.
    atexit.register(end)
    status = run()
    sys.exit(status)


def run() -> int:
    """Runs the command line and returns its exit status.

    The status is 0, 2 for a mistake of the user, 3 for training that diverged, 130 for Ctrl-C, or
    what the command asks for. An error is one line on stderr, and so is a warning about the input.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files are printed with the bytes that they have, UTF-8 or not.
        sys.stdout.reconfigure(errors="surrogateescape")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = functools.partial(_show_warning, warnings.showwarning)
            return igpt.main(prog_name="igpt", standalone_mode=False) or 0
    except SystemExit as exit:
        return _status(exit)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "igpt"
        return _fail(f"{error.format_message().rstrip('.')} (see {path} --help)", error.exit_code)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except click.Abort:
        return _fail("interrupted", 128 + signal.SIGINT)
    except Diverged as error:
        return _fail(str(error), 3)
    except (InputError, OSError) as error:
        # Numbers of errors are Python's, and say nothing to a user.
        return _fail(re.sub(r"^\[Errno \d+\] ", "", str(error)), 2)


def _show_warning(others: Callable[..., None], message: Any, category: Any, *where: Any) -> None:
    """Prints an `InputWarning` as one line; `others` shows other warnings."""
    if issubclass(category, InputWarning):
        click.echo(f"igpt: warning: {' '.join(str(message).split())}", err=True)
    else:
        others(message, category, *where)


def _status(exit: SystemExit) -> int:
    if isinstance(exit.code, int):
        return exit.code
    if exit.code is not None:
        click.echo(exit.code, err=True)
    return int(exit.code is not None)


def _fail(message: str, status: int) -> int:
    click.echo(f"igpt: error: {' '.join(message.split())}", err=True)
    return status
