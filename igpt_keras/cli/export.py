"""`igpt export`: models to a SavedModel."""

import pathlib

import click

import igpt_keras
from igpt_keras.cli.options import output_option
from serving.export import export as export_saved_model


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=pathlib.Path))
@output_option()
@click.option("--version", type=int, help="Its number.  [default: the next]")
def export(models, output, version):
    """Write MODELS as one SavedModel, OUTPUT/<version>/, for TensorFlow Serving.

    A generative model gives it the signature `complete`, a classifier
    `classify_images`; give one of each for both. Versions are never overwritten.
    """
    path = export_saved_model([igpt_keras.load(model) for model in models], output, version)
    print(f"wrote the SavedModel {path}")
