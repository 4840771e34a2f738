"""Completing images and sampling new ones, pixel by pixel.

Shapes: B images, N completions of each, n positions, R = √n, V colors.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from igpt_keras.errors import InputError
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.sampling.decoder import Caches, cache_specs, decode_step, grow, prefill, repeat
from igpt_keras.sampling.drafts import Draft, as_draft
from igpt_keras.sampling.mask_predict import DEFAULT_ROUNDS, fill
from igpt_keras.sampling.samplers import draw, gumbel_noise, measure
from igpt_keras.sampling.settings import (
    check_can_complete,
    check_fits_objective,
    check_model_images,
    check_settings,
    completion_seeds,
    is_integer,
    known_pixels,
)
from igpt_keras.sampling.speculative import Guesses, begin_guesses, speculate_rows
from igpt_keras.tokenizers.base import tokenizer_of

# The caches grow by about so many positions at a time: attention goes over what exists, and
# the copies on growing stay rare.
CHUNK = 128


@dataclasses.dataclass(frozen=True)
class Completions:
    """N completions of each of B images.

    Likelihoods and entropies are the model's, before temperature, top-k and top-p, each pixel
    given those before it; of a BERT model, given those known before its round.

    Attributes:
        images: uint8 [B, N, R, R, 3].
        tokens: int32 [B, N, n].
        log_likelihood: float32 [B, N], nats, of the sampled pixels.
        total_log_likelihood: float32 [B, N], nats, of all pixels; None from a server, and from a
            BERT model, which has no likelihood of an image.
        entropy: float32 [B, N, R, R], nats, of the distribution at every pixel, also the
            known ones (which BERT sees: 0); None from a server.
        passes: how often the model ran to fill the unknown pixels: once for every position from
            the first of them on, less often with a draft, the rounds of a BERT model; None from a
            server.
    """

    images: np.ndarray
    tokens: np.ndarray
    log_likelihood: np.ndarray
    total_log_likelihood: np.ndarray | None = None
    entropy: np.ndarray | None = None
    passes: int | None = None


class Settings(NamedTuple):
    """What is drawn, one value for each of B · N sequences; see `complete`."""

    seeds: tf.Tensor  # int64
    temperature: tf.Tensor  # float32
    top_k: tf.Tensor  # int32
    top_p: tf.Tensor  # float32


SETTINGS_SPEC = Settings(
    *(tf.TensorSpec([None], dtype) for dtype in (tf.int64, tf.float32, tf.int32, tf.float32))
)


class State(NamedTuple):
    """A decoder between two positions. Time comes first, so that a step writes one row."""

    position: tf.Tensor  # int32 scalar, the next one
    tokens: tf.Tensor  # int32 [n, B · N]
    log_probabilities: tf.Tensor  # float32 [n, B · N]
    entropies: tf.Tensor  # float32 [n, B · N]
    caches: Caches
    guesses: Guesses | tuple[()] = ()  # with a draft


def complete(
    model: GenerativeModel,
    images: np.ndarray,
    keep_rows: int | None = None,
    num_completions: int = 1,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int | Sequence[int] = 0,
    *,
    known: np.ndarray | None = None,
    draft: Draft | GenerativeModel | None = None,
    rounds: int | None = None,
    on_row: Callable[[int, np.ndarray], None] | None = None,
    jit_compile: bool = False,
) -> Completions:
    """Keeps the known pixels of images and samples the others.

    An autoregressive model samples in raster order. A BERT model fills in rounds, which is
    sampling from an approximation; see `igpt_keras.sampling.mask_predict`.

    Args:
        model: an `ImageGPT`, or a classifier with its token logits.
        images: uint8 [B, R, R, 3] (or 1 channel, gray), R = `image_size`. Known
            pixels come back as the tokenizer restores them.
        keep_rows: number of rows known, 0…R; or else `known`.
        num_completions: N, at least 1. They share one pass over the pixels before the first
            unknown one.
        temperature: divides the logits; 0 takes the most probable color.
        top_k: only the k most probable colors are drawn; 0 for all.
        top_p: of those, only the fewest whose probabilities sum to `top_p` or more.
        seed: one for each image, or one integer s for seeds s, s + 1, …. An image, its
            seed and the settings determine its completions.
        known: bool [R, R] for all images or [B, R, R]: the pixels that are known. An
            autoregressive model samples a pixel given those before it in raster order, not given
            known ones after it.
        draft: what guesses several pixels ahead for the model to check in one pass: a smaller
            autoregressive model or a `NeighborDraft`. The completions are those without it; a
            large model has them sooner, for few sequences: `docs/completion.md`. Not for BERT.
        rounds: for BERT, passes in which the unknown pixels are filled, the most confident first;
            16 unless given. With as many as there are unknown pixels, one is filled a round.
        on_row: called with 0 … R - 1, each as soon as that row of all completions is there, and
            with the row, uint8 [B, N, R, 3]. Not for BERT.
        jit_compile: whether XLA compiles the decoder, once for every batch size and number of
            known pixels: worth it on GPUs and TPUs. Not for BERT.

    Raises:
        InputError: an argument that cannot be used.
    """
    check_can_complete(model)
    check_fits_objective(model, rounds, draft=draft, on_row=on_row, jit_compile=jit_compile)
    tokenizer = tokenizer_of(model)
    images = check_model_images(model, images)
    size = model.config.image_size
    check_settings(
        0 if keep_rows is None else keep_rows, num_completions, temperature, top_k, top_p
    )
    draft = draft and as_draft(draft, model.config)
    known = known_pixels(keep_rows, known, len(images), size)
    seeds = completion_seeds(seed, len(images), num_completions)
    settings = Settings(
        tf.constant(seeds.reshape(-1)),
        tf.fill([seeds.size], np.float32(temperature)),
        tf.fill([seeds.size], np.int32(top_k)),
        tf.fill([seeds.size], np.float32(top_p)),
    )
    tokens = tokenizer.tokenize(images)
    if model.objective == "bert":
        filled, passes = _fill(model, tokens, known, settings, num_completions, rounds)
    else:
        report = None
        if on_row is not None:

            def report(row, tokens):
                on_row(row, tokenizer.rgb[tokens.reshape(*seeds.shape, size)])

        filled, passes = _decode(
            model, draft, tokens, known, settings, num_completions, report, jit_compile
        )
    tokens, log_probabilities, entropies = (x.numpy().reshape(*seeds.shape, -1) for x in filled)
    return Completions(
        images=tokenizer.detokenize(tokens),
        tokens=tokens,
        log_likelihood=np.where(known[:, None], 0, log_probabilities).sum(axis=-1),
        total_log_likelihood=(
            None if model.objective == "bert" else log_probabilities.sum(axis=-1)
        ),
        entropy=entropies.reshape(*seeds.shape, size, size),
        passes=passes,
    )


def sample(
    model: GenerativeModel,
    num_samples: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    **options,
) -> Completions:
    """Samples images from nothing. Arguments as `complete`; B = `num_samples`, N = 1."""
    if not is_integer(num_samples) or num_samples < 1:
        raise InputError(f"num_samples must be an integer >= 1, got {num_samples}")
    size = model.config.image_size
    blank = np.zeros((num_samples, size, size, 3), np.uint8)
    return complete(
        model,
        blank,
        keep_rows=0,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        **options,
    )


def sample_tokens(model, tokens, known, seeds, temperature, top_k, top_p):
    """Fills the unknown positions in raster order. Traces into a TensorFlow graph.

    Args:
        model: as for `complete`.
        tokens: int32 [B, n]; values at unknown positions do not matter.
        known: bool [B, n]; known tokens are never changed.
        seeds: int64 [B]; each sequence has its own random stream, so the other
            sequences of the batch do not matter.
        temperature: float32 [B]; 0 takes the most probable token.
        top_k: int32 [B]; 0 for all.
        top_p: float32 [B].

    Returns: tokens int32 [B, n], and float32 [B], the log-likelihood in nats of the
    tokens at unknown positions, each given all before it.
    """
    config = model.config
    settings = Settings(seeds, temperature, top_k, top_p)
    # The longest run of positions that every sequence knows goes in one pass.
    prefix = tf.reduce_sum(tf.math.cumprod(tf.cast(tf.reduce_all(known, axis=0), tf.int32)))
    known = tf.transpose(known)
    state = begin(model, tokens, prefix, num_completions=1)
    invariants = tf.nest.map_structure(lambda spec: spec.shape, state_spec(model))
    (state,) = tf.while_loop(
        lambda state: state.position < config.sequence_length,
        lambda state: (decode_rows(model, state, known, settings, rows_of_chunk(config)),),
        (state,),
        shape_invariants=(invariants,),
        parallel_iterations=1,
    )
    log_likelihood = tf.reduce_sum(tf.where(known, 0.0, state.log_probabilities), axis=0)
    return tf.transpose(state.tokens), log_likelihood


def begin(model, tokens, prefix, num_completions: int) -> State:
    """The state after one pass over what all sequences know.

    Args:
        model: as for `complete`.
        tokens: int32 [B, n].
        prefix: how many positions are known, 0…n; int32 scalar, or an integer.
        num_completions: N; each sequence stands in the state N times, one after the other.
    """
    logits, caches = prefill(model, tokens[:, :prefix])
    log_probabilities, entropies = measure(logits, tokens[:, :prefix])

    def repeat_measures(values):
        rest = model.config.sequence_length - prefix
        values = tf.repeat(tf.transpose(values), num_completions, axis=1)
        return tf.pad(values, [[0, rest], [0, 0]])

    return State(
        tf.convert_to_tensor(prefix, tf.int32),
        tf.repeat(tf.transpose(tokens), num_completions, axis=1),
        repeat_measures(log_probabilities),
        repeat_measures(entropies),
        repeat(caches, model.config.num_heads, num_completions),
    )


def decode_rows(model, state: State, known, settings: Settings, num_rows: int) -> State:
    """Goes on to the end of a row of the image, position by position.

    Args:
        model: as for `complete`.
        state: with a position before the end.
        known: bool [n, B · N].
        settings: of what is drawn.
        num_rows: how many rows, the one with `state.position` being the first; fewer where
            the image ends.
    """
    config = model.config
    size, length = config.image_size, config.sequence_length
    first_row = state.position // size
    stop = tf.minimum((first_row + num_rows) * size, length)
    noise = gumbel_noise(settings.seeds, first_row, num_rows, size, config.vocabulary_size)
    caches = state.caches
    if caches[0][0].shape[1] != length:
        caches = grow(caches, stop)

    def step(state):
        position = state.position
        previous = state.tokens[tf.maximum(position - 1, 0)]
        logits, caches = decode_step(model, previous[:, None], position, state.caches)
        logits = logits[:, 0]
        drawn = draw(logits, noise[position - first_row * size], *settings[1:])
        token = tf.where(known[position], state.tokens[position], drawn)
        written = zip(state[1:4], (token, *measure(logits, token)), strict=True)
        return (
            State(
                position + 1,
                *(tf.tensor_scatter_nd_update(x, [[position]], y[None]) for x, y in written),
                caches,
            ),
        )

    (state,) = tf.while_loop(
        lambda state: state.position < stop,
        step,
        (state._replace(caches=caches),),
        parallel_iterations=1,
    )
    return state


def rows_of_chunk(config) -> int:
    """How many rows of the image make a chunk of about `CHUNK` positions."""
    return min(max(CHUNK // config.image_size, 1), config.image_size)


def _fill(model, tokens, known, settings, num_completions, rounds):
    """`fill` of every image `num_completions` times; gives what `_decode` gives."""
    tokens, known = (np.repeat(x, num_completions, axis=0) for x in (tokens, known))
    state, passes = fill(model, tokens, known, settings, rounds or DEFAULT_ROUNDS)
    return (state.tokens, state.log_probabilities, state.entropies), passes


def _decode(model, draft, tokens, known, settings, num_completions, report, jit_compile):
    """`sample_tokens` chunk by chunk, or row by row if rows are to be reported.

    Args:
        draft: a `Draft`, or None.
        tokens: int32 [B, n].
        known: bool [B, n].
        settings: of B · N sequences.
        num_completions: N.
        report: None, or called with the number of each row and its tokens, int32 [B · N, R].
        jit_compile: whether XLA compiles it.

    Returns: tokens, log-probabilities and entropies, [B · N, n] each, and the number of passes
    after that over what is known.
    """
    config = model.config
    num_rows = rows_of_chunk(config) if report is None else 1
    compiled_begin, compiled_decode_rows = compiled_decoder(model, num_rows, jit_compile, draft)
    prefix = int(np.cumprod(known.all(axis=0)).sum())
    counts = prefix, num_completions
    # XLA wants to know shapes when it compiles.
    state = compiled_begin(tokens, *(counts if jit_compile else map(tf.constant, counts)))
    known = tf.repeat(tf.transpose(known), num_completions, axis=1)
    row = 0
    while True:
        while report is not None and row < int(state.position) // config.image_size:
            of_row = state.tokens[row * config.image_size :][: config.image_size]
            report(row, of_row.numpy().T)
            row += 1
        if int(state.position) == config.sequence_length:
            passes = int(state.guesses.passes if draft else config.sequence_length - prefix)
            return tuple(map(tf.transpose, state[1:4])), passes
        state = compiled_decode_rows(state, known, settings)


def compiled_decoder(model, num_rows: int, jit_compile: bool, draft: Draft | None = None):
    """`begin` and `decode_rows` for `num_rows` as graphs, traced once and kept with the model.

    Those with a draft are kept with the draft. XLA's are traced for each batch size, and have
    caches of full capacity from the start.
    """
    length = model.config.sequence_length
    keeper, suffix = model, ""
    if draft is not None:
        keeper, suffix = draft, f"_for_{id(model)}_by_{draft.window}"

    def compiled_begin(tokens, prefix, num_completions):
        state = begin(model, tokens, prefix, num_completions)
        if jit_compile:
            state = state._replace(caches=grow(state.caches, length))
        if draft is None:
            return state
        return state._replace(guesses=begin_guesses(draft, tokens, prefix, num_completions))

    def compiled_decode_rows(state, known, settings):
        if draft is None:
            return decode_rows(model, state, known, settings, num_rows)
        return speculate_rows(model, draft, state, known, settings, num_rows)

    def compiled(function, name, signature):
        name = f"_compiled_{name}" + ("_by_xla" if jit_compile else "") + suffix
        if not hasattr(keeper, name):
            graph = tf.function(
                function,
                input_signature=None if jit_compile else signature,
                jit_compile=jit_compile,
                autograph=False,
            )
            setattr(keeper, name, graph)
        return getattr(keeper, name)

    count = tf.TensorSpec([], tf.int32)
    state = state_spec(model)
    if draft is not None:
        state = state._replace(guesses=Guesses(count, count, draft.spec()))
    return (
        compiled(compiled_begin, "begin", [tf.TensorSpec([None, length], tf.int32), count, count]),
        compiled(
            compiled_decode_rows,
            f"decode_{num_rows}_rows",
            [state, tf.TensorSpec([length, None], tf.bool), SETTINGS_SPEC],
        ),
    )


def state_spec(model) -> State:
    """Shapes and dtypes of a state whose batch size and capacity are not known."""
    config = model.config
    by_time = tf.TensorSpec([config.sequence_length, None], tf.float32)
    return State(
        position=tf.TensorSpec([], tf.int32),
        tokens=tf.TensorSpec([config.sequence_length, None], tf.int32),
        log_probabilities=by_time,
        entropies=by_time,
        caches=cache_specs(model),
    )
