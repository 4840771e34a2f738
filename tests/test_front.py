"""The package's front: its names, what importing it costs, and `.keras` files after it."""

import importlib
import os
import subprocess
import sys

import pytest

import igpt_keras
from igpt_keras import ImageGPT

NAMES = [
    "ColorPalette",
    "Completions",
    "ImageGPT",
    "ImageGPTBackbone",
    "ImageGPTClassifier",
    "ImageGPTConfig",
    "ImageTokenizer",
    "InputError",
    "RGBTokenizer",
    "VQVAE",
    "data",
    "load",
    "open_data",
    "samplers",
]


def run(program):
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ
    )


def test_the_public_names():
    assert sorted(igpt_keras.__all__) == NAMES
    assert set(NAMES) <= set(dir(igpt_keras))
    for name in NAMES:
        assert getattr(igpt_keras, name) is not None
    assert igpt_keras.data is importlib.import_module("igpt_keras.data")
    assert igpt_keras.samplers is importlib.import_module("igpt_keras.sampling.samplers")
    assert igpt_keras.__version__ == "0.2.0"
    with pytest.raises(AttributeError, match="no attribute 'Completion'"):
        igpt_keras.Completion  # noqa: B018


def test_importing_the_package_imports_neither_keras_nor_tensorflow():
    answer = run(
        "import sys, igpt_keras; igpt_keras.InputError; igpt_keras.ColorPalette\n"
        "from igpt_keras.tokenizers import tokenizers; assert 'vqvae' in tokenizers.names()\n"
        "print({'keras', 'tensorflow', 'sklearn'} & set(sys.modules))"
    )
    assert answer.stdout.strip() == "set()", answer.stderr


@pytest.fixture(scope="module")
def keras_files(tmp_path_factory):
    config = igpt_keras.ImageGPTConfig(4, 8, 16, 2, 2)
    model = ImageGPT(config, tokenizer=igpt_keras.ColorPalette([[k / 8] * 3 for k in range(8)]))
    folder = tmp_path_factory.mktemp("keras")
    model.save(folder / "model.keras")
    igpt_keras.ImageGPTClassifier.from_preset(model, 3).save(folder / "classifier.keras")
    model.backbone.save(folder / "backbone.keras")
    igpt_keras.VQVAE(4, 1, codebook_size=8).save(folder / "vqvae.keras")
    return folder


@pytest.mark.parametrize(
    "imports",
    [
        "import igpt_keras.network.layers; import keras",
        *(
            pytest.param(imports, marks=pytest.mark.slow)
            for imports in (
                "import igpt_keras; import keras",
                "import keras; import igpt_keras",
                "import igpt_keras.tokenizers; import keras",
                "import igpt_keras; import tensorflow; import keras",
            )
        ),
    ],
)
def test_keras_finds_the_classes_in_any_order_of_imports(keras_files, imports):
    program = f"""
{imports}
folder = {str(keras_files)!r}
model = keras.saving.load_model(folder + "/model.keras")
assert type(model) is igpt_keras.ImageGPT, type(model)
assert model.tokenizer.vocabulary_size == 8
classifier = keras.saving.load_model(folder + "/classifier.keras")
assert type(classifier) is igpt_keras.ImageGPTClassifier
backbone = keras.saving.load_model(folder + "/backbone.keras")
assert type(backbone) is igpt_keras.ImageGPTBackbone
vqvae = keras.saving.load_model(folder + "/vqvae.keras")
assert type(vqvae) is igpt_keras.VQVAE
print("found")
"""
    answer = run(program)
    assert answer.stdout.strip() == "found", answer.stderr
