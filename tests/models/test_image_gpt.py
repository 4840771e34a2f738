import json
import math

import keras
import numpy as np
import pytest

import igpt_keras
from igpt_keras import ImageGPT, ImageGPTClassifier, InputError
from igpt_keras.network.losses import autoregressive_nll, masked_nll
from tests.models.batches import LABELS, as_array, masks


def test_new_models_are_uniform_because_the_heads_start_at_zero(config, tokens):
    for objective in ("ar", "bert"):
        model = ImageGPT(config, objective)
        model.compile("adam")
        result = model.evaluate(tokens, verbose=0, return_dict=True)
        assert result["loss"] == pytest.approx(math.log(8), abs=1e-5)
        assert result["bits_per_pixel"] == pytest.approx(3, abs=1e-5)
        classifier = ImageGPTClassifier(config, 3, objective)
        np.testing.assert_array_equal(classifier.predict(tokens, verbose=0), np.zeros((6, 3)))


def test_logits_are_float32_of_the_documented_shape(config, tokens, randomized):
    model = randomized(ImageGPT(config))
    logits = model(tokens)
    assert logits.shape == (6, 16, 8)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"


def test_initial_weights_follow_the_published_code():
    config = igpt_keras.ImageGPTConfig(16, 256, 128, 3, 2)
    model = ImageGPT(config)
    stddevs = {
        "embedding/token_embedding": 0.02,
        "embedding/position_embedding": 0.01,
        "embedding/start_vector": 0.02,
        "block_1/attention/qkv/kernel": 1 / math.sqrt(128),
        "block_1/attention/output_proj/kernel": 1 / math.sqrt(128 * 3),
        "block_1/mlp/up_proj/kernel": 0.02,
        "block_1/mlp/down_proj/kernel": 0.02,
    }
    weights = {weight.path: as_array(weight) for weight in model.weights}
    for name, stddev in stddevs.items():
        (weight,) = (value for path, value in weights.items() if path.endswith(name))
        tolerance = 5 * stddev / math.sqrt(2 * weight.size)
        assert weight.std() == pytest.approx(stddev, abs=tolerance), name
        assert abs(weight.mean()) < 5 * stddev / math.sqrt(weight.size), name
    norms = [value for path, value in weights.items() if path.endswith("scale")]
    assert len(norms) == 7
    assert all((value == 1).all() for value in norms)


def test_autoregressive_logits_depend_on_earlier_tokens_only(config, tokens, randomized):
    model = randomized(ImageGPT(config, "ar"))
    before = as_array(model(tokens))
    changed = tokens.copy()
    changed[:, 5] = (changed[:, 5] + 1) % 8
    after = as_array(model(changed))
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert (np.abs(before[:, 6:] - after[:, 6:]).max(axis=(0, 2)) > 1e-4).all()


def test_bert_logits_depend_on_all_unmasked_tokens_and_no_masked_one(config, tokens, randomized):
    model = randomized(ImageGPT(config, "bert"))
    masked = np.zeros((6, 16), bool)
    masked[:, 5] = True
    before = as_array(model({"tokens": tokens, "masked": masked}))
    changed = tokens.copy()
    changed[:, 5] = (changed[:, 5] + 1) % 8
    unseen = as_array(model({"tokens": changed, "masked": masked}))
    np.testing.assert_array_equal(before, unseen)
    changed[:, 9] = (changed[:, 9] + 1) % 8
    seen = as_array(model({"tokens": changed, "masked": masked}))
    assert (np.abs(before - seen).max(axis=(0, 2)) > 1e-4).all()


def test_bert_sees_another_mask_at_every_call(config, tokens, randomized):
    model = randomized(ImageGPT(config, "bert"))
    assert (as_array(model(tokens)) != as_array(model(tokens))).any()


def test_losses_of_evaluate_are_those_of_the_loss_functions(config, tokens, randomized):
    ar = randomized(ImageGPT(config, "ar"))
    ar.compile("adam")
    expected = as_array(autoregressive_nll(tokens, ar(tokens))).mean()
    # A batch size that does not divide the six images: the last batch counts less.
    result = ar.evaluate(tokens, batch_size=4, verbose=0, return_dict=True)
    assert result["loss"] == pytest.approx(expected, abs=1e-5)
    assert result["bits_per_pixel"] == pytest.approx(expected / math.log(2), abs=1e-5)

    bert = randomized(ImageGPT(config, "bert"))
    bert.compile("adam")
    inputs = {"tokens": tokens, "masked": masks()}
    expected = as_array(masked_nll(tokens, bert(inputs), masks())).mean()
    assert bert.evaluate(inputs, verbose=0)[0] == pytest.approx(expected, abs=1e-5)


def test_features_are_the_pooled_normalized_states(config, tokens, randomized):
    model = randomized(ImageGPT(config))
    states = [as_array(h) for h in model.backbone.hidden_states({"tokens": tokens})]
    assert len(states) == 3
    norms = [*(block.attention_norm for block in model.backbone.blocks), model.backbone.final_norm]
    for layer, (h, norm) in enumerate(zip(states, norms, strict=True)):
        scale = 1 / np.sqrt((h**2).mean(axis=-1, keepdims=True) + 1e-5)
        expected = (h * scale * as_array(norm.scale)).mean(axis=1)
        features = as_array(model.features(tokens, layer))
        assert features.dtype == np.float32
        np.testing.assert_allclose(features, expected, atol=1e-5)
    np.testing.assert_allclose(
        as_array(model.backbone({"tokens": tokens})).mean(axis=1), features, atol=1e-5
    )


def test_features_of_bert_see_the_given_mask(config, tokens, randomized):
    model = randomized(ImageGPT(config, "bert"))
    inputs = {"tokens": tokens, "masked": masks()}
    changed = {**inputs, "tokens": np.where(masks(), (tokens + 1) % 8, tokens).astype(np.int32)}
    features = as_array(model.features(inputs, 2))
    np.testing.assert_array_equal(features, as_array(model.features(changed, 2)))
    assert (features != as_array(model.features({**inputs, "masked": ~masks()}, 2))).all()


@pytest.mark.parametrize("objective", ["ar", pytest.param("bert", marks=pytest.mark.slow)])
def test_fit_learns_a_pattern(config, objective):
    # Every image counts upwards from a random start: one pixel tells all others.
    starts = np.random.default_rng(6).integers(0, 8, (256, 1))
    tokens = ((starts + np.arange(16)) % 8).astype(np.int32)
    model = ImageGPT(config, objective)
    model.compile(keras.optimizers.Adam(0.01))
    model.fit(tokens, epochs=25, batch_size=32, verbose=0)
    loss = model.evaluate(tokens, verbose=0)[0]
    # The first pixel costs log(8) / 16 = 0.13 nats; a unigram model log(8) = 2.08.
    assert loss < 0.4


@pytest.mark.parametrize("objective", ["ar", "bert"])
@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("num_classes", [None, 3])
def test_keras_files_give_the_same_model_back(
    config, tokens, palette, randomized, tmp_path, objective, use_bias, num_classes
):
    config = igpt_keras.ImageGPTConfig(**{**config.to_dict(), "use_bias": use_bias})
    if num_classes is None:
        model = ImageGPT(config, objective, mask_probability=0.2, tokenizer=palette)
    else:
        names = ["cat", "dog", "owl"]
        model = ImageGPTClassifier(config, 3, objective, class_names=names, generative_weight=0.3)
    randomized(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    inputs = {"tokens": tokens, "masked": masks()}
    np.testing.assert_array_equal(as_array(model(inputs)), as_array(loaded(inputs)))
    assert type(loaded) is type(model)
    assert loaded.objective == objective
    assert json.dumps(loaded.get_config()) == json.dumps(model.get_config())
    if num_classes is None:
        np.testing.assert_array_equal(loaded.tokenizer.colors, palette.colors)


def test_training_goes_on_after_loading_as_without_saving(config, tokens, tmp_path):
    model = ImageGPT(config)
    model.compile(keras.optimizers.Adam(0.01))
    model.fit(tokens, batch_size=6, epochs=3, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for same in (model, loaded):
        same.fit(tokens, batch_size=6, epochs=3, verbose=0)
    for expected, weight in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_keeps_weights_and_logits_in_float32(config, tokens, randomized, policy):
    reference = randomized(ImageGPT(config))
    model = ImageGPT(config, dtype=policy)
    model.set_weights(reference.get_weights())
    block = model.backbone.blocks[0]
    for layer in (block.attention, block.mlp.up_proj, block.attention_norm, model.backbone):
        assert layer.compute_dtype == policy.removeprefix("mixed_")
    assert {weight.dtype for weight in model.weights} == {"float32"}
    logits = model(tokens)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    np.testing.assert_allclose(as_array(logits), as_array(reference(tokens)), atol=0.1)
    model.compile("adam")
    model.fit(tokens, verbose=0)


def test_summary_names_every_block_with_its_shape(config):
    lines = []
    ImageGPT(config).summary(expand_nested=True, print_fn=lines.append)
    text = "\n".join(lines)
    for name in ("embedding", "block_0", "block_1", "final_norm", "token_head"):
        assert name in text
    assert "(None, 16, 16)" in text
    assert "?" not in text


@pytest.mark.parametrize("call", ["__call__", "fit", "predict", "evaluate"])
@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.zeros((2, 15), np.int32), r"shape \[batch, 16\] .* got \[2, 15\]"),
        (np.zeros(16, np.int32), r"shape \[batch, 16\] .* got \[16\]"),
        (np.zeros((2, 16), np.float32), "integers, got float32"),
        (np.full((2, 16), 8, np.int32), r"0…7 \(vocabulary_size=8\), got 8…8"),
        (np.full((2, 16), -1, np.int32), "got -1…-1"),
    ],
)
def test_unusable_tokens_are_named(config, call, tokens, message):
    model = ImageGPT(config)
    model.compile("adam")
    with pytest.raises(InputError, match=message):
        getattr(model, call)(tokens)
    with pytest.raises(InputError, match=message):
        model.features(tokens, 0)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"token": np.zeros((2, 16), np.int32)}, r"got \['token'\]"),
        (
            {"tokens": np.zeros((2, 16), np.int32), "masked": np.zeros((2, 4), bool)},
            r"shape of tokens, \(2, 16\), got \(2, 4\)",
        ),
    ],
)
def test_unusable_masks_are_named(config, inputs, message):
    model = ImageGPT(config, "bert")
    model.compile("adam")
    for call in (model, model.fit, model.predict, model.evaluate):
        with pytest.raises(InputError, match=message):
            call(inputs)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda c: ImageGPT(c, "gpt"), '"ar" or "bert", got \'gpt\''),
        (lambda c: ImageGPT(c, mask_probability=1.0), "mask_probability .* got 1.0"),
        (lambda c: ImageGPTClassifier(c, 1), "num_classes must be at least 2, got 1"),
        (lambda c: ImageGPTClassifier(c, 3, generative_weight=-1.0), "generative_weight .* got -1"),
        (lambda c: ImageGPTClassifier(c, 3, layer=3), "layer must lie in 0…2, got 3"),
        (lambda c: ImageGPTClassifier(c, 3, layer=-1), "layer must lie in 0…2, got -1"),
        (lambda c: ImageGPTClassifier(c, 3, class_names=["a"]), "num_classes=3 names, got 1"),
        (
            lambda c: ImageGPT(c, tokenizer=igpt_keras.ColorPalette(np.zeros((7, 3)))),
            "vocabulary_size=8, got a ColorPalette with 7",
        ),
        (lambda c: ImageGPT(c).features(np.zeros((1, 16), np.int32), 3), "0…2, got 3"),
    ],
)
def test_unusable_arguments_are_named(config, build, message):
    with pytest.raises(InputError, match=message):
        build(config)


@pytest.mark.parametrize(("objective", "rates"), [("ar", (0.003, 0.0003)), ("bert", (0.01, 0.001))])
def test_compile_without_arguments_uses_the_optimizer_of_the_paper(config, objective, rates):
    models = (ImageGPT(config, objective), ImageGPTClassifier(config, 3, objective))
    for model, rate in zip(models, rates, strict=True):
        model.compile()
        assert type(model.optimizer) is keras.optimizers.Adam
        assert (model.optimizer.beta_1, model.optimizer.beta_2) == (0.9, 0.95)
        assert float(model.optimizer.learning_rate) == pytest.approx(rate)


@pytest.mark.slow
def test_keras_files_keep_how_a_model_was_compiled(config, tokens, tmp_path):
    classifier = ImageGPTClassifier(config, 3)
    classifier.compile(remat=True, micro_batches=2)
    classifier.fit(tokens, LABELS, verbose=0)
    classifier.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.backbone.remat and loaded.micro_batches == 2
    for model in (classifier, loaded):
        history = model.fit(tokens, LABELS, verbose=0).history
        assert set(history) == {"loss", "accuracy", "bits_per_pixel", "gradient_norm"}
    for expected, weight in zip(classifier.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-6)


@pytest.mark.parametrize("micro_batches", [0, -1])
def test_unusable_micro_batches_are_named(config, micro_batches):
    with pytest.raises(InputError, match=f"micro_batches must be at least 1, got {micro_batches}"):
        ImageGPT(config).compile(micro_batches=micro_batches)
