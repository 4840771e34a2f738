"""From images to a folder of tokens."""

import dataclasses
import functools
import math
import os
import pathlib
import tempfile
from typing import Any, ClassVar

import tensorflow as tf

from igpt_keras import paper
from igpt_keras.data.image_decoding import ImageDecoder
from igpt_keras.data.loader import size_of_images
from igpt_keras.data.splits import Split
from igpt_keras.data.token_files import (
    MANIFEST,
    TOKENIZER_FOLDER,
    TokensManifest,
    read_folder_tokenizer,
    stored_dtype,
    write_token_file,
)
from igpt_keras.data.tokenization import token_blocks
from igpt_keras.file_systems import expanded, replaced_file, write_json_file
from igpt_keras.pipelines.beam import BeamRunner
from igpt_keras.pipelines.palettes import fit_to_sample
from igpt_keras.pipelines.shards import (
    Finished,
    Shard,
    Work,
    begin,
    digest_of_plan,
    fingerprints_of,
    finished,
    one_source,
    plan_shards,
)
from igpt_keras.runs.options import DataOptions
from igpt_keras.runs.tokenizers import IMAGE_SIZE
from igpt_keras.tokenizers import ImageTokenizer
from igpt_keras.tokenizers.base import TOKENIZER_FILE

IMAGES_PER_SHARD = 8192
# Of the images that a palette is fitted to, until it is.
SAMPLE_FOLDER = "sample"


@dataclasses.dataclass(frozen=True)
class TokenizeShard(Work):
    """Writes the tokens of a shard.

    Attributes:
        image_size: Side of the images in pixels.
    """

    image_size: int

    suffix: ClassVar[str] = ".tfrecord"

    def write(self, path: str, shard: Shard, split: Split, decoder: ImageDecoder) -> int:
        tokenizer = _tokenizer(self.output, self.plan, self.image_size)
        blocks = token_blocks(
            split,
            tokenizer,
            shard.start,
            shard.stop,
            augmentation=self.data["augmentation"],
            decoder=decoder,
        )
        return write_token_file(path, blocks, stored_dtype(tokenizer.vocabulary_size))


@functools.lru_cache(maxsize=2)
def _tokenizer(folder: str, plan: str, image_size: int) -> ImageTokenizer:
    """Returns the tokenizer of a plan, once in a process: palettes keep what they looked up."""
    return read_folder_tokenizer(folder).bind(image_size)


def write_tokens(
    data: DataOptions | str,
    output: str | os.PathLike,
    *,
    tokenizer: ImageTokenizer | None = None,
    image_size: int = IMAGE_SIZE,
    num_colors: int = paper.PALETTE_SIZE,
    seed: int = 0,
    images_per_shard: int = IMAGES_PER_SHARD,
    runner: BeamRunner | None = None,
    overwrite: bool = False,
) -> TokensManifest:
    """Writes the tokens of all splits of a data set into a folder, for `tokens:FOLDER`.

    The tokens are those of `igpt_keras.data.tokenize`, bit by bit, whatever the runner does. A
    call that was interrupted is continued by the same call: shards that are done stay.

    Args:
        data: One source.
        output: The folder.
        tokenizer: For images of one size; None to fit a palette to random training images.
        image_size: Side in pixels, without a tokenizer.
        num_colors: Number of colors of the palette.
        seed: Seed of the palette.
        images_per_shard: Number of images in a file, a multiple of 32.
        runner: Where the work is done; by default in this process, by Beam's DirectRunner.
        overwrite: Whether to replace tokens that were made in another way.

    Raises:
        InputError: An argument cannot be used, an image cannot be read, or the folder holds
            other tokens.
        FileExistsError: The folder holds other things.

    Example:
        ```python
        write_tokens("digits", "digits-tokens", image_size=8, num_colors=16)
        data = igpt_keras.open_data("tokens:digits-tokens")
        ```
    """
    data, folder, runner = one_source(data), expanded(output), runner or BeamRunner()
    shards = plan_shards(data, images_per_shard)
    fitted = {"image_size": image_size, "num_colors": num_colors, "seed": seed}
    plan: dict[str, Any] = {
        "writes": "tokens",
        "images": fingerprints_of(data),
        "augmentation": data.augmentation,
        "images_per_shard": images_per_shard,
        "tokenizer": fitted if tokenizer is None else _description(tokenizer),
    }
    begin(folder, plan, MANIFEST, overwrite)
    if tokenizer is None:
        sample = os.path.join(folder, SAMPLE_FOLDER)
        tokenizer = _written_tokenizer(folder) or fit_to_sample(
            sample, digest_of_plan(plan), data, runner, **fitted
        )
        tokenizer = tokenizer.bind(image_size)
    _write_tokenizer(tokenizer, folder)
    digest = digest_of_plan(plan | {"tokenizer": _description(tokenizer)})
    work = TokenizeShard(folder, digest, data.to_json(), size_of_images(tokenizer))
    runner.run(work, shards)
    manifest = _manifest(data, tokenizer, plan["images"], finished(work, shards))
    write_json_file(os.path.join(folder, MANIFEST), manifest.to_json())
    return manifest


def _description(tokenizer: ImageTokenizer) -> dict[str, Any]:
    """Returns what a plan says about a tokenizer."""
    return {"fingerprint": tokenizer.fingerprint(), "image_size": size_of_images(tokenizer)}


def _written_tokenizer(folder: str) -> ImageTokenizer | None:
    """Returns the palette that an earlier call fitted, or None."""
    written = os.path.join(folder, TOKENIZER_FOLDER, TOKENIZER_FILE)
    return read_folder_tokenizer(folder) if tf.io.gfile.exists(written) else None


def _write_tokenizer(tokenizer: ImageTokenizer, folder: str) -> None:
    """Writes the files of a tokenizer, the one that tells of it last."""
    target = os.path.join(folder, TOKENIZER_FOLDER)
    tf.io.gfile.makedirs(target)
    with tempfile.TemporaryDirectory() as local:
        tokenizer.save_to_preset(local)
        for file in sorted(pathlib.Path(local).iterdir(), key=lambda f: f.name == TOKENIZER_FILE):
            with replaced_file(os.path.join(target, file.name)) as partial:
                tf.io.gfile.copy(os.fspath(file), partial)


def _manifest(
    data: DataOptions,
    tokenizer: ImageTokenizer,
    fingerprints: dict[str, str],
    done: Finished,
) -> TokensManifest:
    return TokensManifest(
        tokenizer=tokenizer.fingerprint(),
        image_size=size_of_images(tokenizer),
        sequence_length=math.prod(tokenizer.grid),
        dtype=stored_dtype(tokenizer.vocabulary_size),
        augmentation=data.augmentation,
        source={"data": list(data.data), "fingerprints": fingerprints},
        class_names=data.data_set.class_names,
        splits=done.splits,
        bad_images=done.bad_images,
    )
