import numpy as np
import pytest

from igpt_keras import ColorPalette
from igpt_keras.evaluation.reconstructions import Reconstructions, pictures_of_tokens
from igpt_keras.tokenizers import ImageTokenizer


class Halves(ImageTokenizer):
    """Two tokens an image, the gray levels of its upper and its lower half."""

    kind = "halves"
    vocabulary_size = 256
    grid = (2, 1)
    image_size = 4

    def get_config(self):
        return {}

    def _tokenize(self, images):
        halves = images.reshape(len(images), 2, -1).mean(axis=-1)
        return np.rint(halves).astype(np.int32)

    def _detokenize(self, tokens):
        rows = tokens.astype(np.uint8).repeat(2, axis=1)[:, :, None, None]
        return np.broadcast_to(rows, (len(tokens), 4, 4, 3))


def test_errors_and_the_usage_of_tokens():
    images = np.zeros((3, 4, 4, 3), np.uint8)
    images[0, :2] = 10
    images[1, :2, :2] = 20  # The mean is 10: an error of 10 in half of the pixels.
    made = Reconstructions.of(Halves(), images)
    np.testing.assert_array_equal(made.restored[1, :2], 10)
    np.testing.assert_allclose(made.errors, [0, np.sqrt(50), 0])
    assert made.rmse == pytest.approx(np.sqrt(50 / 3))
    assert made.psnr == pytest.approx(10 * np.log10(255**2 * 3 / 50))
    # Of six tokens, two are 10 and four are 0.
    assert made.used_share == 2 / 256
    assert made.perplexity == pytest.approx(3 ** (1 / 3) * 1.5 ** (2 / 3))
    assert str(made) == ("RMSE 4.08 of 255, PSNR 35.9 dB; 2 of 256 tokens used, perplexity 1.9")
    assert Reconstructions.of(Halves(), images[::2]).error_text() == "no error"


def test_the_picture_of_a_token_is_a_part_of_an_image_of_it(palette):
    pictures = pictures_of_tokens(Halves())
    assert pictures.shape == (256, 2, 4, 3)
    assert (pictures == np.arange(256)[:, None, None, None]).all()
    colors = pictures_of_tokens(palette.bind(8))
    np.testing.assert_array_equal(colors[:, 0, 0], palette.rgb)
    many = ColorPalette(np.random.default_rng(0).uniform(-1, 1, (2000, 3)))
    assert len(pictures_of_tokens(many.bind(2))) == 1024
