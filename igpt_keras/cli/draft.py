"""`igpt draft`: what guesses pixels ahead for a model to check."""

import pathlib

import click

from igpt_keras.atomic import check_replaceable
from igpt_keras.cli.options import (
    data_options,
    output_option,
    overwrite_option,
    seed_option,
)
from igpt_keras.errors import InputError
from igpt_keras.runs.options import DataOptions
from igpt_keras.runs.tokenizers import load_with_palette
from igpt_keras.sampling.drafts import NeighborDraft


@click.command()
@click.argument("model")
@data_options
@output_option(f"File to write to, ending in {NeighborDraft.SUFFIX}.")
@seed_option("Of the pixels that its weights are fitted to.")
@overwrite_option("Replace an earlier output file.")
def draft(model: str, data: DataOptions, output: pathlib.Path, seed: int, overwrite: bool):
    """Fit a draft to training images: a pixel by its place and its neighbors.

    With it (`igpt complete --draft`) MODEL gives the same pixels in fewer passes.
    """
    if output.suffix != NeighborDraft.SUFFIX:
        raise InputError(f"--output must end in {NeighborDraft.SUFFIX}, got {output}")
    check_replaceable(output, overwrite)
    loaded = load_with_palette(model)
    tokenized = data.tokenize(data.open().train, loaded.tokenizer, loaded.config.image_size)
    fitted = NeighborDraft.fit(tokenized.tokens, loaded.config.vocabulary_size, seed)
    fitted.save(output, overwrite)
    data.report_bad_images()
    click.echo(f"fitted a draft to {len(tokenized.tokens)} images")
    click.echo(f"wrote {output}")
