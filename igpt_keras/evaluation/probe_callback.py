"""A probe of a model while it is trained."""

from typing import Any

import keras
import numpy as np

from igpt_keras.errors import InputError
from igpt_keras.evaluation.probe_features import LayerFeatures
from igpt_keras.evaluation.probe_methods import fit_probe
from igpt_keras.evaluation.probe_methods.ridge import Ridge
from igpt_keras.evaluation.probes import ProbeSplits
from igpt_keras.models.inputs import to_tokens
from igpt_keras.models.masking import masked_inputs

ACCURACY = "val_probe_accuracy"


class ProbeCallback(keras.callbacks.Callback):
    """Adds the validation accuracy of a ridge probe to the logs of every epoch.

    The probe is fitted in closed form to the features of some labeled images, so it costs little
    more than their forward pass. It shows whether features get better while the loss falls, and
    changes nothing of the training. Keras' history and the callbacks after this one, such as
    `keras.callbacks.TensorBoard`, get the accuracy as `val_probe_accuracy`. The strength of the
    regularization is chosen on the same validation images.

    Args:
        images: Images uint8 [N, R, R, 3] to fit probes to, or their tokens int [N, n].
        labels: int [N].
        validation_images: M images or tokens to measure the accuracy on.
        validation_labels: int [M].
        layer: Layer of the features; by default the middle one.
        batch_size: Images in a forward pass.
        seed: Seed of the masks, for BERT; they are the same in every epoch.
        writes: Whether this process probes; False in workers that are not the chief.

    Raises:
        InputError: Images have no labels or too many, labels are below 0 or of a single class; at
            the beginning of the training, the model has no such layer or cannot read the images.

    Example:
        ```python
        import igpt_keras
        from igpt_keras.evaluation.probe_callback import ProbeCallback

        digits = igpt_keras.open_data("digits")
        train = igpt_keras.data.read_images(digits.train, 8)
        held_out = igpt_keras.data.read_images(digits.validation, 8)
        probe = ProbeCallback(train.images, train.labels, held_out.images, held_out.labels)
        model = igpt_keras.ImageGPT.from_preset("digits-model")
        model.compile()
        history = model.fit(train.images, epochs=2, callbacks=[probe])
        history.history["val_probe_accuracy"]  # Two accuracies.
        ```
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        validation_images: np.ndarray,
        validation_labels: np.ndarray,
        *,
        layer: int | None = None,
        batch_size: int = 32,
        seed: int = 0,
        writes: bool = True,
    ):
        super().__init__()
        self.images = {"train": images, "validation": validation_images}
        self.labels = {"train": np.asarray(labels), "validation": np.asarray(validation_labels)}
        self.layer = layer
        self.batch_size = batch_size
        self.seed = seed
        self.writes = writes
        for name, some in self.images.items():
            if len(some) != len(self.labels[name]):
                raise InputError(
                    f"labels of {name} must be one for each of {len(some)} images, got "
                    f"{len(self.labels[name])}"
                )
        # The labels are checked before the training, not after its first epoch.
        self._splits({name: np.zeros((len(some), 1)) for name, some in self.images.items()})
        self._inputs: dict[str, Any] = {}

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        model: Any = self.model
        self._layer = model.check_layer(
            model.config.middle_layer if self.layer is None else self.layer
        )
        self._inputs = {
            name: masked_inputs(model, to_tokens(model, some), self.seed)
            for name, some in self.images.items()
        }

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is None or not self.writes:
            return
        model: Any = self.model
        features = {
            name: model.features(some, self._layer, batch_size=self.batch_size)
            for name, some in self._inputs.items()
        }
        logs[ACCURACY] = fit_probe(Ridge(), self._splits(features)).validation_accuracy

    def _splits(self, features: dict[str, np.ndarray]) -> ProbeSplits:
        parts = {name: LayerFeatures([x], self.labels[name]) for name, x in features.items()}
        num_classes = 1 + max(int(y.max(initial=-1)) for y in self.labels.values())
        return ProbeSplits(parts["train"], parts["validation"], parts["validation"], num_classes)
