import keras
import numpy as np
import pytest
from keras import ops

from igpt_keras.network.initial_weights import initial_weights
from igpt_keras.network.layers import MLP, Block, SelfAttention, TokenEmbedding, rms_norm

INITIAL = initial_weights("image_gpt", hidden_dim=12, num_layers=1)


@pytest.fixture
def states():
    return np.random.default_rng(17).normal(0, 1, (3, 5, 12)).astype(np.float32)


def built(layer, x, seed=0):
    """The layer with random weights everywhere, biases included."""
    layer(x)
    generator = np.random.default_rng(seed)
    layer.set_weights([generator.normal(0, 0.5, w.shape) for w in layer.get_weights()])
    return layer


def numpy(tensor):
    return ops.convert_to_numpy(tensor).astype(np.float64)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("use_bias", [False, True])
def test_attention_is_the_weighted_mean_taken_one_query_at_a_time(states, causal, use_bias):
    layer = built(SelfAttention(3, causal, use_bias, initial=INITIAL), states)
    projected = numpy(layer.qkv(states))
    attended = np.zeros((3, 5, 12))
    for image in range(3):
        for head in range(3):
            columns = slice(4 * head, 4 * head + 4)
            query, key, value = (
                projected[image, :, 12 * i : 12 * i + 12][:, columns] for i in range(3)
            )
            for position in range(5):
                seen = position + 1 if causal else 5
                weights = np.exp(key[:seen] @ query[position] / np.sqrt(4))
                attended[image, position, columns] = weights @ value[:seen] / weights.sum()
    expected = attended @ numpy(layer.output_proj.kernel)
    if use_bias:
        expected += numpy(layer.output_proj.bias)
    np.testing.assert_allclose(numpy(layer(states)), expected, atol=1e-5)


def test_mlp_is_two_maps_around_the_published_activation(states):
    layer = built(MLP(use_bias=True, initial=INITIAL), states)
    first, first_bias, second, second_bias = (numpy(weight) for weight in layer.weights)
    assert first.shape == (12, 48)
    inner = states @ first + first_bias
    inner *= 1 / (1 + np.exp(-1.702 * inner))
    np.testing.assert_allclose(numpy(layer(states)), inner @ second + second_bias, atol=1e-4)


def test_norm_is_by_the_root_mean_square_without_centring(states):
    layer = built(rms_norm("norm", "float32"), states)
    expected = states / np.sqrt((states**2).mean(axis=-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(numpy(layer(states)), expected * numpy(layer.scale), atol=1e-5)


def test_block_adds_attention_and_mlp_each_after_its_norm(states):
    block = built(Block(3, True, True, initial=INITIAL), states)
    after_attention = states + numpy(block.attention(block.attention_norm(states)))
    expected = after_attention + numpy(block.mlp(block.mlp_norm(after_attention)))
    np.testing.assert_allclose(numpy(block(states)), expected, atol=1e-4)


def test_embedding_shifts_by_the_start_vector(tokens):
    layer = built(TokenEmbedding(8, 16, 12, use_start_vector=True), tokens)
    content, positions, start = (
        numpy(weight)
        for weight in (layer.token_embedding, layer.position_embedding, layer.start_vector)
    )
    expected = np.stack([np.vstack([start, content[row[:-1]]]) + positions for row in tokens])
    np.testing.assert_allclose(numpy(layer(tokens)), expected, atol=1e-6)
    np.testing.assert_allclose(numpy(layer(tokens[:, :5])), expected[:, :5], atol=1e-6)
    for start in range(16):
        for count in {1, min(3, 16 - start)}:
            previous = tokens[:, np.arange(start - 1, start - 1 + count)]
            step = numpy(layer.step(previous, start))
            np.testing.assert_allclose(step, expected[:, start : start + count], atol=1e-6)


def test_embedding_zeroes_masked_contents_before_adding_positions(tokens):
    layer = built(TokenEmbedding(8, 16, 12, use_start_vector=False), tokens)
    masked = np.random.default_rng(18).random(tokens.shape) < 0.3
    content, positions = numpy(layer.token_embedding), numpy(layer.position_embedding)
    expected = np.where(masked[..., None], 0, content[tokens]) + positions
    np.testing.assert_allclose(numpy(layer(tokens, masked=masked)), expected, atol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        TokenEmbedding(8, 16, 12, use_start_vector=True),
        SelfAttention(3, True, True, INITIAL),
        MLP(True, INITIAL, dtype="mixed_bfloat16"),
        Block(3, False, True, INITIAL),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_are_serializable_under_the_packages_name(layer):
    serialized = keras.saving.serialize_keras_object(layer)
    assert serialized["registered_name"] == f"igpt_keras>{type(layer).__name__}"
    again = keras.saving.deserialize_keras_object(serialized)
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()
