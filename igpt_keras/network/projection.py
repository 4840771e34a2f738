"""The dense layer of blocks: its products on TensorFlow, its adapters, its quantized kernel."""

# Keras declares that its functions may return None.
# pyright: reportOptionalSubscript=false, reportOptionalOperand=false

from typing import Any

import keras
from keras import ops

from igpt_keras.network.custom_gradients import computed_after, custom_gradients_in_graph
from igpt_keras.tensors import Tensor

# In float32, two parts are no faster than one on two CPU cores, eight no faster than four; in 16
# bits, two are the fastest.
ROW_PARTS = 4
ROW_PARTS_OF_16_BITS = 2
# Of fewer weights, the parts cost more than they save.
SMALLEST_CUT_KERNEL = 2**17


class Projection(keras.layers.Dense):
    """A dense layer whose adapters (LoRA) are multiplied with the input, not with each other.

    Keras adds their product to the kernel, so that the gradient passes through a matrix of the
    kernel's size, and a second kernel is in memory. Here x W + (x A) B needs neither.

    Example:
        >>> Projection(7, use_bias=False)(np.ones((2, 3, 4), "float32")).shape
        TensorShape([2, 3, 7])
    """

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        # With adapters, `kernel` is a sum; the weight itself was the first one that was added.
        outputs = _multiply(inputs, self.weights[0], training)
        if self.lora_enabled:
            update = ops.matmul(ops.matmul(inputs, self.lora_kernel_a), self.lora_kernel_b)
            outputs = outputs + (self.lora_alpha / self.lora_rank) * update
        return self.activation(outputs if self.bias is None else ops.add(outputs, self.bias))

    def quantize(self, mode: Any = None, type_check: bool = True, config: Any = None) -> None:
        """Quantizes the kernel, as `keras.layers.Dense`; Keras asks subclasses to allow it."""
        super().quantize(mode, type_check=False, config=config)


def row_is_cut(width: int, units: int) -> bool:
    """Returns whether a product of one row with a kernel [width, units] is cut into parts.

    On a CPU, TensorFlow computes such a product on one core, which alone does not read memory as
    fast as several. A graph has the parts where it knows that there is one row.
    """
    if keras.backend.backend() != "tensorflow" or width % ROW_PARTS:
        return False
    import tensorflow as tf

    return width * units >= SMALLEST_CUT_KERNEL and not tf.config.list_physical_devices("GPU")


def _multiply(inputs, kernel, training):
    if tuple(inputs.shape) == (1, kernel.shape[0]) and row_is_cut(*kernel.shape):
        return _multiply_row(inputs, kernel)
    if not (training and keras.backend.backend() == "tensorflow"):
        return ops.matmul(inputs, kernel)
    with custom_gradients_in_graph():
        # A custom gradient takes no variable, which `kernel` itself may be.
        return _product(inputs, ops.reshape(kernel, kernel.shape))


def _multiply_row(row, kernel):
    import tensorflow as tf

    # Parts of a kernel's rows are not copied, as those of its columns would be.
    count = ROW_PARTS_OF_16_BITS if row.dtype.size == 2 else ROW_PARTS
    parts = tf.split(row, count, axis=1), tf.split(kernel, count)
    return tf.add_n([tf.matmul(part, rows) for part, rows in zip(*parts, strict=True)])


@ops.custom_gradient
def _product(x, kernel):
    """The product x W, whose gradient of x multiplies with a transposed copy of W.

    TensorFlow's own passes W to a product that reads it transposed, which on some CPUs takes a
    quarter more time, far more than the copy.
    """

    def gradient(upstream):
        width, units = kernel.shape
        flat_x, flat = ops.reshape(x, (-1, width)), ops.reshape(upstream, (-1, units))
        with computed_after([upstream]):
            # Grappler makes a transposed matrix an argument of the product again, but not this.
            transposed = ops.reshape(ops.transpose(kernel[None], (0, 2, 1)), (units, width))
        d_x = ops.matmul(flat, transposed)
        # One after the other, each has both the cores and the cache.
        with computed_after([d_x]):
            d_kernel = ops.matmul(ops.transpose(flat_x), flat)
        return ops.reshape(d_x, ops.shape(x)), d_kernel

    return ops.matmul(x, kernel), gradient
