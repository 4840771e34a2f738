"""What any tokenizer can do, shown by one whose tokens are blocks of pixels."""

import json

import keras
import numpy as np
import pytest

import igpt_keras
from igpt_keras import ColorPalette, ImageGPT, ImageGPTClassifier, ImageGPTConfig, InputError
from igpt_keras.tokenizers import ImageTokenizer, load_tokenizer, register_tokenizer, tokenizers
from igpt_keras.tokenizers.base import deserialize, serialize, tokenizer_of
from tests.tokenizers.mean_blocks import MeanBlocks

LEVELS = [0, 80, 160, 255]
# 4 × 4 pixels, in blocks of 2 × 2.
CONFIG = ImageGPTConfig(4, 4, 16, 2, 2, grid=(2, 2))


@pytest.fixture
def blocks():
    return MeanBlocks(4, levels=LEVELS)


@pytest.fixture
def images():
    return np.random.default_rng(3).integers(0, 256, (6, 4, 4, 3)).astype(np.uint8)


@pytest.fixture
def model(blocks, randomized):
    return randomized(ImageGPT(CONFIG, tokenizer=blocks))


def test_the_shapes_are_those_of_the_grid(blocks, images):
    tokens = blocks.tokenize(images)
    assert (tokens.shape, tokens.dtype) == ((6, 4), np.int32)
    expected = np.abs(images[1, :2, 2:].mean() - np.array(LEVELS)).argmin()
    assert tokens[1, 1] == expected
    restored = blocks.detokenize(tokens)
    assert (restored.shape, restored.dtype) == ((6, 4, 4, 3), np.uint8)
    assert (restored[1, :2, 2:] == LEVELS[expected]).all()
    several = blocks.detokenize(tokens.reshape(2, 3, 4))
    np.testing.assert_array_equal(several, restored.reshape(2, 3, 4, 4, 3))
    np.testing.assert_array_equal(blocks.tokenize(several), tokens.reshape(2, 3, 4))
    error = np.sqrt(((restored[2].astype(float) - images[2]) ** 2).mean())
    assert blocks.reconstruction_error(images)[2] == pytest.approx(error)


def test_unusable_input_is_named(blocks):
    with pytest.raises(InputError, match="images must be 4×4, got 6×6"):
        blocks.tokenize(np.zeros((1, 6, 6, 3), np.uint8))
    with pytest.raises(InputError, match=r"shape \[..., 4\], got \[2, 16\]"):
        blocks.detokenize(np.zeros((2, 16), np.int32))
    with pytest.raises(InputError, match="0…3, got 4…4"):
        blocks.detokenize(np.full((2, 4), 4))
    with pytest.raises(InputError, match="MeanBlocks cannot be part of a TensorFlow graph"):
        blocks.detokenize_in_graph(np.zeros((2, 4), np.int32))


def test_binding_to_another_size_is_refused(blocks):
    assert blocks.bind(4) is blocks
    with pytest.raises(InputError, match="image_size=8, got a MeanBlocks for image_size=4"):
        blocks.bind(8)


class TestInAModel:
    def test_it_has_to_fit(self, blocks):
        for config, message in (
            (ImageGPTConfig(8, 4, 16, 1, 2, grid=(2, 2)), "for image_size=8"),
            (ImageGPTConfig(4, 5, 16, 1, 2, grid=(2, 2)), "vocabulary_size=5, got a .* with 4"),
            (ImageGPTConfig(4, 4, 16, 1, 2), "must make 16 tokens .* with 2 × 2"),
            (ImageGPTConfig(4, 4, 16, 1, 2, grid=(1, 4)), "4 tokens .*, 1 × 4, got .* 2 × 2"),
        ):
            with pytest.raises(InputError, match=message):
                ImageGPT(config, tokenizer=blocks)

    def test_it_is_bound_to_the_models_size(self):
        palette = ColorPalette(np.eye(3))
        model = ImageGPT(ImageGPTConfig(4, 3, 16, 1, 2), tokenizer=palette)
        assert (model.tokenizer.image_size, palette.image_size) == (4, None)
        model.tokenizer = None
        with pytest.raises(InputError, match="tokenizer is missing: this ImageGPT has none"):
            tokenizer_of(model)

    def test_bits_are_those_of_all_tokens_for_each_pixel(self, model, images):
        model.compile()
        result = model.evaluate(images, verbose=0, return_dict=True)
        # 4 tokens for 16 pixels.
        assert result["bits_per_pixel"] == pytest.approx(4 * result["loss"] / np.log(2) / 16)
        bits = -model.score(images).mean() / np.log(2) / 16
        assert result["bits_per_pixel"] == pytest.approx(bits, rel=1e-4)

    @pytest.mark.slow
    def test_models_learn_from_images(self, blocks, images):
        """The loss falls to that of the tokens, and images and tokens give the same."""
        model = ImageGPT(CONFIG, tokenizer=blocks)
        model.compile(keras.optimizers.Adam(1e-2))
        losses = model.fit(images, epochs=60, batch_size=6, verbose=0).history["loss"]
        assert losses[0] == pytest.approx(np.log(4), abs=0.1)
        assert losses[-1] < 0.7
        tokens = blocks.tokenize(images)
        assert model.evaluate(images, verbose=0) == model.evaluate(tokens, verbose=0)
        classifier = ImageGPTClassifier.from_preset(model, num_classes=2)
        assert classifier.predict(images, verbose=0).shape == (6, 2)

    @pytest.mark.parametrize("name", ["folder", "model.keras"])
    def test_it_is_saved_with_the_model(self, model, images, tmp_path, name):
        path = tmp_path / name
        model.save_to_preset(path) if name == "folder" else model.save(path)
        loaded = igpt_keras.load(path)
        assert type(loaded.tokenizer) is MeanBlocks
        np.testing.assert_array_equal(loaded.tokenizer.levels, LEVELS)
        assert loaded.config == CONFIG
        np.testing.assert_array_equal(
            loaded.predict(images, verbose=0), model.predict(images, verbose=0)
        )

    def test_weights_of_a_tokenizer_are_not_the_models(self):
        @register_tokenizer("layer")
        class Layer(keras.layers.Layer, ImageTokenizer):
            vocabulary_size = 4
            grid = (2, 2)
            image_size = 4

            def _tokenize(self, images):
                raise NotImplementedError

            _detokenize = _tokenize

        layer = Layer()
        layer.add_weight(shape=(3,), name="codes")
        model = ImageGPT(CONFIG, tokenizer=layer)
        assert model.tokenizer is layer
        assert len(model.weights) == len(ImageGPT(CONFIG).weights)


class TestSaved:
    def test_descriptions_are_json(self, palette):
        description = json.loads(json.dumps(serialize(palette.bind(4))))
        again = deserialize(description)
        assert (type(again), again.image_size) == (ColorPalette, 4)
        assert again.fingerprint() == palette.fingerprint()
        assert serialize(None) is deserialize(None) is None

    @pytest.mark.parametrize(
        ("description", "message"),
        [
            ({"kind": "vq", "config": {}}, "tokenizer must be one of .*color_palette.*, got 'vq'"),
            ({"kind": "color_palette"}, '"kind" and "config", got'),
            ([], '"kind" and "config", got'),
        ],
    )
    def test_unusable_descriptions_are_named(self, description, message):
        with pytest.raises(InputError, match=message):
            deserialize(description)

    def test_a_folder_has_the_kind_and_the_files(self, blocks, palette, tmp_path):
        blocks.save_to_preset(tmp_path)
        np.testing.assert_array_equal(ImageTokenizer.from_preset(tmp_path).levels, LEVELS)
        with pytest.raises(InputError, match="describes a MeanBlocks, not a ColorPalette"):
            ColorPalette.from_preset(tmp_path)
        palette.save_to_preset(tmp_path)
        np.testing.assert_array_equal(np.load(tmp_path / "palette.npy"), palette.colors)
        description = json.loads((tmp_path / "tokenizer.json").read_text())
        assert description == {"kind": "color_palette", "config": {"image_size": None}}
        (tmp_path / "tokenizer.json").write_text('{"kind": "mean_blocks", "config": {"size": 4}}')
        with pytest.raises(InputError, match="tokenizer.json does not describe a tokenizer"):
            load_tokenizer(tmp_path)

    def test_a_missing_file_is_named(self, palette, tmp_path):
        palette.save_to_preset(tmp_path)
        (tmp_path / "palette.npy").unlink()
        with pytest.raises(InputError, match="palette.npy is missing; .*tokenizer.json needs it"):
            load_tokenizer(tmp_path)

    def test_a_published_palette_is_enough(self, palette, tmp_path):
        assert load_tokenizer(tmp_path) is None
        palette.save(tmp_path / "palette.npy")
        assert load_tokenizer(tmp_path).fingerprint() == palette.fingerprint()


def test_a_fingerprint_is_that_of_the_content():
    def fingerprint(*arguments):
        return MeanBlocks(*arguments).fingerprint()

    assert fingerprint(4, 4) == fingerprint(4, 4)
    assert len({fingerprint(4, 4), fingerprint(4, 5), fingerprint(6, 4)}) == 3
    # The levels are in no setting, only in the tokenizer's file.
    assert fingerprint(4, 2, [0, 255]) == fingerprint(4, 2, [0, 255])
    assert fingerprint(4, 2, [0, 255]) != fingerprint(4, 2, [0, 254])


def test_kinds_are_registered():
    assert tokenizers.get("color_palette") is ColorPalette
    assert tokenizers.get("mean_blocks") is MeanBlocks
    with pytest.raises(ValueError, match="'mean_blocks' is registered already"):
        register_tokenizer("mean_blocks")(ColorPalette)
