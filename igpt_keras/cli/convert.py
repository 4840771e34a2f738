"""`igpt convert`: published weights to a model folder, or the other way."""

import pathlib

import click

from igpt_keras.cli.command import argument, command, option
from igpt_keras.cli.options import PATH, overwrite


@command(
    argument("source"),
    argument("output", type=PATH),
    option(
        "target",
        "--to",
        type=click.Choice(["folder", "huggingface"]),
        default="folder",
        help="Format to write: a model folder of igpt, or a folder for Hugging Face Transformers.",
    ),
    overwrite("Replace OUTPUT if it exists."),
)
def convert(source: str, output: pathlib.Path, target: str, overwrite: bool) -> None:
    """Convert a model between igpt's and other formats.

    SOURCE is a model folder, a .keras file, a Hugging Face folder, or the prefix of a checkpoint
    of the original TensorFlow code. The model is written to OUTPUT.
    """
    from igpt_keras import convert as conversion
    from igpt_keras import saving
    from igpt_keras.atomic import check_replaceable
    from igpt_keras.convert import huggingface
    from igpt_keras.models import load

    marker = saving.CONFIG_FILE if target == "folder" else huggingface.CONFIG_FILE
    check_replaceable(output, overwrite, marker)
    model = load(source)
    click.echo(f"Read {source}: {_description(model)}")
    if target == "folder":
        model.save_to_preset(output, overwrite=overwrite)
        click.echo(f"Wrote the model folder {output}")
    else:
        conversion.save_huggingface(model, output, overwrite=overwrite)
        click.echo(f"Wrote the Hugging Face folder {output}")


def _description(model) -> str:
    from igpt_keras.models.classifier import ImageGPTClassifier

    config = model.config
    kind = "autoregressive" if model.objective == "ar" else "BERT"
    if isinstance(model, ImageGPTClassifier):
        kind += f" classifier of {model.num_classes:,} classes"
    else:
        kind += " model"
    tokenizer = "with its tokenizer" if model.tokenizer is not None else "without a tokenizer"
    return f"{kind}, {config.describe_input()}, {model.count_params():,} parameters, {tokenizer}"
