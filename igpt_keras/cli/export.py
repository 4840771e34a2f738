"""`igpt export`: models to a SavedModel."""

import pathlib

import click

import igpt_keras
from igpt_keras.cli.options import output_option
from igpt_keras.saving import read_training
from serving.exporting import MAX_PIXELS
from serving.exporting import export as export_saved_model


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=pathlib.Path))
@output_option("Folder of all versions.")
@click.option("--version", type=int, help="Its number.  [default: the next]")
@click.option(
    "--feature-layer",
    type=int,
    help="Layer of the signature `features`.  [default: the middle one; a classifier's own]",
)
@click.option(
    "--max-pixels",
    default=MAX_PIXELS,
    show_default=True,
    help="Images that declare more are refused before they are decoded.",
)
def export(models, output, version, feature_layer, max_pixels):
    """Write MODELS as one SavedModel, OUTPUT/<version>/, for TensorFlow Serving.

    An autoregressive model gives it the signatures `complete`, `sample`, `score` and
    `features`, a classifier `classify`, `classify_images` and `features`; give one of each for
    all of them. Versions are never overwritten.
    """
    path = export_saved_model(
        [igpt_keras.load(model) for model in models],
        output,
        version,
        feature_layer=feature_layer,
        max_pixels=max_pixels,
        training=[read_training(model) for model in models],
    )
    print(f"wrote the SavedModel {path}")
