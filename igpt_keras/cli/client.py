"""`igpt client`: what a server answers."""

import functools
import pathlib

import click
import numpy as np

from igpt_keras.atomic import atomic_path
from igpt_keras.cli.complete import (
    SHEET,
    completion_options,
    drawing_options,
    images_argument,
    write_completions,
)
from igpt_keras.cli.options import output_option, overwrite_option
from igpt_keras.cli.sample import write_samples
from igpt_keras.data.images import read_image
from serving.client import TLS, Client, ServingError

path_option = functools.partial(click.option, type=click.Path(path_type=pathlib.Path))

SERVER_OPTIONS = (
    click.option("--server", required=True, metavar="HOST:PORT", help="Where it listens."),
    click.option("--model-name", default="igpt", show_default=True),
    click.option("--version", type=int, help="Of the model.  [default: the newest]"),
    click.option("--version-label", help="A label that the server has for a version."),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=60.0,
        show_default=True,
        help="Seconds until there must be an answer, retries included.",
    ),
    click.option("--tls", is_flag=True, help="Encrypt, and trust the system's authorities."),
    path_option("--root-certificates", help="PEM file of the authorities to trust instead."),
    path_option("--client-certificate", help="PEM file, where the server asks for one."),
    path_option("--client-key", help="PEM file of its private key."),
)


def asks_a_server(command):
    """Adds the options of a connection; the command gets a connected `Client` first."""

    @functools.wraps(command)
    def connected(server, tls, root_certificates, client_certificate, client_key, **kwargs):
        keys = ("model_name", "timeout", "version", "version_label")
        options = {key: kwargs.pop(key) for key in keys}
        files = (root_certificates, client_certificate, client_key)
        if tls or any(files):
            options["tls"] = TLS(*files)
        with Client(server, **options) as connection:
            return command(connection, **kwargs)

    for option in reversed(SERVER_OPTIONS):
        connected = option(connected)
    return connected


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
    connection,
    images,
    output,
    keep_rows,
    num_completions,
    temperature,
    top_k,
    top_p,
    seed,
    overwrite,
):
    """Keep the first rows of IMAGES; the served model samples the rest."""
    with atomic_path(output, overwrite, marker=SHEET) as partial:
        completed = connection.complete(
            images, keep_rows, num_completions, temperature, top_k, top_p, seed
        ).images
        originals = np.stack([read_image(path, completed.shape[2]) for path in images])
        size = completed.shape[2]
        known = np.broadcast_to(np.arange(size)[:, None] < keep_rows, (size, size))
        write_completions(partial, images, originals, completed, known)
    print(f"wrote {len(images) * num_completions} completions and {SHEET} to {output}")


@client.command()
@asks_a_server
@drawing_options
@click.option(
    "--num-samples",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Images to sample.",
)
def sample(connection, output, num_samples, temperature, top_k, top_p, seed, overwrite):
    """Let the served model sample images from nothing."""
    with atomic_path(output, overwrite, marker=SHEET) as partial:
        images = connection.sample(num_samples, temperature, top_k, top_p, seed).images[:, 0]
        write_samples(partial, images)
    print(f"wrote {num_samples} samples and {SHEET} to {output}")


@client.command()
@asks_a_server
@images_argument
def classify(connection, images):
    """Print the most probable class of each of IMAGES, and its probability."""
    classes = connection.classify(images)
    for path, name, scores in zip(images, classes.best, classes.scores, strict=True):
        print(f"{path}\t{name}\t{scores.max():.3f}")


@client.command()
@asks_a_server
@output_option("The .npy file to write, float32 [images, width].")
@overwrite_option("Replace an earlier file.")
@images_argument
def features(connection, images, output, overwrite):
    """Write the features of IMAGES, of the layer chosen at export."""
    with atomic_path(output, overwrite) as partial, open(partial, "wb") as file:
        values = connection.features(images)
        np.save(file, values)
    print(f"wrote {len(values)} features of width {values.shape[1]} to {output}")


@client.command()
@asks_a_server
@images_argument
def score(connection, images):
    """Print the log-likelihood of each of IMAGES in nats, and its bits per pixel."""
    scores = connection.score(images)
    for path, log_likelihood, bits in zip(
        images, scores.log_likelihood, scores.bits_per_pixel, strict=True
    ):
        print(f"{path}\t{log_likelihood:.3f}\t{bits:.4f}")


@client.command()
@asks_a_server
def status(connection):
    """Print the versions that the server has of the model, and the signatures it serves."""
    for version in connection.status():
        print("\t".join(filter(None, (str(version.version), version.state, version.error))))
    print(f"signatures: {', '.join(connection.signatures())}")
