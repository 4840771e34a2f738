"""`igpt report`: runs to one page."""

import pathlib

import click

from igpt_keras.cli.command import argument, command, option
from igpt_keras.cli.options import PATH, output, overwrite
from igpt_keras.wording import plural


@command(
    argument("runs", nargs=-1, required=True, type=PATH),
    output("Folder to write the report to."),
    option("--title", help="Title of the page."),
    overwrite("Replace an existing report."),
)
def report(
    runs: tuple[pathlib.Path, ...], output: pathlib.Path, title: str | None, overwrite: bool
) -> None:
    """Summarize the results of runs on one page.

    RUNS are folders that `igpt pretrain`, `finetune`, `probe` and `evaluate` wrote, or folders
    that hold such folders. The figures and tables follow the paper's. Writes report.html, which
    needs no other file, and its figures as PNG files.
    """
    from igpt_keras.report import HTML_FILE, write_report

    given = {} if title is None else {"title": title}
    files = write_report(runs, output, overwrite=overwrite, **given)
    click.echo(f"Wrote {output / HTML_FILE} and {plural(len(files) - 1, 'figure')}")
