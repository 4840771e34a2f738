"""Norm and activation in training against TensorFlow's own gradients of their formulas."""

import numpy as np
import pytest
import tensorflow as tf

from igpt_keras.network.layers import rms_norm
from igpt_keras.network.pointwise import quick_gelu


def gelu_formula(x):
    return x * tf.sigmoid(1.702 * x)


def norm_formula(x, gain):
    return x * tf.math.rsqrt(tf.reduce_mean(x**2, axis=-1, keepdims=True) + 1e-5) * gain


def with_gradients(function, upstream, inputs):
    """The result, and the gradients of its product with `upstream`: float64."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        result = function(*inputs)
        total = tf.reduce_sum(result * tf.cast(upstream, result.dtype))
    return [tf.cast(x, tf.float64).numpy() for x in (result, *tape.gradient(total, inputs))]


def with_gradients_in_training(layer, x, upstream):
    """The same of a layer: its result, the gradient of its input and those of its weights."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
        total = tf.reduce_sum(y * tf.cast(upstream, y.dtype))
    gradients = tape.gradient(total, [x, *(weight.value for weight in layer.trainable_weights)])
    return [tf.cast(each, tf.float64).numpy() for each in (y, *gradients)]


def assert_near(actual, expected, tolerance):
    """Compares arrays by the largest entry of each."""
    for ours, theirs in zip(actual, expected, strict=True):
        assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


def drawn(*shapes):
    generator = np.random.default_rng(5)
    return [generator.normal(0, 2, shape) for shape in shapes]


DTYPES = pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-6), ("bfloat16", 2e-2)]
)


@DTYPES
def test_the_activation_in_training_has_the_gradient_of_its_formula(dtype, tolerance):
    x, upstream = (
        tf.cast(tf.cast(each, dtype), tf.float64) for each in drawn((3, 5, 8), (3, 5, 8))
    )
    expected = with_gradients(gelu_formula, upstream, [x])
    actual = with_gradients(lambda x: quick_gelu(x, training=True), upstream, [tf.cast(x, dtype)])
    assert_near(actual, expected, tolerance)


@DTYPES
def test_the_norm_in_training_has_the_gradient_of_its_formula(dtype, tolerance):
    arrays = drawn((3, 5, 8), (8,), (3, 5, 8))
    x, gain, upstream = (tf.cast(tf.cast(each, dtype), tf.float64) for each in arrays)
    expected = with_gradients(norm_formula, upstream, [x, gain])
    layer = rms_norm("norm", dtype)
    layer.build(x.shape)
    layer.scale.assign(gain)
    assert_near(with_gradients_in_training(layer, tf.cast(x, dtype), upstream), expected, tolerance)


def test_training_changes_no_result():
    (x,) = (each.astype(np.float32) for each in drawn((3, 5, 8)))
    layer = rms_norm("norm", "float32")
    for function in (quick_gelu, layer):
        np.testing.assert_array_equal(function(x, training=True), function(x, training=False))


@pytest.mark.parametrize("kind", ["activation", "norm"])
def test_what_the_gradient_computes_again_waits_for_it(kind):
    """Only the input, the result and a number a token are kept."""
    layer = rms_norm("norm", "float32")
    layer.build((None, 7, 8))
    function = quick_gelu if kind == "activation" else layer

    @tf.function(input_signature=[tf.TensorSpec([3, 7, 8])] * 2)
    def gradients(x, upstream):
        y = function(x, training=True)
        return y, tf.gradients(y, [x], upstream)

    graph = gradients.get_concrete_function().graph
    after_upstream = {graph.inputs[1].op}
    kept = set()
    for operation in graph.get_operations():
        inputs = {tensor.op for tensor in operation.inputs} | set(operation.control_inputs)
        if inputs & after_upstream:
            after_upstream.add(operation)
            kept |= {
                tensor.ref()
                for tensor in operation.inputs
                if tensor.op not in after_upstream and tensor.shape == (3, 7, 8)
            }
    # The result passes through an operation that only names it.
    assert {each.deref().op.type for each in kept} <= {"Placeholder", "Mul", "IdentityN"}
    assert len(kept) <= 2
