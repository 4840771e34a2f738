"""`igpt tokenizer`: fit a tokenizer to images, and look at what it does to them."""

import click

from igpt_keras.cli import Group
from igpt_keras.cli.tokenizer.palette import palette
from igpt_keras.cli.tokenizer.show import show
from igpt_keras.cli.tokenizer.vqvae import vqvae


@click.group(cls=Group)
def tokenizer() -> None:
    """Fit a tokenizer to images, or show what one does to them."""


@tokenizer.group(cls=Group)
def fit() -> None:
    """Fit a tokenizer to training images."""


fit.add_command(palette)
fit.add_command(vqvae)
tokenizer.add_command(show)
