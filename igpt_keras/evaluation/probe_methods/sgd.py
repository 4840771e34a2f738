"""Logistic regression by SGD, from features on disk."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from igpt_keras import paper
from igpt_keras.evaluation.probe_features import LayerFeatures, Scaling
from igpt_keras.evaluation.probe_methods import METHODS, FitCheckpoints, ProbeMethod
from igpt_keras.evaluation.probe_methods._batches import Batches, fit_batches
from igpt_keras.evaluation.probes import LinearProbe
from igpt_keras.training.callbacks.divergence_detector import Diverged


@METHODS.register("sgd")
@dataclasses.dataclass(frozen=True)
class SGD(ProbeMethod):
    """SGD with momentum and a cosine to 0, for sets too large for L-BFGS (paper, section 3.4).

    Only the projection is trained, from zero; features are scaled (`Scaling`). They are read
    batch by batch: memory holds 12 bytes of an image, its label and its place in the order. With
    the same `seed`, every process sees them in the same order.

    Attributes:
        learning_rates: Rates from large to small.
        epochs: Passes over the images for each of them.
        batch_size: Images in a step.
        seed: Seed of the order of the images.
        checkpoints: Checkpoints that fits resume from and write, or None.
    """

    learning_rates: Sequence[float] = paper.PROBE_LEARNING_RATES
    epochs: int = 20
    batch_size: int = 256
    seed: int = 0
    checkpoints: FitCheckpoints | None = None

    @classmethod
    def from_options(
        cls,
        *,
        learning_rate: float | None = None,
        epochs: int = 20,
        seed: int = 0,
        checkpoints: FitCheckpoints | None = None,
        **others: Any,
    ) -> "SGD":
        method = super().from_options(**others)
        rates = method.learning_rates if learning_rate is None else (learning_rate,)
        return cls(rates, epochs=epochs, seed=seed, checkpoints=checkpoints)

    def fits(self, train: LayerFeatures, num_classes: int) -> Iterator[LinearProbe]:
        """Yields a probe for every learning rate at which the weights stay finite.

        Raises:
            Diverged: There is none.
            Interrupted: A signal stopped a fit; a checkpoint is written.
        """
        scaling, diverged = Scaling.of(train), True
        for learning_rate in self.learning_rates:
            weights = self._fit(train, scaling, num_classes, learning_rate)
            if not np.isfinite(weights).all():
                continue
            diverged = False
            setting = {"learning_rate": float(learning_rate)}
            unscaled = scaling.unapply(weights, np.zeros(num_classes))
            yield LinearProbe(*unscaled, setting=setting)
        if diverged:
            steps = self.epochs * max(len(train) // self.batch_size, 1)
            raise Diverged(steps, "the weights of the probe are not finite")

    def _fit(
        self, train: LayerFeatures, scaling: Scaling, num_classes: int, learning_rate: float
    ) -> np.ndarray:
        """Returns the projection that is trained at one rate: float32 [k · d, C]."""
        batches = partial(
            Batches,
            lambda rows: scaling.apply(train.read(rows)),
            train.labels,
            self.batch_size,
            self.seed,
        )
        steps_per_epoch = batches().per_epoch
        schedule = keras.optimizers.schedules.CosineDecay(
            learning_rate, decay_steps=self.epochs * steps_per_epoch
        )
        projection = keras.layers.Dense(num_classes, use_bias=False, kernel_initializer="zeros")
        model = keras.Sequential([keras.Input((train.width,)), projection])
        model.compile(
            keras.optimizers.SGD(
                schedule,  # pyright: ignore[reportArgumentType]
                momentum=paper.PROBE_MOMENTUM,
            ),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        checkpoints = None if self.checkpoints is None else self.checkpoints.of_next_fit()
        fit_batches(model, batches, self.epochs, checkpoints)
        return np.asarray(keras.ops.convert_to_numpy(projection.kernel))

    def with_setting(self, setting: dict[str, Any]) -> "SGD":
        return dataclasses.replace(self, learning_rates=[setting["learning_rate"]])
