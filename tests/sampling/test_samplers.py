import numpy as np
import pytest
import tensorflow as tf

from igpt_keras.sampling.samplers import draw, gumbel_noise, restrict

SETTINGS = [(1, 0, 1), (0.5, 0, 1), (2, 3, 1), (1, 0, 0.6), (1.5, 5, 0.7), (1, 1, 1), (1, 0, 1e-6)]


def noise_of(seeds, first_row, num_rows, row_length=4, vocabulary_size=8):
    seeds = tf.constant(seeds, tf.int64)
    return gumbel_noise(seeds, first_row, num_rows, row_length, vocabulary_size)


def test_noise_is_standard_gumbel():
    noise = np.sort(noise_of(np.arange(4), 0, 8, 320, 50).numpy().ravel())
    distribution = np.exp(-np.exp(-noise.astype(np.float64)))
    empirical = (np.arange(len(noise)) + 0.5) / len(noise)
    # Kolmogorov: above 2 / sqrt(count) with a chance of 0.0007.
    assert np.abs(distribution - empirical).max() < 2 / np.sqrt(len(noise))
    assert np.isfinite(noise).all()


def test_noise_depends_on_seed_and_position_only():
    whole = noise_of([3, 5, 7], 0, 4).numpy()
    assert whole.shape == (16, 3, 8)
    for row in range(4):
        np.testing.assert_array_equal(noise_of([3, 5, 7], row, 1), whole[4 * row : 4 * row + 4])
    np.testing.assert_array_equal(noise_of([7, 5], 1, 2), whole[4:12, [2, 1]])
    assert len(np.unique(whole)) == whole.size


@pytest.mark.parametrize("jit_compile", [False, True])
def test_noise_of_a_graph_is_that_of_eager_calls(jit_compile):
    compiled = tf.function(lambda: noise_of([3, 1 << 62], 2, 2), jit_compile=jit_compile)
    np.testing.assert_allclose(compiled(), noise_of([3, 1 << 62], 2, 2), rtol=1e-5, atol=1e-5)


def exact_distribution(logits, temperature, top_k, top_p):
    """Temperature, top-k, top-p applied one after the other to one row of logits."""
    probabilities = np.exp((logits - logits.max()) / temperature)
    order = np.argsort(-probabilities, kind="stable")
    if top_k:
        probabilities[order[top_k:]] = 0
    probabilities /= probabilities.sum()
    mass = 0.0
    for token in order:
        if mass >= top_p:
            probabilities[token] = 0
        mass += probabilities[token]
    return probabilities / probabilities.sum()


def settings(count, temperature, top_k, top_p):
    return tf.fill([count], float(temperature)), tf.fill([count], top_k), tf.fill([count], top_p)


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), SETTINGS)
def test_draws_follow_the_exact_distribution(temperature, top_k, top_p):
    logits = np.random.default_rng(10).normal(0, 1.5, 8).astype(np.float32)
    expected = exact_distribution(logits.astype(np.float64), temperature, top_k, top_p)
    count = 64_000
    noise = tf.reshape(noise_of(np.arange(5), 0, 10, 1280), [count, 8])
    drawn = draw(
        tf.constant(np.tile(logits, (count, 1))),
        noise,
        *settings(count, temperature, top_k, float(top_p)),
    )
    counts = np.bincount(drawn, minlength=8)
    assert not counts[expected == 0].any()
    possible = expected > 0
    means = count * expected[possible]
    chi_square = ((counts[possible] - means) ** 2 / means).sum()
    freedom = possible.sum() - 1
    assert chi_square <= freedom + 5 * np.sqrt(2 * freedom)


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), SETTINGS)
def test_what_is_drawn_from_is_that_of_hugging_face(temperature, top_k, top_p):
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")
    logits = np.random.default_rng(11).normal(0, 2, (20, 30)).astype(np.float32)
    expected = process.TemperatureLogitsWarper(float(temperature))(None, torch.tensor(logits))
    if top_k:
        expected = process.TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = process.TopPLogitsWarper(top_p)(None, expected)
    restricted = restrict(tf.constant(logits), *settings(20, temperature, top_k, float(top_p)))
    np.testing.assert_allclose(restricted, expected, rtol=1e-6)


def test_every_row_has_its_own_settings():
    logits = np.random.default_rng(12).normal(0, 1, (len(SETTINGS), 8)).astype(np.float32)
    columns = [np.array(column) for column in zip(*SETTINGS, strict=True)]
    columns = [columns[0].astype(np.float32), columns[1], columns[2].astype(np.float32)]
    together = restrict(tf.constant(logits), *map(tf.constant, columns))
    for index in range(len(SETTINGS)):
        alone = [tf.constant(column[index : index + 1]) for column in columns]
        row = restrict(tf.constant(logits[index : index + 1]), *alone)
        np.testing.assert_allclose(together[index], row[0], rtol=1e-6)


def test_more_than_all_colors_are_all():
    logits = tf.constant([[0.0, 2.0, 1.0]])
    np.testing.assert_array_equal(restrict(logits, *settings(1, 1, 9, 1.0)), logits)


def test_greedy_draw_takes_the_first_of_equal_logits():
    logits = tf.constant([[0.0, 2.0, 2.0]])
    drawn = draw(logits, tf.constant([[0.0, 0.0, 9.0]]), *settings(1, 0, 0, 1.0))
    assert drawn.numpy() == [1]
