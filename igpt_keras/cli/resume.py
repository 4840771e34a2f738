"""`--resume RUN`, for commands that train in a run's folder."""

import click
from click.core import ParameterSource

from igpt_keras.cli.command import load_tensorflow_for, option
from igpt_keras.cli.options import PATH


def resume_option(kind: str) -> click.Option:
    """Returns --resume of `igpt KIND`, which takes all other options from the run's folder."""

    def from_run(context, parameter, run):
        if run is not None:
            load_tensorflow_for(context)
            from igpt_keras.runs.folder import read_run

            context.default_map = {**read_run(run, kind)["options"], "output": str(run)}
        return run

    return option(
        "--resume",
        metavar="RUN",
        type=PATH,
        is_eager=True,
        callback=from_run,
        help="Resume the interrupted run in this folder, with the options it was started with. If "
        "the images have moved, give --data again.",
    )


def check_nothing_changes(context: click.Context) -> None:
    """Raises `click.UsageError` if options other than --resume would make it another run."""
    from igpt_keras.runs.options import LAYOUT, PLACES

    given = [
        parameter.opts[0] if isinstance(parameter, click.Option) else parameter.name.upper()
        for parameter in context.command.params
        if context.get_parameter_source(parameter.name) == ParameterSource.COMMANDLINE
        and parameter.name not in {"resume", "progress", "callback", *LAYOUT, *PLACES}
    ]
    if given:
        raise click.UsageError(
            f"--resume uses the options that the run was started with; leave out {', '.join(given)}"
        )
