import pathlib
import shutil

import numpy as np
import pytest

from igpt_keras import ImageGPT, ImageGPTClassifier
from tests.convert.huggingface.files import CAUSAL, CLASSIFICATION, FIXTURES, load_huggingface


@pytest.fixture(scope="module")
def reference():
    with np.load(FIXTURES / "reference.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def causal():
    return load_huggingface(CAUSAL)


@pytest.fixture(scope="module")
def classifier():
    return load_huggingface(CLASSIFICATION)


@pytest.fixture
def model(config, palette, randomized):
    """Every weight random, so that none can go astray unseen."""
    return randomized(ImageGPT(config, tokenizer=palette))


@pytest.fixture
def unshifted(model, randomized):
    """A classifier that reads as Transformers' does, with an odd order of names."""
    classifier = ImageGPTClassifier.from_preset(
        model,
        3,
        class_names=["ship", "frog", "Maus"],
        generative_weight=0,
        shift_right=False,
    )
    return randomized(classifier, seed=1)


@pytest.fixture
def torch():
    """PyTorch, where Transformers is installed with it."""
    pytest.importorskip("transformers")
    return pytest.importorskip("torch")


@pytest.fixture
def causal_copy(tmp_path):
    return pathlib.Path(shutil.copytree(CAUSAL, tmp_path / "causal"))


@pytest.fixture
def classification_copy(tmp_path):
    return pathlib.Path(shutil.copytree(CLASSIFICATION, tmp_path / "classification"))
