"""The convolutional encoder and decoder of a VQ-VAE.

The layers compute in the dtype of what they are given: in that of a dtype policy for training,
and in float64 for tokens that do not depend on rounding.
"""

# Keras declares that its functions may return None.
# pyright: reportOptionalOperand=false

from typing import Any

import keras
import numpy as np
from keras import ops

from igpt_keras.tensors import Shape, Tensor


class Convolution(keras.layers.Layer):
    """A convolution over images, or a transposed one, with zeros around the border.

    Args:
        filters: Channels of the output.
        kernel_size: Side of the kernel.
        strides: Factor by which the image becomes smaller, or larger if transposed.
        transposed: Whether to transpose the convolution.

    Output shape:
        [B, H / strides, W / strides, filters], or [B, H · strides, W · strides, filters].
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        strides: int = 1,
        transposed: bool = False,
        **kwargs: Any,
    ):
        super().__init__(autocast=False, **kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides
        self.transposed = transposed

    def build(self, input_shape: Shape) -> None:
        channels = (input_shape[-1], self.filters)
        if self.transposed:
            channels = channels[::-1]
        shape = (self.kernel_size, self.kernel_size, *channels)
        self.kernel = self.add_weight(shape=shape, name="kernel", initializer="glorot_uniform")
        self.bias = self.add_weight(shape=(self.filters,), name="bias", initializer="zeros")

    def call(self, x: Tensor) -> Tensor:
        convolve = ops.conv_transpose if self.transposed else ops.conv
        kernel, bias = ops.cast(self.kernel, x.dtype), ops.cast(self.bias, x.dtype)
        return convolve(x, kernel, self.strides, "same") + bias

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, *sides, _ = input_shape
        sides = [s * self.strides if self.transposed else s // self.strides for s in sides]
        return (batch, *sides, self.filters)


class ResidualStack(keras.layers.Layer):
    """Residual layers and a final ReLU: x + 1×1(ReLU(3×3(ReLU(x)))), `num_layers` times."""

    def __init__(self, num_layers: int, residual_dim: int, hidden_dim: int, **kwargs: Any):
        super().__init__(autocast=False, **kwargs)
        self.wide = [
            Convolution(residual_dim, 3, dtype=self.dtype_policy) for _ in range(num_layers)
        ]
        self.narrow = [
            Convolution(hidden_dim, 1, dtype=self.dtype_policy) for _ in range(num_layers)
        ]

    def build(self, input_shape: Shape) -> None:
        for wide, narrow in zip(self.wide, self.narrow, strict=True):
            wide.build(input_shape)
            narrow.build(wide.compute_output_shape(input_shape))

    def call(self, x: Tensor) -> Tensor:
        for wide, narrow in zip(self.wide, self.narrow, strict=True):
            x = x + narrow(ops.relu(wide(ops.relu(x))))
        return ops.relu(x)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape


class Chain(keras.layers.Layer):
    """Layers in a row."""

    def __init__(self, layers: list[keras.layers.Layer], **kwargs: Any):
        super().__init__(autocast=False, **kwargs)
        self.layers = layers

    def build(self, input_shape: Shape) -> None:
        for layer in self.layers:
            layer.build(input_shape)
            input_shape = layer.compute_output_shape(input_shape)

    def call(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def make_encoder(
    num_downsampling: int,
    hidden_dim: int,
    residual_dim: int,
    num_residual_layers: int,
    embedding_dim: int,
    dtype: Any,
) -> Chain:
    """Returns the map from images [B, R, R, 3] to vectors [B, R / 2^k, R / 2^k, D].

    Each of the k blocks is a downsampling convolution, a ReLU and a residual network.
    """
    layers: list[keras.layers.Layer] = []
    for _ in range(num_downsampling):
        layers += [
            Convolution(hidden_dim, 4, 2, dtype=dtype),
            keras.layers.ReLU(autocast=False, dtype=dtype),
            ResidualStack(num_residual_layers, residual_dim, hidden_dim, dtype=dtype),
        ]
    layers.append(Convolution(embedding_dim, 1, dtype=dtype))
    return Chain(layers, name="encoder", dtype=dtype)


def make_decoder(
    num_downsampling: int,
    hidden_dim: int,
    residual_dim: int,
    num_residual_layers: int,
    dtype: Any,
) -> Chain:
    """Returns the map from vectors [B, R / 2^k, R / 2^k, D] to images [B, R, R, 3].

    It mirrors the encoder: each block is a residual network and an upsampling convolution.
    """
    layers: list[keras.layers.Layer] = [Convolution(hidden_dim, 1, dtype=dtype)]
    for block in range(num_downsampling):
        if block:
            layers.append(keras.layers.ReLU(autocast=False, dtype=dtype))
        channels = 3 if block == num_downsampling - 1 else hidden_dim
        layers += [
            ResidualStack(num_residual_layers, residual_dim, hidden_dim, dtype=dtype),
            Convolution(channels, 4, 2, transposed=True, dtype=dtype),
        ]
    return Chain(layers, name="decoder", dtype=dtype)


def exact_dtype() -> str:
    """Returns the dtype of tokenizing. JAX has no float64 unless it is told to."""
    return "float32" if keras.backend.backend() == "jax" else "float64"


def to_signal(levels: Tensor) -> Tensor:
    """Maps levels 0…255 to the network's -0.5…0.5."""
    return levels / 255 - 0.5


def to_levels(signal: Tensor) -> Tensor:
    """Maps the network's -0.5…0.5 to levels 0…255."""
    return 255 * (signal + 0.5)


def to_array(values: Tensor) -> np.ndarray:
    """Returns the values of a tensor or variable."""
    return np.asarray(ops.convert_to_numpy(values))
