"""Undocumented parts of Keras that models/keras_internals.py relies on: each by its name."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from igpt_keras import ImageGPT
from igpt_keras.models.keras_internals import TrainerOverrides, remove_variable
from igpt_keras.training.strategies import make_strategy


@pytest.mark.parametrize(
    "name", ["_maybe_symbolic_build", "_symbolic_build", "_get_metrics_result_or_logs"]
)
def test_keras_still_has(name):
    assert callable(getattr(keras.Model, name, None)), f"keras.Model.{name} is gone"


def test_keras_still_untracks_variables():
    layer = keras.layers.Dense(3)
    layer.build((None, 2))
    remove_variable(layer, "bias")
    assert (layer.bias, layer.weights) == (None, [layer.kernel])


@pytest.mark.parametrize("name", ["_maybe_symbolic_build", "_get_metrics_result_or_logs"])
def test_keras_still_calls(config, tokens, monkeypatch, name):
    calls = []
    override = getattr(TrainerOverrides, name)
    monkeypatch.setattr(
        TrainerOverrides, name, lambda *args, **kw: calls.append(1) or override(*args, **kw)
    )
    model = ImageGPT(config)
    model.compile()
    model.fit(tokens, verbose=0)
    assert calls, f"fit no longer calls keras.Model.{name}"


@pytest.mark.slow
def test_metrics_of_a_user_are_built_from_whole_numbers(config, tokens):
    # Six images for two replicas in batches of five: their shares differ.
    strategy = make_strategy("mirrored")
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        model = ImageGPT(config)
        model.compile(metrics=["sparse_categorical_accuracy"])
    history = model.fit(tf.data.Dataset.from_tensor_slices((tokens, tokens)).batch(5), verbose=0)
    assert "sparse_categorical_accuracy" in history.history


def test_the_generative_loss_is_the_first_whatever_else_is_added(config, tokens, randomized):
    model = randomized(ImageGPT(config))
    model.compile()
    expected = model.evaluate(tokens, verbose=0, return_dict=True)
    model.token_head.kernel.regularizer = keras.regularizers.L2(1.0)
    model.backbone.blocks[0].mlp.up_proj.kernel.regularizer = keras.regularizers.L2(1.0)
    model.compile()
    regularized = model.evaluate(tokens, verbose=0, return_dict=True)
    assert regularized["loss"] > expected["loss"] + 1
    np.testing.assert_allclose(regularized["bits_per_pixel"], expected["bits_per_pixel"])
