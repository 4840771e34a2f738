import numpy as np
import pytest

from igpt_keras.network.losses import autoregressive_nll, masked_nll, token_nll


def log_softmax(logits):
    logits = logits.astype(np.float64)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


@pytest.fixture
def logits():
    return np.random.default_rng(3).normal(0, 2, (6, 16, 8)).astype(np.float32)


@pytest.fixture
def nll(tokens, logits):
    table = -log_softmax(logits)
    return np.array([[table[b, i, tokens[b, i]] for i in range(16)] for b in range(6)])


def test_token_nats_is_the_negative_log_probability(tokens, logits, nll):
    np.testing.assert_allclose(token_nll(tokens, logits), nll, atol=1e-5)


def test_autoregressive_nats_is_the_mean_over_positions(tokens, logits, nll):
    np.testing.assert_allclose(autoregressive_nll(tokens, logits), nll.mean(axis=1), atol=1e-5)


def test_masked_nats_is_the_mean_over_the_masked_positions_of_each_image(tokens, logits, nll):
    masked = np.random.default_rng(4).random((6, 16)) < 0.3
    masked[2] = False
    masked[3] = True
    expected = [
        row[mask].mean() if mask.any() else 0 for row, mask in zip(nll, masked, strict=True)
    ]
    np.testing.assert_allclose(masked_nll(tokens, logits, masked), expected, atol=1e-5)
