import json
import pathlib
import shutil

import keras
import numpy as np
import pytest
from keras import ops

from igpt_keras import ImageGPT, ImageGPTClassifier, InputError
from igpt_keras.models import load

FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures"
CHECKPOINT = "model.ckpt-1000000"


@pytest.fixture
def model(config, palette, randomized):
    return randomized(ImageGPT(config, tokenizer=palette))


def assert_same(ours, other, tokens):
    expected, logits = ops.convert_to_numpy(other(tokens)), ops.convert_to_numpy(ours(tokens))
    assert np.abs(expected).max() > 0.1
    assert np.array_equal(logits, expected)
    assert np.array_equal(ours.tokenizer.colors, other.tokenizer.colors)


class TestAcceptedForms:
    def test_model_folder(self, model, tokens, tmp_path):
        model.save_to_preset(tmp_path / "model")
        assert_same(load(tmp_path / "model"), model, tokens)
        assert_same(load(str(tmp_path / "model")), model, tokens)

    def test_keras_file(self, model, tokens, tmp_path):
        model.save(tmp_path / "model.keras")
        assert_same(load(tmp_path / "model.keras"), model, tokens)

    def test_hugging_face_folder(self):
        assert type(load(FIXTURES / "hf" / "causal")) is ImageGPT
        assert type(load(FIXTURES / "hf" / "classification")) is ImageGPTClassifier

    def test_checkpoint(self):
        pytest.importorskip("tensorflow")
        by_prefix = load(FIXTURES / "openai_bert" / CHECKPOINT)
        by_folder = load(FIXTURES / "openai_ar")
        assert (by_prefix.objective, by_folder.objective) == ("bert", "ar")


class TestErrors:
    @pytest.mark.parametrize("name", ["nothing", "nothing.keras", "nothing.index"])
    def test_nothing_there(self, tmp_path, name):
        with pytest.raises(FileNotFoundError, match=f"{name} does not exist; expected .*prefix"):
            load(tmp_path / name)

    def test_empty_folder(self, tmp_path):
        forms = "model folder of igpt.*keras file.*Hugging Face folder.*prefix"
        with pytest.raises(InputError, match=f"is not a model; expected a {forms}"):
            load(tmp_path)

    def test_other_file(self, tmp_path):
        (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8")
        with pytest.raises(InputError, match="photo.jpg is not a model"):
            load(tmp_path / "photo.jpg")

    @pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
    def test_file_of_a_checkpoint(self, suffix):
        prefix = FIXTURES / "openai_ar" / CHECKPOINT
        with pytest.raises(InputError, match=f"give its prefix, {prefix}$"):
            load(f"{prefix}{suffix}")

    def test_other_config(self, tmp_path):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
        with pytest.raises(InputError, match="config.json: model_type .*'gpt2'"):
            load(tmp_path)

    def test_checkpoint_that_is_gone(self, tmp_path):
        pytest.importorskip("tensorflow")
        shutil.copy(FIXTURES / "openai_ar" / "checkpoint", tmp_path)
        with pytest.raises(InputError, match="names no checkpoint"):
            load(tmp_path)

    def test_keras_file_of_another_model(self, tmp_path):
        other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        other.save(tmp_path / "other.keras")
        with pytest.raises(InputError, match="other.keras holds a 'Sequential', not an ImageGPT"):
            load(tmp_path / "other.keras")

    @pytest.mark.parametrize("part", [0, 0.5, 0.99])
    def test_truncated_keras_file(self, model, tmp_path, part):
        file = tmp_path / "model.keras"
        model.save(file)
        content = file.read_bytes()
        file.write_bytes(content[: int(part * len(content))])
        with pytest.raises(InputError, match="model.keras is damaged"):
            load(file)

    def test_flipped_bits_in_keras_file(self, model, tmp_path):
        file = tmp_path / "model.keras"
        model.save(file)
        content = bytearray(file.read_bytes())
        for position in range(len(content) // 3, len(content) // 2, 7):
            content[position] ^= 255
        file.write_bytes(content)
        with pytest.raises(InputError, match="model.keras is damaged"):
            load(file)


def test_a_checkpoint_without_tensorflow(jax_interpreter):
    """The package is importable, and says what is missing."""
    printed = jax_interpreter.run(
        """
        import sys, igpt_keras
        try:
            igpt_keras.load(sys.argv[1])
        except igpt_keras.InputError as error:
            print(error)
        """,
        FIXTURES / "openai_ar" / CHECKPOINT,
    )
    assert "openai_ar" in printed
    assert "needs TensorFlow's checkpoint reader: pip install tensorflow" in printed
