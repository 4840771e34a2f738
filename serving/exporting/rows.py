"""Functions that complete an image row by row (`serving.row_functions` has a table of them)."""

from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf

from igpt_keras.sampling.autoregressive import DecodingState, state_spec
from igpt_keras.sampling.compiled import compiled_decoder
from igpt_keras.tensors import Tensor
from serving.exporting.preprocessing import Preprocessing
from serving.exporting.signatures import DRAWING, SAMPLER, can_sample
from serving.row_functions import BEGIN, DECODE_ROW, VIEW


def make_row_functions(preprocessings: Iterable[Preprocessing]) -> tf.Module | None:
    """Returns the functions of the first model that completes pixel by pixel, as attributes.

    Args:
        preprocessings: The models, an `ImageGPT` before an `ImageGPTClassifier`.

    Returns:
        None if there is no such model.
    """
    for preprocessing in preprocessings:
        if can_sample(preprocessing.model) and preprocessing.tokenizer.pixelwise:
            return _row_functions(preprocessing)
    return None


def _row_functions(preprocessing: Preprocessing) -> tf.Module:
    model, size, length = preprocessing.model, preprocessing.size, preprocessing.length
    decoder = compiled_decoder(model, SAMPLER)

    def view(*, image_bytes):
        tokens = preprocessing.tokens(image_bytes[None])
        pixels = preprocessing.tokenizer.detokenize_in_graph(tokens)
        return {"tokens": tokens[0], "pixels": pixels[0]}

    def begin(*, tokens, known, num_completions):
        prefix = tf.reduce_sum(tf.math.cumprod(tf.cast(tf.reshape(known, [-1]), tf.int32)))
        return _named(decoder.begin(tokens[None], prefix, num_completions))

    def decode_row(*, known, seed, **tensors):
        fields = {name: tensors.pop(name) for name in SAMPLER().arrays(1)}
        row = tensors["position"] // size
        known = tf.repeat(tf.reshape(known, [-1, 1]), tf.size(seed), axis=1)
        state = decoder.decode_rows(_state(tensors), known, seed, fields, tf.constant(1))
        pixels = preprocessing.tokenizer.detokenize_in_graph(tf.transpose(state.tokens))
        entropies = tf.reshape(state.entropies, [size, size, -1])
        return {
            **_named(state),
            "pixels": pixels[:, row],
            "entropy": tf.transpose(entropies[row]),
            "log_likelihood": tf.reduce_sum(tf.where(known, 0.0, state.log_probs), axis=0),
        }

    known = {"known": tf.TensorSpec([size, size], tf.bool)}
    tokens = {"tokens": tf.TensorSpec([length], tf.int32)}
    count = {"num_completions": tf.TensorSpec([], tf.int32)}
    drawing = {spec.name: spec for spec in DRAWING}
    module: Any = tf.Module()
    for name, function, specs in (
        (VIEW, view, {"image_bytes": tf.TensorSpec([], tf.string)}),
        (BEGIN, begin, {**tokens, **known, **count}),
        (DECODE_ROW, decode_row, {**known, **drawing, **_named(state_spec(model))}),
    ):
        # Of a function that is not concrete, TensorFlow would save another trace.
        traced = tf.function(function, autograph=False).get_concrete_function(**specs)
        setattr(module, name, traced)
    return module


def _named(state: DecodingState) -> dict[str, Tensor]:
    """The tensors of a state by name."""
    named = {
        name: getattr(state, name) for name in ("position", "tokens", "log_probs", "entropies")
    }
    for layer, (keys, values) in enumerate(state.caches):
        named |= {f"keys_{layer}": keys, f"values_{layer}": values}
    return named


def _state(named: Mapping[str, Tensor]) -> DecodingState:
    """The state whose tensors have these names."""
    num_layers = sum(name.startswith("keys_") for name in named)
    return DecodingState(
        named["position"],
        named["tokens"],
        named["log_probs"],
        named["entropies"],
        [(named[f"keys_{layer}"], named[f"values_{layer}"]) for layer in range(num_layers)],
    )
