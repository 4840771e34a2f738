"""`igpt draft`: a draft, which guesses pixels ahead for a model to check."""

import pathlib
from typing import TYPE_CHECKING

import click

from igpt_keras.cli.command import command
from igpt_keras.cli.options import DATA, MODEL, output, overwrite, seed
from igpt_keras.cli.training import print_bad_images
from igpt_keras.errors import InputError
from igpt_keras.stages import stage
from igpt_keras.wording import plural

if TYPE_CHECKING:
    from igpt_keras.runs.options import DataOptions


@command(
    MODEL,
    DATA,
    output("File to write the draft to, ending in .npz."),
    seed("Random seed for choosing the tokens that the draft is fitted to."),
    overwrite("Replace an existing output file."),
)
def draft(
    model: str, data: "DataOptions", output: pathlib.Path, seed: int, overwrite: bool
) -> None:
    """Fit a draft, with which a model samples in fewer passes.

    The draft predicts a token of the training images from its position and its neighbors. With
    `igpt complete --draft`, MODEL samples the same pixels as without it.
    """
    from igpt_keras.atomic import check_replaceable
    from igpt_keras.runs.tokenizers import load_with_tokenizer
    from igpt_keras.sampling.drafts import NeighborDraft

    if output.suffix != NeighborDraft.SUFFIX:
        raise InputError(f"--output must end in {NeighborDraft.SUFFIX}, got {output}")
    check_replaceable(output, overwrite)
    loaded = load_with_tokenizer(model)
    tokenized = data.tokenize(data.data_set.train, loaded)
    count = plural(len(tokenized.tokens), "image")
    with stage(f"fitting a draft to {count}"):
        config = loaded.config
        sizes = {"vocabulary_size": config.vocabulary_size, "columns": config.token_grid[1]}
        fitted = NeighborDraft.fit(tokenized.tokens, seed=seed, **sizes)
    fitted.save(output, overwrite)
    print_bad_images(data)
    click.echo(f"Fitted a draft to {count}")
    click.echo(f"Wrote {output}")
