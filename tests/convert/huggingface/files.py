"""Models that Hugging Face Transformers made (tests/fixtures/hf), and what tests do to them."""

import json
import pathlib

import numpy as np
from keras import ops
from safetensors.numpy import load_file, save_file

import igpt_keras
from igpt_keras.convert import read_huggingface

FIXTURES = pathlib.Path(__file__).parents[2] / "fixtures" / "hf"
CAUSAL = FIXTURES / "causal"
CLASSIFICATION = FIXTURES / "classification"
WEIGHTS = "model.safetensors"
TOLERANCE = 1e-4


def load_huggingface(folder):
    stored = read_huggingface(folder)
    return stored.build(getattr(igpt_keras, stored.class_name))


def numpy(x):
    return ops.convert_to_numpy(x)


def largest_deviation(x, reference):
    x = numpy(x)
    assert x.shape == reference.shape
    return np.abs(x - reference).max()


def edit_json(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def edit_tensors(file, changes=None, drop=(), rename=lambda name: name):
    tensors = {**load_file(file), **(changes or {})}
    save_file({rename(k): v for k, v in tensors.items() if k not in drop}, file)


def random_images():
    return np.random.default_rng(1).integers(0, 256, (2, 9, 7, 3)).astype(np.uint8)


def start_first(model, tokens):
    """The input that Transformers expects: the start token, then all but the last."""
    start = np.full_like(tokens[:, :1], model.config.vocabulary_size)
    return np.concatenate([start, tokens[:, :-1]], axis=1)
