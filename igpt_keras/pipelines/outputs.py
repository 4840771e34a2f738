"""From images and a model to folders of features or of log-likelihoods.

A folder holds a manifest, `features.json` or `scores.json`, and for each split shards such as
`train-00003-of-00016.npz` with these arrays of N images:

| array | value |
| --- | --- |
| `features` | float32 [L + 1, N, d], features of every layer |
| `log_likelihoods` | float32 [N], nats, in a folder of scores instead |
| `labels` | int32 [N], -1 without labels |
| `ids` | string [N], names of the images in their data set |
"""

import abc
import dataclasses
import functools
import io
import os
import tempfile
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from igpt_keras import paper
from igpt_keras.data.image_decoding import ImageDecoder
from igpt_keras.data.splits import Split
from igpt_keras.data.token_files import ShardsManifest
from igpt_keras.data.tokenization import token_blocks
from igpt_keras.errors import InputError
from igpt_keras.evaluation.features import FeatureExtractor, digest_of_weights
from igpt_keras.file_systems import expanded, read_json_file, write_json_file
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.pipelines.beam import BeamRunner
from igpt_keras.pipelines.shards import (
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
from igpt_keras.runs.tokenizers import load_with_tokenizer
from igpt_keras.sampling.checks import check_autoregressive
from igpt_keras.sampling.scoring import score_tokens
from igpt_keras.tokenizers.base import tokenizer_of

IMAGES_PER_SHARD = 1024
# Keras compiles a model at its first call; threads of one worker take turns.
_one_at_a_time = threading.Lock()


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputManifest(ShardsManifest):
    """What the manifest of a folder of features or scores says.

    Attributes:
        model: Path of the model.
        model_digest: Digest of its weights.
        seed: Seed of BERT's masks.
    """

    model: str
    model_digest: str
    seed: int


@dataclasses.dataclass(frozen=True)
class ModelWork(Work):
    """Writes what a model says about the images of a shard.

    Attributes:
        model: Path of the model, which every worker reads.
        batch_size: Images in a forward pass.
        seed: Seed of BERT's masks.
    """

    model: str
    batch_size: int
    seed: int

    suffix: ClassVar[str] = ".npz"
    manifest: ClassVar[str]

    def write(self, path: str, shard: Shard, split: Split, decoder: ImageDecoder) -> int:
        model = _model(self.model, self.plan)
        blocks = token_blocks(
            split,
            tokenizer_of(model),
            shard.start,
            shard.stop,
            augmentation=self.data["augmentation"],
            decoder=decoder,
        )
        tokens, labels, ids = (np.concatenate(column) for column in zip(*blocks, strict=True))
        with _one_at_a_time:
            values = self.of_tokens(model, tokens, shard.start)
        content = io.BytesIO()
        names = np.array([name.decode() for name in ids], np.str_)
        arrays: dict[str, Any] = {**values, "labels": labels, "ids": names}
        np.savez(content, **arrays)
        with tf.io.gfile.GFile(path, "wb") as file:
            file.write(content.getvalue())
        return len(labels)

    @abc.abstractmethod
    def of_tokens(
        self, model: GenerativeModel, tokens: np.ndarray, first: int
    ) -> dict[str, np.ndarray]:
        """Returns the arrays of a shard.

        Args:
            model: The model.
            tokens: int32 [N, n].
            first: Number of images of the split before these.
        """


class FeaturesOfShard(ModelWork):
    """Writes the features of every layer."""

    manifest = "features.json"

    def of_tokens(
        self, model: GenerativeModel, tokens: np.ndarray, first: int
    ) -> dict[str, np.ndarray]:
        if not len(tokens):
            shape = (model.config.num_layers + 1, 0, model.config.hidden_dim)
            return {"features": np.zeros(shape, np.float32)}
        with tempfile.TemporaryDirectory() as folder:
            extractor = FeatureExtractor(model, folder, batch_size=self.batch_size, seed=self.seed)
            return {"features": np.array(extractor.features(tokens, first=first))}


class ScoresOfShard(ModelWork):
    """Writes the log-likelihood of every image."""

    manifest = "scores.json"

    def of_tokens(
        self, model: GenerativeModel, tokens: np.ndarray, first: int
    ) -> dict[str, np.ndarray]:
        if not len(tokens):
            return {"log_likelihoods": np.zeros(0, np.float32)}
        log_probs = score_tokens(model, tokens, None, self.batch_size)
        return {"log_likelihoods": log_probs.sum(axis=1)}


def write_features(
    model: str | os.PathLike,
    data: DataOptions | str,
    output: str | os.PathLike,
    *,
    batch_size: int = paper.BATCH_SIZE,
    seed: int = 0,
    images_per_shard: int = IMAGES_PER_SHARD,
    runner: BeamRunner | None = None,
    overwrite: bool = False,
) -> OutputManifest:
    """Writes the features of every layer of a model for all images of a data set.

    They are those of `FeatureExtractor`, up to the rounding of other batches. A call that was
    interrupted is continued by the same call.

    Args:
        model: Path of a model with a tokenizer, which every worker can read.
        data: One source; with tokens of the model's tokenizer, no image is decoded.
        output: The folder.
        batch_size: Images in a forward pass.
        seed: Seed of the mask of each image (BERT).
        images_per_shard: Number of images in a file, a multiple of 32. A worker holds the
            features of that many.
        runner: Where the work is done; by default in this process, by Beam's DirectRunner.
        overwrite: Whether to replace features that were made in another way.

    Raises:
        InputError: An argument cannot be used, or the folder holds other features.
        FileExistsError: The folder holds other things.

    Example:
        ```python
        write_features("image_gpt_nano", "digits", "digits-features")
        for arrays in read_outputs("digits-features", "train"):
            print(arrays["features"].shape, arrays["labels"].shape)
        ```
    """
    settings = {"batch_size": batch_size, "seed": seed, "overwrite": overwrite}
    return _write(FeaturesOfShard, model, data, output, images_per_shard, runner, **settings)


def write_scores(
    model: str | os.PathLike,
    data: DataOptions | str,
    output: str | os.PathLike,
    *,
    batch_size: int = paper.BATCH_SIZE,
    images_per_shard: int = IMAGES_PER_SHARD,
    runner: BeamRunner | None = None,
    overwrite: bool = False,
) -> OutputManifest:
    """Writes the log-likelihoods of all images of a data set under an autoregressive model.

    They are those of `model.score`, up to the rounding of other batches.

    Args:
        model: As for `write_features`.
        data: As for `write_features`.
        output: As for `write_features`.
        batch_size: As for `write_features`.
        images_per_shard: As for `write_features`.
        runner: As for `write_features`.
        overwrite: As for `write_features`.

    Raises:
        InputError: As for `write_features`, or the model is not autoregressive.
        FileExistsError: The folder holds other things.

    Example:
        ```python
        write_scores("image_gpt_nano", "digits", "digits-scores")
        scores = [arrays["log_likelihoods"] for arrays in read_outputs("digits-scores", "test")]
        ```
    """
    settings = {"batch_size": batch_size, "seed": 0, "overwrite": overwrite}
    return _write(ScoresOfShard, model, data, output, images_per_shard, runner, **settings)


def read_outputs(folder: str | os.PathLike, split: str) -> Iterator[dict[str, np.ndarray]]:
    """Yields the arrays of a folder of features or scores, one shard after the other.

    Args:
        folder: The folder.
        split: "train", "validation" or "test".

    Raises:
        FileNotFoundError: The folder has no manifest.
        InputError: It has no such split.
    """
    path = expanded(folder)
    names = (FeaturesOfShard.manifest, ScoresOfShard.manifest)
    found = [read_json_file(os.path.join(path, name)) for name in names]
    manifest = next((each for each in found if each is not None), None)
    if manifest is None:
        raise FileNotFoundError(f"{path} has neither {' nor '.join(names)}")
    if split not in manifest["splits"]:
        raise InputError(f"split must be one of {', '.join(manifest['splits'])}, got {split!r}")
    for shard in manifest["splits"][split]:
        with tf.io.gfile.GFile(os.path.join(path, shard["file"]), "rb") as file:
            with np.load(io.BytesIO(file.read()), allow_pickle=False) as arrays:
                yield dict(arrays)


@functools.lru_cache(maxsize=1)
def _model(path: str, plan: str) -> GenerativeModel:
    """Returns the model of a plan, once in a process."""
    return load_with_tokenizer(path)


def _write(
    work_class: type[ModelWork],
    model: str | os.PathLike,
    data: DataOptions | str,
    output: str | os.PathLike,
    images_per_shard: int,
    runner: BeamRunner | None,
    *,
    batch_size: int,
    seed: int,
    overwrite: bool,
) -> OutputManifest:
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    data, folder, runner = one_source(data), expanded(output), runner or BeamRunner()
    path = os.fspath(model)
    if os.path.exists(os.path.expanduser(path)):
        path = os.path.abspath(os.path.expanduser(path))
    loaded = load_with_tokenizer(path)
    if work_class is ScoresOfShard:
        check_autoregressive(loaded)
    shards = plan_shards(data, images_per_shard)
    digest = digest_of_weights(loaded)
    plan: dict[str, Any] = {
        "writes": work_class.manifest,
        "images": fingerprints_of(data),
        "augmentation": data.augmentation,
        "images_per_shard": images_per_shard,
        "model": f"{digest} {tokenizer_of(loaded).fingerprint()}",
        "seed": seed,
    }
    begin(folder, plan, work_class.manifest, overwrite)
    work = work_class(
        folder, digest_of_plan(plan), data.to_json(), model=path, batch_size=batch_size, seed=seed
    )
    runner.run(work, shards)
    done = finished(work, shards)
    manifest = OutputManifest(
        model=path,
        model_digest=digest,
        seed=seed,
        source={"data": list(data.data), "fingerprints": plan["images"]},
        class_names=data.data_set.class_names,
        splits=done.splits,
        bad_images=done.bad_images,
    )
    write_json_file(os.path.join(folder, work_class.manifest), dataclasses.asdict(manifest))
    return manifest
