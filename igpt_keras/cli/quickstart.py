"""`igpt quickstart`: the whole package on handwritten digits, in minutes."""

import pathlib

from igpt_keras.cli.command import command, option
from igpt_keras.cli.options import PATH, overwrite, seed


@command(
    option(
        "--output", type=PATH, default="igpt-quickstart", help="Folder to write the results to."
    ),
    seed(),
    overwrite(),
)
def quickstart(output: pathlib.Path, seed: int, overwrite: bool) -> None:
    """Run a small end-to-end demo on handwritten digits.

    Pre-trains a model, completes and samples images, fine-tunes the model to classify, exports it,
    and asks a server for completions and classes over gRPC.
    """
    from igpt_keras.cli import digits_demo

    digits_demo.run(output, seed, overwrite)
