"""Features of every layer, from one pass over the data, kept on disk (paper, section 2.4)."""

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
from igpt_keras.checksums import digest_of_arrays
from igpt_keras.disk_space import create_array
from igpt_keras.errors import InputError
from igpt_keras.evaluation.method_model import MethodModel
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.models.masking import draw_mask

# Probability, seed, vote and first image: arguments of `draw_mask`.
Mask = tuple[float, int, int, int]

IMAGES_PER_HASH_UPDATE = 4096
SECONDS_BETWEEN_NOTES = 10.0


class FeatureExtractor:
    """Writes the features of every layer to files, and finds those that it wrote before.

    Memory does not grow with the number of images. What a killed process has computed stays, and
    the next one continues from there; two processes do not compute the same.

    Args:
        model: The model; its weights must not change.
        folder: Folder of the files, which are named after the weights and the inputs. It is
            created.
        batch_size: Images in a forward pass.
        seed: Seed of the masks, for BERT.
        on_batch: Called with the number of images after every forward pass, and of those that
            an earlier process has done.

    Raises:
        InputError: `batch_size` is below 1.

    Example:
        ```python
        features = FeatureExtractor(model, "features").features(tokens)
        features.shape  # (layers + 1, images, hidden_dim)
        ```
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
        self._all_layers = MethodModel(model, "features_of_all_layers")
        self._digest_of_model = _digest_of_model(model)

    def features(self, tokens: np.ndarray, vote: int = 0, first: int = 0) -> np.ndarray:
        """Returns the features of every layer, from the file if there is one.

        The file holds one layer after the other, so that the probe of a layer reads one
        contiguous part of it.

        Args:
            tokens: int [N, n], N at least 1.
            vote: Number of the mask that a BERT model sees; see `draw_mask`.
            first: Number of images before these, whose masks are other ones.

        Returns:
            float32 [L + 1, N, d], read-only, mapped from disk.

        Raises:
            InputError: The tokens are unusable, or the file is damaged.
        """
        if not len(tokens):
            raise InputError("tokens must hold at least one image, got none")
        self.model.check_inputs(tokens)
        bert = self.model.objective == "bert"
        mask = (self.model.mask_probability, self.seed, vote, first) if bert else None
        file = self.folder / f"features-{self._digest(tokens, mask)}.npy"
        if not file.is_file():
            self._write(tokens, mask, file)
        try:
            return np.load(file, mmap_mode="r")
        except ValueError as error:
            raise InputError(f"{file} is damaged, remove it: {error}") from None

    def _write(self, tokens: np.ndarray, mask: Mask | None, file: pathlib.Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        partial, done, lock = (
            file.with_name(f".{file.stem}.{suffix}") for suffix in ("partial", "done", "lock")
        )
        # A process that waits here finds the file.
        with filelock.FileLock(lock):
            if not file.is_file():
                self._write_rest(tokens, mask, partial, done)
                partial.replace(file)
            for path in (done, lock):
                path.unlink(missing_ok=True)

    def _write_rest(
        self, tokens: np.ndarray, mask: Mask | None, file: pathlib.Path, done: pathlib.Path
    ) -> None:
        """Completes `file`; `done` holds the number of images whose features are in it."""
        config = self.model.config
        shape = (config.num_layers + 1, len(tokens), config.hidden_dim)
        first = int(done.read_text()) if done.is_file() and file.is_file() else 0
        if first:
            features = np.lib.format.open_memmap(file, "r+", np.float32, shape)
        else:
            features = create_array(file, np.float32, shape)
        if first and self.on_batch is not None:
            self.on_batch(first)
        batch_size = min(self.batch_size, len(tokens))
        noted = time.monotonic()
        for start in range(first, len(tokens), batch_size):
            batch = np.asarray(tokens[start : start + batch_size], np.int32)
            count = len(batch)
            # The last batch is padded: another shape would be compiled again.
            inputs = np.pad(batch, ((0, batch_size - count), (0, 0)), mode="edge")
            if mask is not None:
                probability, seed, vote, before = mask
                shape = (batch_size, inputs.shape[1])
                masked = draw_mask(shape, probability, seed, vote, before + start)
                inputs = {"tokens": inputs, "masked": masked}
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

    def _digest(self, tokens: np.ndarray, mask: Mask | None) -> str:
        """Returns a string that changes with everything that the features depend on."""
        inputs = {"model": self._digest_of_model, "shape": list(tokens.shape), "mask": mask}
        digest = hashlib.blake2b(json.dumps(inputs).encode(), digest_size=16)
        for start in range(0, len(tokens), IMAGES_PER_HASH_UPDATE):
            some = np.ascontiguousarray(tokens[start : start + IMAGES_PER_HASH_UPDATE], np.int32)
            digest.update(some.tobytes())
        return digest.hexdigest()


def digest_of_weights(layer: keras.Layer) -> str:
    """Returns a string that changes with every weight of `layer`."""
    return digest_of_arrays(layer.get_weights())


def _digest_of_model(model: GenerativeModel) -> list:
    settings = [model.config.to_dict(), model.objective, model.dtype_policy.name]
    return [*settings, digest_of_weights(model.backbone)]
