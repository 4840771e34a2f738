"""`igpt client`: what a server answers."""

import pathlib

import click
import numpy as np

from igpt_keras.atomic import atomic_path
from igpt_keras.cli.complete import SHEET, completion_options, write_completions
from igpt_keras.data.images import read_image
from serving.client import Client, ServingError

server_options = (
    click.option("--server", required=True, help="HOST:PORT of the server."),
    click.option("--model-name", default="igpt", show_default=True),
    click.option("--timeout", default=60.0, show_default=True, help="Seconds a request may take."),
)


def asks_a_server(command):
    """Adds the options of a connection."""
    for option in server_options:
        command = option(command)
    return command


class Commands(click.Group):
    """A request that the server does not answer ends in one line and status 1."""

    def invoke(self, context):
        try:
            return super().invoke(context)
        except ServingError as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=Commands)
def client():
    """Ask a server, ours or TensorFlow Serving, over gRPC."""


@client.command()
@asks_a_server
@completion_options
def complete(
    server,
    model_name,
    timeout,
    images,
    output,
    keep_rows,
    num,
    temperature,
    top_k,
    top_p,
    seed,
    overwrite,
):
    """Keep the first rows of IMAGES; the served model samples the rest."""
    with atomic_path(output, overwrite, marker=SHEET) as partial:
        with Client(server, model_name, timeout) as connection:
            completed = connection.complete(
                images, keep_rows, num, temperature, top_k, top_p, seed
            ).images
        originals = np.stack([read_image(path, completed.shape[2]) for path in images])
        size = completed.shape[2]
        known = np.broadcast_to(np.arange(size)[:, None] < keep_rows, (size, size))
        write_completions(partial, images, originals, completed, known)
    print(f"wrote {len(images) * num} completions and {SHEET} to {output}")


@client.command()
@asks_a_server
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=pathlib.Path))
def classify(server, model_name, timeout, images):
    """Print the most probable class of each of IMAGES, and its probability."""
    with Client(server, model_name, timeout) as connection:
        classes = connection.classify(images)
    for path, name, scores in zip(images, classes.best, classes.scores, strict=True):
        print(f"{path}\t{name}\t{scores.max():.3f}")
