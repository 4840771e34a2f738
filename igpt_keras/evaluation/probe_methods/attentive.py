"""A linear classifier of states that learned attention pools."""

# Keras declares that its functions may return None.
# pyright: reportOptionalSubscript=false, reportOptionalOperand=false

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from igpt_keras import paper
from igpt_keras.errors import InputError
from igpt_keras.evaluation.layer_states import LayerStates
from igpt_keras.evaluation.probe_features import moments
from igpt_keras.evaluation.probe_methods import METHODS, FitCheckpoints, ProbeMethod
from igpt_keras.evaluation.probe_methods._batches import Batches, fit_batches
from igpt_keras.evaluation.probes import AttentiveProbe
from igpt_keras.tensors import Tensor
from igpt_keras.training.callbacks.divergence_detector import Diverged

NUM_HEADS = 8
QUERY_STDDEV = 0.02
# Added to variances, as in AIM's batch normalization.
EPSILON = 1e-6


@METHODS.register("attentive")
@dataclasses.dataclass(frozen=True)
class Attentive(ProbeMethod):
    """Cross-attention from one learned query to the states of a layer, then a projection.

    The attentive probe of AIM (El-Nouby et al., 2024; `AttentionPoolingClassifier` of
    apple/ml-aim): projections of keys and values without bias, several heads, neither a residual
    connection nor an MLP. States are standardized, here by mean and variance of all training
    states, where AIM has batch normalization. Adam trains it with a cosine to 0.

    The states are computed for every batch and not kept, so memory does not grow with the number
    of images. All rates train at the same time, on the same states: an epoch costs one forward
    pass of the images through the layers below.

    Attributes:
        learning_rates: Rates of Adam, from large to small.
        num_heads: Number of attention heads; None for 8, or the largest of 4, 2 and 1 that
            divides the width.
        epochs: Passes over the images.
        seed: Seed of the order of the images and of the initial weights.
        checkpoints: Checkpoints that fits resume from and write, or None.

    Raises:
        InputError: `num_heads` is below 1.

    Example:
        ```python
        import igpt_keras
        from igpt_keras.evaluation.layer_states import FrozenModel, LayerStates
        from igpt_keras.evaluation.probe_methods.attentive import Attentive

        digits = igpt_keras.data.read_images(igpt_keras.open_data("digits").train, 8)
        model = igpt_keras.ImageGPT.from_preset("digits-model")
        frozen, tokens = FrozenModel(model, batch_size=64), model.tokenizer.tokenize(digits.images)
        states = LayerStates.of(frozen, tokens, digits.labels)
        (probe,) = Attentive([0.003], epochs=2).fits(states.select([2]), num_classes=10)
        probe.accuracy(states.select([2]))
        ```
    """

    reads_states: ClassVar[bool] = True

    learning_rates: Sequence[float] = paper.SEARCH_LEARNING_RATES
    num_heads: int | None = None
    epochs: int = 20
    seed: int = 0
    checkpoints: FitCheckpoints | None = None

    def __post_init__(self):
        if self.num_heads is not None and self.num_heads < 1:
            raise InputError(f"num_heads must be at least 1, got {self.num_heads}")

    @classmethod
    def from_options(
        cls,
        *,
        learning_rate: float | None = None,
        num_heads: int | None = None,
        epochs: int = 20,
        seed: int = 0,
        checkpoints: FitCheckpoints | None = None,
        **others: Any,
    ) -> "Attentive":
        method = super().from_options(**others)
        rates = method.learning_rates if learning_rate is None else (learning_rate,)
        return cls(rates, num_heads, epochs=epochs, seed=seed, checkpoints=checkpoints)

    def check_width(self, width: int) -> None:
        """Raises `InputError` if the heads cannot share `width` features."""
        if self.num_heads is not None and width % self.num_heads:
            raise InputError(
                f"num_heads must divide the width {width} of the states, got {self.num_heads}"
            )

    def fits(self, train: LayerStates, num_classes: int) -> Iterator[AttentiveProbe]:
        """Yields a probe for every learning rate at which the weights stay finite.

        Raises:
            Diverged: There is none.
            InputError: `num_heads` does not divide the width.
            Interrupted: A signal stopped the fit; a checkpoint is written.
        """
        self.check_width(train.width)
        num_heads = self.num_heads or math.gcd(NUM_HEADS, train.width)
        heads = AttentiveHeads(
            len(self.learning_rates), num_heads, *moments(train), num_classes, self.seed
        )
        steps = self._fit(train, heads)
        diverged = True
        for learning_rate, arrays in zip(self.learning_rates, heads.folded(), strict=True):
            if all(np.isfinite(array).all() for array in arrays):
                diverged = False
                setting = {"learning_rate": float(learning_rate), "num_heads": num_heads}
                yield AttentiveProbe(*arrays, setting=setting)
        if diverged:
            raise Diverged(steps, "the weights of the probe are not finite")

    def _fit(self, train: LayerStates, heads: "AttentiveHeads") -> int:
        """Trains `heads`; returns the number of steps."""
        batches = partial(
            Batches, train.inputs_of, train.labels, train.frozen.batch_size, self.seed
        )
        steps_per_epoch = batches().per_epoch
        steps = self.epochs * steps_per_epoch
        model = AttentiveClassifiers(partial(train.frozen.states, layers=train.layers), heads)
        model.compile(AdamAtRates(self.learning_rates, steps), loss=summed_cross_entropy)
        checkpoints = None if self.checkpoints is None else self.checkpoints.of_next_fit()
        fit_batches(model, batches, self.epochs, checkpoints)
        return steps

    def with_setting(self, setting: dict[str, Any]) -> "Attentive":
        return dataclasses.replace(self, learning_rates=[setting["learning_rate"]])


class AttentiveHeads(keras.layers.Layer):
    """Attentive classifiers of the same states, which begin alike and train at different rates.

    The query is the same for every image, so its product with the key projection is one vector,
    and values are projected after they are pooled: the projections cost nothing per position.

    Args:
        num_fits: Number of classifiers F; every weight has one slice for each.
        num_heads: Attention heads H.
        mean: Mean of each feature, [D]. H divides D.
        variance: Variance of each feature, [D].
        num_classes: C.
        seed: Seed of the initial weights.
    """

    def __init__(
        self,
        num_fits: int,
        num_heads: int,
        mean: np.ndarray,
        variance: np.ndarray,
        num_classes: int,
        seed: int,
    ):
        super().__init__(dtype="float32")
        self.mean = mean
        self.deviation = np.sqrt(variance + EPSILON)
        width = len(mean)
        head_width = width // num_heads
        random = np.random.default_rng(seed)
        limit = math.sqrt(3 / width)  # Glorot's, of a square projection.
        shape = (num_heads, width, head_width)
        self.query = self._weights("query", num_fits, random.normal(0, QUERY_STDDEV, shape[::2]))
        self.key = self._weights("key", num_fits, random.uniform(-limit, limit, shape))
        self.value = self._weights("value", num_fits, random.uniform(-limit, limit, shape))
        classes = np.zeros((num_heads, head_width, num_classes))
        self.class_kernel = self._weights("class_kernel", num_fits, classes)
        self.bias = self._weights("bias", num_fits, np.zeros(num_classes))
        self.built = True

    def _weights(self, name: str, num_fits: int, initial: np.ndarray) -> Any:
        stacked = np.repeat(initial[None], num_fits, axis=0).astype(np.float32)
        variable = self.add_weight(shape=stacked.shape, name=name)
        variable.assign(stacked)
        return variable

    def call(self, states: Tensor) -> Tensor:
        """Returns the class logits of each classifier: float32 [B, F, C].

        Args:
            states: float32 [B, n, D].
        """
        mean, deviation = (np.asarray(x, np.float32) for x in (self.mean, self.deviation))
        queries = self._queries() / deviation
        attention = ops.softmax(ops.einsum("bnd,fhd->bfhn", states, queries), axis=-1)
        pooled = ops.einsum("bfhn,bnd->bfhd", attention, states)
        pooled = (pooled - mean) / deviation
        values = ops.einsum("bfhd,fhdk->bfhk", pooled, self.value)
        return ops.einsum("bfhk,fhkc->bfc", values, self.class_kernel) + self.bias

    def _queries(self) -> Tensor:
        """Returns the query of each head, as one of standardized states: [F, H, D].

        What the mean adds is the same at every position and does not change the softmax.
        """
        queries = ops.einsum("fhdk,fhk->fhd", self.key, self.query)
        return queries / math.sqrt(self.query.shape[-1])

    def folded(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Returns `queries`, `weights` and `bias` of an `AttentiveProbe` for each classifier."""
        variables = (self._queries(), self.value, self.class_kernel, self.bias)
        queries, value, class_kernel, bias = (
            np.asarray(ops.convert_to_numpy(x), np.float64) for x in variables
        )
        queries = queries / self.deviation
        weights = value @ class_kernel / self.deviation[:, None]
        bias = bias - np.einsum("d,fhdc->fc", self.mean, weights)
        arrays = (x.astype(np.float32) for x in (queries, weights, bias))
        return list(zip(*arrays, strict=True))


class AttentiveClassifiers(keras.Model):
    """Attentive classifiers on top of a model that does not change.

    Args:
        states: Function from a batch of inputs to its states, whose weights are not trained.
        heads: The classifiers.
    """

    def __init__(self, states: Callable[[Any], Tensor], heads: AttentiveHeads):
        super().__init__(dtype="float32")
        # Keras does not look into functions: checkpoints hold the classifiers only.
        self.states = states
        self.heads = heads

    def call(self, inputs: Any) -> Tensor:
        return self.heads(ops.stop_gradient(self.states(inputs)))


class AdamAtRates(keras.optimizers.Adam):
    """Adam that gives each slice of a weight, along its first axis, a peak rate of its own.

    Args:
        rates: The peak rates, from which a cosine falls to 0.
        decay_steps: Steps of the cosine.
    """

    def __init__(self, rates: Sequence[float], decay_steps: int):
        schedule: Any = keras.optimizers.schedules.CosineDecay(1.0, decay_steps)
        super().__init__(schedule)
        self.rates = tuple(rates)

    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Tensor) -> None:
        rates = np.reshape(self.rates, (-1, *[1] * (len(variable.shape) - 1)))
        super().update_step(gradient, variable, learning_rate * rates.astype(np.float32))


def summed_cross_entropy(labels: Tensor, logits: Tensor) -> Tensor:
    """Returns the sum over classifiers of the cross-entropy of each image: [B].

    The sum gives every classifier the gradient that it would have alone.

    Args:
        labels: int [B].
        logits: [B, F, C].
    """
    labels = ops.broadcast_to(ops.reshape(labels, (-1, 1)), ops.shape(logits)[:2])
    losses = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    return ops.sum(losses, axis=-1)
