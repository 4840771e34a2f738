import math

import keras
import numpy as np
import pytest

import igpt_keras
from igpt_keras import ImageGPT, ImageGPTClassifier
from igpt_keras.network.losses import autoregressive_nll, masked_nll
from tests.models.batches import LABELS, as_array, masks


@pytest.mark.parametrize("objective", ["ar", "bert"])
def test_joint_loss_is_the_class_loss_and_the_weighted_generative_loss(
    config, tokens, randomized, objective
):
    classifier = randomized(ImageGPTClassifier(config, 3, objective, generative_weight=0.5))
    classifier.compile("adam")
    inputs = {"tokens": tokens, "masked": masks()}
    generative = ImageGPT(config, objective)
    generative.backbone.set_weights(classifier.backbone.get_weights())
    generative.token_head.set_weights(classifier.token_head.get_weights())
    generative.compile("adam")
    nll = generative.evaluate(inputs, verbose=0)[0]
    logits = classifier.predict(inputs, verbose=0).astype(np.float64)
    class_loss = np.mean(
        np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(LABELS)), LABELS]
    )
    result = classifier.evaluate(inputs, LABELS, verbose=0, return_dict=True)
    assert result["loss"] == pytest.approx(class_loss + 0.5 * nll, abs=1e-5)
    assert result["bits_per_pixel"] == pytest.approx(nll / math.log(2), abs=1e-5)
    assert result["accuracy"] == pytest.approx((logits.argmax(axis=1) == LABELS).mean())


@pytest.mark.parametrize("objective", ["ar", "bert"])
@pytest.mark.parametrize("layer", [0, 1])
def test_the_class_head_reads_the_features_of_its_layer(
    config, tokens, randomized, objective, layer
):
    inputs = {"tokens": tokens, "masked": masks()}
    joint = randomized(ImageGPTClassifier(config, 3, objective, layer=layer))
    discriminative = ImageGPTClassifier(config, 3, objective, layer=layer, generative_weight=0)
    discriminative.backbone.set_weights(joint.backbone.get_weights())
    discriminative.class_head.set_weights(joint.class_head.get_weights())
    expected = as_array(joint.features(inputs, layer)) @ as_array(joint.class_head.kernel)
    for classifier in (joint, discriminative):
        np.testing.assert_allclose(as_array(classifier(inputs)), expected, atol=1e-5)
    at_the_end = as_array(joint.features(inputs, 2)) @ as_array(joint.class_head.kernel)
    assert np.abs(at_the_end - expected).max() > 1e-2
    nll = as_array(joint.per_image(inputs)["nll"])
    if objective == "ar":
        token_head = joint.token_head(joint.backbone({"tokens": tokens}))
        expected = autoregressive_nll(tokens, token_head)
    else:
        token_head = joint.token_head(joint.backbone(inputs))
        expected = masked_nll(tokens, token_head, masks())
    np.testing.assert_allclose(nll, as_array(expected), atol=1e-5)
    assert set(discriminative.per_image(inputs)) == {"class_logits"}
    joint.compile("adam")
    result = joint.evaluate(inputs, LABELS, verbose=0, return_dict=True)
    assert result["bits_per_pixel"] == pytest.approx(nll.mean() / math.log(2), abs=1e-5)


def after_layer(classifier, layer):
    """Paths of the weights that features of `layer` do not need."""
    entered, *later = classifier.backbone.blocks[layer:]
    parts = [
        entered.attention,
        entered.mlp_norm,
        entered.mlp,
        *later,
        classifier.backbone.final_norm,
    ]
    return {weight.path for part in parts for weight in part.weights}


@pytest.mark.parametrize("layer", [0, 1])
def test_training_the_class_head_alone_changes_nothing_after_its_layer(
    config, tokens, randomized, layer
):
    discriminative = randomized(ImageGPTClassifier(config, 3, layer=layer, generative_weight=0))
    unused = after_layer(discriminative, layer)
    before = {weight.path: as_array(weight) for weight in discriminative.weights}
    discriminative.compile(keras.optimizers.SGD(1.0))
    discriminative.fit(tokens, LABELS, verbose=0)
    same = {
        weight.path
        for weight in discriminative.weights
        if (before[weight.path] == as_array(weight)).all()
    }
    assert same == unused

    joint = randomized(ImageGPTClassifier(config, 3, layer=layer))
    before = {weight.path: as_array(weight) for weight in joint.weights}
    joint.compile(keras.optimizers.SGD(1.0))
    joint.fit(tokens, LABELS, verbose=0)
    assert all((before[weight.path] != as_array(weight)).any() for weight in joint.weights)


def test_the_layer_of_the_head_travels_with_the_classifier(config, tokens, randomized, tmp_path):
    pretrained = randomized(ImageGPT(config))
    classifier = ImageGPTClassifier.from_preset(pretrained, 3, layer=1, generative_weight=0)
    assert classifier.backbone.count_params() == pretrained.backbone.count_params()
    classifier.compile(keras.optimizers.Adam(0.01))
    classifier.fit(tokens, LABELS, verbose=0)
    classifier.save_to_preset(tmp_path / "folder")
    classifier.save(tmp_path / "model.keras")
    for name in ("folder", "model.keras"):
        loaded = igpt_keras.load(tmp_path / name)
        assert loaded.layer == 1
        np.testing.assert_array_equal(as_array(loaded(tokens)), as_array(classifier(tokens)))
    assert ImageGPTClassifier(config, 3).layer == config.num_layers


def test_classifier_without_generative_term_has_the_class_loss_alone(config, tokens, randomized):
    classifier = randomized(ImageGPTClassifier(config, 3, generative_weight=0))
    classifier.compile("adam")
    logits = classifier.predict(tokens, verbose=0).astype(np.float64)
    class_loss = np.mean(
        np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(LABELS)), LABELS]
    )
    result = classifier.evaluate(tokens, LABELS, verbose=0, return_dict=True)
    assert set(result) == {"loss", "accuracy"}
    assert result["loss"] == pytest.approx(class_loss, abs=1e-5)


def test_from_pretrained_copies_backbone_and_head_and_leaves_the_model(config, tokens, randomized):
    model = randomized(ImageGPT(config))
    before = as_array(model(tokens))
    classifier = ImageGPTClassifier.from_preset(model, 3)
    np.testing.assert_array_equal(
        as_array(classifier.backbone({"tokens": tokens})),
        as_array(model.backbone({"tokens": tokens})),
    )
    np.testing.assert_array_equal(classifier.token_head.kernel, model.token_head.kernel)
    classifier.compile(keras.optimizers.SGD(1.0))
    classifier.fit(tokens, LABELS, verbose=0)
    np.testing.assert_array_equal(as_array(model(tokens)), before)


def test_metrics_given_to_compile_replace_the_accuracy(config, tokens):
    classifier = ImageGPTClassifier(config, 3, generative_weight=0)
    classifier.compile(metrics=["sparse_top_k_categorical_accuracy"])
    result = classifier.evaluate(tokens, LABELS, verbose=0, return_dict=True)
    assert set(result) == {"loss", "sparse_top_k_categorical_accuracy"}
    classifier = ImageGPTClassifier(config, 3, generative_weight=0)
    classifier.compile(metrics=None)
    assert isinstance(classifier.evaluate(tokens, LABELS, verbose=0), float)
