"""`--resume RUN`, for commands that train in a run's folder."""

import pathlib
import shlex
import sys
from collections.abc import Callable
from typing import NoReturn

import click
from click.core import ParameterSource

from igpt_keras.runs.folder import read_run
from igpt_keras.runs.options import LAYOUT, TrainingOptions
from igpt_keras.runs.result import RESULT_FILE
from igpt_keras.training.callbacks.checkpoint_manager import Interrupted


def resume_option(kind: str) -> Callable:
    """--resume of `igpt KIND`: what is not given is taken from the options that RUN began with."""

    def from_run(context, parameter, run):
        if run is not None:
            context.default_map = {**read_run(run, kind)["options"], "output": str(run)}
        return run

    return click.option(
        "--resume",
        metavar="RUN",
        type=click.Path(path_type=pathlib.Path),
        is_eager=True,
        callback=from_run,
        help="Go on with a run that was interrupted, with the options it began with.",
    )


def check_nothing_changes(context: click.Context) -> None:
    """Raises `click.UsageError` for options beside --resume that would make it another run."""
    given = [
        parameter.opts[0] if isinstance(parameter, click.Option) else parameter.name.upper()
        for parameter in context.command.params
        if context.get_parameter_source(parameter.name) == ParameterSource.COMMANDLINE
        and parameter.name not in {"resume", *LAYOUT}
    ]
    if given:
        raise click.UsageError(
            f"--resume goes on with the options the run began with; leave out {', '.join(given)}"
        )


def say_if_finished(output: pathlib.Path, training: TrainingOptions) -> bool:
    """Whether nothing is left to do in `output`."""
    if not (output / RESULT_FILE).exists():
        return False
    training.conclude(f"{output} is finished, nothing is left to do")
    return True


def exit_interrupted(interrupted: Interrupted, kind: str, output: pathlib.Path) -> NoReturn:
    """Says how to go on, and exits with what the signal asks for."""
    command = shlex.join(["igpt", kind, "--resume", str(output)])
    click.echo(f"{interrupted}; go on with {command}", err=True)
    sys.exit(128 + interrupted.signal_number)
