"""Completing images and sampling new ones, pixel by pixel.

Shapes: B sequences, n positions, V colours, H heads of width D. The decoder keeps
keys and values of all past positions, [B · H, n, D] per block.
"""

import dataclasses
import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from igpt_keras.errors import InputError
from igpt_keras.models import GenerativeModel
from igpt_keras.palette import ColorPalette, check_images


@dataclasses.dataclass(frozen=True)
class Completions:
    """N completions of each of B images.

    Attributes:
        images: uint8 [B, N, R, R, 3].
        tokens: int32 [B, N, n].
        log_likelihood: float32 [B, N], nats: the model's log-probability of the
            sampled pixels given those before them (not of the known pixels, and
            before temperature, top-k and top-p).
    """

    images: np.ndarray
    tokens: np.ndarray
    log_likelihood: np.ndarray


def complete(
    model: GenerativeModel,
    palette: ColorPalette | None,
    images: np.ndarray,
    keep_rows: int,
    num_completions: int = 1,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int | Sequence[int] = 0,
) -> Completions:
    """Keeps the first rows of images and samples the rest.

    Args:
        model: an autoregressive `ImageGPT`, or a classifier with its token logits.
        palette: its palette; None for `model.palette`.
        images: uint8 [B, R, R, 3] (or 1 channel, grey), R = `image_size`. Kept
            pixels come back as their nearest colours of the palette.
        keep_rows: number of rows kept, 0…R.
        num_completions: N, at least 1.
        temperature: divides the logits; 0 takes the most probable colour.
        top_k: only the k most probable colours are drawn; 0 for all.
        top_p: of those, only the fewest whose probabilities sum to `top_p` or more.
        seed: one for each image, or one integer s for seeds s, s + 1, …. An image, its
            seed and the settings determine its completions.

    Raises:
        InputError: an argument that cannot be used.
    """
    palette = _palette_of(model, palette)
    images = check_images(images)
    size = model.config.image_size
    if images.ndim != 4 or images.shape[1:3] != (size, size) or not len(images):
        raise InputError(
            f"images must have shape [batch, {size}, {size}, 3] with at least one image "
            f"(image_size={size}), got {list(images.shape)}"
        )
    check_settings(keep_rows, num_completions, temperature, top_k, top_p)
    if keep_rows > size:
        raise InputError(f"keep_rows must lie in 0…{size} (the image's height), got {keep_rows}")
    seeds = completion_seeds(seed, len(images), num_completions)

    batch = len(images) * num_completions
    tokens = palette.quantize(images).reshape(len(images), -1)
    known = np.arange(size * size) < keep_rows * size
    sampled, log_likelihood = _compiled_sampler(model)(
        np.repeat(tokens, num_completions, axis=0),
        np.broadcast_to(known, (batch, size * size)),
        seeds.reshape(-1),
        np.full(batch, temperature, np.float32),
        np.full(batch, top_k, np.int32),
        np.full(batch, top_p, np.float32),
    )
    sampled = sampled.numpy().reshape(len(images), num_completions, size * size)
    return Completions(
        images=palette.dequantize(sampled).reshape(*sampled.shape[:2], size, size, 3),
        tokens=sampled,
        log_likelihood=log_likelihood.numpy().reshape(sampled.shape[:2]),
    )


def sample(
    model: GenerativeModel,
    palette: ColorPalette | None,
    num_samples: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
) -> Completions:
    """Samples images from nothing. Arguments as `complete`; B = `num_samples`, N = 1."""
    if not _is_integer(num_samples) or num_samples < 1:
        raise InputError(f"num_samples must be an integer >= 1, got {num_samples}")
    size = model.config.image_size
    blank = np.zeros((num_samples, size, size, 3), np.uint8)
    return complete(
        model,
        palette,
        blank,
        keep_rows=0,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
    )


def check_settings(
    keep_rows: int, num_completions: int, temperature: float, top_k: int, top_p: float
) -> None:
    """Raises `InputError` for a setting of `complete` that is out of range for any model."""
    if not _is_integer(keep_rows) or not 0 <= keep_rows < 1 << 31:
        raise InputError(f"keep_rows must be an integer >= 0, got {keep_rows}")
    if not _is_integer(num_completions) or num_completions < 1:
        raise InputError(f"num_completions must be an integer >= 1, got {num_completions}")
    if not (temperature >= 0 and math.isfinite(temperature)):
        raise InputError(f"temperature must be finite and >= 0, got {temperature}")
    if not _is_integer(top_k) or not 0 <= top_k < 1 << 31:
        raise InputError(f"top_k must be an integer >= 0 (0 for all colours), got {top_k}")
    if not 0 < top_p <= 1:
        raise InputError(f"top_p must be above 0 and at most 1, got {top_p}")


def _is_integer(value) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_can_sample(model: GenerativeModel) -> None:
    """Raises `InputError` for a model that gives no next-pixel distribution in TensorFlow."""
    if model.objective != "ar":
        raise InputError('sampling needs a model with objective="ar", this one has "bert"')
    if model.generative_weight == 0:
        raise InputError("sampling needs token logits, which a classifier with weight 0 lacks")
    check_backend()


def check_backend() -> None:
    """Raises `InputError` unless Keras runs on TensorFlow, whose graphs sampling and export use."""
    if keras.backend.backend() != "tensorflow":
        raise InputError(
            "sampling and export need Keras' TensorFlow backend, "
            f"got KERAS_BACKEND={keras.backend.backend()}"
        )


def completion_seeds(
    seed: int | Sequence[int], num_images: int, num_completions: int
) -> np.ndarray:
    """One seed for every completion: int64 [B, N], a hash of the image's seed and its number.

    Raises:
        InputError: a negative seed, or not one seed per image.
    """
    seeds = np.asarray(seed)
    if seeds.dtype.kind not in "iu" or (seeds < 0).any():
        raise InputError(f"seed must be an integer of at least 0, or one per image, got {seed}")
    if seeds.ndim == 0:
        seeds = seeds + np.arange(num_images)
    if seeds.shape != (num_images,):
        raise InputError(f"seed must hold one integer per image ({num_images}), got {seed}")

    def mix(image_seed, number):
        state = np.random.SeedSequence([int(image_seed), number]).generate_state(1, np.uint64)
        return state[0] >> np.uint64(1)

    mixed = [[mix(image_seed, number) for number in range(num_completions)] for image_seed in seeds]
    return np.array(mixed, dtype=np.int64)


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
    length = model.config.sequence_length
    uniforms = tf.transpose(
        tf.map_fn(
            lambda seed: tf.random.stateless_uniform(
                [length], seed=tf.stack([seed, tf.zeros_like(seed)]), alg="philox"
            ),
            seeds,
            fn_output_signature=tf.TensorSpec([length], tf.float32),
        )
    )
    # The longest run of positions that every sequence knows goes in one pass.
    prefix = tf.reduce_sum(tf.math.cumprod(tf.cast(tf.reduce_all(known, axis=0), tf.int32)))
    caches = _prefill(model.backbone, tokens[:, :prefix])

    def step(position, tokens, log_likelihood, caches):
        previous = tokens[:, tf.maximum(position - 1, 0)]
        logits, caches = _next_logits(model, previous, position, caches)
        drawn = draw(logits, uniforms[position], temperature, top_k, top_p)
        known_here = known[:, position]
        token = tf.where(known_here, tokens[:, position], drawn)
        log_probability = tf.gather(tf.nn.log_softmax(logits), token, batch_dims=1)
        log_likelihood += tf.where(known_here, 0.0, log_probability)
        rows = tf.range(tf.shape(tokens)[0])
        indices = tf.stack([rows, tf.broadcast_to(position, tf.shape(rows))], axis=1)
        tokens = tf.tensor_scatter_nd_update(tokens, indices, token)
        return position + 1, tokens, log_likelihood, caches

    _, tokens, log_likelihood, _ = tf.while_loop(
        lambda position, *_: position < length,
        step,
        (prefix, tokens, tf.zeros_like(temperature), caches),
        parallel_iterations=1,
    )
    return tokens, log_likelihood


def draw(logits, uniform, temperature, top_k, top_p):
    """Draws one token per row: temperature, then top-k, then top-p, then the inverse CDF.

    Args:
        logits: float32 [B, V].
        uniform: float32 [B] in [0, 1), what decides the draw.
        temperature, top_k, top_p: [B], as in `sample_tokens`.

    Returns: int32 [B].
    """
    vocabulary_size = logits.shape[-1]
    ordered, order = tf.math.top_k(logits, vocabulary_size)
    greedy = temperature == 0
    ordered /= tf.where(greedy, 1.0, temperature)[:, None]
    rank = tf.range(vocabulary_size)[None]
    kept = (rank < top_k[:, None]) | (top_k[:, None] == 0)
    probabilities = tf.nn.softmax(tf.where(kept, ordered, -np.inf))
    mass_before = tf.cumsum(probabilities, axis=-1, exclusive=True)
    kept &= (mass_before < top_p[:, None]) | (top_p[:, None] == 1)
    mass = tf.cumsum(tf.where(kept, probabilities, 0.0), axis=-1)
    beyond = tf.cast(mass <= uniform[:, None] * mass[:, -1:], tf.int32)
    last = tf.reduce_sum(tf.cast(kept, tf.int32), axis=-1) - 1
    chosen = tf.where(greedy, 0, tf.minimum(tf.reduce_sum(beyond, axis=-1), last))
    return tf.gather(order, chosen, batch_dims=1)


def _prefill(backbone, tokens):
    """Keys and values of tokens int32 [B, p], p ≤ n, in caches of length n."""
    config = backbone.config
    batch, length = tf.shape(tokens)[0], tf.shape(tokens)[1]
    caches = []

    def cache(values):
        by_head = tf.reshape(
            tf.transpose(values, [0, 2, 1, 3]),
            [batch * config.num_heads, length, config.head_dim],
        )
        padded = tf.pad(by_head, [[0, 0], [0, config.sequence_length - length], [0, 0]])
        return tf.ensure_shape(padded, [None, config.sequence_length, config.head_dim])

    def attend(query, key, value):
        caches.append((cache(key), cache(value)))
        return keras.ops.dot_product_attention(query, key, value, is_causal=True)

    h = backbone.embedding(tokens)
    for block in backbone.blocks:
        h = block(h, attend=attend)
    return caches


def _next_logits(model, previous, position, caches):
    """Logits float32 [B, V] of the token at `position`, and the caches with it added."""
    config = model.config
    batch = tf.shape(previous)[0]
    rows = tf.range(batch * config.num_heads)
    slot = tf.stack([rows, tf.broadcast_to(position, tf.shape(rows))], axis=1)
    seen = tf.range(config.sequence_length) <= position
    caches = list(caches)
    h = model.backbone.embedding.step(previous, position)
    for index, block in enumerate(model.backbone.blocks):

        def attend(query, key, value, index=index):
            query, key, value = (tf.reshape(x, [-1, config.head_dim]) for x in (query, key, value))
            keys = tf.tensor_scatter_nd_update(caches[index][0], slot, key)
            values = tf.tensor_scatter_nd_update(caches[index][1], slot, value)
            caches[index] = (keys, values)
            scores = tf.linalg.matvec(keys, query)
            scores = tf.cast(scores, tf.float32) / math.sqrt(config.head_dim)
            weights = tf.cast(tf.nn.softmax(tf.where(seen, scores, -np.inf)), values.dtype)
            attended = tf.linalg.matvec(values, weights, transpose_a=True)
            return tf.reshape(attended, [batch, 1, config.num_heads, config.head_dim])

        h = block(h, attend=attend)
    return model.token_logits(model.backbone.final_norm(h))[:, 0], caches


def _compiled_sampler(model):
    """`sample_tokens` of `model` as a graph, traced once and kept with the model."""
    check_can_sample(model)
    if not hasattr(model, "_compiled_sampler"):
        length = model.config.sequence_length
        model._compiled_sampler = tf.function(
            lambda *arguments: sample_tokens(model, *arguments),
            input_signature=[
                tf.TensorSpec([None, length], tf.int32),
                tf.TensorSpec([None, length], tf.bool),
                tf.TensorSpec([None], tf.int64),
                tf.TensorSpec([None], tf.float32),
                tf.TensorSpec([None], tf.int32),
                tf.TensorSpec([None], tf.float32),
            ],
        )
    return model._compiled_sampler


def _palette_of(model, palette):
    palette = model.palette if palette is None else palette
    if palette is None:
        raise InputError("palette is needed: the model has none of its own")
    if palette.num_colors != model.config.vocabulary_size:
        raise InputError(
            f"palette must have vocabulary_size={model.config.vocabulary_size} colours, "
            f"got {palette.num_colors}"
        )
    return palette
