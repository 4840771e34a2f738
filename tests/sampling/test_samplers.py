import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from igpt_keras import InputError
from igpt_keras.sampling.gumbel import gumbel_noise, sample_token
from igpt_keras.sampling.samplers import (
    Categorical,
    Greedy,
    Sampler,
    TopK,
    TopP,
    get_sampler,
    parameter,
    register_sampler,
    sampler_names,
)

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


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), SETTINGS)
def test_draws_follow_the_exact_distribution(temperature, top_k, top_p):
    logits = np.random.default_rng(10).normal(0, 1.5, 8).astype(np.float32)
    expected = exact_distribution(logits.astype(np.float64), temperature, top_k, top_p)
    count = 64_000
    noise = tf.reshape(noise_of(np.arange(5), 0, 10, 1280), [count, 8])
    sampler = Categorical(temperature, top_k, top_p)
    drawn = sample_token(tf.constant(np.tile(logits, (count, 1))), noise, sampler)
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
    filtered = Categorical(temperature, top_k, top_p).filter_logits(tf.constant(logits))
    np.testing.assert_allclose(filtered, expected, rtol=1e-6)


def test_every_row_has_its_own_settings():
    logits = np.random.default_rng(12).normal(0, 1, (len(SETTINGS), 8)).astype(np.float32)
    columns = [np.array(column) for column in zip(*SETTINGS, strict=True)]
    columns = [columns[0].astype(np.float32), columns[1], columns[2].astype(np.float32)]
    together = Categorical(*map(tf.constant, columns)).filter_logits(tf.constant(logits))
    for index, settings in enumerate(SETTINGS):
        row = Categorical(*settings).filter_logits(tf.constant(logits[index : index + 1]))
        np.testing.assert_allclose(together[index], row[0], rtol=1e-6)


def test_more_than_all_colors_are_all():
    logits = tf.constant([[0.0, 2.0, 1.0]])
    np.testing.assert_array_equal(Categorical(top_k=9).filter_logits(logits), logits)


@pytest.mark.parametrize("sampler", [Greedy(), Categorical(0), TopK(2, 0), TopP(0.5, 0)])
def test_greedy_draws_take_the_first_of_equal_logits(sampler):
    logits = tf.constant([[0.0, 2.0, 2.0]])
    drawn = sample_token(logits, tf.constant([[0.0, 0.0, 9.0]]), sampler)
    assert drawn.numpy() == [1]


@pytest.mark.parametrize(
    ("sampler", "categorical"),
    [
        (TopK(3), Categorical(top_k=3)),
        (TopK(3, 0.7), Categorical(0.7, top_k=3)),
        (TopP(0.8), Categorical(top_p=0.8)),
        (TopP(0.8, 1.5), Categorical(1.5, top_p=0.8)),
    ],
)
def test_samplers_of_one_kind_are_the_categorical_one(sampler, categorical):
    logits = tf.constant(np.random.default_rng(13).normal(0, 2, (50, 8)).astype(np.float32))
    np.testing.assert_array_equal(sampler.filter_logits(logits), categorical.filter_logits(logits))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Categorical(-0.1), "temperature must be finite and >= 0, got -0.1"),
        (lambda: Categorical(float("nan")), "temperature .* got nan"),
        (lambda: Categorical(float("inf")), "temperature .* got inf"),
        (lambda: Categorical("hot"), "temperature .* got hot"),
        (lambda: Categorical(top_k=-1), "top_k must be an integer >= 0 .* got -1"),
        (lambda: Categorical(top_k=1 << 31), "top_k .* got 2147483648"),
        (lambda: Categorical(top_k=2.0), "top_k .* got 2.0"),
        (lambda: Categorical(top_p=0), "top_p must be above 0 and at most 1, got 0"),
        (lambda: Categorical(top_p=1.5), "top_p .* got 1.5"),
        (lambda: Categorical(top_p=float("nan")), "top_p .* got nan"),
        (lambda: TopK(0), "k must be an integer >= 1, got 0"),
        (lambda: TopP(0.0), "p must be above 0 and at most 1, got 0.0"),
        (lambda: TopP(0.9, -1), "temperature must be finite and >= 0, got -1"),
    ],
)
def test_fields_out_of_range_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_fields_describe_themselves():
    fields = {field.name: field for field in Categorical.parameters()}
    assert [(name, str(field.dtype), field.default) for name, field in fields.items()] == [
        ("temperature", "float32", 1.0),
        ("top_k", "int32", 0),
        ("top_p", "float32", 1.0),
    ]
    assert all(field.help.endswith(".") for field in fields.values())
    allowed = fields["top_p"].allows(tf.constant([0.0, 0.5, 1.0, 1.5, np.nan]))
    np.testing.assert_array_equal(allowed, [False, True, True, False, False])
    arrays = Categorical(0.5, top_k=3).arrays(2)
    assert {name: (array.dtype.name, array.tolist()) for name, array in arrays.items()} == {
        "temperature": ("float32", [0.5, 0.5]),
        "top_k": ("int32", [3, 3]),
        "top_p": ("float32", [1.0, 1.0]),
    }


def test_a_sampler_of_ones_own_is_found_and_used(plain_model, images):
    @register_sampler("second best")
    @dataclasses.dataclass(frozen=True)
    class SecondBest(Sampler):
        penalty: float = parameter(1e9)

        def filter_logits(self, logits):
            best = tf.one_hot(tf.argmax(logits, axis=-1), 8)
            return 1e6 * (logits - best * tf.reshape(self.penalty, [-1, 1]))

    assert get_sampler("second best") is SecondBest
    assert "second best" in sampler_names()
    completed = plain_model.generate(images, keep_rows=2, sampler=SecondBest())
    tokens = completed.tokens[:, 0]
    second = np.argsort(plain_model(tokens), axis=-1)[..., -2]
    np.testing.assert_array_equal(tokens[:, 8:], second[:, 8:])


def test_a_sampler_that_is_not_there_is_named():
    with pytest.raises(InputError, match="sampler must be one of .*top_p.*, got 'best'"):
        get_sampler("best")
