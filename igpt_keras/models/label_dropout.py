"""Labels of class-conditional models, and dropping them in training.

A model that does not see the labels of some training images learns both distributions, that of
the images of a class and that of all images, which classifier-free guidance needs (Ho and
Salimans, 2022, https://arxiv.org/abs/2207.12598). Where each label is dropped is drawn here:

| for | function | the draw depends on |
| --- | --- | --- |
| training streams | `draw_dropped_of_step` | seed, step |
| batches without a draw | `draw_dropped` | the state of the model's seed generator |

Both draw for a global batch, of which devices and micro batches have parts.
"""

from typing import Any

import keras
from keras import ops

from igpt_keras.errors import InputError
from igpt_keras.network.layers import NO_CLASS
from igpt_keras.tensors import Tensor


def check_label_dropout(probability: float) -> float:
    """Returns the probability; raises `InputError` if it is outside 0…1 or 1."""
    if not 0 <= probability < 1:
        raise InputError(f"label_dropout must lie in 0…1, 1 excluded, got {probability}")
    return float(probability)


def draw_dropped_of_step(num_images: int, probability: float, seed: int, step: Tensor) -> Tensor:
    """Draws which labels of a training batch are dropped, in a TensorFlow graph.

    Args:
        num_images: Images of the global batch, B.
        probability: Probability of each label to be dropped.
        seed: Seed of the stream.
        step: int64 scalar tensor, the number of the batch.

    Returns:
        Bool tensor [B].
    """
    import tensorflow as tf

    return tf.random.stateless_uniform([num_images], tf.stack([seed, step])) < probability


def draw_dropped(num_images: Any, probability: float, seed: keras.random.SeedGenerator) -> Tensor:
    """Draws others of `num_images` labels at every call, on any backend: bool [B]."""
    if keras.backend.backend() != "tensorflow":
        return keras.random.uniform((num_images,), dtype="float32", seed=seed) < probability
    import tensorflow as tf

    # Keras leaves the algorithm open, and XLA makes other floats of the same bits.
    state: Any = seed.next()
    bits = tf.random.stateless_uniform(
        [num_images],
        state,
        minval=None,  # pyright: ignore[reportArgumentType]
        maxval=None,
        dtype=tf.uint32,
        alg="philox",
    )
    return tf.cast(bits, tf.float32) * 2.0**-32 < probability


def seen_labels(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns `{"labels": int32 [B]}` as the network takes them, or nothing without labels.

    Args:
        inputs: May have "labels" [B], and "dropped", bool [B], true where the network is not
            to see the label.
    """
    if "labels" not in inputs:
        return {}
    labels = ops.cast(ops.reshape(inputs["labels"], (-1,)), "int32")
    if "dropped" in inputs:
        labels = ops.where(inputs["dropped"], NO_CLASS, labels)
    return {"labels": labels}
