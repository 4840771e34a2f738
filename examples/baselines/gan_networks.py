"""The networks of the GANs of 2014: a generator of ReLUs and a discriminator of maxout units."""

import keras
import numpy as np
from keras import ops
from scipy.special import logit

LATENT_DIM = 100


class Maxout(keras.layers.Layer):
    """The largest of several linear functions of the input, max_j (W_j x + b_j).

    Args:
        units: Number of outputs.
        pieces: Number of functions for each output.
    """

    def __init__(self, units: int, pieces: int):
        super().__init__()
        self.units, self.pieces = units, pieces
        self.linear = keras.layers.Dense(units * pieces)

    def build(self, input_shape):
        self.linear.build(input_shape)

    def call(self, inputs):
        values = ops.reshape(self.linear(inputs), (-1, self.units, self.pieces))
        return ops.max(values, axis=-1)


def inputs_of(width: int, num_classes: int) -> list:
    """Returns the inputs of a network: [B, width], and one-hot classes if there are any."""
    return [keras.Input([width])] + ([keras.Input([num_classes])] if num_classes else [])


def build_generator(mean_image: np.ndarray, width: int, num_classes: int = 0) -> keras.Model:
    """Builds G, from noise float32 [B, 100] and one-hot classes to pixels in [0, 1].

    Args:
        mean_image: float [d], the mean of the training images. An untrained generator draws
            about that.
        width: Units of each hidden layer; 1,200 in the papers.
        num_classes: Number of classes; 0 for a generator without that input.
    """
    inputs = inputs_of(LATENT_DIM, num_classes)
    widths = (width // 6, width - width // 6) if num_classes else (width,)
    parts = [keras.layers.Dense(w, "relu")(x) for w, x in zip(widths, inputs, strict=True)]
    states = keras.layers.Dense(width, "relu")(ops.concatenate(parts, axis=-1))
    output = keras.layers.Dense(len(mean_image), "sigmoid")
    generator = keras.Model(inputs, output(states))
    kernel, _ = output.get_weights()
    output.set_weights([kernel, logit(np.clip(mean_image, 0.001, 0.999))])
    return generator


def build_discriminator(num_pixels: int, width: int, num_classes: int = 0) -> keras.Model:
    """Builds D, from pixels float32 [B, d] and one-hot classes to the logit of being real.

    Dropout precedes each layer, of a fifth of the pixels and of half of the hidden units.

    Args:
        num_pixels: d.
        width: Units of each hidden layer; 240 in the papers. The class has about a fifth as
            many of its own, 50 in the paper.
        num_classes: As for `build_generator`.
    """
    inputs = inputs_of(num_pixels, num_classes)
    parts = [Maxout(width, 5)(keras.layers.Dropout(0.2)(inputs[0]))]
    parts += [Maxout(width * 5 // 24, 5)(classes) for classes in inputs[1:]]
    states = keras.layers.Dropout(0.5)(ops.concatenate(parts, axis=-1))
    states = Maxout(width, 4 if num_classes else 5)(states)
    return keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Dropout(0.5)(states)))
