import numpy as np
import pytest

import igpt_keras
from igpt_keras import ImageGPT, ImageGPTConfig
from igpt_keras.data.data_set import open_data
from igpt_keras.training.recipes import pretrain


@pytest.fixture(scope="session")
def digits():
    """Digits in four grays, and tokens of those to train on."""
    digits = open_data("digits")
    palette = igpt_keras.ColorPalette.fit(digits.train.images, num_colors=4)
    return digits.test.images, palette.tokenize(digits.train.images), palette


@pytest.fixture(scope="session")
def trained(digits):
    """A model that knows digits a little, and a smaller one."""
    _, tokens, palette = digits
    models = []
    for hidden_dim, num_layers in ((32, 2), (16, 1)):
        model = ImageGPT(ImageGPTConfig(8, 4, hidden_dim, num_layers, 2), tokenizer=palette)
        pretrain(model, tokens, tokens[:32], epochs=3, batch_size=32, learning_rate=0.01, verbose=0)
        models.append(model)
    return models


@pytest.fixture(scope="session")
def plain_model():
    """A model of 4 × 4 pixels of 8 colors."""
    config = ImageGPTConfig(4, 8, 16, 2, 2)
    palette = igpt_keras.ColorPalette(np.random.default_rng(1).uniform(-1, 1, (8, 3)))
    model = ImageGPT(config, tokenizer=palette)
    generator = np.random.default_rng(0)
    model.set_weights([generator.normal(0, 0.3, w.shape) for w in model.get_weights()])
    return model


@pytest.fixture
def images():
    return np.random.default_rng(7).integers(0, 256, (3, 4, 4, 3)).astype(np.uint8)
