"""Norm and activation, whose gradients on TensorFlow keep little.

Automatic differentiation keeps every factor of every product, for each token and block. XLA, and
with it JAX, decides by itself what to keep, and fuses what it computes again.
"""

# Keras declares that its functions may return None.
# pyright: reportOptionalSubscript=false, reportOptionalOperand=false

import keras
from keras import ops

from igpt_keras import paper
from igpt_keras.network.custom_gradients import computed_after, custom_gradients_in_graph
from igpt_keras.tensors import Tensor


def quick_gelu(x: Tensor, training: bool | None = False) -> Tensor:
    """Returns the published activation, x · sigmoid(1.702 x).

    Args:
        x: Of any shape.
        training: Whether its gradient, which computes the sigmoid again, will be needed.
    """
    if not (training and keras.backend.backend() == "tensorflow"):
        return x * ops.sigmoid(paper.GELU_FACTOR * x)
    with custom_gradients_in_graph():
        return _quick_gelu(x)


@keras.saving.register_keras_serializable("igpt_keras")
class RMSNorm(keras.layers.RMSNormalization):
    """The published code's norm, x · rsqrt(mean(x²) + 1e-5) · g, float32 inside.

    In training, the gradient needs x and the root mean squares only.

    Output shape:
        The shape of x.

    Example:
        >>> RMSNorm(epsilon=1e-5)(np.ones((2, 3, 4), "float32")).shape
        TensorShape([2, 3, 4])
    """

    def call(self, x: Tensor, training: bool | None = None) -> Tensor:
        if not (training and keras.backend.backend() == "tensorflow"):
            return super().call(x)
        with custom_gradients_in_graph():
            # A custom gradient takes no variable, which `scale` itself may be.
            return _rms_normalized(self.epsilon)(x, self.scale[None])


@ops.custom_gradient
def _quick_gelu(x):
    y = x * ops.sigmoid(paper.GELU_FACTOR * x)

    def gradient(upstream):
        # The next layer keeps y. The derivative of a sigmoid s is s (1 - s), and x (1 - s) = x - y.
        with computed_after([upstream]):
            gate = ops.sigmoid(paper.GELU_FACTOR * x)
            slope = gate * (1 + paper.GELU_FACTOR * (x - y))
        return upstream * slope

    return y, gradient


def _rms_normalized(epsilon):
    @ops.custom_gradient
    def normalized(x, gain):
        dtype = keras.backend.result_type(x.dtype, "float32")
        wide, wide_gain = ops.cast(x, dtype), ops.cast(gain, dtype)
        inverse = ops.rsqrt(ops.mean(ops.square(wide), axis=-1, keepdims=True) + epsilon)
        y = ops.cast(wide * inverse * wide_gain, x.dtype)

        def gradient(upstream):
            with computed_after([upstream]):
                wide = ops.cast(x, dtype)
            d_y = ops.cast(upstream, dtype)
            # As matrix products, sums over tokens and channels take no pass of their own.
            width = x.shape[-1]
            products = ops.reshape(d_y * wide, (-1, width))
            d_gain = ops.matmul(ops.reshape(inverse, (1, -1)), products)
            means = ops.matmul(products, ops.transpose(wide_gain)) / width
            means = ops.reshape(means, ops.shape(inverse)) * inverse**2
            # Were gain and inverse factors of one product, TensorFlow would multiply them with
            # each other first, in the forward pass, and keep the result.
            d_x = (d_y * wide_gain - wide * means) * inverse
            return ops.cast(d_x, x.dtype), ops.cast(d_gain, gain.dtype)

        return y, gradient

    return normalized
