"""Tokens that stand for several pixels each."""

import numpy as np
import pytest
from keras import ops

from igpt_keras import ImageGPT, ImageGPTConfig, InputError
from igpt_keras.network.losses import token_nll
from igpt_keras.sampling.drafts import NeighborDraft
from igpt_keras.tokenizers.base import ImageTokenizer


class Patches(ImageTokenizer):
    """The gray level of 2 × 4 pixels in 8 steps."""

    vocabulary_size = 8
    image_size = 8
    grid = (4, 2)

    def get_config(self):
        return {}

    def _tokenize(self, images):
        gray = images.reshape(-1, 4, 2, 2, 4, 3).mean(axis=(2, 4, 5))
        return (gray / 32).astype(np.int32).reshape(len(images), 8)

    def _detokenize(self, tokens):
        gray = (tokens.reshape(-1, 4, 2) * 32 + 16).astype(np.uint8)
        pixels = gray.repeat(2, axis=1).repeat(4, axis=2)
        return np.stack([pixels] * 3, axis=-1)


@pytest.fixture(params=["ar", "bert"])
def model(request, randomized):
    config = ImageGPTConfig(8, 8, 16, 2, 2, grid=(4, 2))
    return randomized(ImageGPT(config, request.param, tokenizer=Patches()))


@pytest.fixture
def images():
    return np.random.default_rng(7).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)


def test_kept_rows_of_pixels_are_rows_of_tokens(model, images):
    completed = model.generate(images, keep_rows=4, num_completions=2, seed=1)
    assert completed.images.shape == (3, 2, 8, 8, 3)
    assert completed.entropy.shape == (3, 2, 4, 2)
    tokens = model.tokenizer.tokenize(images)
    np.testing.assert_array_equal(completed.tokens[:, 0, :4], tokens[:, :4])
    assert (completed.tokens[:, 0, 4:] != completed.tokens[:, 1, 4:]).any()
    sampled = model.tokenizer.detokenize(completed.tokens)
    np.testing.assert_array_equal(completed.images[:, :, 4:], sampled[:, :, 4:])
    np.testing.assert_array_equal(completed.images[:, 1, :4], images[:, :4])
    mask = np.arange(8)[:, None] < [4] * 8
    np.testing.assert_array_equal(
        model.generate(images, known_mask=mask, num_completions=2, seed=1).tokens,
        completed.tokens,
    )


def test_likelihoods_are_those_of_the_full_forward_pass(model, images):
    completed = model.generate(images, keep_rows=2, seed=1)
    if model.objective == "bert":
        assert completed.total_log_likelihood is None
        with pytest.raises(InputError):
            model.score(images)
        return
    tokens = completed.tokens[:, 0]
    log_probs = -ops.convert_to_numpy(token_nll(tokens, model(tokens)))
    np.testing.assert_allclose(completed.total_log_likelihood[:, 0], log_probs.sum(1), atol=1e-4)
    scores = model.score(model.tokenizer.detokenize(tokens), per_pixel=True)
    np.testing.assert_allclose(scores, log_probs.reshape(3, 4, 2), atol=1e-4)


def test_kept_rows_need_not_be_rows_of_tokens(model, images):
    """Tokens of which a part is known are sampled; the known pixels come back all the same."""
    completed = model.generate(images, keep_rows=3, num_completions=2, seed=1)
    tokens = model.tokenizer.tokenize(images)
    np.testing.assert_array_equal(completed.tokens[:, 0, :2], tokens[:, :2])
    assert (completed.tokens[:, 0, 2:4] != completed.tokens[:, 1, 2:4]).any()
    np.testing.assert_array_equal(completed.images[:, 1, :3], images[:, :3])
    sampled = model.tokenizer.detokenize(completed.tokens)
    np.testing.assert_array_equal(completed.images[:, :, 3:], sampled[:, :, 3:])


def test_a_draft_for_other_sizes_is_refused(images, randomized):
    model = randomized(ImageGPT(ImageGPTConfig(8, 8, 16, 2, 2, grid=(4, 2)), tokenizer=Patches()))
    draft = NeighborDraft(np.zeros((8, 8)), np.zeros((4, 9, 8)), columns=4)
    with pytest.raises(InputError, match="draft must have .* 4 × 2 tokens .*, got .* 2 × 4 tokens"):
        model.generate(images, keep_rows=2, draft=draft)
