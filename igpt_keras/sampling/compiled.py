"""The compiled decoder, which a model keeps.

Shapes: B images, N completions of each, n positions.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from igpt_keras import paper
from igpt_keras.network.projection import row_is_cut
from igpt_keras.network.protocols import TokenModel
from igpt_keras.sampling.autoregressive import begin, decode_rows, state_spec
from igpt_keras.sampling.backends import backend
from igpt_keras.sampling.conditioning import Conditioning, condition_spec
from igpt_keras.sampling.decoder import grow
from igpt_keras.sampling.drafts import Draft
from igpt_keras.sampling.graphs import kept_by_model
from igpt_keras.sampling.samplers import Sampler
from igpt_keras.sampling.speculative import begin_guesses, guesses_spec, speculate_rows

_COUNT = backend.TensorSpec([], "int32")


class CompiledDecoder(NamedTuple):
    """Functions that decode: `autoregressive.begin` and `decode_rows`, or their forms with a draft.

    Attributes:
        begin: Makes a state from tokens int32 [B, n], the length of the known prefix, N, and the
            condition, which is left out where images have no classes.
        decode_rows: Makes the next state from a state, which is used up, known positions bool
            [n, B · N], seeds [B · N] of `backend.as_seeds`, the sampler's fields [B · N] by name,
            and a number of rows.
    """

    begin: Callable
    decode_rows: Callable


def compiled_decoder(
    model: TokenModel,
    sampler_type: type[Sampler],
    draft: Draft | None = None,
    jit_compile: bool = False,
    conditioning: Conditioning = "none",
    num_sequences: int | None = None,
) -> CompiledDecoder:
    """Returns the functions of a model, compiled once for the same arguments.

    Counts (the prefix, N, the number of rows) are integers; in a graph int32 scalars as well.
    XLA, which JAX always uses, compiles for each of them and for each batch size, and gives
    caches their full capacity from the start.

    `num_sequences` is B · N if it is the same in all calls, else None. Only for a single sequence
    of a large model does it make another graph.
    """
    jit_compile = jit_compile or backend.ALWAYS_XLA
    settings = (draft, draft and draft.window, jit_compile, conditioning)
    is_alone = num_sequences == 1 and draft is None and not jit_compile and _cuts_rows(model)
    return CompiledDecoder(
        _compiled_begin(model, *settings),
        _compiled_decode_rows(model, sampler_type, *settings, 1 if is_alone else None),
    )


def _cuts_rows(model):
    """Whether one sequence decodes faster in a graph that knows that it is the only one."""
    d = model.config.hidden_dim
    return row_is_cut(paper.MLP_RATIO * d, d)


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

    signature: list[Any] = [backend.TensorSpec([None, length], "int32"), _COUNT, _COUNT]
    if conditioning != "none":
        signature.append(condition_spec(conditioning))
    return backend.compile_function(
        compiled_begin,
        signature,
        lambda: _variables(model, draft),
        static=(1, 2),
        jit_compile=jit_compile,
    )


@kept_by_model
def _compiled_decode_rows(
    model: TokenModel,
    sampler_type: type[Sampler],
    draft: Draft | None,
    window: int | None,
    jit_compile: bool,
    conditioning: Conditioning,
    num_sequences: int | None,
):
    def compiled_decode_rows(state, known, seeds, fields, num_rows):
        sampler = sampler_type(**fields)
        if draft is None:
            return decode_rows(model, state, known, seeds, sampler, num_rows)
        return speculate_rows(model, draft, state, known, seeds, sampler, num_rows)

    state = state_spec(model, conditioning, num_sequences)
    if draft is not None:
        state = state._replace(guesses=guesses_spec(draft))
    spec = backend.TensorSpec
    signature = [
        state,
        spec([model.config.sequence_length, num_sequences], "bool"),
        spec([num_sequences], "int64"),
        {field.name: spec([num_sequences], field.dtype) for field in sampler_type.parameters()},
        _COUNT,
    ]
    return backend.compile_function(
        compiled_decode_rows,
        signature,
        lambda: _variables(model, draft),
        static=(4,),
        donated=(0,),
        jit_compile=jit_compile,
    )


def _variables(model, draft):
    """All that a decoder reads."""
    return [*model.weights, *(() if draft is None else draft.weights)]
