"""Every channel of every pixel as a token, and the bits per dimension that this gives."""

import json

import numpy as np
import pytest

import igpt_keras
from igpt_keras import ImageGPT, ImageGPTConfig, InputError, RGBTokenizer
from igpt_keras.evaluation.metrics import bits_per_dimension, bits_per_pixel
from igpt_keras.tokenizers.base import deserialize, serialize
from tests.tokenizers.mean_blocks import MeanBlocks

SIZE = 4
CONFIG = ImageGPTConfig(SIZE, 256, 16, 2, 2, grid=(SIZE, 3 * SIZE))


@pytest.fixture
def images():
    return np.random.default_rng(3).integers(0, 256, (5, SIZE, SIZE, 3)).astype(np.uint8)


@pytest.fixture
def tokenizer():
    return RGBTokenizer(SIZE)


def one_by_one(image):
    """Red, green and blue of each pixel, row by row."""
    tokens = []
    for y in range(SIZE):
        for x in range(SIZE):
            for channel in range(3):
                tokens.append(int(image[y, x, channel]))
    return tokens


def test_tokens_are_the_channels_of_one_pixel_after_the_other(tokenizer, images):
    tokens = tokenizer.tokenize(images)
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens, [one_by_one(image) for image in images])
    assert tokens.reshape(-1, *tokenizer.grid)[2, 1, 3 * 2 + 1] == images[2, 1, 2, 1]


def test_nothing_is_lost(tokenizer, images):
    restored = tokenizer.detokenize(tokenizer.tokenize(images))
    assert restored.dtype == np.uint8
    np.testing.assert_array_equal(restored, images)
    several = images[:4].reshape(2, 2, SIZE, SIZE, 3)
    np.testing.assert_array_equal(tokenizer.detokenize(tokenizer.tokenize(several)), several)
    np.testing.assert_array_equal(tokenizer.reconstruction_error(images), np.zeros(len(images)))
    gray = images[..., :1]
    np.testing.assert_array_equal(
        tokenizer.detokenize(tokenizer.tokenize(gray)), np.repeat(gray, 3, axis=-1)
    )


def test_a_graph_does_the_same(tokenizer, images):
    tf = pytest.importorskip("tensorflow")
    tokens = tf.function(tokenizer.tokenize_in_graph)(images)
    assert tokens.dtype == tf.int32
    np.testing.assert_array_equal(tokens, tokenizer.tokenize(images))
    restored = tf.function(tokenizer.detokenize_in_graph)(tokens)
    assert restored.dtype == tf.uint8
    np.testing.assert_array_equal(restored, images)


@pytest.mark.parametrize("size", [0, -1, 2.0, "8", None])
def test_sizes_are_positive_integers(size):
    with pytest.raises(InputError, match="image_size must be a positive integer, got"):
        RGBTokenizer(size)


def test_other_sizes_and_values_are_named(tokenizer):
    with pytest.raises(InputError, match="images must be 4×4, got 6×6"):
        tokenizer.tokenize(np.zeros((1, 6, 6, 3), np.uint8))
    with pytest.raises(InputError, match=r"shape \[..., 48\], got \[2, 16\]"):
        tokenizer.detokenize(np.zeros((2, 16), np.int32))
    with pytest.raises(InputError, match="0…255, got 0…256"):
        tokenizer.detokenize(np.arange(257)[None])
    with pytest.raises(InputError, match="image_size=8, got a RGBTokenizer for image_size=4"):
        tokenizer.bind(8)
    with pytest.raises(InputError, match="must make 16 tokens .* with 4 × 12"):
        ImageGPT(ImageGPTConfig(SIZE, 256, 16, 1, 2), tokenizer=tokenizer)


def test_a_model_is_saved_with_it_and_no_other_file(tokenizer, tmp_path):
    model = ImageGPT(CONFIG, tokenizer=tokenizer)
    model.save_to_preset(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "tokenizer.json").read_text()) == {
        "kind": "rgb",
        "config": {"image_size": SIZE},
    }
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        *("igpt.json", "model.weights.h5", "tokenizer.json", "README.md")
    }
    loaded = igpt_keras.load(tmp_path / "model")
    assert (type(loaded.tokenizer), loaded.config) == (RGBTokenizer, CONFIG)
    again = deserialize(json.loads(json.dumps(serialize(tokenizer))))
    assert again.fingerprint() == tokenizer.fingerprint() != RGBTokenizer(8).fingerprint()


class TestAttention:
    def test_a_row_is_a_row_of_the_image(self):
        config = ImageGPTConfig(32, 256, 16, 2, 2, grid=(32, 96), attention="strided")
        assert [config.pattern(block).stride for block in (0, 1)] == [96, 96]

    def test_a_column_is_a_channel_of_a_column_of_pixels(self, tokenizer):
        config = ImageGPTConfig(
            SIZE, 256, 16, 1, 2, grid=CONFIG.grid, attention="strided", attention_layers=("column",)
        )
        # Each token tells which pixel column and channel it is.
        places = np.zeros((1, SIZE, SIZE, 3), np.uint8)
        places[0] = 3 * np.arange(SIZE)[:, None] + np.arange(3)
        place = tokenizer.tokenize(places)[0]
        positions = np.arange(config.sequence_length)
        visible = np.asarray(config.pattern(0).visible(positions[:, None], positions[None]))
        np.testing.assert_array_equal(visible, place[:, None] == place[None])


class TestLikelihood:
    def test_it_is_the_sum_over_all_channels(self, tokenizer, images, randomized):
        model = randomized(ImageGPT(CONFIG, tokenizer=tokenizer))
        logits = np.asarray(model(tokenizer.tokenize(images)), np.float64)
        logits = logits.reshape(len(images), SIZE, SIZE, 3, 256)
        expected = np.zeros(len(images))
        for index, y, x, channel in np.ndindex(images.shape):
            scores = logits[index, y, x, channel]
            expected[index] += scores[images[index, y, x, channel]] - np.logaddexp.reduce(scores)
        np.testing.assert_allclose(model.score(images), expected, rtol=1e-5)
        nll = -expected.mean() / CONFIG.sequence_length
        per_image = bits_per_dimension(model, nll) * images[0].size
        assert per_image == pytest.approx(-expected.mean() / np.log(2))

    def test_a_uniform_model_needs_the_8_bits_of_a_channel(self, tokenizer, images):
        model = ImageGPT(CONFIG, tokenizer=tokenizer)  # Its head starts at zero.
        model.compile()
        measured = model.evaluate(images, verbose=0, return_dict=True)
        assert measured["bits_per_pixel"] == pytest.approx(24, abs=1e-4)
        assert bits_per_pixel(model, measured["loss"]) == pytest.approx(24, abs=1e-4)
        assert bits_per_dimension(model, measured["loss"]) == pytest.approx(8, abs=1e-4)

    def test_only_whole_images_have_bits_per_dimension(self, palette, tokenizer):
        blocks = ImageGPTConfig(SIZE, 4, 16, 1, 2, grid=(2, 2))
        for model in (
            ImageGPT(CONFIG),
            ImageGPT(CONFIG, "bert", tokenizer=tokenizer),
            ImageGPT(ImageGPTConfig(SIZE, 8, 16, 1, 2), tokenizer=palette),
            ImageGPT(blocks, tokenizer=MeanBlocks(SIZE)),
        ):
            assert bits_per_dimension(model, 1.0) is None
        # A token of four pixels.
        assert bits_per_pixel(model, np.log(2)) == 1 / 4
        assert bits_per_pixel(model, None) is None
