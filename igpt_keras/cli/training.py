"""What the commands that train have in common: the progress bar, and how they end."""

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from igpt_keras.cli.signals import ended_by_second_signal
from igpt_keras.wording import plural

if TYPE_CHECKING:
    import keras

    from igpt_keras.runs.options import DataOptions
    from igpt_keras.runs.result import Result


def train(
    run: Any,
    metrics: tuple[str, ...],
    progress: str,
    callbacks: "Sequence[keras.callbacks.Callback]",
) -> "Result | None":
    """Runs a training under a progress bar.

    Args:
        run: A `Training`.
        metrics: Names of the metrics that the bar shows.
        progress: The value of --progress.
        callbacks: Those of the user, for the process that reports the result.

    Returns:
        The result, for the process that reports it; None in other workers, and if the run was
        finished before. An interrupted run exits with the status that the signal asks for.
    """
    from igpt_keras.errors import Interrupted
    from igpt_keras.training.callbacks.progress_bar import ProgressBar

    if run.finished:
        print_result(f"{run.output} is finished: nothing is left to do", progress)
        return None
    if progress != "quiet":
        print_result(run.extent, progress)
    command = ["igpt", *run.kind.split(), "--resume", str(run.output)]
    resume = f"resume with: {shlex.join(command)}"
    try:
        with (
            ended_by_second_signal(
                f"training was ended without a new checkpoint; {resume}",
                first="stopping after the current step; a second signal ends training at once",
            ),
            ProgressBar(run.output.name, metrics, run.total_steps, progress) as bar,
        ):
            result = run.run([bar, *(callbacks if run.is_chief else ())])
    except Interrupted as interrupted:
        click.echo(f"{interrupted}; {resume}", err=True)
        sys.exit(128 + (interrupted.signal_number or 0))
    return result if run.is_chief else None


def print_result(message: str, progress: str) -> None:
    """Prints a message, on stderr if stdout is for the JSON of --progress json."""
    click.echo(message, err=progress == "json")


def print_bad_images(data: "DataOptions") -> None:
    """Lists on stderr the images that were skipped."""
    bad = data.decoder.bad
    if bad:
        click.echo(f"Skipped {plural(len(bad), 'bad image')}:", err=True)
    for name, reason in bad.items():
        click.echo(f"  {name}: {reason}", err=True)
