import functools
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image

import igpt_keras
from igpt_keras.pictures.contact_sheets import save_png
from tests.training.replicas import free_ports

CLASSES = ["dark", "light"]


@pytest.fixture
def two_workers():
    """Runs the command line in two processes that train together, until both ended well."""

    def run(*arguments):
        workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
        command = [pathlib.Path(sys.executable).with_name("igpt"), *map(str, arguments)]
        processes = []
        for index in range(2):
            cluster = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
            environment = {**os.environ, "TF_CONFIG": json.dumps(cluster)}
            processes.append(subprocess.Popen(command, env=environment))
        try:
            assert [process.wait(timeout=300) for process in processes] == [0, 0]
        finally:
            for process in processes:
                process.kill()

    return run


@pytest.fixture(scope="session")
def write_photos():
    """Writes a folder of 40 images to train and 12 to test, 4×4, dark or light with exceptions."""

    def write(folder):
        generator = np.random.default_rng(0)
        for split, count in (("train", 20), ("test", 6)):
            for label, name in enumerate(CLASSES):
                (folder / split / name).mkdir(parents=True)
                for index in range(count):
                    brightness = generator.normal(100 + 60 * label, 40, (4, 4, 3))
                    image = Image.fromarray(brightness.clip(0, 255).astype(np.uint8))
                    save_png(image, folder / split / name / f"{index}.png")
        return folder

    return write


@pytest.fixture
def photos(tmp_path, write_photos):
    return write_photos(tmp_path / "photos")


@pytest.fixture(scope="session")
def write_pretrained(config, randomized):
    """Writes a model with weights as if trained into a folder, `objective` in its path."""

    def write(
        folder,
        objective,
        model_class=igpt_keras.ImageGPT,
        palette=True,
        seed=5,
        overwrite=False,
        **settings,
    ):
        generator = np.random.default_rng(1)
        colors = igpt_keras.ColorPalette(generator.uniform(-1, 1, (8, 3))) if palette else None
        keras.utils.set_random_seed(0)
        model = randomized(
            model_class(config, objective=objective, tokenizer=colors, **settings), seed
        )
        path = folder / f"{model_class.__name__}-{objective}"
        about = {"name": "before", "data": "folder:x", "step": 7}
        model.save_to_preset(path, training=about, overwrite=overwrite)
        return path

    return write


@pytest.fixture
def pretrained(tmp_path, write_pretrained):
    return functools.partial(write_pretrained, tmp_path)
