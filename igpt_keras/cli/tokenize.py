"""`igpt tokenize`: images in, a folder of tokens out."""

from typing import TYPE_CHECKING

from igpt_keras import paper
from igpt_keras.cli.command import command, option
from igpt_keras.cli.options import COUNT, ONE_SOURCE, overwrite, seed
from igpt_keras.cli.shards import RUNNER, images_per_shard, print_shards
from igpt_keras.errors import InputError

if TYPE_CHECKING:
    from igpt_keras.pipelines import BeamRunner
    from igpt_keras.runs.options import DataOptions


@command(
    ONE_SOURCE,
    # On another file system, a path is no `pathlib.Path`.
    option("--output", required=True, metavar="DIR", help="Folder to write the tokens to."),
    option(
        "--tokenizer",
        metavar="NAME",
        show_default="fit a palette",
        help="Tokenizer to use: rgb; a .npy palette; the folder of a tokenizer; or a model.",
    ),
    option(
        "--image-size",
        type=COUNT,
        show_default=f"the tokenizer's, or {paper.IMAGE_SIZES[0]}",
        help="Side in pixels to which images are scaled down.",
    ),
    option(
        "--num-colors",
        type=COUNT,
        show_default=str(paper.PALETTE_SIZE),
        help="Number of colors of the palette that is fitted to training images.",
    ),
    seed("Random seed for fitting a palette."),
    images_per_shard(8192),
    RUNNER,
    overwrite("Replace tokens that were made in another way."),
)
def tokenize(
    data: "DataOptions",
    output: str,
    tokenizer: str | None,
    image_size: int | None,
    num_colors: int | None,
    seed: int,
    images_per_shard: int,
    runner: "BeamRunner",
    overwrite: bool,
) -> None:
    """Turn the images of a source into tokens, for --data tokens:DIR.

    All splits are tokenized, in shards, by the workers of Apache Beam (the extra beam). Training,
    probing, fine-tuning and evaluation then read the tokens without decoding an image. An
    interrupted command continues when it is given again: finished shards stay. The folder may be
    on any file system of TensorFlow, such as gs://.
    """
    from igpt_keras.pipelines import write_tokens
    from igpt_keras.runs.tokenizers import read_tokenizer

    if tokenizer is not None and num_colors is not None:
        raise InputError(
            "give --num-colors without --tokenizer: it is for a palette that is fitted"
        )
    manifest = write_tokens(
        data,
        output,
        tokenizer=None if tokenizer is None else read_tokenizer(tokenizer, image_size),
        image_size=image_size or paper.IMAGE_SIZES[0],
        num_colors=num_colors or paper.PALETTE_SIZE,
        seed=seed,
        images_per_shard=images_per_shard,
        runner=runner,
        overwrite=overwrite,
    )
    print_shards(output, manifest.num_examples, manifest.splits, manifest.bad_images)
