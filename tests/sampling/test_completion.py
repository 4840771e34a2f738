import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import igpt_keras
from igpt_keras import ImageGPT, ImageGPTClassifier, ImageGPTConfig, InputError
from igpt_keras.losses import token_nats
from igpt_keras.sampling import completion_seeds, sample_tokens
from igpt_keras.sampling.drawing import draw
from tests.conftest import FIXTURES


@pytest.fixture(params=[False, True], ids=["no bias", "bias"])
def model(request, palette, randomized):
    config = ImageGPTConfig(4, 8, 16, 2, 2, use_bias=request.param)
    return randomized(ImageGPT(config, palette=palette))


@pytest.fixture
def images():
    return np.random.default_rng(7).integers(0, 256, (3, 4, 4, 3)).astype(np.uint8)


def test_log_likelihood_is_that_of_the_full_forward_pass(model, images):
    completed = igpt_keras.complete(model, None, images, keep_rows=1, num_completions=5, seed=1)
    tokens = completed.tokens.reshape(15, 16)
    nats = ops.convert_to_numpy(token_nats(tokens, model(tokens)))
    expected = -nats[:, 4:].sum(axis=1).reshape(3, 5)
    np.testing.assert_allclose(completed.log_likelihood, expected, atol=1e-4)


def test_greedy_completions_are_the_argmax_of_the_full_forward_pass(model, images):
    completed = igpt_keras.complete(model, None, images, keep_rows=2, temperature=0)
    tokens = completed.tokens[:, 0]
    best = ops.convert_to_numpy(model(tokens)).argmax(axis=-1)
    np.testing.assert_array_equal(tokens[:, 8:], best[:, 8:])


def test_greedy_continuation_is_that_of_hugging_face():
    model = igpt_keras.load(FIXTURES / "hf" / "causal")
    reference = np.load(FIXTURES / "hf" / "reference.npz")
    # The start token stands first in the reference; it is no pixel.
    continued = reference["greedy_ids"][:, 1:]
    prefix = int(reference["greedy_prefix"]) - 1
    tokens = np.pad(continued[:, :prefix], [(0, 0), (0, 64 - prefix)]).astype(np.int32)
    known = np.broadcast_to(np.arange(64) < prefix, tokens.shape)
    batch = len(tokens)
    filled, _ = sample_tokens(
        model,
        tf.constant(tokens),
        tf.constant(known),
        tf.zeros(batch, tf.int64),
        tf.zeros(batch),
        tf.zeros(batch, tf.int32),
        tf.ones(batch),
    )
    np.testing.assert_array_equal(filled[:, :63], continued)


@pytest.mark.parametrize("keep_rows", [0, 1, 4])
def test_kept_rows_come_back_in_their_nearest_colours(model, palette, images, keep_rows):
    completed = igpt_keras.complete(model, palette, images, keep_rows, num_completions=2)
    assert completed.images.shape == (3, 2, 4, 4, 3)
    kept = palette.dequantize(palette.quantize(images))[:, None, :keep_rows]
    np.testing.assert_array_equal(
        completed.images[:, :, :keep_rows], np.broadcast_to(kept, (3, 2, keep_rows, 4, 3))
    )
    if keep_rows == 4:
        np.testing.assert_array_equal(completed.log_likelihood, np.zeros((3, 2)))


def test_tokens_known_in_any_place_are_never_changed(model, tokens):
    known = np.random.default_rng(8).random((6, 16)) < 0.4
    settings = tf.ones(6), tf.zeros(6, tf.int32), tf.ones(6)
    filled, log_likelihood = sample_tokens(
        model, tf.constant(tokens), tf.constant(known), tf.range(6, dtype=tf.int64), *settings
    )
    filled = filled.numpy()
    np.testing.assert_array_equal(filled[known], tokens[known])
    assert (filled[~known] != tokens[~known]).any()
    nats = ops.convert_to_numpy(token_nats(filled, model(filled)))
    np.testing.assert_allclose(log_likelihood, -np.where(known, 0, nats).sum(axis=1), atol=1e-4)


def test_an_image_and_its_seed_determine_its_completions(model, images):
    together = igpt_keras.complete(model, None, images, 1, num_completions=4, seed=[5, 9, 7])
    alone = igpt_keras.complete(model, None, images[1:2], 1, num_completions=4, seed=[9])
    fewer = igpt_keras.complete(model, None, images[::-1], 1, num_completions=2, seed=[7, 9, 5])
    np.testing.assert_array_equal(together.tokens[1], alone.tokens[0])
    np.testing.assert_array_equal(together.tokens[:, :2], fewer.tokens[::-1])
    other = igpt_keras.complete(model, None, images, 1, num_completions=4, seed=[5, 10, 7])
    assert (other.tokens[1] != together.tokens[1]).any()


def test_one_integer_seed_counts_up_over_the_images(model, images):
    counted = igpt_keras.complete(model, None, images, 1, seed=3)
    listed = igpt_keras.complete(model, None, images, 1, seed=[3, 4, 5])
    np.testing.assert_array_equal(counted.tokens, listed.tokens)


def test_completion_seeds_are_distinct():
    seeds = completion_seeds(0, 50, 40)
    assert len(np.unique(seeds)) == 2000
    assert seeds.min() >= 0


def test_samples_follow_the_exact_distribution():
    # Four pixels of three colours: 81 images, whose probabilities are enumerated.
    config = ImageGPTConfig(
        image_size=2, vocabulary_size=3, hidden_dim=8, num_layers=1, num_heads=1
    )
    palette = igpt_keras.ColorPalette([[-1, -1, -1], [0, 0, 0], [1, 1, 1]])
    model = ImageGPT(config)
    generator = np.random.default_rng(9)
    model.set_weights([generator.normal(0, 0.5, w.shape) for w in model.get_weights()])
    count = 20_000
    drawn = igpt_keras.sample(model, palette, count).tokens[:, 0]
    every = np.stack(np.meshgrid(*[range(3)] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
    every = every.astype(np.int32)
    probabilities = np.exp(-ops.convert_to_numpy(token_nats(every, model(every))).sum(axis=1))
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)
    counts = np.bincount(drawn @ [27, 9, 3, 1], minlength=81)
    chi_square = ((counts - count * probabilities) ** 2 / (count * probabilities)).sum()
    # 80 degrees of freedom: mean 80, standard deviation 12.6.
    assert chi_square < 80 + 5 * 12.6


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


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1, 0, 1), (0.5, 0, 1), (2, 3, 1), (1, 0, 0.6), (1.5, 5, 0.7), (1, 1, 1), (1, 0, 1e-6)],
)
def test_draw_has_the_exact_frequencies(temperature, top_k, top_p):
    logits = np.random.default_rng(10).normal(0, 1.5, 8).astype(np.float32)
    expected = exact_distribution(logits.astype(np.float64), temperature, top_k, top_p)
    # Evenly spaced uniforms: every frequency is exact to the spacing.
    count = 10_000
    uniforms = ((np.arange(count) + 0.5) / count).astype(np.float32)
    drawn = draw(
        tf.constant(np.tile(logits, (count, 1))),
        tf.constant(uniforms),
        tf.fill([count], float(temperature)),
        tf.fill([count], top_k),
        tf.fill([count], float(top_p)),
    )
    frequencies = np.bincount(drawn, minlength=8) / count
    np.testing.assert_allclose(frequencies, expected, atol=1.5 / count)
    assert ((frequencies > 0) == (expected > 0.5 / count)).all()


def test_greedy_draw_takes_the_first_of_equal_logits():
    logits = tf.constant([[0.0, 2.0, 2.0]])
    drawn = draw(logits, tf.constant([0.9]), tf.zeros(1), tf.zeros(1, tf.int32), tf.ones(1))
    assert drawn.numpy() == [1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep_rows": 5}, r"keep_rows must lie in 0…4 \(the image's height\), got 5"),
        ({"keep_rows": -1}, "keep_rows .* got -1"),
        ({"keep_rows": 1.5}, "keep_rows .* got 1.5"),
        ({"temperature": -0.1}, "temperature must be finite and >= 0, got -0.1"),
        ({"temperature": float("nan")}, "temperature .* got nan"),
        ({"top_k": -1}, "top_k must be an integer >= 0 .* got -1"),
        ({"top_k": 1 << 31}, "top_k .* got 2147483648"),
        ({"top_p": 0}, "top_p must be above 0 and at most 1, got 0"),
        ({"top_p": 1.5}, "top_p .* got 1.5"),
        ({"num_completions": 0}, "num_completions must be an integer >= 1, got 0"),
        ({"seed": -1}, "seed .* got -1"),
        ({"seed": [1, 2]}, r"one integer per image \(3\), got \[1, 2\]"),
        ({"seed": 0.5}, "seed must be an integer"),
        ({"images": np.zeros((3, 5, 4, 3), np.uint8)}, r"got \[3, 5, 4, 3\]"),
        ({"images": np.zeros((0, 4, 4, 3), np.uint8)}, "at least one image"),
        ({"images": np.zeros((3, 4, 4, 3))}, "uint8 .* got float64"),
        (
            {"palette": igpt_keras.ColorPalette(np.zeros((7, 3)))},
            "vocabulary_size=8 colours, got 7",
        ),
    ],
)
def test_unusable_arguments_are_named(model, palette, images, arguments, message):
    usable = {"palette": palette, "images": images, "keep_rows": 2}
    with pytest.raises(InputError, match=message):
        igpt_keras.complete(model, **{**usable, **arguments})


def test_models_that_cannot_sample_say_so(config, palette, images):
    with pytest.raises(InputError, match='objective="ar"'):
        igpt_keras.complete(ImageGPT(config, "bert"), palette, images, 2)
    classifier = ImageGPTClassifier(config, 3, generative_weight=0)
    with pytest.raises(InputError, match="token logits"):
        igpt_keras.complete(classifier, palette, images, 2)
    with pytest.raises(InputError, match="palette is needed"):
        igpt_keras.complete(ImageGPT(config), None, images, 2)
    with pytest.raises(InputError, match="num_samples must be an integer >= 1, got 0"):
        igpt_keras.sample(ImageGPT(config), palette, 0)
