import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import igpt_keras
from igpt_keras import ImageGPT, ImageGPTClassifier, ImageGPTConfig, InputError
from igpt_keras.network.losses import token_nll
from igpt_keras.sampling.autoregressive import begin
from igpt_keras.sampling.in_graph import sample_tokens
from igpt_keras.sampling.requests import completion_seeds
from igpt_keras.sampling.samplers import Categorical, Greedy
from tests.conftest import FIXTURES


@pytest.fixture(params=[False, True], ids=["no bias", "bias"])
def model(request, palette, randomized):
    config = ImageGPTConfig(4, 8, 16, 2, 2, use_bias=request.param)
    return randomized(ImageGPT(config, tokenizer=palette))


@pytest.fixture
def images():
    return np.random.default_rng(7).integers(0, 256, (3, 4, 4, 3)).astype(np.uint8)


def test_log_likelihood_is_that_of_the_full_forward_pass(model, images):
    completed = model.generate(images, keep_rows=1, num_completions=5, seed=1)
    tokens = completed.tokens.reshape(15, 16)
    nll = ops.convert_to_numpy(token_nll(tokens, model(tokens)))
    expected = -nll[:, 4:].sum(axis=1).reshape(3, 5)
    np.testing.assert_allclose(completed.log_likelihood, expected, atol=1e-4)


def test_greedy_completions_are_the_argmax_of_the_full_forward_pass(model, images):
    completed = model.generate(images, keep_rows=2, sampler=Greedy())
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
        Greedy(),
    )
    np.testing.assert_array_equal(filled[:, :63], continued)


@pytest.mark.parametrize("keep_rows", [pytest.param(0, marks=pytest.mark.slow), 1, 4])
def test_kept_rows_come_back_in_their_nearest_colors(model, palette, images, keep_rows):
    completed = model.generate(images, keep_rows=keep_rows, num_completions=2)
    assert completed.images.shape == (3, 2, 4, 4, 3)
    kept = palette.detokenize(palette.tokenize(images))[:, None, :keep_rows]
    np.testing.assert_array_equal(
        completed.images[:, :, :keep_rows], np.broadcast_to(kept, (3, 2, keep_rows, 4, 3))
    )
    if keep_rows == 4:
        np.testing.assert_array_equal(completed.log_likelihood, np.zeros((3, 2)))


def test_tokens_known_in_any_place_are_never_changed(model, tokens):
    known = np.random.default_rng(8).random((6, 16)) < 0.4
    filled, log_likelihood = sample_tokens(
        model, tf.constant(tokens), tf.constant(known), tf.range(6, dtype=tf.int64), Categorical()
    )
    filled = filled.numpy()
    np.testing.assert_array_equal(filled[known], tokens[known])
    assert (filled[~known] != tokens[~known]).any()
    nll = ops.convert_to_numpy(token_nll(filled, model(filled)))
    np.testing.assert_allclose(log_likelihood, -np.where(known, 0, nll).sum(axis=1), atol=1e-4)


def test_an_image_and_its_seed_determine_its_completions(model, images):
    together = model.generate(images, keep_rows=1, num_completions=4, seed=[5, 9, 7])
    alone = model.generate(images[1:2], keep_rows=1, num_completions=4, seed=[9])
    fewer = model.generate(images[::-1], keep_rows=1, num_completions=2, seed=[7, 9, 5])
    np.testing.assert_array_equal(together.tokens[1], alone.tokens[0])
    np.testing.assert_array_equal(together.tokens[:, :2], fewer.tokens[::-1])
    other = model.generate(images, keep_rows=1, num_completions=4, seed=[5, 10, 7])
    assert (other.tokens[1] != together.tokens[1]).any()


def test_one_integer_seed_counts_up_over_the_images(model, images):
    counted = model.generate(images, keep_rows=1, seed=3)
    listed = model.generate(images, keep_rows=1, seed=[3, 4, 5])
    np.testing.assert_array_equal(counted.tokens, listed.tokens)


@pytest.fixture(scope="module")
def enumerable():
    """A model of four pixels of three colors, and all 81 images: int32 [81, 4]."""
    config = ImageGPTConfig(
        image_size=2, vocabulary_size=3, hidden_dim=8, num_layers=1, num_heads=1
    )
    model = ImageGPT(config, tokenizer=igpt_keras.ColorPalette([[-1] * 3, [0] * 3, [1] * 3]))
    generator = np.random.default_rng(9)
    model.set_weights([generator.normal(0, 0.5, w.shape) for w in model.get_weights()])
    every = np.stack(np.meshgrid(*[range(3)] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
    return model, every.astype(np.int32)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.7, 2, 1.0), (1.3, 0, 0.8), (2.0, 2, 0.6)]
)
def test_samples_follow_the_exact_distribution(enumerable, temperature, top_k, top_p):
    model, every = enumerable
    logits = ops.convert_to_numpy(model(every)).astype(np.float64).reshape(-1, 3) / temperature
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    descending = -np.sort(-probabilities, axis=1)
    if top_k:
        probabilities[probabilities < descending[:, top_k - 1 : top_k]] = 0
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        descending = -np.sort(-probabilities, axis=1)
    before = np.cumsum(descending, axis=1) - descending
    kept = (before < top_p).sum(axis=1)
    probabilities[probabilities < descending[np.arange(len(kept)), kept - 1][:, None]] = 0
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    probabilities = np.take_along_axis(probabilities, every.reshape(-1, 1), axis=1)
    probabilities = probabilities.reshape(81, 4).prod(axis=1)
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)

    count = 20_000
    completed = model.sample(count, sampler=Categorical(temperature, top_k, top_p))
    counts = np.bincount(completed.tokens[:, 0] @ [27, 9, 3, 1], minlength=81)
    possible = probabilities > 0
    assert not counts[~possible].any()
    means = count * probabilities[possible]
    chi_square = ((counts[possible] - means) ** 2 / means).sum()
    freedom = possible.sum() - 1
    assert chi_square < freedom + 5 * np.sqrt(2 * freedom)


@pytest.fixture(scope="module")
def masked_completions(plain_model):
    """Masks of pixels, bool [3, 4, 4], the images, and their completions."""
    generator = np.random.default_rng(8)
    images = generator.integers(0, 256, (3, 4, 4, 3)).astype(np.uint8)
    known = generator.random((3, 4, 4)) < 0.5
    known[:, 0, :2] = True
    return known, images, plain_model.generate(images, known_mask=known, num_completions=5, seed=2)


def test_known_pixels_of_any_mask_stay(plain_model, masked_completions):
    known, images, completed = masked_completions
    palette = plain_model.tokenizer
    kept = np.broadcast_to(palette.detokenize(palette.tokenize(images))[:, None], (3, 5, 4, 4, 3))
    chosen = np.broadcast_to(known[:, None], (3, 5, 4, 4))
    np.testing.assert_array_equal(completed.images[chosen], kept[chosen])
    assert (completed.images[~chosen] != kept[~chosen]).any()


def test_likelihoods_and_entropies_are_those_of_the_full_forward_pass(
    plain_model, masked_completions
):
    known, _, completed = masked_completions
    tokens = completed.tokens.reshape(15, 16)
    logits = plain_model(tokens)
    nll = ops.convert_to_numpy(token_nll(tokens, logits)).reshape(3, 5, 16)
    np.testing.assert_allclose(completed.total_log_likelihood, -nll.sum(axis=2), atol=1e-4)
    unknown = ~known.reshape(3, 1, 16)
    np.testing.assert_allclose(completed.log_likelihood, -(nll * unknown).sum(axis=2), atol=1e-4)
    logits = ops.convert_to_numpy(logits).astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    entropy = -(probabilities * np.log(probabilities)).sum(axis=-1)
    np.testing.assert_allclose(completed.entropy, entropy.reshape(3, 5, 4, 4), atol=1e-4)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_models_of_mixed_precision_complete(plain_model, masked_completions, precision):
    known, images, _ = masked_completions
    model = ImageGPT(plain_model.config, tokenizer=plain_model.tokenizer, dtype=precision)
    model.set_weights(plain_model.get_weights())
    completed = model.generate(images, known_mask=known, num_completions=5, seed=2)
    tokens = completed.tokens.reshape(15, 16)
    nll, exact = (
        ops.convert_to_numpy(token_nll(tokens, m(tokens))).sum(axis=1).reshape(3, 5)
        for m in (model, plain_model)
    )
    # Both round as often; so they differ from each other about as from float32.
    error = np.sqrt(np.mean((nll - exact) ** 2))
    assert 0 < error < 0.5
    assert np.sqrt(np.mean((-completed.total_log_likelihood - nll) ** 2)) < 2 * error


def test_one_mask_may_serve_all_images(plain_model, masked_completions):
    known, images, _ = masked_completions
    one = plain_model.generate(images, known_mask=known[0], seed=2)
    each = plain_model.generate(images, known_mask=np.stack([known[0]] * 3), seed=2)
    np.testing.assert_array_equal(one.tokens, each.tokens)
    rows = np.arange(4)[:, None] < [1] * 4
    np.testing.assert_array_equal(
        plain_model.generate(images, known_mask=rows, seed=2).tokens,
        plain_model.generate(images, keep_rows=1, seed=2).tokens,
    )


def test_rows_come_in_order_and_are_those_of_the_result(plain_model, masked_completions):
    known, images, completed = masked_completions
    came = []
    again = plain_model.generate(
        images, known_mask=known, num_completions=5, seed=2, on_row=lambda *row: came.append(row)
    )
    assert [number for number, _ in came] == [0, 1, 2, 3]
    np.testing.assert_array_equal(np.stack([row for _, row in came], axis=2), completed.images)
    np.testing.assert_array_equal(again.tokens, completed.tokens)
    np.testing.assert_allclose(again.entropy, completed.entropy, atol=1e-5)


@pytest.mark.parametrize("how", ["eager", "graph", "XLA"])
def test_eager_graph_and_xla_draw_the_same(plain_model, masked_completions, how):
    known, images, completed = masked_completions
    if how == "XLA":
        tokens = plain_model.generate(
            images, known_mask=known, num_completions=5, seed=2, jit_compile=True
        ).tokens
        np.testing.assert_array_equal(tokens, completed.tokens)
        return
    function = sample_tokens if how == "eager" else tf.function(sample_tokens, autograph=False)
    tokens = np.repeat(plain_model.tokenizer.tokenize(images), 5, axis=0)
    filled, log_likelihood = function(
        plain_model,
        tf.constant(tokens, tf.int32),
        tf.constant(np.repeat(known.reshape(3, 16), 5, axis=0)),
        tf.constant(completion_seeds(2, 3, 5).reshape(-1)),
        Categorical(),
    )
    np.testing.assert_array_equal(filled, completed.tokens.reshape(15, 16))
    np.testing.assert_allclose(log_likelihood, completed.log_likelihood.ravel(), atol=1e-4)


def test_completions_of_an_image_share_the_pass_over_what_is_known(plain_model, tokens):
    passes = []
    block = plain_model.backbone.blocks[0]
    call = block.call

    def watched(h, attend=None):
        passes.append(tuple(h.shape))
        return call(h, attend=attend)

    block.call = watched
    try:
        state = begin(plain_model, tf.constant(tokens), tf.constant(9), 8)
    finally:
        block.call = call
    assert passes == [(6 * 9, 16)]
    assert state.caches[0][0].shape == (6 * 8 * 2, 9, 8)


def test_the_graph_does_not_grow_with_the_positions():
    def operations(image_size):
        config = ImageGPTConfig(image_size, 8, 16, 1, 2)
        model = ImageGPT(config)
        shape = [2, config.sequence_length]
        function = tf.function(
            lambda *inputs: sample_tokens(model, *inputs[:3], Categorical(*inputs[3:])),
            autograph=False,
        )
        graph = function.get_concrete_function(
            tf.TensorSpec(shape, tf.int32),
            tf.TensorSpec(shape, tf.bool),
            *(tf.TensorSpec([2], dtype) for dtype in (tf.int64, tf.float32, tf.int32, tf.float32)),
        ).graph.as_graph_def()
        return len(graph.node) + sum(len(f.node_def) for f in graph.library.function)

    assert operations(4) == operations(16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep_rows": 5}, r"keep_rows must lie in 0…4 \(the image's height\), got 5"),
        ({"keep_rows": -1}, "keep_rows .* got -1"),
        ({"keep_rows": 1.5}, "keep_rows .* got 1.5"),
        ({"keep_rows": None}, "exactly one of keep_rows and known_mask must be given, got neither"),
        (
            {"known_mask": np.ones((4, 4), bool)},
            "exactly one of keep_rows and known_mask .* got both",
        ),
        (
            {"keep_rows": None, "known_mask": np.ones((4, 5), bool)},
            r"known_mask must be boolean of shape \[4, 4\] or \[3, 4, 4\], got bool .* \[4, 5\]",
        ),
        ({"keep_rows": None, "known_mask": np.ones((2, 4, 4), bool)}, r"known_mask .* \[2, 4, 4\]"),
        (
            {"keep_rows": None, "known_mask": np.ones((4, 4), int)},
            "known_mask must be boolean .* got int64",
        ),
        ({"sampler": "top_p"}, r"sampler must be a Sampler such as TopP\(0.9\), got 'top_p'"),
        ({"num_completions": 0}, "num_completions must be an integer >= 1, got 0"),
        ({"seed": -1}, "seed .* got -1"),
        ({"seed": [1, 2]}, r"one integer per image \(3\), got \[1, 2\]"),
        ({"seed": 0.5}, "seed must be an integer"),
        ({"images": np.zeros((3, 5, 4, 3), np.uint8)}, r"got \[3, 5, 4, 3\]"),
        ({"images": np.zeros((0, 4, 4, 3), np.uint8)}, "at least one image"),
        ({"images": np.zeros((3, 4, 4, 3))}, "uint8 .* got float64"),
        ({"images": np.full((3, 4, 4, 3), np.nan, np.float32)}, "uint8 .* got float32"),
        ({"images": np.zeros((4, 4, 3), np.uint8)}, r"got \[4, 4, 3\]"),
    ],
)
def test_unusable_arguments_are_named(model, images, arguments, message):
    usable = {"images": images, "keep_rows": 2}
    with pytest.raises(InputError, match=message):
        model.generate(**{**usable, **arguments})


def test_models_that_cannot_sample_say_so(config, images):
    classifier = ImageGPTClassifier(config, 3, generative_weight=0)
    with pytest.raises(InputError, match="token logits"):
        classifier.generate(images, keep_rows=2)
    with pytest.raises(InputError, match="tokenizer is missing"):
        ImageGPT(config).generate(images, keep_rows=2)
    with pytest.raises(InputError, match="num_samples must be an integer >= 1, got 0"):
        ImageGPT(config).sample(0)
