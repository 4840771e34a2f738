"""Sampling and scores given a class, and guidance, against full passes combined by hand."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from igpt_keras import ColorPalette, ImageGPT, ImageGPTConfig, InputError
from igpt_keras.network.losses import token_nll
from igpt_keras.sampling.compiled import compiled_decoder
from igpt_keras.sampling.conditioning import conditioning_of, make_condition, repeat_condition
from igpt_keras.sampling.gumbel import gumbel_noise
from igpt_keras.sampling.in_graph import condition_in_graph, sample_tokens
from igpt_keras.sampling.requests import completion_seeds
from igpt_keras.sampling.samplers import Categorical, Greedy, TopK

LABELS = np.array([2, 0, 1])


@pytest.fixture(scope="module")
def model(plain_model):
    config = dataclasses.replace(plain_model.config, num_classes=3)
    model = ImageGPT(config, tokenizer=plain_model.tokenizer)
    generator = np.random.default_rng(0)
    # Vectors of classes far from each other, for logits that differ.
    model.set_weights([generator.normal(0, 0.4, w.shape) for w in model.get_weights()])
    return model


def guided_logits(model, tokens, labels, guidance_scale):
    """Those of two full passes, float32 [B, n, V]."""
    of_class = ops.convert_to_numpy(model({"tokens": tokens, "labels": labels}))
    of_none = ops.convert_to_numpy(model(tokens))
    return of_none + guidance_scale * (of_class - of_none)


@pytest.mark.parametrize(
    ("guidance_scale", "sampler"),
    [
        (2.5, Categorical()),
        pytest.param(1, Categorical(), marks=pytest.mark.slow),
        pytest.param(2.5, Greedy(), marks=pytest.mark.slow),
        pytest.param(0.5, TopK(3), marks=pytest.mark.slow),
    ],
)
def test_tokens_are_drawn_from_full_passes_combined(model, images, guidance_scale, sampler):
    completed = model.generate(
        images,
        keep_rows=1,
        num_completions=2,
        labels=LABELS,
        guidance_scale=guidance_scale,
        sampler=sampler,
        seed=4,
    )
    tokens, labels = completed.tokens.reshape(6, 16), LABELS.repeat(2)
    logits = guided_logits(model, tokens, labels, guidance_scale)
    seeds = tf.constant(completion_seeds(4, 3, 2).reshape(-1))
    noise = gumbel_noise(seeds, 0, 4, 4, 8).numpy().transpose(1, 0, 2)
    filtered = sampler.filter_logits(tf.constant(logits.reshape(96, 8))).numpy()
    perturbed = filtered.reshape(6, 16, 8) + noise
    expected = (logits if sampler.is_greedy else perturbed).argmax(axis=-1)
    np.testing.assert_array_equal(tokens[:, 4:], expected[:, 4:])
    nll = token_nll(tokens, model({"tokens": tokens, "labels": labels}))
    likelihood = -ops.convert_to_numpy(nll)[:, 4:].sum(axis=1).reshape(3, 2)
    np.testing.assert_allclose(completed.log_likelihood, likelihood, atol=1e-4)


def test_samples_score_what_they_were_drawn_with_given_their_class(model):
    samples = model.sample(3, labels=LABELS, guidance_scale=3.0, seed=2)
    scores = model.score(samples.images[:, 0], LABELS)
    np.testing.assert_allclose(scores, samples.total_log_likelihood[:, 0], atol=1e-4)


def test_an_image_is_completed_as_alone_and_without_a_class_as_in_a_model_without(
    model, plain_model, images
):
    settings = {"keep_rows": 1, "guidance_scale": 2.0}
    together = model.generate(images, labels=LABELS, seed=[7, 8, 9], **settings)
    alone = model.generate(images[1:2], labels=0, seed=[8], **settings)
    np.testing.assert_array_equal(alone.tokens[0], together.tokens[1])
    without = ImageGPT(plain_model.config, tokenizer=model.tokenizer)
    weights = [ops.convert_to_numpy(w) for w in model.backbone.weights_without_classes()]
    without.backbone.set_weights(weights)
    without.token_head.set_weights(model.token_head.get_weights())
    expected = without.sample(2, seed=1)
    np.testing.assert_array_equal(model.sample(2, seed=1).tokens, expected.tokens)
    # A scale of 0 leaves the logits of no class.
    unguided = model.sample(2, labels=1, guidance_scale=0, seed=1)
    np.testing.assert_array_equal(unguided.tokens, expected.tokens)


def test_only_guidance_takes_a_second_pass(model):
    for guidance_scale, sequences in ((1, 3), (2, 6)):
        condition = make_condition(model, LABELS, guidance_scale, 3)
        decoder = compiled_decoder(model, Categorical, conditioning=conditioning_of(condition))
        state = decoder.begin(np.zeros((3, 16), np.int32), 0, 1, condition)
        assert state.caches[0][0].shape[0] == sequences * model.config.num_heads
        assert state.tokens.shape == (16, 3)


def test_a_graph_samples_each_image_with_a_class_and_a_scale_of_its_own(model):
    def sampled(labels, scales):
        condition = condition_in_graph(labels, scales)
        tokens, known = tf.zeros([5, 16], tf.int32), tf.zeros([5, 16], tf.bool)
        seeds = tf.constant(completion_seeds(0, 5, 1)[:, 0])
        return sample_tokens(model, tokens, known, seeds, Categorical(), condition)

    labels, scales = [2, -1, 0, 1, 1], [2.5, 1, 1, 0, 2]
    tokens, log_likelihood = tf.function(sampled, autograph=False)(
        tf.constant(labels), tf.constant(scales, tf.float32)
    )
    for index, (label, scale) in enumerate(zip(labels, scales, strict=True)):
        # As alone, where one of the scales is that of all.
        settings = {"labels": label, "guidance_scale": scale} if label >= 0 else {}
        expected = model.sample(1, seed=[index], **settings)
        np.testing.assert_array_equal(tokens[index], expected.tokens[0, 0])
        np.testing.assert_allclose(log_likelihood[index], expected.log_likelihood[0, 0], atol=1e-4)
    # Sequences with guidance alone are there twice.
    condition = condition_in_graph(tf.constant(labels), tf.constant(scales, tf.float32))
    np.testing.assert_array_equal(condition.guided, [0, 3, 4])
    np.testing.assert_array_equal(repeat_condition(condition, 2).guided, [0, 1, 6, 7, 8, 9])


@pytest.mark.slow
@pytest.mark.parametrize("guidance_scale", [1, 2.0])
def test_drafts_change_no_token(model, plain_model, images, guidance_scale):
    settings = {
        "keep_rows": 1,
        "num_completions": 2,
        "labels": LABELS,
        "guidance_scale": guidance_scale,
    }
    plain = model.generate(images, **settings)
    for draft in (plain_model, model):
        fast = model.generate(images, draft=draft, **settings)
        np.testing.assert_array_equal(fast.tokens, plain.tokens)
        np.testing.assert_allclose(fast.log_likelihood, plain.log_likelihood, atol=1e-4)
        np.testing.assert_allclose(fast.entropy, plain.entropy, atol=1e-4)


@pytest.mark.slow
def test_xla_draws_the_same_tokens(model, images):
    settings = {"keep_rows": 1, "labels": LABELS, "guidance_scale": 2.0}
    compiled = model.generate(images, jit_compile=True, **settings)
    np.testing.assert_array_equal(compiled.tokens, model.generate(images, **settings).tokens)


def test_scores_are_the_losses_given_each_class(model, images):
    tokens = model.tokenizer.tokenize(images)
    scores = model.class_log_likelihood(images, batch_size=2)
    assert scores.dtype == np.float32
    for label in range(3):
        labels = np.full(3, label)
        nll = token_nll(tokens, model({"tokens": tokens, "labels": labels}))
        expected = -ops.convert_to_numpy(nll)
        np.testing.assert_allclose(scores[:, label], expected.sum(axis=1), atol=1e-4)
        per_pixel = model.score(images, label, per_pixel=True)
        np.testing.assert_allclose(per_pixel, expected.reshape(3, 4, 4), atol=1e-4)
    given = scores[np.arange(3), LABELS]
    np.testing.assert_allclose(model.score(images, LABELS, batch_size=1), given, atol=1e-4)
    assert np.abs(model.score(images) - scores.T).min() > 1e-3


@pytest.mark.slow
def test_a_model_of_plain_images_knows_their_colors():
    palette = ColorPalette(np.linspace(-1, 1, 4)[:, None].repeat(3, axis=1))
    config = ImageGPTConfig(2, 4, 16, 1, 2, num_classes=4)
    model = ImageGPT(config, tokenizer=palette)
    labels = np.arange(64) % 4
    tokens = np.repeat(labels[:, None], 4, axis=1).astype(np.int32)
    model.compile(keras.optimizers.Adam(0.03))
    model.fit(tokens, labels, epochs=8, batch_size=16, verbose=0)
    images = palette.bind(2).detokenize(tokens[:4])
    np.testing.assert_array_equal(model.class_log_likelihood(images).argmax(axis=1), range(4))
    # Guidance makes the color of the class the more probable.
    plain, guided = (
        (model.sample(64, labels=labels, guidance_scale=s).tokens[:, 0, 0] == labels).mean()
        for s in (1, 3)
    )
    assert plain <= guided
    assert guided > 0.9


def test_what_no_class_can_be_is_named(model, plain_model, images):
    sample = model.sample
    with pytest.raises(InputError, match=r"labels must lie in 0…2 \(num_classes=3\), got 0…3"):
        sample(2, labels=[0, 3])
    with pytest.raises(InputError, match="labels must be an integer in 0…2, or one for each of 2"):
        sample(2, labels=[0, 1, 2])
    with pytest.raises(InputError, match="labels must be an integer in 0…2"):
        sample(2, labels="cat")
    with pytest.raises(InputError, match="guidance_scale=2 needs labels"):
        sample(2, guidance_scale=2)
    for scale in (-1, float("nan"), float("inf"), "2"):
        with pytest.raises(InputError, match="guidance_scale must be a finite number >= 0, got "):
            sample(2, labels=1, guidance_scale=scale)
    for call in (plain_model.sample, lambda n, labels: plain_model.score(images, labels)):
        with pytest.raises(InputError, match="labels needs a model that was made with num_classes"):
            call(3, labels=1)
    with pytest.raises(InputError, match="class_log_likelihood needs a model .* num_classes"):
        plain_model.class_log_likelihood(images)
