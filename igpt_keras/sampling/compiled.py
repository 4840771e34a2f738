"""Compiled graphs of the decoder, which a model keeps, and sampling in a graph.

Shapes: B images, N completions of each, n positions.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from igpt_keras.network.protocols import TokenModel
from igpt_keras.sampling.autoregressive import (
    begin,
    decode_rows,
    decode_until,
    rows_at_once,
    state_spec,
)
from igpt_keras.sampling.conditioning import (
    Condition,
    Conditioning,
    condition_spec,
    conditioning_of,
)
from igpt_keras.sampling.decoder import grow
from igpt_keras.sampling.drafts import Draft
from igpt_keras.sampling.graphs import kept_by_model
from igpt_keras.sampling.samplers import Sampler
from igpt_keras.sampling.speculative import begin_guesses, guesses_spec, speculate_rows
from igpt_keras.tensors import Tensor

_COUNT = tf.TensorSpec([], tf.int32)


class CompiledDecoder(NamedTuple):
    """Graphs that decode: `autoregressive.begin` and `decode_rows`, or their forms with a draft.

    Attributes:
        begin: Makes a state from tokens int32 [B, n], the length of the known prefix, N, and the
            condition; () where images have no classes.
        decode_rows: Makes the next state from a state, known positions bool [n, B · N], seeds
            int64 [B · N], the sampler's fields [B · N] by name, and a number of rows.
    """

    begin: Callable
    decode_rows: Callable


def compiled_decoder(
    model: TokenModel,
    sampler_type: type[Sampler],
    draft: Draft | None = None,
    jit_compile: bool = False,
    conditioning: Conditioning = "none",
) -> CompiledDecoder:
    """Returns the graphs of a model, compiled once for the same arguments.

    Counts (the prefix, N, the number of rows) are int32 scalars. XLA takes integers, compiles
    the graphs for each of them and for each batch size, and gives caches their full capacity
    from the start.
    """
    settings = (draft, draft and draft.window, jit_compile, conditioning)
    return CompiledDecoder(
        _compiled_begin(model, *settings),
        _compiled_decode_rows(model, sampler_type, *settings),
    )


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


@kept_by_model
def _compiled_begin(
    model: TokenModel,
    draft: Draft | None,
    window: int | None,
    jit_compile: bool,
    conditioning: Conditioning,
):
    length = model.config.sequence_length

    def compiled_begin(tokens, prefix, num_completions, condition=()):
        state = begin(model, tokens, prefix, num_completions, condition)
        if jit_compile:
            state = state._replace(caches=grow(state.caches, length))
        if draft is None:
            return state
        return state._replace(guesses=begin_guesses(draft, tokens, prefix, num_completions))

    signature: list[Any] = [tf.TensorSpec([None, length], tf.int32), _COUNT, _COUNT]
    if conditioning != "none":
        signature.append(condition_spec(conditioning))
    return _compile(compiled_begin, signature, jit_compile)


@kept_by_model
def _compiled_decode_rows(
    model: TokenModel,
    sampler_type: type[Sampler],
    draft: Draft | None,
    window: int | None,
    jit_compile: bool,
    conditioning: Conditioning,
):
    def compiled_decode_rows(state, known, seeds, fields, num_rows):
        sampler = sampler_type(**fields)
        if draft is None:
            return decode_rows(model, state, known, seeds, sampler, num_rows)
        return speculate_rows(model, draft, state, known, seeds, sampler, num_rows)

    state = state_spec(model, conditioning)
    if draft is not None:
        state = state._replace(guesses=guesses_spec(draft))
    signature = [
        state,
        tf.TensorSpec([model.config.sequence_length, None], tf.bool),
        tf.TensorSpec([None], tf.int64),
        {field.name: tf.TensorSpec([None], field.dtype) for field in sampler_type.parameters()},
        _COUNT,
    ]
    return _compile(compiled_decode_rows, signature, jit_compile)


def _compile(function: Callable, signature: list, jit_compile: bool):
    return tf.function(
        function,
        input_signature=None if jit_compile else signature,
        jit_compile=jit_compile,
        autograph=False,
    )
