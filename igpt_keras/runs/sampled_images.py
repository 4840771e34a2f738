"""Sampling many images into a file, which a later process can continue."""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from igpt_keras.disk_space import create_array
from igpt_keras.evaluation.features import digest_of_weights
from igpt_keras.json_files import read_object, write_json
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.runs.complete import SEQUENCES_AT_ONCE
from igpt_keras.tokenizers.base import tokenizer_of

ARRAY_FILE = "samples.npy"
PROGRESS_FILE = "samples.json"


def sample_into(
    folder: pathlib.Path,
    model: GenerativeModel,
    num_samples: int,
    seed: int,
    on_batch: Callable[[int], object],
) -> np.ndarray:
    """Samples images from nothing, and keeps them on disk while it goes on.

    An image depends on its seed only, not on how many are sampled together. What an earlier
    process has sampled with the same model and seed is not sampled again.

    Args:
        folder: Where the images are kept; it is created.
        model: The model.
        num_samples: N.
        seed: Seed of the first image; the next image has the next seed.
        on_batch: Called with the number of images after each batch, and with that of an earlier
            process.

    Returns:
        uint8 [N, R, R, 3], mapped from disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    size = model.config.image_size
    shape = (num_samples, size, size, 3)
    what: dict[str, Any] = {"num_samples": num_samples, "seed": seed, "model": _digest(model)}
    progress, array = folder / PROGRESS_FILE, folder / ARRAY_FILE
    before = read_object(progress) if progress.is_file() and array.is_file() else {}
    done = before.get("done", 0) if what.items() <= before.items() else 0
    if done:
        images = np.lib.format.open_memmap(array, "r+", np.uint8, shape)
        on_batch(done)
    else:
        images = create_array(array, np.uint8, shape)
    while done < num_samples:
        count = min(SEQUENCES_AT_ONCE, num_samples - done)
        images[done : done + count] = model.sample(count, seed=seed + done).images[:, 0]
        images.flush()
        done += count
        write_json(progress, what | {"done": done})
        on_batch(count)
    return images


def _digest(model: GenerativeModel) -> str:
    return f"{digest_of_weights(model)} {tokenizer_of(model).fingerprint()}"
