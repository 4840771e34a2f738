"""Sampling as a part of a TensorFlow graph, such as that of an export.

Shapes: B sequences, n positions.
"""

import tensorflow as tf

from igpt_keras.network.protocols import TokenModel
from igpt_keras.sampling.autoregressive import decode_until, rows_at_once, state_spec
from igpt_keras.sampling.compiled import compiled_decoder
from igpt_keras.sampling.conditioning import Condition, conditioning_of
from igpt_keras.sampling.samplers import Sampler
from igpt_keras.tensors import Tensor


def sample_tokens(
    model: TokenModel,
    tokens: Tensor,
    known: Tensor,
    seeds: Tensor,
    sampler: Sampler,
    condition: Condition | tuple[()] = (),
) -> tuple[Tensor, Tensor]:
    """Fills the unknown positions in raster order, also as part of another graph.

    Args:
        model: An autoregressive model with a token head.
        tokens: int32 [B, n]; the values at unknown positions have no effect.
        known: bool [B, n]; known tokens are never changed.
        seeds: int64 [B]. Each sequence has a random stream of its own, so the other sequences of
            the batch have no effect.
        sampler: Its fields are numbers, or tensors [B].
        condition: The classes of the images; () for none.

    Returns:
        Tokens int32 [B, n], and float32 [B], the log-likelihood in nats of the tokens at unknown
        positions, each given all tokens before it.
    """
    conditioning = conditioning_of(condition)
    decoder = compiled_decoder(model, type(sampler), conditioning=conditioning)
    fields = {
        field.name: tf.broadcast_to(
            tf.cast(getattr(sampler, field.name), field.dtype), tf.shape(seeds)
        )
        for field in sampler.parameters()
    }
    # The longest prefix that all sequences know takes one pass.
    prefix = tf.reduce_sum(tf.math.cumprod(tf.cast(tf.reduce_all(known, axis=0), tf.int32)))
    known = tf.transpose(known)
    num_rows = tf.constant(rows_at_once(model))
    state = decode_until(
        model.config.sequence_length,
        lambda state: decoder.decode_rows(state, known, seeds, fields, num_rows),
        decoder.begin(tokens, prefix, tf.constant(1), condition),
        tf.nest.map_structure(lambda spec: spec.shape, state_spec(model, conditioning)),
    )
    log_likelihood = tf.reduce_sum(tf.where(known, 0.0, state.log_probs), axis=0)
    return tf.transpose(state.tokens), log_likelihood


def condition_in_graph(labels: Tensor, guidance_scale: Tensor) -> Condition:
    """Returns the classes of sequences of which each may have guidance or none.

    A sequence without guidance takes no further one: its scale is 1.

    Args:
        labels: int32 [B], -1 for no class.
        guidance_scale: float32 [B], 1 where there is no class.
    """
    guided = tf.where(guidance_scale != 1)[:, 0]
    return Condition(labels, guidance_scale, tf.cast(guided, tf.int32))
