"""Frozen blocks and low-rank adapters of a classifier."""

import json
import math
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import igpt_keras
from igpt_keras import ImageGPT, ImageGPTClassifier, InputError
from igpt_keras.models.partial_training import count_parameters
from igpt_keras.network.projection import Projection
from tests.models.batches import LABELS, as_array

MOMENTS = ("_momentum", "_velocity")


@pytest.fixture
def pretrained(config, randomized):
    return randomized(ImageGPT(config))


def classifier_of(pretrained, **settings):
    """A classifier whose class head, too, is not zero."""
    classifier = ImageGPTClassifier.from_preset(pretrained, 3, **settings)
    generator = np.random.default_rng(3)
    kernel = classifier.class_head.kernel
    kernel.assign(generator.normal(0, 0.3, kernel.shape))
    return classifier


def fit(classifier, tokens, **settings):
    """Two steps; in Python, a tiny model takes them before a graph of it is there."""
    classifier.compile(keras.optimizers.Adam(0.05), **{"run_eagerly": True, **settings})
    classifier.fit(tokens, LABELS, epochs=2, verbose=0)


def as_if_trained(classifier):
    generator = np.random.default_rng(4)
    for variable in classifier.trainable_variables:
        variable.assign(variable + generator.normal(0, 0.1, variable.shape))


def values(weights):
    return {weight.path: as_array(weight) for weight in weights}


def changed(classifier, before):
    after = values(classifier.weights)
    return {path for path, value in before.items() if (after[path] != value).any()}


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_new_adapters_change_nothing_and_merged_ones_compute_what_they_did(
    pretrained, tokens, dtype
):
    classifier = classifier_of(pretrained, dtype=dtype)
    base = as_array(classifier(tokens))
    names = [weight.path for weight in classifier.weights]
    assert classifier.lora_rank is None
    classifier.enable_lora(rank=2)
    assert classifier.lora_rank == 2
    np.testing.assert_array_equal(as_array(classifier(tokens)), base)

    as_if_trained(classifier)
    adapted = as_array(classifier(tokens))
    assert np.abs(adapted - base).max() > 0.01
    by_hand = {
        name: as_array(layer.lora_kernel_a).astype(np.float64) @ as_array(layer.lora_kernel_b)
        for name, layer in classifier._adapted().items()
    }

    classifier.merge_lora()
    assert classifier.lora_rank is None
    np.testing.assert_allclose(
        as_array(classifier(tokens)), adapted, atol=1e-5 if dtype == "float32" else 0.05
    )
    assert [weight.path for weight in classifier.weights] == names
    # The merged kernels are float32 whatever the model computes in.
    for name, layer in classifier.backbone.projections().items():
        block, part, projection = name.split(".")
        before = pretrained.backbone.blocks[int(block[-1])]
        kernel = as_array(getattr(getattr(before, part), projection).kernel)
        np.testing.assert_allclose(as_array(layer.kernel), kernel + by_hand[name], atol=1e-5)
    assert all(weight.trainable for weight in classifier.weights)


@pytest.mark.parametrize("use_bias", [False, True])
def test_a_step_of_adapters_makes_no_matrix_of_a_kernels_size(use_bias):
    projection = Projection(7, use_bias=use_bias)
    projection.build((None, 5))
    projection.enable_lora(2)
    for weight in projection.weights:
        weight.assign(np.random.default_rng(0).normal(0, 1, weight.shape))

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            y = projection(x)
            loss = tf.reduce_sum(y**2)
        return y, tape.gradient(loss, [projection.lora_kernel_a, projection.lora_kernel_b])

    x = np.random.default_rng(1).normal(0, 1, (3, 5)).astype(np.float32)
    y, (of_a, of_b) = step(x)
    kernel, a, b = (
        as_array(weight).astype(np.float64)
        for weight in (projection.weights[0], projection.lora_kernel_a, projection.lora_kernel_b)
    )
    bias = as_array(projection.bias) if use_bias else 0
    expected = x @ (kernel + a @ b) + bias
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(of_a, x.T @ (2 * expected) @ b.T, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(of_b, a.T @ x.T @ (2 * expected), rtol=1e-4, atol=1e-3)
    # What no result needs is built, but does not run.
    needed, open_tensors = set(), list(step.get_concrete_function(x).graph.outputs)
    while open_tensors:
        tensor = open_tensors.pop()
        if tensor.op not in needed:
            needed.add(tensor.op)
            open_tensors += tensor.op.inputs
    makers = {op.type for op in needed for output in op.outputs if output.shape == (5, 7)}
    assert makers == {"ReadVariableOp"}


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("frozen_blocks", [0, 1, 2])
@pytest.mark.parametrize("rank", [None, 1, 3])
def test_the_weights_that_train_by_their_number(use_bias, frozen_blocks, rank):
    layers, d, colors, classes, positions = 3, 8, 5, 4, 16
    config = igpt_keras.ImageGPTConfig(
        image_size=4,
        vocabulary_size=colors,
        hidden_dim=d,
        num_layers=layers,
        num_heads=2,
        use_bias=use_bias,
    )
    classifier = ImageGPTClassifier(config, classes)
    classifier.freeze_blocks(frozen_blocks)
    biases = (3 * d + d + 4 * d + d) * use_bias
    block = (3 + 1 + 4 + 4) * d * d + 2 * d + biases
    embeddings = (colors + positions + 1) * d
    heads = (colors + classes) * d
    total = embeddings + layers * block + d + heads
    if rank is None:
        trained = total - (frozen_blocks > 0) * embeddings - frozen_blocks * block
    else:
        classifier.enable_lora(rank)
        # Of k inputs and m outputs, (k + m) · rank.
        adapters = (layers - frozen_blocks) * rank * ((d + 3 * d) + 2 * d + 2 * (d + 4 * d))
        total, trained = total + adapters, adapters + classes * d
    assert count_parameters(classifier) == (trained, total)


def test_only_what_trains_changes_and_has_moments(pretrained, tokens):
    classifier = classifier_of(pretrained)
    classifier.freeze_blocks(1)
    before = values(classifier.weights)
    fit(classifier, tokens)
    still = [*classifier.backbone.embedding.weights, *classifier.backbone.blocks[0].weights]
    assert changed(classifier, before) == before.keys() - {weight.path for weight in still}

    classifier.enable_lora(rank=2)
    before = values(classifier.weights)
    fit(classifier, tokens)
    adapters = {f"backbone/block_1/{name}" for name in ("attention/qkv", "attention/output_proj")}
    adapters |= {f"backbone/block_1/{name}" for name in ("mlp/up_proj", "mlp/down_proj")}
    moved = {path.partition("/")[2] for path in changed(classifier, before)}
    assert {path.rpartition("/")[0] for path in moved} - {"", "class_head"} == adapters
    assert all("lora" in path or "class_head" in path for path in changed(classifier, before))
    # Adam has two moments of every weight that trains.
    moments = [v for v in classifier.optimizer.variables if v.path.endswith(MOMENTS)]
    assert sum(math.prod(v.shape) for v in moments) == 2 * (2 * 16 * 16 + 3 * 16)
    classifier.merge_lora()
    assert not classifier.backbone.blocks[0].trainable_variables
    assert {v.path for v in classifier.trainable_variables} == before.keys() - {
        *(weight.path for weight in still),
        *(path for path in before if "lora" in path),
    }


def test_adapters_travel_without_the_network(pretrained, tokens, tmp_path):
    classifier = classifier_of(pretrained, class_names=["a", "b", "c"])
    classifier.freeze_blocks(1)
    classifier.enable_lora(rank=2)
    as_if_trained(classifier)
    expected = as_array(classifier(tokens))
    folder = classifier.save_adapters(tmp_path / "adapters", base="runs/ar")
    classifier.save_to_preset(tmp_path / "model")
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert size < sum(file.stat().st_size for file in (tmp_path / "model").iterdir()) / 4
    with pytest.raises(FileExistsError):
        classifier.save_adapters(folder)

    other = ImageGPTClassifier.from_preset(pretrained, 3)
    other.load_adapters(folder)
    assert (other.lora_rank, other.class_names) == (2, ["a", "b", "c"])
    np.testing.assert_array_equal(as_array(other(tokens)), expected)
    # What Keras saves is merged.
    saved = igpt_keras.load(tmp_path / "model")
    assert saved.lora_rank is None
    np.testing.assert_allclose(as_array(saved(tokens)), expected, atol=1e-5)


@pytest.fixture(scope="module")
def stored(config, randomized, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored") / "adapters"
    pretrained = randomized(ImageGPT(config))
    classifier = ImageGPTClassifier.from_preset(pretrained, 3)
    classifier.enable_lora(rank=2)
    return classifier.save_adapters(folder, base="runs/ar")


@pytest.mark.parametrize(
    ("settings", "about", "message"),
    [
        ({"seed": 1}, {}, r"holds adapters of the network \w+ \(runs/ar\), got one"),
        ({"num_classes": 2}, {}, r"class_head.kernel has shape \[16, 3\], expected \[16, 2\]"),
        ({"layer": 1}, {}, "of a classifier with {'layer': 2"),
        ({}, {"format_version": 2}, "has format_version 2; this version reads 1"),
        ({}, {"rank": 0}, "rank must be an integer of at least 1, got 0"),
        ({}, {"rank": 3}, "expected"),
        ({}, {"class_names": ["a"]}, "class_names must hold 3 names, got 1"),
        ({}, {"base": None}, "does not describe adapters"),
    ],
)
def test_adapters_that_do_not_fit(config, randomized, stored, tmp_path, settings, about, message):
    folder = shutil.copytree(stored, tmp_path / "adapters")
    file = folder / "adapters.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **about}))
    settings = {"num_classes": 3, **settings}
    pretrained = randomized(ImageGPT(config), settings.pop("seed", 0))
    classifier = ImageGPTClassifier.from_preset(pretrained, **settings)
    before = values(classifier.weights)
    with pytest.raises(InputError, match=message):
        classifier.load_adapters(folder)
    assert classifier.lora_rank is None
    assert (values(classifier.weights).keys(), changed(classifier, before)) == (
        before.keys(),
        set(),
    )


def test_damaged_weights_of_adapters(pretrained, stored, tmp_path):
    folder = shutil.copytree(stored, tmp_path / "adapters")
    (folder / "adapters.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match="adapters.safetensors is missing or damaged"):
        classifier_of(pretrained).load_adapters(folder)
    with pytest.raises(InputError, match=r"adapters.json is missing"):
        classifier_of(pretrained).load_adapters(tmp_path / "nothing")


def test_what_cannot_be_frozen_or_adapted(config, tmp_path):
    classifier = ImageGPTClassifier(config, 3)
    with pytest.raises(InputError, match="num_blocks must be at most the 2 blocks, got 3"):
        classifier.freeze_blocks(3)
    with pytest.raises(InputError, match="rank must be at least 1, got 0"):
        classifier.enable_lora(0)
    for method in (classifier.merge_lora, lambda: classifier.save_adapters(tmp_path / "new")):
        with pytest.raises(InputError, match="has no adapters"):
            method()
    classifier.freeze_blocks(2)
    with pytest.raises(InputError, match="rank=1 needs a block that trains"):
        classifier.enable_lora(1)
    classifier = ImageGPTClassifier(config, 3)
    classifier.enable_lora(1)
    with pytest.raises(InputError, match="has adapters of rank 1"):
        classifier.enable_lora(2)


@pytest.mark.slow
def test_completions_are_those_of_the_weights_of_now(pretrained, palette):
    pretrained.tokenizer = palette
    model = classifier_of(pretrained)
    images = np.zeros((1, 4, 4, 3), np.uint8)

    def probabilities():
        return model.generate(images, keep_rows=1).total_log_likelihood

    before = probabilities()
    model.enable_lora(2)
    np.testing.assert_array_equal(probabilities(), before)
    for layer in model._adapted().values():
        layer.lora_kernel_b.assign(np.ones(layer.lora_kernel_b.shape))
    adapted = probabilities()
    assert np.abs(adapted - before).max() > 1e-2
    model.merge_lora()
    np.testing.assert_allclose(probabilities(), adapted, atol=1e-4)
