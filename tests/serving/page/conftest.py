"""A server with a page, and a browser that looks at it."""

import numpy as np
import pytest
from PIL import Image

from igpt_keras.models.image_gpt import ImageGPT
from igpt_keras.network.config import ImageGPTConfig
from serving import Server, export
from tests.serving.conftest import build_model, random_palette, randomize
from tests.serving.page.browsing import Page, require_browser
from tests.serving.server.test_operations import save

# A model's configuration in TensorFlow Serving's format.
MODEL = 'config {{ name: "{name}" base_path: "{path}" model_platform: "tensorflow" }}'


@pytest.fixture(scope="session")
def slow_model():
    """A model whose images take seconds to complete."""
    config = ImageGPTConfig(32, vocabulary_size=8, hidden_dim=16, num_layers=1, num_heads=1)
    return randomize(ImageGPT(config, tokenizer=random_palette(8, seed=5)), seed=6)


@pytest.fixture(scope="session")
def config_file(exported, slow_model, tmp_path_factory):
    """The file of the models that the server has."""
    folder = tmp_path_factory.mktemp("served")
    export(build_model(objective="bert"), folder / "bert")
    export(slow_model, folder / "slow")
    save(folder / "foreign", lambda x: x)
    paths = {"small": exported, **{name: folder / name for name in ("slow", "bert", "foreign")}}
    models = " ".join(MODEL.format(name=name, path=path) for name, path in paths.items())
    path = folder / "models.config"
    path.write_text(f"model_config_list {{ {models} }}")
    return path


@pytest.fixture(scope="module")
def site(config_file):
    """A server of four models with the page; tests ask it and change nothing about it."""
    with Server(model_config_file=config_file, rest_port=0, page=True) as server:
        yield server


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    require_browser()
    page = Page(tmp_path_factory.mktemp("downloads"))
    yield page
    page.close()


@pytest.fixture(scope="session")
def photo():
    """An image with no two pixels alike, wider than high."""
    return np.random.default_rng(3).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def photo_file(photo, tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.fromarray(photo).save(path)
    return path
