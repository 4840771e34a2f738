"""`igpt convert`: published weights to a model folder, or the other way."""

import pathlib

import click

from igpt_keras import convert as conversion
from igpt_keras import saving
from igpt_keras.atomic import check_replaceable
from igpt_keras.models.classifier import ImageGPTClassifier
from igpt_keras.models.generative_model import GenerativeModel


@click.command()
@click.argument("source")
@click.argument("output", type=click.Path(path_type=pathlib.Path))
@click.option(
    "--to",
    "target",
    type=click.Choice(["folder", "huggingface"]),
    default="folder",
    show_default=True,
    help="What to write: a model folder of igpt, or one for Hugging Face Transformers.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUTPUT where it exists.")
def convert(source: str, output: pathlib.Path, target: str, overwrite: bool):
    """Read the model at SOURCE, whoever wrote it, and write it to OUTPUT.

    SOURCE is a model folder, a .keras file, a Hugging Face folder, or the prefix of a
    checkpoint of the original TensorFlow code.
    """
    marker = saving.CONFIG_FILE if target == "folder" else conversion.huggingface.CONFIG_FILE
    check_replaceable(output, overwrite, marker)
    model = conversion.load(source)
    click.echo(f"Read {source}: {_describe(model)}")
    if target == "folder":
        saving.save(model, output, overwrite=overwrite)
        click.echo(f"Wrote the model folder {output}")
    else:
        conversion.save_huggingface(model, output, overwrite=overwrite)
        click.echo(f"Wrote the Hugging Face folder {output}")


def _describe(model: GenerativeModel) -> str:
    config = model.config
    kind = "autoregressive" if model.objective == "ar" else "BERT"
    if isinstance(model, ImageGPTClassifier):
        kind += f" classifier of {model.num_classes} classes"
    else:
        kind += " model"
    palette = "with its palette" if model.tokenizer is not None else "without a palette"
    return (
        f"{kind}, {config.image_size}×{config.image_size} pixels, "
        f"{config.vocabulary_size} colors, {model.count_params():,} parameters, {palette}"
    )
