"""The projection in training against TensorFlow's own gradients of its formula."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from igpt_keras.network import projection
from igpt_keras.network.projection import Projection
from tests.network.test_pointwise import (
    DTYPES,
    assert_near,
    drawn,
    with_gradients,
    with_gradients_in_training,
)


@DTYPES
@pytest.mark.parametrize("shape", [(3, 4, 5), (6, 5)])
def test_its_gradients_in_training_are_those_of_its_formula(dtype, tolerance, shape):
    arrays = drawn(shape, (5, 7), (7,), (*shape[:-1], 7))
    x, kernel, bias, upstream = (tf.cast(tf.cast(each, dtype), tf.float64) for each in arrays)
    expected = with_gradients(
        lambda x, kernel, bias: tf.einsum("...i,ij->...j", x, kernel) + bias,
        upstream,
        [x, kernel, bias],
    )
    layer = Projection(7, dtype=dtype)
    layer.build(x.shape)
    layer.kernel.assign(kernel)
    layer.bias.assign(bias)
    x = tf.cast(x, dtype)
    np.testing.assert_array_equal(layer(x, training=True), layer(x, training=False))
    assert_near(with_gradients_in_training(layer, x, upstream), expected, tolerance)


def test_it_keeps_what_a_dense_layer_takes():
    x = np.random.default_rng(0).normal(0, 1, (3, 5)).astype(np.float32)
    layer, dense = Projection(7, activation="relu"), keras.layers.Dense(7, activation="relu")
    expected = dense(x)
    layer.build(x.shape)
    layer.set_weights(dense.get_weights())
    for training in (False, True):
        np.testing.assert_allclose(layer(x, training=training), expected, rtol=1e-6)


def test_in_mixed_precision_the_kernel_has_a_float32_gradient():
    layer = Projection(7, dtype="mixed_bfloat16")
    x, upstream = (tf.cast(each, tf.bfloat16) for each in drawn((3, 4, 5), (3, 4, 7)))
    layer.build(x.shape)
    with tf.GradientTape() as tape:
        y = layer(x, training=True)
    assert y.dtype == tf.bfloat16
    gradient = tape.gradient(y, layer.kernel.value, upstream)
    expected = np.einsum("bni,bnj->ij", *(tf.cast(each, tf.float64) for each in (x, upstream)))
    assert gradient.dtype == tf.float32
    assert np.abs(gradient - expected).max() <= 2e-2 * np.abs(expected).max()


@pytest.mark.parametrize("width", [8, 6])
@pytest.mark.parametrize("rank", [None, 2])
def test_a_product_of_one_row_is_that_of_several(monkeypatch, width, rank):
    """Six columns cannot be cut into four equal parts."""
    monkeypatch.setattr(projection, "SMALLEST_CUT_KERNEL", 1)
    layer = Projection(7)
    layer.build((None, width))
    if rank:
        layer.enable_lora(rank)
    generator = np.random.default_rng(3)
    for weight in layer.weights:
        weight.assign(generator.normal(0, 1, weight.shape))
    rows = generator.normal(0, 1, (3, width)).astype(np.float32)
    expected = layer(rows)
    one = tf.function(layer, input_signature=[tf.TensorSpec([1, width])], autograph=False)
    for row, of_row in zip(rows, expected, strict=True):
        np.testing.assert_allclose(one(row[None])[0], of_row, rtol=1e-5, atol=1e-5)
    products = [
        op for op in one.get_concrete_function().graph.get_operations() if op.type == "MatMul"
    ]
    assert len(products) == (4 if width == 8 else 1) + (2 if rank else 0)


@pytest.mark.parametrize(
    ("dtype", "parts", "tolerance"),
    [
        ("float32", projection.ROW_PARTS, 1e-6),
        ("bfloat16", projection.ROW_PARTS_OF_16_BITS, 0.02),
    ],
)
def test_a_row_is_multiplied_in_parts(monkeypatch, dtype, parts, tolerance):
    monkeypatch.setattr(projection, "SMALLEST_CUT_KERNEL", 1)
    x, kernel = drawn((1, 8), (8, 6))
    layer = Projection(6, use_bias=False, dtype=dtype)
    layer.build(x.shape)
    layer.kernel.assign(kernel)
    graph_of = tf.function(layer).get_concrete_function(tf.TensorSpec(x.shape, dtype))
    products = [
        operation for operation in graph_of.graph.get_operations() if operation.type == "MatMul"
    ]
    assert len(products) == parts
    assert_near([tf.cast(layer(x), tf.float64).numpy()], [x @ kernel], tolerance)
