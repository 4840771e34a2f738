"""Block-wise attention against attention computed one query at a time."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from igpt_keras.network import attention
from igpt_keras.network.attention import dot_product_attention
from igpt_keras.network.initial_weights import initial_weights
from igpt_keras.network.layers import Block

QUERY_BLOCK_SIZE = 4
# Less than a block, whole blocks, and an incomplete last one.
LENGTHS = [3, 12, 15]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(attention, "QUERY_BLOCK_SIZE", QUERY_BLOCK_SIZE)


def one_query_at_a_time(query, key, value, causal):
    """[B, n, H, D]; its gradient is TensorFlow's, operation by operation."""
    attended = []
    for position in range(query.shape[1]):
        seen = position + 1 if causal else query.shape[1]
        scores = tf.einsum("bhd,bnhd->bhn", query[:, position], key[:, :seen])
        exponentials = tf.exp(scores / query.shape[-1] ** 0.5)
        weights = exponentials / tf.reduce_sum(exponentials, axis=-1, keepdims=True)
        attended.append(tf.einsum("bhn,bnhd->bhd", weights, value[:, :seen]))
    return tf.stack(attended, axis=1)


def with_gradients(function, inputs, upstream, causal, dtype):
    """The function's result, and the gradients of its product with `upstream`: float64."""
    inputs = [tf.cast(x, dtype) for x in inputs]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        attended = function(*inputs, causal)
        total = tf.reduce_sum(attended * tf.cast(upstream, dtype))
    return [tf.cast(x, tf.float64).numpy() for x in (attended, *tape.gradient(total, inputs))]


@pytest.fixture(params=LENGTHS, ids=lambda length: f"length{length}")
def arrays(request):
    """Query, key, value and a gradient for the result; scores differ by several nats."""
    return np.random.default_rng(3).normal(0, 1.5, (4, 2, request.param, 3, 4))


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 5e-2)])
def test_attention_and_its_gradients(arrays, causal, dtype, tolerance):
    arrays = tf.cast(tf.cast(arrays, dtype), tf.float64)
    *inputs, upstream = tf.unstack(arrays)
    expected = with_gradients(one_query_at_a_time, inputs, upstream, causal, "float64")
    actual = with_gradients(dot_product_attention, inputs, upstream, causal, dtype)
    for ours, theirs in zip(actual, expected, strict=True):
        assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_a_length_known_only_in_the_graph(arrays, causal):
    *inputs, upstream = tf.unstack(tf.cast(arrays, tf.float32))
    of_any_length = tf.function(
        lambda *inputs: with_gradients_in_graph(inputs, upstream, causal),
        input_signature=[tf.TensorSpec([None, None, 3, 4])] * 3,
    )
    expected = with_gradients(one_query_at_a_time, inputs, upstream, causal, "float64")
    for ours, theirs in zip(of_any_length(*inputs), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


def with_gradients_in_graph(inputs, upstream, causal):
    attended = dot_product_attention(*inputs, causal)
    return attended, *tf.gradients(tf.reduce_sum(attended * upstream), list(inputs))


def test_a_block_waits_for_the_one_before_and_the_gradient_for_its_upstream():
    """Else TensorFlow would hold the scores of all blocks at once."""
    num_blocks = 3
    shape = tf.TensorSpec([2, num_blocks * QUERY_BLOCK_SIZE, 3, 4])

    @tf.function(input_signature=[shape] * 4)
    def gradients(query, key, value, upstream):
        attended = dot_product_attention(query, key, value, True)
        return attended, *tf.gradients(attended, [query, key, value], upstream)

    graph = gradients.get_concrete_function().graph
    before = {}
    for operation in graph.get_operations():
        inputs = [tensor.op for tensor in operation.inputs] + operation.control_inputs
        before[operation] = {operation}.union(*(before[each] for each in inputs))
    products = [each for each in graph.get_operations() if each.type == "BatchMatMulV2"]
    upstream = graph.inputs[3].op
    forward = [each for each in products if upstream not in before[each]]
    backward = [each for each in products if upstream in before[each]]
    # Scores and values; scores again, and gradients of weights, queries, keys and values.
    for found, each_block in ((forward, 2), (backward, 5)):
        assert len(found) == each_block * num_blocks
        for i in range(each_block, len(found)):
            block = i // each_block
            earlier = found[(block - 1) * each_block : block * each_block]
            assert set(earlier) <= before[found[i]]


@pytest.mark.parametrize(
    "jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["graph", "xla"]
)
def test_a_recomputed_block_has_the_gradients_of_a_kept_one(jit_compile):
    block = Block(2, causal=True, use_bias=True, initial=initial_weights("image_gpt", 8, 1))
    states = np.random.default_rng(4).normal(0, 1, (2, 11, 8)).astype("float32")
    block(states)

    @tf.function(jit_compile=jit_compile)
    def gradients(recomputed):
        with tf.GradientTape() as tape:
            after = keras.remat(block)(states) if recomputed else block(states)
            loss = tf.reduce_sum(tf.sin(after))
        return tape.gradient(loss, [v.value for v in block.trainable_variables])

    for again, kept in zip(gradients(True), gradients(False), strict=True):
        np.testing.assert_allclose(again, kept, atol=1e-5 * np.abs(kept).max())
