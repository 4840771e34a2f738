"""Autoregressive decoding: one token after the other, in raster order.

Shapes: B images, N completions of each, n positions, V tokens in the vocabulary. Tensors of a
decoding state have the position first, so that a step writes one row.
"""

# Keras declares that its functions may return None.
# pyright: reportOptionalSubscript=false

from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

from igpt_keras.network.protocols import TokenModel
from igpt_keras.sampling.backends import backend
from igpt_keras.sampling.conditioning import (
    Conditioning,
    condition_spec,
    conditioned_prefill,
    conditioned_step,
    repeat_condition,
)
from igpt_keras.sampling.decoder import Caches, cache_specs, grow, repeat
from igpt_keras.sampling.gumbel import gumbel_noise, log_prob_and_entropy, sample_token
from igpt_keras.sampling.samplers import Sampler
from igpt_keras.tensors import Tensor

# The caches grow by about this many positions at a time: attention only reads what exists, and
# the copies on growing stay rare.
CACHE_GROWTH = 128


class DecodingState(NamedTuple):
    """B · N sequences between two positions: tensors, or their shapes and dtypes."""

    position: Tensor  # int32 scalar, the next one
    tokens: Tensor  # int32 [n, B · N]
    log_probs: Tensor  # float32 [n, B · N], nats
    entropies: Tensor  # float32 [n, B · N], nats
    caches: Caches
    guesses: Any = ()  # `speculative.Guesses` with a draft
    condition: Any = ()  # `conditioning.Condition` where sequences have classes


def begin(
    model: TokenModel,
    tokens: Tensor,
    prefix: Tensor,
    num_completions: Tensor,
    condition: Any = (),
) -> DecodingState:
    """Returns the state after one pass over the prefix that all sequences know.

    Args:
        model: An autoregressive model with a token head.
        tokens: int32 [B, n].
        prefix: The length of the prefix, 0…n: an integer or int32 scalar.
        num_completions: N. The state holds each sequence N times, one after the other.
        condition: The classes of the images, a `conditioning.Condition`; () for none.
    """
    known = tokens[:, :prefix]
    logits, caches = conditioned_prefill(model, known, condition)
    padding = [[0, model.config.sequence_length - prefix], [0, 0]]
    log_probs, entropies = (
        ops.pad(ops.transpose(values), padding)
        for values in log_prob_and_entropy(logits.of_model, known)
    )
    sequences = ops.repeat(ops.arange(ops.shape(tokens)[0]), num_completions)
    return DecodingState(
        ops.convert_to_tensor(prefix, "int32"),
        backend.take(ops.transpose(tokens), sequences, axis=1),
        backend.take(log_probs, sequences, axis=1),
        backend.take(entropies, sequences, axis=1),
        repeat(caches, model.config.num_heads, num_completions),
        condition=repeat_condition(condition, num_completions),
    )


def decode_rows(
    model: TokenModel,
    state: DecodingState,
    known: Tensor,
    seeds: Tensor,
    sampler: Sampler,
    num_rows: int | Tensor,
) -> DecodingState:
    """Decodes position by position up to the end of a row of tokens.

    Args:
        model: An autoregressive model with a token head.
        state: A state whose position lies before the end.
        known: bool [n, B · N].
        seeds: Those of the sequences, from `backend.as_seeds`.
        sampler: Its fields are numbers, or tensors [B · N].
        num_rows: The number of rows, counting from that of `state.position`: an integer or
            int32 scalar. There are fewer where the image ends.
    """
    block = RowBlock(model, state, seeds, num_rows)

    def step(state: DecodingState) -> DecodingState:
        position = state.position
        previous = state.tokens[ops.maximum(position - 1, 0)]
        logits, caches = conditioned_step(
            model, previous[:, None], position, state.caches, state.condition
        )
        drawn = sample_token(logits.guided[:, 0], block.noise[position - block.start], sampler)
        token = ops.where(known[position], state.tokens[position], drawn)
        log_probs, entropies = log_prob_and_entropy(logits.of_model[:, 0], token)

        def write(values, new):
            return ops.scatter_update(values, [[position]], new[None])

        return DecodingState(
            position + 1,
            write(state.tokens, token),
            write(state.log_probs, log_probs),
            write(state.entropies, entropies),
            caches,
            condition=state.condition,
        )

    return decode_until(block.stop, step, block.grow(state))


class RowBlock:
    """Some rows of tokens that are decoded together: their limits and their noise.

    Args:
        model: The model that decodes them.
        state: A state whose position lies in the first of the rows.
        seeds: Those of the sequences, from `backend.as_seeds`.
        num_rows: The number of rows to decode; fewer where the image ends.
        lookahead: How many positions beyond their end may be decoded too.

    Attributes:
        start: int32 scalar, the first position of the rows.
        stop: int32 scalar, the position after the last one to decode.
        noise: float32 [m, B · N, V], from `start` on.
    """

    def __init__(
        self,
        model: TokenModel,
        state: DecodingState,
        seeds: Tensor,
        num_rows: int | Tensor,
        lookahead: int = 0,
    ):
        config = model.config
        columns, self._length = model.config.token_grid[1], config.sequence_length
        first_row = state.position // columns
        self.start = first_row * columns
        self.stop = ops.minimum((first_row + num_rows) * columns, self._length)
        num_rows += -(-lookahead // columns)
        self._capacity = ops.minimum((first_row + num_rows) * columns, self._length)
        self.noise = gumbel_noise(seeds, first_row, num_rows, columns, config.vocabulary_size)

    def grow(self, state: DecodingState) -> DecodingState:
        """Returns the state with caches that have room for the rows."""
        if state.caches[0][0].shape[1] == self._length:
            return state
        return state._replace(caches=grow(state.caches, self._capacity))


def decode_until(
    stop: Tensor,
    step: Callable[[DecodingState], DecodingState],
    state: DecodingState,
    shapes: Any = None,
) -> DecodingState:
    """Repeats a step until the position reaches `stop`.

    Args:
        stop: int32 scalar.
        step: Returns the state at a later position.
        state: The state to begin with.
        shapes: A state of shapes, where a step changes them.
    """
    return backend.while_loop(lambda state: state.position < stop, step, state, shapes)


def rows_at_once(model: TokenModel) -> int:
    """Returns how many rows of tokens have about `CACHE_GROWTH` positions."""
    rows, columns = model.config.token_grid
    return min(max(CACHE_GROWTH // columns, 1), rows)


def state_spec(
    model: TokenModel, conditioning: Conditioning = "none", num_sequences: int | None = None
) -> DecodingState:
    """Returns shapes and dtypes of a state of any cache capacity.

    Args:
        model: The model.
        conditioning: The kind of the state's condition.
        num_sequences: B · N; None for any.
    """
    length = model.config.sequence_length
    measures = backend.TensorSpec([length, num_sequences], "float32")
    return DecodingState(
        position=backend.TensorSpec([], "int32"),
        tokens=backend.TensorSpec([length, num_sequences], "int32"),
        log_probs=measures,
        entropies=measures,
        caches=cache_specs(model),
        condition=condition_spec(conditioning, num_sequences),
    )
