"""Completing images and sampling new ones: what `model.generate` and `model.sample` call.

Shapes: B images, N completions of each, n tokens in the rows and columns of a grid, R
`image_size`. With a color palette, each token is a pixel and the grid R × R.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from igpt_keras.errors import InputError
from igpt_keras.network.protocols import TokenModel
from igpt_keras.sampling.autoregressive import DecodingState, rows_at_once
from igpt_keras.sampling.backends import backend
from igpt_keras.sampling.checks import (
    check_fits_objective,
    check_has_token_head,
    check_model_images,
    known_pixels,
)
from igpt_keras.sampling.compiled import compiled_decoder
from igpt_keras.sampling.conditioning import Condition, conditioning_of, make_condition
from igpt_keras.sampling.drafts import Draft, as_draft
from igpt_keras.sampling.mask_predict import DEFAULT_NUM_STEPS, mask_predict
from igpt_keras.sampling.requests import (
    Completions,
    check_positive,
    completion_seeds,
)
from igpt_keras.sampling.samplers import Categorical, Sampler
from igpt_keras.tokenizers.base import ImageTokenizer, tokenizer_of


class Sequences(NamedTuple):
    """What to decode: B sequences, of each of which N completions are wanted."""

    tokens: np.ndarray  # int32 [B, n]
    known: np.ndarray  # bool [B, n]
    seeds: np.ndarray  # int64 [B, N]
    images: np.ndarray  # uint8 [B, R, R, 3]
    known_pixels: np.ndarray  # bool [B, R, R]
    condition: Condition | tuple[()]  # of B images


class Decoded(NamedTuple):
    """B · N decoded sequences."""

    tokens: np.ndarray  # int32 [B · N, n]
    log_probs: np.ndarray  # float32 [B · N, n], nats
    entropies: np.ndarray  # float32 [B · N, n], nats
    num_forward_passes: int


def generate(
    model: TokenModel,
    images: np.ndarray,
    *,
    keep_rows: int | None = None,
    known_mask: np.ndarray | None = None,
    num_completions: int = 1,
    labels: int | Sequence[int] | np.ndarray | None = None,
    guidance_scale: float = 1.0,
    sampler: Sampler | None = None,
    seed: int | Sequence[int] | np.ndarray = 0,
    draft: Draft | TokenModel | None = None,
    num_steps: int | None = None,
    on_row: Callable[[int, np.ndarray], None] | None = None,
    jit_compile: bool = False,
) -> Completions:
    """Completes images: keeps the known pixels and samples the others.

    An autoregressive model samples in raster order. A BERT model fills the image in a number of
    steps, which samples from an approximation; see `igpt_keras.sampling.mask_predict`.

    Args:
        model: An `ImageGPT`, or a classifier with a token head.
        images: uint8 [B, R, R, 3] (or 1 channel, gray), R the model's image size. Unknown pixels
            have no effect. Known ones come back as they are; with a color palette, in their
            nearest colors.
        keep_rows: The number of known rows of pixels, 0…R. Give either this or `known_mask`.
        known_mask: bool [R, R] for all images or [B, R, R], the known pixels. The model samples
            each token that stands for an unknown pixel. An autoregressive model conditions a
            token only on those before it in raster order, known ones included.
        num_completions: N, completions of each image. They share one pass over the tokens
            before the first unknown one.
        labels: The class of all images or of each, for a model with `num_classes`: the model
            samples given that class. None for the distribution of all images.
        guidance_scale: How much the class counts, s: tokens are drawn from logits
            uncond + s · (cond - uncond), each step of which takes twice the computation. 1 for
            the model's distribution given the class, at no more cost. Likelihoods and entropies
            of the result are of that distribution, whatever the scale.
        sampler: How tokens are drawn; `Categorical()`, the model's distribution, by default.
        seed: One integer per image, or one integer s for the seeds s, s + 1, …. An image, its
            seed and the settings determine its completions, regardless of the batch.
        draft: Guesses tokens ahead, for the model to check several in one pass: a smaller
            autoregressive model or a `NeighborDraft`, neither of which is told the class. The
            completions do not change. This pays
            off for a large model and few sequences; see `docs/completion.md`. Not for BERT.
        num_steps: For BERT models, the number of steps, 16 by default. With as many steps as
            unknown tokens, each step fills one.
        on_row: Called with 0 … R - 1, each as soon as that row of all completions is final, and
            with the row's pixels, uint8 [B, N, R, 3]. Unless the tokenizer knows which rows its
            tokens determine (`final_rows`), as a color palette does, all come at the end. Not
            for BERT.
        jit_compile: Whether XLA compiles the decoder, once for each batch size and number of
            known tokens: worthwhile on GPUs and TPUs. On Keras' JAX backend it always does.
            Not for BERT.

    Returns:
        The completions.

    Raises:
        InputError: An argument cannot be used.

    Example:
        ```python
        completions = model.generate(
            images, keep_rows=16, num_completions=6, sampler=igpt_keras.samplers.TopP(0.9)
        )
        completions.images.shape  # (len(images), 6, 32, 32, 3)
        ```
    """
    check_has_token_head(model)
    check_fits_objective(model, num_steps, draft=draft, on_row=on_row, jit_compile=jit_compile)
    tokenizer = tokenizer_of(model)
    images = check_model_images(model, images)
    known = known_pixels(keep_rows, known_mask, len(images), model.config.image_size)
    check_positive("num_completions", num_completions)
    sampler = Categorical() if sampler is None else sampler
    if not isinstance(sampler, Sampler):
        raise InputError(f"sampler must be a Sampler such as TopP(0.9), got {sampler!r}")
    draft = None if draft is None else as_draft(draft, model.config)
    seeds = completion_seeds(seed, len(images), num_completions)
    condition = make_condition(model, labels, guidance_scale, len(images))
    tokens, known_tokens = tokenizer.tokenize_known(images, known)
    sequences = Sequences(tokens, known_tokens, seeds, images, known, condition)
    if model.objective == "bert":
        decoded = _fill(model, sequences, sampler, num_steps or DEFAULT_NUM_STEPS)
    else:
        decoded = _decode(model, sequences, sampler, draft, on_row, jit_compile)
    return _completions(model, sequences, decoded)


def sample(
    model: TokenModel,
    num_samples: int,
    *,
    labels: int | Sequence[int] | np.ndarray | None = None,
    guidance_scale: float = 1.0,
    sampler: Sampler | None = None,
    seed: int | Sequence[int] | np.ndarray = 0,
    draft: Draft | TokenModel | None = None,
    num_steps: int | None = None,
    on_row: Callable[[int, np.ndarray], None] | None = None,
    jit_compile: bool = False,
) -> Completions:
    """Samples images from nothing.

    Args:
        model: As for `generate`.
        num_samples: B, the number of images.
        labels: As for `generate`, for each sample.
        guidance_scale: As for `generate`.
        sampler: As for `generate`.
        seed: As for `generate`, for each sample.
        draft: As for `generate`.
        num_steps: As for `generate`.
        on_row: As for `generate`.
        jit_compile: As for `generate`.

    Returns:
        One completion (N = 1) of each of B blank images.

    Raises:
        InputError: An argument cannot be used.

    Example:
        ```python
        samples = model.sample(16, seed=0).images[:, 0]  # uint8 [16, R, R, 3]
        ```
    """
    check_positive("num_samples", num_samples)
    size = model.config.image_size
    return generate(
        model,
        np.zeros((num_samples, size, size, 3), np.uint8),
        keep_rows=0,
        labels=labels,
        guidance_scale=guidance_scale,
        sampler=sampler,
        seed=seed,
        draft=draft,
        num_steps=num_steps,
        on_row=on_row,
        jit_compile=jit_compile,
    )


def _completions(model: TokenModel, sequences: Sequences, decoded: Decoded) -> Completions:
    """The decoded sequences as `Completions`."""
    shape, tokenizer = sequences.seeds.shape, tokenizer_of(model)
    tokens, log_probs, entropies = (x.reshape(*shape, -1) for x in decoded[:3])
    is_sampled = ~sequences.known[:, None]
    return Completions(
        images=_images(tokenizer, sequences, tokens),
        tokens=tokens,
        log_likelihood=np.where(is_sampled, log_probs, 0).sum(axis=-1),
        total_log_likelihood=None if model.objective == "bert" else log_probs.sum(axis=-1),
        entropy=entropies.reshape(*shape, *tokenizer.grid),
        num_forward_passes=decoded.num_forward_passes,
    )


def _images(tokenizer: ImageTokenizer, sequences: Sequences, tokens: np.ndarray) -> np.ndarray:
    """Returns the images of tokens [B, N, n], uint8 [B, N, R, R, 3], with the known pixels."""
    images = tokenizer.detokenize(tokens)
    if tokenizer.pixelwise:
        return images
    known = sequences.known_pixels[:, None, ..., None]
    return np.where(known, sequences.images[:, None], images)


def _fill(model: TokenModel, sequences: Sequences, sampler: Sampler, num_steps: int) -> Decoded:
    """Decodes with a BERT model."""
    num_completions = sequences.seeds.shape[1]
    tokens, known = (np.repeat(x, num_completions, axis=0) for x in sequences[:2])
    seeds = backend.as_seeds(sequences.seeds.reshape(-1))
    state, steps = mask_predict(model, tokens, known, seeds, sampler, num_steps)
    tokens, _, log_probs, entropies = (np.asarray(x).copy() for x in state)
    return Decoded(tokens, log_probs, entropies, steps)


def _decode(
    model: TokenModel,
    sequences: Sequences,
    sampler: Sampler,
    draft: Draft | None,
    on_row: Callable[[int, np.ndarray], None] | None,
    jit_compile: bool,
) -> Decoded:
    """Decodes with an autoregressive model, row by row if rows are to be reported."""
    length = model.config.sequence_length
    condition = sequences.condition
    conditioning = conditioning_of(condition)
    seeds = backend.as_seeds(sequences.seeds.reshape(-1))
    decoder = compiled_decoder(
        model, type(sampler), draft, jit_compile, conditioning, num_sequences=len(seeds)
    )
    fields = sampler.arrays(len(seeds))
    num_completions = sequences.seeds.shape[1]
    prefix = int(np.cumprod(sequences.known.all(axis=0)).sum())
    num_rows = rows_at_once(model) if on_row is None else 1
    given = (sequences.tokens, prefix, num_completions, *([condition] if condition else []))
    state = decoder.begin(*given)
    known = np.repeat(sequences.known.T, num_completions, axis=1)
    num_reported = 0
    while True:
        position = int(state.position)
        if on_row is not None:
            num_reported = _report(model, state, num_reported, sequences, on_row)
        if position == length:
            passes = length - prefix if draft is None else int(state.guesses.num_passes)
            # Arrays of JAX are read-only.
            tokens, log_probs, entropies = (np.asarray(x).T.copy() for x in state[1:4])
            return Decoded(tokens, log_probs, entropies, passes)
        state = decoder.decode_rows(state, known, seeds, fields, num_rows)


def _report(
    model: TokenModel, state: DecodingState, num_reported: int, sequences: Sequences, on_row
) -> int:
    """Calls `on_row` with each further row that is final; returns how many are reported now."""
    tokenizer = tokenizer_of(model)
    num_final = tokenizer.final_rows(int(state.position) // model.config.token_grid[1])
    if num_final > num_reported:
        tokens = np.asarray(state.tokens).T.reshape(*sequences.seeds.shape, -1)
        images = _images(tokenizer, sequences, tokens)
        for row in range(num_reported, num_final):
            on_row(row, images[:, :, row])
    return num_final
