"""`igpt report`: runs to one page."""

import pathlib

import click

from igpt_keras.cli.options import output_option, overwrite_option
from igpt_keras.report import HTML_FILE, TITLE, write_report


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=pathlib.Path))
@output_option()
@click.option("--title", default=TITLE, show_default=True)
@overwrite_option("Replace an earlier report.")
def report(runs: tuple[pathlib.Path, ...], output: pathlib.Path, title: str, overwrite: bool):
    """Put what RUNS measured on one page: the paper's figures and tables with ours.

    RUNS are folders that `igpt pretrain`, `finetune`, `probe` and `evaluate` wrote, or
    folders that hold such folders. Writes report.html, which needs no other file, and
    its figures as PNG files.
    """
    files = write_report(runs, output, title, overwrite)
    print(f"wrote {output / HTML_FILE}, and its figures as {len(files) - 1} PNG files")
