"""The vector quantizer: vectors to the nearest of K codes, learned by moving averages."""

# Keras declares that its functions may return None.
# pyright: reportOptionalOperand=false, reportOptionalSubscript=false, reportOperatorIssue=false

from typing import Any

import keras
from keras import ops

from igpt_keras.tensors import Shape, Tensor

# Added to a probability before its logarithm, as in Sonnet.
SMALLEST_PROBABILITY = 1e-10


class VectorQuantizer(keras.layers.Layer):
    """Replaces each vector by the nearest code of a codebook (van den Oord et al. 2017).

    The codes are not trained by gradient: each is the mean of the vectors that it stood for,
    as an exponential moving average (the paper's appendix A.1). The gradient of the output
    passes to the input unchanged ("straight-through"). The commitment loss, added to the
    layer's losses, draws vectors to their codes. Its dtype is float32 under any policy.

    Two additions keep all codes in use, and with both off the layer does what Sonnet's
    `VectorQuantizerEMA` does. The codebook starts as vectors drawn from the first batch, and a
    code that is hardly used is moved to a vector drawn from the batch.

    Args:
        codebook_size: Number of codes, K.
        embedding_dim: Length of the vectors, D.
        commitment_cost: Factor of the commitment loss, the paper's β.
        decay: Share of the moving averages that a step keeps.
        epsilon: Laplace smoothing: what is added to each code's moving count.
        start_from_data: Whether the first batch gives the initial codes.
        restart_below: Share of the mean count below which a code is moved; 0 for never.
        seed: Seed of what is drawn.

    Call arguments:
        vectors: float [..., D].
        training: Whether to update the codebook.

    Output shape:
        Codes float32 [..., D] and their indices int32 [...].
    """

    def __init__(
        self,
        codebook_size: int,
        embedding_dim: int,
        *,
        commitment_cost: float = 0.25,
        decay: float = 0.99,
        epsilon: float = 1e-5,
        start_from_data: bool = True,
        restart_below: float = 0.01,
        seed: int = 0,
        **kwargs: Any,
    ):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.codebook_size = codebook_size
        self.embedding_dim = embedding_dim
        self.commitment_cost = commitment_cost
        self.decay = decay
        self.epsilon = epsilon
        self.start_from_data = start_from_data
        self.restart_below = restart_below
        self.draws = keras.random.SeedGenerator(seed)

    def build(self, input_shape: Shape) -> None:
        def add(name, *shape, initializer: Any = "zeros"):
            return self.add_weight(
                shape=shape,
                initializer=initializer,
                trainable=False,
                name=name,
                aggregation="only_first_replica",
            )

        size, dim = self.codebook_size, self.embedding_dim
        uniform = keras.initializers.VarianceScaling(distribution="uniform")
        self.codebook = add("codebook", size, dim, initializer=uniform)
        # Moving averages of the number of vectors of each code and of their sum. They start at
        # zero, and are divided by 1 - decay^t after t updates.
        self.counts = add("counts", size)
        self.sums = add("sums", size, dim)
        self.num_updates = add("num_updates")

    def call(self, vectors: Tensor, training: bool = False) -> tuple[Tensor, Tensor]:
        flat = ops.reshape(vectors, (-1, self.embedding_dim))
        codebook, drawn = ops.convert_to_tensor(self.codebook), None
        if training and (self.start_from_data or self.restart_below):
            drawn = ops.stop_gradient(self._draw(ops.stop_gradient(flat)))
        if drawn is not None and self.start_from_data:
            codebook = ops.where(self.num_updates > 0, codebook, drawn)
        indices = nearest(flat, codebook)
        shape: Any = ops.shape(vectors)
        codes = ops.reshape(ops.stop_gradient(ops.take(codebook, indices, axis=0)), shape)
        if training:
            self._update(ops.stop_gradient(flat), indices, drawn)
        distance = ops.mean(ops.square(vectors - codes))
        self.add_loss(self.commitment_cost * distance)
        quantized = vectors + ops.stop_gradient(codes - vectors)
        return quantized, ops.reshape(indices, shape[:-1])

    def _update(self, flat: Tensor, indices: Tensor, drawn: Tensor | None) -> None:
        """Moves the codes: one step of k-means on this batch, averaged with earlier ones."""
        size = self.codebook_size
        counts, sums = sum_over_replicas(
            [count(indices, size), ops.segment_sum(flat, indices, num_segments=size)]
        )
        new = 1 - self.decay
        num_updates = self.num_updates + 1
        seen = 1 - ops.power(ops.cast(self.decay, "float32"), num_updates)
        counts = self.counts - (self.counts - counts) * new
        sums = self.sums - (self.sums - sums) * new
        total = ops.sum(counts) / seen
        smoothed = (counts / seen + self.epsilon) / (total + size * self.epsilon) * total
        codebook = sums / seen / smoothed[:, None]
        if drawn is not None and self.restart_below:
            # A moved code counts so little that the next vectors decide where it goes.
            least = self.restart_below * ops.mean(counts)
            dead = counts < least
            codebook = ops.where(dead[:, None], drawn, codebook)
            counts = ops.where(dead, least, counts)
            sums = ops.where(dead[:, None], least * drawn, sums)
        self.codebook.assign(codebook)
        self.counts.assign(counts)
        self.sums.assign(sums)
        self.num_updates.assign(num_updates)

    def _draw(self, flat: Tensor) -> Tensor:
        """Returns K vectors of the batch, drawn at random: float32 [K, D]."""
        number = ops.shape(flat)[0]
        uniform = keras.random.uniform((self.codebook_size,), seed=self.draws)
        rows = ops.cast(uniform * ops.cast(number, "float32"), "int32")
        return of_first_replica(ops.take(flat, ops.minimum(rows, number - 1), axis=0))


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Returns the indices of the nearest codes; of equally near ones, the lowest index.

    Args:
        vectors: float [N, D].
        codebook: float [K, D], of the same dtype.

    Returns:
        int32 [N].
    """
    products = ops.matmul(vectors, ops.transpose(codebook))
    # The squared distance but for |vector|², which is the same for all codes.
    return ops.argmin(ops.sum(ops.square(codebook), axis=1) - 2 * products, axis=1)


def count(indices: Tensor, size: int) -> Tensor:
    """Returns how often each of 0…size - 1 occurs: float32 [size]."""
    flat = ops.reshape(indices, (-1,))
    return ops.segment_sum(ops.ones_like(flat, dtype="float32"), flat, num_segments=size)


class CodeUsage(keras.metrics.Metric):
    """How evenly the codes are used: `perplexity` and `used_codes`, over all images seen.

    The perplexity is the exponential of the entropy of the codes, K if all are used alike;
    `used_codes` is the share of codes that were used at all.
    """

    def __init__(self, codebook_size: int, name: str = "code_usage"):
        super().__init__(name=name)
        self.codebook_size = codebook_size
        self.counts = self.add_variable((codebook_size,), initializer="zeros", name="counts")

    def update_state(self, indices: Tensor) -> None:
        # Summed at once: each replica reports its result after every batch.
        self.counts.assign_add(sum_over_replicas(count(indices, self.codebook_size)))

    def result(self) -> dict[str, Tensor]:
        shares = self.counts / ops.maximum(ops.sum(self.counts), 1)
        entropy = -ops.sum(shares * ops.log(shares + SMALLEST_PROBABILITY))
        used = ops.mean(ops.cast(self.counts > 0, "float32"))
        return {"perplexity": ops.exp(entropy), "used_codes": used}


def num_replicas() -> int:
    """Returns the number of replicas of the `tf.distribute` strategy whose scope this is."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def has_replicas() -> bool:
    """Returns whether this is the scope of a `tf.distribute` strategy of several replicas."""
    return num_replicas() > 1


def sum_over_replicas(values: Any) -> Any:
    """Returns the sums of tensors over the replicas of a `tf.distribute` strategy."""
    replica = _replica_context()
    return values if replica is None else replica.all_reduce("SUM", values)


def loss_of_replica(model: keras.Model, quantizer: keras.Layer) -> Tensor:
    """Returns the loss of a replica's images, divided by the number of replicas.

    The replicas take turns in a call and share the lists of losses, so that Keras would count the
    losses of the first ones more than once. Each replica's own are the last of their lists.

    Args:
        model: A model that added one loss.
        quantizer: Its last layer, the only one that added another.
    """
    of_quantizer = quantizer.losses
    return (model.losses[-1 - len(of_quantizer)] + of_quantizer[-1]) / num_replicas()


def of_first_replica(values: Tensor) -> Tensor:
    """Returns what the first replica has, on all replicas."""
    replica = _replica_context()
    if replica is None:
        return values
    first = ops.equal(replica.replica_id_in_sync_group, 0)
    return sum_over_replicas(ops.where(first, values, ops.zeros_like(values)))


def _replica_context() -> Any:
    """Returns where TensorFlow runs one of several replicas; else None."""
    if not has_replicas():
        return None
    import tensorflow as tf

    return tf.distribute.get_replica_context()
