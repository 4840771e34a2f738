"""`igpt client`: requests to a server."""

import itertools
import math
import pathlib
from typing import TYPE_CHECKING, Any

import click

from igpt_keras.cli import Group
from igpt_keras.cli.command import Command, OptionGroup, command, option
from igpt_keras.cli.complete import CLASSES, NUM_COMPLETIONS, SAMPLING, label_option
from igpt_keras.cli.options import IMAGES, PATH, POSITIVE, output, overwrite
from igpt_keras.cli.sample import NUM_SAMPLES
from igpt_keras.cli.sampler_options import options_of
from igpt_keras.sampling.samplers import Categorical
from igpt_keras.wording import plural

if TYPE_CHECKING:
    from serving.client import Client


def _connect(server, tls, root_certificates, client_certificate, client_key, **options):
    """Returns a client, which is closed when the command ends."""
    from serving.client import TLS, Client

    files = (root_certificates, client_certificate, client_key)
    if tls or any(files):
        options["tls"] = TLS(*files)
    return click.get_current_context().with_resource(Client(server, **options))


CONNECTION = OptionGroup(
    "connection",
    (
        option(
            "--server",
            required=True,
            metavar="ADDRESS",
            help="Address of the server: HOST:PORT for gRPC, or http://HOST:PORT or "
            "https://HOST:PORT for REST.",
        ),
        option("--model-name", default="igpt", help="Name of the model on the server."),
        option(
            "--version",
            type=click.IntRange(min=0),
            show_default="the newest",
            help="Version of the model.",
        ),
        option("--version-label", help="Label that the server gives to a version of the model."),
        option(
            "--timeout",
            type=POSITIVE,
            default=60.0,
            help="Time in seconds to wait for an answer, retries included.",
        ),
        option(
            "--tls",
            is_flag=True,
            help="Encrypt, and trust the system's certificate authorities, as https:// does.",
        ),
        option(
            "--root-certificates",
            type=PATH,
            help="PEM file with the certificate authorities to trust; turns TLS on.",
        ),
        option(
            "--client-certificate",
            type=PATH,
            help="PEM file with the client's certificate, for a server that asks for one.",
        ),
        option(
            "--client-key",
            type=PATH,
            help="PEM file with the private key of the client's certificate.",
        ),
    ),
    _connect,
)


SAMPLER = OptionGroup("sampler", tuple(options_of(Categorical)), Categorical)


class ClientCommand(Command):
    """A command that ends in one line and exit status 1 if the server does not answer."""

    def __init__(self, **attributes):
        super().__init__(needs_tensorflow=False, **attributes)

    def invoke(self, ctx: click.Context) -> Any:
        """Calls the function."""
        from serving.client import ServingError

        try:
            return super().invoke(ctx)
        except ServingError as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=Group)
def client() -> None:
    """Send requests to a server: ours or TensorFlow Serving."""


def _request(*parameters):
    """Returns a decorator that makes a function, called with a connected client, a command."""
    return command(CONNECTION, *parameters, cls=ClientCommand, within=client)


@_request(
    IMAGES,
    option(
        "--keep-rows", type=int, required=True, help="Number of rows of the model's input to keep."
    ),
    NUM_COMPLETIONS,
    *CLASSES,
    SAMPLER,
    output(default="completed"),
    *SAMPLING,
)
def complete(
    connection: "Client",
    images: tuple[pathlib.Path, ...],
    output: pathlib.Path,
    keep_rows: int,
    num_completions: int,
    labels: tuple[str, ...],
    guidance_scale: float,
    sampler: Categorical,
    scale: int,
    seed: int,
    overwrite: bool,
) -> None:
    """Complete images of which the first rows are known."""
    import numpy as np

    from igpt_keras.atomic import atomic_path
    from igpt_keras.pictures.completions import (
        SHEET_FILE,
        check_scale,
        completion_names,
        known_rows,
        write_completions,
    )

    check_scale(scale)
    with atomic_path(output, overwrite, marker=SHEET_FILE) as partial:
        completed = connection.complete(
            images,
            keep_rows=keep_rows,
            num_completions=num_completions,
            labels=_in_turn(labels, len(images)),
            guidance_scale=guidance_scale,
            sampler=sampler,
            seed=seed,
        ).images
        size = completed.shape[2]
        originals = np.stack([_thumbnail(path, size) for path in images])
        known = known_rows(size, keep_rows)
        _warn_of_colors(images, originals, completed, known)
        partial.mkdir()
        names = completion_names(images, num_completions)
        title = f"Completions from {connection.address}"
        write_completions(partial, names, originals, completed, known, title=title, scale=scale)
    count = plural(len(images) * num_completions, "completion")
    click.echo(f"Wrote {count} and {SHEET_FILE} to {output}")


def _in_turn(labels: tuple[str, ...], count: int) -> list[str] | None:
    """The labels of images that take some in turn; None for images of any class."""
    return list(itertools.islice(itertools.cycle(labels), count)) if labels else None


def _warn_of_colors(images, originals, completed, known) -> None:
    """Warns of images whose known pixels the server's colors show badly."""
    from igpt_keras.pictures.colors import warn_of_colors

    for path, original, of_image in zip(images, originals, completed, strict=True):
        difference = original[known] - of_image[0][known].astype(float)
        if difference.size:
            warn_of_colors(path, math.sqrt((difference**2).mean()))


def _thumbnail(path: pathlib.Path, size: int):
    """An image for the contact sheet, uint8 [size, size, 3], made without TensorFlow."""
    import numpy as np
    from PIL import Image

    from igpt_keras.data.image_decoding import read_square

    square = Image.fromarray(read_square(path))
    return np.asarray(square.resize((size, size), Image.Resampling.BOX))


@_request(NUM_SAMPLES, *CLASSES, SAMPLER, output(default="sampled"), *SAMPLING)
def sample(
    connection: "Client",
    output: pathlib.Path,
    num_samples: int,
    labels: tuple[str, ...],
    guidance_scale: float,
    sampler: Categorical,
    scale: int,
    seed: int,
    overwrite: bool,
) -> None:
    """Sample new images."""
    from igpt_keras.atomic import atomic_path
    from igpt_keras.pictures.completions import SHEET_FILE, check_scale, write_samples

    check_scale(scale)
    with atomic_path(output, overwrite, marker=SHEET_FILE) as partial:
        images = connection.sample(
            num_samples,
            labels=_in_turn(labels, num_samples),
            guidance_scale=guidance_scale,
            sampler=sampler,
            seed=seed,
        ).images[:, 0]
        partial.mkdir()
        title = f"Samples from {connection.address}"
        write_samples(partial, images, title=title, scale=scale)
    click.echo(f"Wrote {plural(num_samples, 'sample')} and {SHEET_FILE} to {output}")


@_request(IMAGES)
def classify(connection: "Client", images: tuple[pathlib.Path, ...]) -> None:
    """Print the most probable class of each image.

    The columns are the file, the class, and its probability.
    """
    classes = connection.classify(images)
    for path, name, scores in zip(images, classes.best, classes.scores, strict=True):
        click.echo(f"{path}\t{name}\t{scores.max():.3f}")


@_request(
    IMAGES,
    output("File to write to, a .npy array float32 [images, width]."),
    overwrite("Replace an existing output file."),
)
def features(
    connection: "Client", images: tuple[pathlib.Path, ...], output: pathlib.Path, overwrite: bool
) -> None:
    """Write the features of images, from the layer chosen at export."""
    import numpy as np

    from igpt_keras.atomic import atomic_path

    with atomic_path(output, overwrite) as partial, open(partial, "wb") as file:
        values = connection.features(images)
        np.save(file, values)
    count, width = values.shape
    click.echo(f"Wrote features of {plural(count, 'image')}, width {width}, to {output}")


@_request(
    IMAGES,
    label_option(
        "Class, by name or number, given which a class-conditional model says how likely an image "
        "is."
    ),
)
def score(connection: "Client", images: tuple[pathlib.Path, ...], labels: tuple[str, ...]) -> None:
    """Print the log-likelihood of each image.

    The columns are the file, the log-likelihood in nats, and bits per pixel.
    """
    scores = connection.score(images, _in_turn(labels, len(images)))
    for path, log_likelihood, bits in zip(
        images, scores.log_likelihood, scores.bits_per_pixel, strict=True
    ):
        click.echo(f"{path}\t{log_likelihood:.3f}\t{bits:.4f}")


@_request()
def status(connection: "Client") -> None:
    """Print the served versions and signatures of the model."""
    for version in connection.status():
        click.echo("\t".join(filter(None, (str(version.version), version.state, version.error))))
    click.echo(f"signatures: {', '.join(connection.signatures())}")
