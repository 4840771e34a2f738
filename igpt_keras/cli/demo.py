"""`igpt demo`: models on a page in the browser."""

import os
import pathlib
import re
import signal
import tempfile
import threading
import webbrowser
from collections.abc import Sequence

import click

from igpt_keras.cli.command import argument, command, option
from igpt_keras.cli.options import SHIPPED_MODEL
from igpt_keras.cli.serve import PORT
from igpt_keras.cli.signals import SIGNALS, ending_on_sigterm
from igpt_keras.errors import InputError
from igpt_keras.stages import stage

# Where a browser with windows can be; others would take over the terminal.
DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
GRACE_SECONDS = 1.0


@command(
    argument("models", nargs=-1, metavar="[MODEL]..."),
    option("--port", type=PORT, default=8501, help="Port of the page; 0 picks a free one."),
    option("--browser/--no-browser", default=True, help="Open the page in the browser."),
)
def demo(models: tuple[str, ...], port: int, browser: bool) -> None:
    """Complete images on a page in the browser.

    MODEL is a model in any format that `igpt convert` reads, or a directory of versions that
    `igpt export` wrote, which starts at once. Give several to choose among them on the page;
    without one, it has the model that comes with the package. It is for this computer only and ends
    with Ctrl-C. `igpt serve --page` shows it to others.
    """
    from serving.server import Server

    with ending_on_sigterm(), tempfile.TemporaryDirectory(prefix="igpt-demo-") as work:
        config = write_config(pathlib.Path(work), models or (SHIPPED_MODEL,))
        with stage("loading the models"):
            server = Server(model_config_file=config, rest_port=port, page=True)
        stopped = threading.Event()
        for number in SIGNALS:
            signal.signal(number, lambda *_: stopped.set())
        server.start()
        try:
            click.echo(f"{server.rest_address}/ is the page; Ctrl-C ends it")
            if browser and any(os.environ.get(name) for name in DISPLAYS):
                webbrowser.open(f"{server.rest_address}/")
            stopped.wait()
        finally:
            server.stop(GRACE_SECONDS)


def write_config(work: pathlib.Path, models: Sequence[str]) -> pathlib.Path:
    """Exports models that are not exported yet.

    Args:
        work: An empty folder for the exports.
        models: Models, and directories of exported versions.

    Returns:
        The path of a `models.config` with all of them.
    """
    from serving.server.configuration import write_models

    directories = {}
    for name, model in zip(distinct_names(models), models, strict=True):
        directory = pathlib.Path(model)
        if (directory / "saved_model.pb").exists():
            raise InputError(
                f"{model} is one version of an export; give the directory of all versions, "
                f"{directory.parent}"
            )
        if not is_exported(directory):
            directory = work / "exports" / name
            export(model, directory)
        directories[name] = directory
    path = work / "models.config"
    write_models(path, directories)
    return path


def is_exported(directory: pathlib.Path) -> bool:
    """Returns whether a directory holds versions that `igpt export` wrote."""
    from serving.versions import version_folders

    if not directory.is_dir():
        return False
    return any(
        (folder / "saved_model.pb").exists() for folder in version_folders(directory).values()
    )


def export(model: str, directory: pathlib.Path) -> None:
    """Exports a model, and says so."""
    from igpt_keras.models import load
    from igpt_keras.saving import read_training
    from serving import export as export_saved_model

    click.echo(f"Exporting {model}, which takes about ten seconds …")
    export_saved_model(load(model), directory, training=[read_training(model)])


def distinct_names(models: Sequence[str]) -> list[str]:
    """Returns a name for each model: the end of its path, as far as it takes to be distinct.

    Raises:
        InputError: A model is given twice.
    """
    paths = [pathlib.Path(os.path.abspath(os.path.expanduser(model))) for model in models]
    parts = [[re.sub(r"[^A-Za-z0-9_.-]+", "-", part) for part in path.parts] for path in paths]
    for number in range(1, max(map(len, parts)) + 1):
        names = ["-".join(each[-number:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    twice = next(model for model, path in zip(models, paths, strict=True) if paths.count(path) > 1)
    raise InputError(f"each MODEL must be given once, got {twice} twice")
