"""Tiny models with random weights, and one export of both."""

import fcntl
import os

import numpy as np
import pytest

from igpt_keras.models.classifier import ImageGPTClassifier
from igpt_keras.models.image_gpt import ImageGPT
from igpt_keras.network.config import ImageGPTConfig
from igpt_keras.tokenizers.color_palette import ColorPalette
from igpt_keras.tokenizers.learned.vqvae import VQVAE
from serving import Server, export


def string_content(values: list[bytes]) -> bytes:
    """Strings as TensorFlow's C++ code reads them in `tensor_content`.

    Their lengths come first, each in groups of seven bits, lowest first, with a high bit on all
    but the last. Python's TensorFlow reads them and never writes them.
    """
    lengths = bytearray()
    for value in values:
        length = len(value)
        while length > 127:
            lengths.append(length % 128 + 128)
            length //= 128
        lengths.append(length)
    return bytes(lengths) + b"".join(values)


def random_palette(num_colors: int, seed: int) -> ColorPalette:
    return ColorPalette(np.random.default_rng(seed).uniform(-1, 1, (num_colors, 3)))


def randomize(model, seed: int):
    """Weights far from their initial values: heads start at zero."""
    generator = np.random.default_rng(seed)
    model.set_weights([generator.normal(0, 0.5, w.shape) for w in model.get_weights()])
    return model


def build_model(**kwargs) -> ImageGPT:
    config = ImageGPTConfig(4, vocabulary_size=8, hidden_dim=16, num_layers=2, num_heads=2)
    return randomize(ImageGPT(config, **{"tokenizer": random_palette(8, seed=1), **kwargs}), seed=2)


def build_vqvae_model() -> ImageGPT:
    """A model of 4 × 4 learned tokens."""
    sizes = {"codebook_size": 8, "embedding_dim": 4, "hidden_dim": 4, "residual_dim": 4}
    tokenizer = VQVAE(8, 1, **sizes)
    tokenizer.compile()
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3)).astype(np.uint8)
    tokenizer.fit(images, batch_size=4, verbose=0)
    config = ImageGPTConfig(8, 8, 16, 1, 2, grid=(4, 4))
    return randomize(ImageGPT(config, tokenizer=tokenizer), seed=2)


def build_classifier(objective: str = "ar", layer: int | None = None) -> ImageGPTClassifier:
    config = ImageGPTConfig(6, vocabulary_size=12, hidden_dim=16, num_layers=1, num_heads=2)
    classifier = ImageGPTClassifier(
        config,
        num_classes=3,
        objective=objective,
        layer=layer,
        class_names=["chat", "chien", "écureuil"],
        tokenizer=random_palette(12, seed=3),
    )
    return randomize(classifier, seed=4)


@pytest.fixture
def make_model():
    return build_model


@pytest.fixture
def make_classifier():
    return build_classifier


@pytest.fixture(scope="session")
def model() -> ImageGPT:
    return build_model()


@pytest.fixture(scope="session")
def classifier() -> ImageGPTClassifier:
    return build_classifier()


@pytest.fixture(scope="session")
def server(exported):
    """A server of both models; tests ask it, and change nothing about it."""
    with Server(exported, rest_port=0) as server:
        yield server


def export_once(name, tmp_path_factory, models, **settings):
    """A directory that holds version 1. All workers share it; none writes."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    directory = shared / name
    with open(shared / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            export(models, directory, **settings)
    return directory


@pytest.fixture(scope="session")
def exported(model, classifier, tmp_path_factory):
    """An export of both models."""
    history = {"val_loss": [3.5, 3.0, 2.5, 2.0, 1.25]}
    training = [{}, {"command": "pretrain | with a bar", "history": history}]
    return export_once("served", tmp_path_factory, [classifier, model], training=training)


@pytest.fixture(scope="session")
def conditional() -> ImageGPT:
    """A class-conditional model."""
    config = ImageGPTConfig(
        4, vocabulary_size=8, hidden_dim=16, num_layers=2, num_heads=2, num_classes=3
    )
    names = ["cat", "dog", "écureuil"]
    model = ImageGPT(config, tokenizer=random_palette(8, seed=1), class_names=names)
    return randomize(model, seed=7)


@pytest.fixture(scope="session")
def exported_conditional(conditional, tmp_path_factory):
    """Its export, which takes seconds: for slow tests."""
    return export_once("served-conditional", tmp_path_factory, conditional)
