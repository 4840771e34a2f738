"""Features f^l of every layer, from one pass over the data, kept on disk (paper, section 2.4)."""

import hashlib
import json
import os
import pathlib
import time
from collections.abc import Callable

import filelock
import keras
import numpy as np

from igpt_keras import paper
from igpt_keras.atomic import atomic_path
from igpt_keras.errors import InputError
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.models.masking import draw_mask

CHUNK = 4096
SECONDS_BETWEEN_NOTES = 10.0


class FeatureExtractor:
    """Gives the features of every layer as files, and finds those it wrote before.

    Memory does not grow with the number of images. A process that was killed leaves what it has
    computed, and the next one goes on from there; two at a time do not compute the same.

    Args:
        model: its weights are to stay as they are.
        folder: for the files, which are named after the weights and the inputs; is created.
        batch_size: images in a forward pass.
        seed: of the masks, for BERT.
        on_batch: called with the number of images after every forward pass, and of those that
            an earlier process has done.
    """

    def __init__(
        self,
        model: GenerativeModel,
        folder: str | os.PathLike,
        *,
        batch_size: int = paper.BATCH_SIZE,
        seed: int = 0,
        on_batch: Callable[[int], object] | None = None,
    ):
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        self.model = model
        self.folder = pathlib.Path(folder)
        self.batch_size = batch_size
        self.seed = seed
        self.on_batch = on_batch
        self._all_layers = AllLayers(model)
        self._digest_of_model = _digest_of_model(model)

    def features(self, tokens: np.ndarray, vote: int = 0) -> np.ndarray:
        """The features of every layer of images, read if they are there, else written.

        The file holds one layer after the other, so that the probe of a layer reads one
        contiguous stretch of it.

        Args:
            tokens: int [N, n], N >= 1.
            vote: a BERT model sees the mask that `draw_mask` gives for it.

        Returns: float32 [L + 1, N, d], read-only, mapped from disk.

        Raises:
            InputError: unusable tokens, or a damaged file.
        """
        if not len(tokens):
            raise InputError("tokens must hold at least one image, got none")
        self.model.check_inputs(tokens)
        bert = self.model.objective == "bert"
        mask = (self.model.mask_probability, self.seed, vote) if bert else None
        file = self.folder / f"features-{self._digest(tokens, mask)}.npy"
        if not file.is_file():
            self._write(tokens, mask, file)
        try:
            return np.load(file, mmap_mode="r")
        except ValueError as error:
            raise InputError(f"{file} is damaged, remove it: {error}") from None

    def _write(self, tokens, mask, file):
        self.folder.mkdir(parents=True, exist_ok=True)
        partial, done, lock = (
            file.with_name(f".{file.stem}.{suffix}") for suffix in ("partial", "done", "lock")
        )
        # Whoever waits here finds the file.
        with filelock.FileLock(lock):
            if not file.is_file():
                self._write_rest(tokens, mask, partial, done)
                partial.replace(file)
            for path in (done, lock):
                path.unlink(missing_ok=True)

    def _write_rest(self, tokens, mask, file, done):
        """Writes `file`; `done` tells of how many images it holds the features already."""
        config = self.model.config
        shape = (config.num_layers + 1, len(tokens), config.hidden_dim)
        first = int(done.read_text()) if done.is_file() and file.is_file() else 0
        mode = "r+" if first else "w+"
        features = np.lib.format.open_memmap(file, mode, np.float32, shape)
        if first and self.on_batch is not None:
            self.on_batch(first)
        batch_size = min(self.batch_size, len(tokens))
        noted = time.monotonic()
        for start in range(first, len(tokens), batch_size):
            batch = np.asarray(tokens[start : start + batch_size], np.int32)
            count = len(batch)
            # The last batch is filled up: another shape would be compiled anew.
            inputs = np.pad(batch, ((0, batch_size - count), (0, 0)), mode="edge")
            if mask is not None:
                inputs = {"tokens": inputs, "masked": draw_mask(inputs.shape, *mask, start)}
            of_batch = self._all_layers.predict_on_batch(inputs)
            features[:, start : start + count] = np.swapaxes(of_batch[:count], 0, 1)
            if time.monotonic() > noted + SECONDS_BETWEEN_NOTES:
                features.flush()
                with atomic_path(done, overwrite=True) as path:
                    path.write_text(str(start + count))
                noted = time.monotonic()
            if self.on_batch is not None:
                self.on_batch(count)
        features.flush()

    def _digest(self, tokens, mask) -> str:
        """Changes with whatever changes the features."""
        inputs = {"model": self._digest_of_model, "shape": list(tokens.shape), "mask": mask}
        digest = hashlib.blake2b(json.dumps(inputs).encode(), digest_size=16)
        for start in range(0, len(tokens), CHUNK):
            chunk = np.ascontiguousarray(tokens[start : start + CHUNK], np.int32)
            digest.update(chunk.tobytes())
        return digest.hexdigest()


class AllLayers(keras.Model):
    """`features_of_all_layers` as a model, so that Keras compiles it on any backend."""

    def __init__(self, model: GenerativeModel):
        super().__init__(dtype=model.dtype_policy)
        self.model = model

    def call(self, inputs):
        return self.model.features_of_all_layers(inputs)


def digest_of_weights(layer: keras.Layer) -> str:
    """Changes with whatever weight of `layer` changes."""
    digest = hashlib.blake2b(digest_size=16)
    for weight in layer.get_weights():
        digest.update(repr(weight.shape).encode())
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()


def _digest_of_model(model) -> list:
    settings = [model.config.to_dict(), model.objective, model.dtype_policy.name]
    return [*settings, digest_of_weights(model.backbone)]
