"""Greedy layer-wise pre-training beside Image GPT: accuracy by number of labels, on digits.

Deep networks used to be pre-trained without labels one layer at a time. An autoencoder or a
restricted Boltzmann machine (RBM) learns the first layer from the images, the next one learns the
second layer from the states of the first, and so on; then the whole network is fine-tuned on the
labels (Hinton et al., 2006; Bengio et al., 2007; Vincent et al., 2010).

    python examples/baselines/layerwise.py --output layerwise

Every method gets the same splits and the same labels. Needs the extra `report`.
docs/baselines.md says what the numbers mean.
"""

import argparse
import json
import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
from few_labels import Methods, Splits, draw, image_gpt_methods, measure, probe_of, table
from gray_images import MAX_GRAY, gray_pixels
from keras import ops
from sklearn.neural_network import BernoulliRBM
from sklearn.pipeline import Pipeline, make_pipeline
from threadpoolctl import threadpool_limits

from igpt_keras.data.labeled import LabeledImages

WIDTHS = (128, 128, 128)
MASKING = 0.3
AUTOENCODER_EPOCHS, AUTOENCODER_RATE = 40, 0.003
RBM_EPOCHS, RBM_RATE = 40, 0.1
FINE_TUNING_EPOCHS, FINE_TUNING_RATE = 15, 0.003
BATCH_SIZE, PATIENCE = 32, 5
QUIET: Any = {"verbose": 0}  # Keras declares a string.
# Small networks take more time between steps than in them.
FAST: Any = {"steps_per_execution": 40, "jit_compile": False}


class DenoisingAutoencoder(keras.Model):
    """Trains a dense layer to restore its inputs, of which a random part is set to 0.

    The decoder has the transposed kernel of the layer, a bias of its own, and the layer's
    activation. Without masking and activation, the best kernel spans the principal components.

    Args:
        layer: The layer, which is trained in place.
        masking: Share of the inputs that are set to 0, in training only.
    """

    def __init__(self, layer: keras.layers.Dense, masking: float = MASKING):
        super().__init__()
        self.layer = layer
        self.masking = masking
        self.noise = keras.random.SeedGenerator()

    def build(self, input_shape):
        if not self.layer.built:
            self.layer.build(input_shape)
        self.bias = self.add_weight(shape=(input_shape[-1],), initializer="zeros")

    def call(self, inputs, training=False):
        if training:
            kept = keras.random.uniform(ops.shape(inputs), seed=self.noise) >= self.masking
            inputs = ops.where(kept, inputs, 0.0)
        restored = ops.matmul(self.layer(inputs), ops.transpose(self.layer.kernel)) + self.bias
        return self.layer.activation(restored)


def make_network(seed: int, activation: str = "sigmoid") -> keras.Sequential:
    """Returns a network with random weights, from pixels float32 [N, 64] to class logits."""
    keras.utils.set_random_seed(seed)
    hidden = [keras.layers.Dense(width, activation) for width in WIDTHS]
    return keras.Sequential([keras.Input((64,)), *hidden, keras.layers.Dense(10)])


def train_autoencoders(network: keras.Sequential, x: np.ndarray, seed: int) -> None:
    """Trains the hidden layers in place, one after the other, each on the states below it."""
    keras.utils.set_random_seed(seed)
    for layer in network.layers[:-1]:
        autoencoder = DenoisingAutoencoder(layer)
        optimizer = keras.optimizers.Adam(AUTOENCODER_RATE)
        autoencoder.compile(optimizer, "binary_crossentropy", **FAST)
        autoencoder.fit(x, x, BATCH_SIZE, AUTOENCODER_EPOCHS, **QUIET)
        x = np.asarray(ops.convert_to_numpy(layer(x)))


def train_rbms(network: keras.Sequential, x: np.ndarray, seed: int) -> Pipeline:
    """Trains RBMs in a pipeline of scikit-learn, and copies their weights into the network."""
    settings = {"learning_rate": RBM_RATE, "n_iter": RBM_EPOCHS}
    rbms = [BernoulliRBM(w, random_state=seed + i, **settings) for i, w in enumerate(WIDTHS)]
    with threadpool_limits(1, "blas"):  # The products are too small for several.
        pipeline = make_pipeline(*rbms).fit(x)
    for layer, rbm in zip(network.layers[:-1], rbms, strict=True):
        layer.set_weights([rbm.components_.T, rbm.intercept_hidden_])
    return pipeline


def pixels(split: LabeledImages) -> np.ndarray:
    """Returns pixels from 0 to 1: float32 [N, 64]."""
    return gray_pixels(split.images, MAX_GRAY["digits"])


def states(network: keras.Sequential, split: LabeledImages) -> np.ndarray:
    """Returns the states of the last hidden layer: float32 [N, d]."""
    x = pixels(split)
    for layer in network.layers[:-1]:
        x = layer(x)
    return np.asarray(ops.convert_to_numpy(x))


def fine_tuning(
    network: keras.Sequential, splits: Splits, seed: int
) -> Callable[[np.ndarray], float]:
    """Returns a function that trains a copy of the network on some rows, and its test accuracy."""
    tuned = keras.models.clone_model(network)
    tuned.set_weights(network.get_weights())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.Adam(FINE_TUNING_RATE)
    tuned.compile(optimizer, loss, metrics=["accuracy"], **FAST)
    optimizer.build(tuned.trainable_variables)
    variables = [*tuned.variables, *optimizer.variables]
    start = [np.array(variable) for variable in variables]
    (x, labels), validation, (test, classes) = ((pixels(s), s.labels) for s in splits)

    def accuracy(rows: np.ndarray) -> float:
        keras.utils.set_random_seed(seed)
        for variable, value in zip(variables, start, strict=True):
            variable.assign(value)
        # Few labels are repeated: an epoch is about as long as with all of them.
        rows = np.resize(rows, max(len(rows), 40 * BATCH_SIZE))
        best = keras.callbacks.EarlyStopping(
            "val_accuracy", patience=PATIENCE, mode="max", restore_best_weights=True
        )
        settings = {"validation_data": validation, "callbacks": [best], **QUIET}
        tuned.fit(x[rows], labels[rows], BATCH_SIZE, FINE_TUNING_EPOCHS, **settings)
        return float((tuned.predict(test, **QUIET).argmax(axis=1) == classes).mean())

    return accuracy


def layerwise_methods(splits: Splits, seed: int) -> Methods:
    """Yields what learns from pixels: without pre-training, and with either kind of it."""
    yield "pixels, logistic regression", probe_of(pixels, splits)
    for activation in ("sigmoid", "relu"):
        network = make_network(seed, activation)
        yield f"{activation} network, not pre-trained", fine_tuning(network, splits, seed)
    for name, train in (("autoencoders", train_autoencoders), ("RBMs", train_rbms)):
        network = make_network(seed)
        train(network, pixels(splits[0]), seed)
        yield f"{name}, linear probe", probe_of(partial(states, network), splits)
        yield f"{name}, fine-tuned", fine_tuning(network, splits, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description="Accuracy by number of labels.")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder to write")
    parser.add_argument("--seeds", type=int, default=3, help="number of repetitions, at least 2")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error(f"--seeds must be at least 2, got {arguments.seeds}")

    arguments.output.mkdir(parents=True, exist_ok=True)
    runs = [measure([layerwise_methods, image_gpt_methods], s) for s in range(arguments.seeds)]
    print(table(runs))
    (arguments.output / "accuracy.json").write_text(json.dumps(runs, indent=2))
    (arguments.output / "accuracy.png").write_bytes(draw(runs))


if __name__ == "__main__":
    main()
