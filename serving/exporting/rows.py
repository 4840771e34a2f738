"""Functions that complete an image row by row (`serving.row_functions` has a table of them)."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from igpt_keras.pictures.completions import shares_of_pixels
from igpt_keras.sampling.autoregressive import DecodingState, state_spec
from igpt_keras.sampling.compiled import compiled_decoder
from igpt_keras.sampling.conditioning import Condition, Conditioning
from igpt_keras.tensors import Tensor
from igpt_keras.tokenizers.known_pixels import known_tokens_in_graph
from serving.exporting.classes import condition_inputs, is_conditional, read_condition
from serving.exporting.preprocessing import Preprocessing
from serving.exporting.signatures import DRAWING, SAMPLER, can_sample
from serving.row_functions import BEGIN, DECODE_ROW, VIEW

CONDITION = Condition._fields


def make_row_functions(preprocessings: Iterable[Preprocessing]) -> tf.Module | None:
    """Returns the functions of the first model that completes images, as attributes.

    Args:
        preprocessings: The models, an `ImageGPT` before an `ImageGPTClassifier`.

    Returns:
        None if there is no such model.
    """
    for preprocessing in preprocessings:
        if can_sample(preprocessing.model):
            return _module(_RowFunctions(preprocessing))
    return None


class _RowFunctions:
    """The functions of one model, not traced yet."""

    def __init__(self, preprocessing: Preprocessing):
        self.preprocessing = preprocessing
        self.tokenizer = preprocessing.tokenizer
        model = preprocessing.model
        self.conditioning: Conditioning = "guided" if is_conditional(model) else "none"
        self.decoder = compiled_decoder(model, SAMPLER, conditioning=self.conditioning)
        rows, self.columns = self.tokenizer.grid
        # How many rows of pixels are final after each number of rows of tokens.
        final = [self.tokenizer.final_rows(count) for count in range(rows + 1)]
        self.final = np.array(final, np.int32)

    def view(self, *, image_bytes):
        image = pixels = self.preprocessing.image(image_bytes)
        if self.tokenizer.pixelwise:
            tokens = self.tokenizer.tokenize_in_graph(image[None])
            pixels = self.tokenizer.detokenize_in_graph(tokens)[0]
        return {"image": image, "pixels": pixels}

    def begin(self, *, image, known, num_completions, **condition):
        model = self.preprocessing.model
        given = [condition[str(spec.name)][None] for spec in condition_inputs(model)]
        condition, checks = read_condition(model, given)
        with tf.control_dependencies(checks):
            tokens = self.tokenizer.tokenize_in_graph(image[None])
        known = known_tokens_in_graph(known[None], self.tokenizer.grid)
        prefix = tf.reduce_sum(tf.math.cumprod(tf.cast(known[0], tf.int32)))
        return _named(self.decoder.begin(tokens, prefix, num_completions, condition))

    def decode_row(self, *, known, seed, **tensors):
        fields = {name: tensors.pop(name) for name in SAMPLER().arrays(1)}
        known = known_tokens_in_graph(known[None], self.tokenizer.grid)
        known = tf.repeat(tf.transpose(known), tf.size(seed), axis=1)
        before = tf.gather(self.final, tensors["position"] // self.columns)
        state = self.decoder.decode_rows(_state(tensors), known, seed, fields, tf.constant(1))
        after = tf.gather(self.final, state.position // self.columns)
        return {
            **_named(state),
            "num_rows": after,
            "pixels": self._pixels(state.tokens, before, after),
            "entropy": self._entropy(state.entropies, before, after),
            "log_likelihood": tf.reduce_sum(tf.where(known, 0.0, state.log_probs), axis=0),
        }

    def _pixels(self, tokens, before, after):
        """The rows `before`…`after` - 1 of the images of tokens [n, N]: uint8 [N, rows, R, 3]."""

        def none():
            return tf.zeros([tf.shape(tokens)[1], 0, self.preprocessing.size, 3], tf.uint8)

        def detokenized():
            images = self.tokenizer.detokenize_in_graph(tf.transpose(tokens))
            return images[:, before:after]

        return tf.cond(after > before, detokenized, none)

    def _entropy(self, entropies, before, after):
        """These rows of the entropies [n, N] of tokens, by pixel: float32 [N, rows, R]."""
        rows, columns = (
            tf.constant(shares_of_pixels(count, self.preprocessing.size), tf.float32)
            for count in self.tokenizer.grid
        )
        by_token = tf.reshape(tf.transpose(entropies), [-1, *self.tokenizer.grid])
        return tf.matmul(tf.matmul(rows[before:after], by_token), columns, transpose_b=True)


def _module(functions: _RowFunctions) -> tf.Module:
    """Returns a module whose attributes are the functions, traced."""
    preprocessing = functions.preprocessing
    size = preprocessing.size
    known = {"known": tf.TensorSpec([size, size], tf.bool)}
    image = {"image": tf.TensorSpec([size, size, 3], tf.uint8)}
    count = {"num_completions": tf.TensorSpec([], tf.int32)}
    drawing = {spec.name: spec for spec in DRAWING}
    condition = {
        spec.name: tf.TensorSpec([], spec.dtype) for spec in condition_inputs(preprocessing.model)
    }
    state = _named(state_spec(preprocessing.model, functions.conditioning))
    module: Any = tf.Module()
    for name, function, specs in (
        (VIEW, functions.view, {"image_bytes": tf.TensorSpec([], tf.string)}),
        (BEGIN, functions.begin, {**image, **known, **count, **condition}),
        (DECODE_ROW, functions.decode_row, {**known, **drawing, **state}),
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
    if isinstance(state.condition, Condition):
        named |= state.condition._asdict()
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
        condition=Condition(*(named[name] for name in CONDITION)) if CONDITION[0] in named else (),
    )
