"""The cached decoder against the full forward pass."""

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from igpt_keras import ImageGPT, ImageGPTConfig
from igpt_keras.sampling.decoder import decode_step, grow, prefill, repeat

BATCH, LENGTH, COLORS = 3, 16, 8
# Hidden dimension and heads: those of S, M, L and XL, but with fewer heads of the same width.
LAYOUTS = {
    "image_gpt_small": (128, 2),
    "image_gpt_medium": (256, 2),
    "image_gpt_large": (192, 2),
    "image_gpt_xlarge": (256, 2),
}


@pytest.fixture
def drawn_tokens():
    return np.random.default_rng(3).integers(0, COLORS, (BATCH, LENGTH)).astype(np.int32)


def small_model(hidden_dim=16, num_heads=2, use_bias=False, dtype="float32"):
    config = ImageGPTConfig(4, COLORS, hidden_dim, 2, num_heads, use_bias=use_bias)
    model = ImageGPT(config, dtype=dtype)
    generator = np.random.default_rng(4)
    for weight in model.weights:
        # Embeddings and the scales of norms of order 1, as in a trained model.
        is_kernel = len(weight.shape) == 2 and "embedding" not in weight.path
        deviation = 1 / np.sqrt(weight.shape[0]) if is_kernel else 1
        weight.assign(generator.normal(0, deviation, weight.shape))
    return model


def previous_to(tokens, start, count):
    """The tokens that `decode_step` takes for positions `start` … `start` + `count` - 1."""
    return tf.constant(tokens[:, np.arange(start - 1, start - 1 + count)])


def cached_logits(model, tokens, prefix, counts, jit_compile=False):
    """Logits of all positions: one pass over a prefix, then passes of the given counts."""
    compiled = tf.function(
        lambda tokens, start, caches: decode_step(model, tokens, start, caches),
        jit_compile=jit_compile,
    )
    logits, caches = prefill(model, tf.constant(tokens[:, :prefix]))
    caches = grow(caches, LENGTH)
    parts, start = [logits], prefix
    for count in counts:
        logits, caches = compiled(previous_to(tokens, start, count), tf.constant(start), caches)
        parts.append(logits)
        start += count
    assert start == LENGTH
    return tf.concat(parts, axis=1).numpy()


@pytest.mark.parametrize("use_bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("preset", LAYOUTS)
def test_logits_are_those_of_the_full_forward_pass(preset, use_bias, drawn_tokens):
    width = ImageGPTConfig.preset(preset).head_dim
    hidden_dim, num_heads = LAYOUTS[preset]
    assert hidden_dim // num_heads == width
    model = small_model(hidden_dim, num_heads, use_bias)
    expected = ops.convert_to_numpy(model(drawn_tokens))
    assert expected.std() > 0.5
    np.testing.assert_allclose(
        cached_logits(model, drawn_tokens, 0, [1] * LENGTH), expected, atol=1e-4
    )


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(
    ("prefix", "counts"), [(0, [LENGTH]), (5, [4, 4, 3]), (15, [1]), (LENGTH, [])]
)
def test_any_division_into_passes_gives_the_same_logits(prefix, counts, jit_compile, drawn_tokens):
    model = small_model()
    expected = ops.convert_to_numpy(model(drawn_tokens))
    logits = cached_logits(model, drawn_tokens, prefix, counts, jit_compile)
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_bfloat16_logits_are_as_close_to_float32_as_the_full_pass(jit_compile, drawn_tokens):
    # Each rounding to 8 bits errs by up to 2^-9 of a value, wherever it happens: the cached and
    # the full pass differ as much from each other as both differ from float32, in no other way.
    exact = ops.convert_to_numpy(small_model(128, 2)(drawn_tokens))
    model = small_model(128, 2, dtype="mixed_bfloat16")
    full = ops.convert_to_numpy(model(drawn_tokens)).astype(np.float32)
    cached = cached_logits(model, drawn_tokens, 4, [1] * 4 + [8], jit_compile)
    error_of_full = np.sqrt(np.mean((full - exact) ** 2))
    assert 0 < error_of_full < 0.05
    assert np.sqrt(np.mean((cached - exact) ** 2)) < 1.5 * error_of_full
    # Two independent errors of one size.
    assert np.sqrt(np.mean((cached - full) ** 2)) < 1.5 * np.sqrt(2) * error_of_full


def test_a_graph_may_take_any_number_of_positions(drawn_tokens):
    model = small_model()
    cache = tf.TensorSpec([None, None, model.config.head_dim])
    compiled = tf.function(
        lambda tokens, start, caches: decode_step(model, tokens, start, caches)[0],
        input_signature=[
            tf.TensorSpec([None, None], tf.int32),
            tf.TensorSpec([], tf.int32),
            [(cache, cache)] * 2,
        ],
    )
    expected = ops.convert_to_numpy(model(drawn_tokens))
    caches = grow(prefill(model, tf.constant(drawn_tokens[:, :5]))[1], LENGTH)
    for count in (1, 2, 11):
        logits = compiled(previous_to(drawn_tokens, 5, count), 5, caches)
        np.testing.assert_allclose(logits, expected[:, 5 : 5 + count], atol=1e-4)


def test_going_back_overwrites(drawn_tokens):
    model = small_model()
    other = np.roll(drawn_tokens, 1, axis=1)
    expected = ops.convert_to_numpy(model(drawn_tokens))
    _, caches = prefill(model, tf.constant(drawn_tokens[:, :4]))
    caches = grow(caches, LENGTH)
    mixed = np.concatenate([drawn_tokens[:, :5], other[:, 5:]], axis=1)
    _, caches = decode_step(model, previous_to(mixed, 4, 8), 4, caches)
    logits, _ = decode_step(model, previous_to(drawn_tokens, 5, 3), 5, caches)
    np.testing.assert_allclose(logits, expected[:, 5:8], atol=1e-4)


def test_what_lies_beyond_the_positions_seen_does_not_matter(drawn_tokens):
    model = small_model()
    expected = ops.convert_to_numpy(model(drawn_tokens))
    _, caches = prefill(model, tf.constant(drawn_tokens[:, :6]))
    caches = tf.nest.map_structure(
        lambda cache: tf.pad(cache, [[0, 0], [0, 10], [0, 0]], constant_values=7), caches
    )
    logits, _ = decode_step(model, previous_to(drawn_tokens, 6, 2), 6, caches)
    np.testing.assert_allclose(logits, expected[:, 6:8], atol=1e-4)


def test_repeated_caches_stand_one_after_the_other(drawn_tokens):
    model = small_model()
    twice = np.repeat(drawn_tokens, 2, axis=0)
    _, caches = prefill(model, tf.constant(drawn_tokens[:, :6]))
    _, expected = prefill(model, tf.constant(twice[:, :6]))
    repeated = repeat(caches, model.config.num_heads, 2)
    for one, other in zip(tf.nest.flatten(repeated), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
