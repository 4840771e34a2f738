"""`igpt export`: models to a SavedModel."""

import pathlib
from typing import Any

import click

from igpt_keras.cli.command import argument, command, option
from igpt_keras.cli.options import COUNT, MODEL_PRECISION, PATH, SHIPPED_MODEL, output


@command(
    argument("models", nargs=-1, type=PATH),
    output("Folder of all versions of the SavedModel."),
    option("--version", type=COUNT, show_default="the next", help="Version number to write."),
    MODEL_PRECISION,
    option(
        "--feature-layer",
        type=click.IntRange(min=0),
        show_default="the middle layer, or a classifier's own",
        help="Layer whose features the signature `features` returns.",
    ),
    option(
        "--max-pixels",
        type=COUNT,
        default=1 << 22,
        help="Maximum number of pixels of a request's image; larger images are rejected before "
        "they are decoded.",
    ),
)
def export(
    models: tuple[pathlib.Path, ...],
    output: pathlib.Path,
    version: int | None,
    precision: str | None,
    feature_layer: int | None,
    max_pixels: int,
) -> None:
    """Export models as a SavedModel for TensorFlow Serving.

    MODELS become OUTPUT/<version>/. A generative model provides the signatures `complete`,
    `sample`, `score` and `features`, a classifier `classify`, `classify_images` and `features`;
    give one of each to get all of them. A class-conditional model has all by itself. Without
    MODELS, the model that comes with the package is exported. An existing version is never
    overwritten.
    """
    from igpt_keras.models import load
    from igpt_keras.saving import read_training
    from serving import export as export_saved_model

    models = models or (pathlib.Path(SHIPPED_MODEL),)
    settings: dict[str, Any] = {} if precision is None else {"dtype": precision}
    path = export_saved_model(
        [load(model, **settings) for model in models],
        output,
        version,
        feature_layer=feature_layer,
        max_pixels=max_pixels,
        training=[read_training(model) for model in models],
    )
    click.echo(f"Wrote the SavedModel {path}")
