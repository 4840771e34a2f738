"""The same short training under any strategy."""

import dataclasses
import socket

import keras
import numpy as np

from igpt_keras import ImageGPT, ImageGPTClassifier, ImageGPTConfig
from igpt_keras.training.recipes import adam

CONFIG = ImageGPTConfig(image_size=3, vocabulary_size=8, hidden_dim=8, num_layers=1, num_heads=2)
CONDITIONAL = dataclasses.replace(CONFIG, num_classes=3)
KINDS = {
    "ar": {"model_class": ImageGPT, "objective": "ar"},
    "bert": {"model_class": ImageGPT, "objective": "bert"},
    "conditional": {
        "model_class": ImageGPT,
        "objective": "ar",
        "config": CONDITIONAL,
        "label_dropout": 0.4,
    },
    "classifier": {"model_class": ImageGPTClassifier, "objective": "ar", "num_classes": 3},
}
# The last batch of an epoch holds one image: a replica of two gets none.
IMAGES, BATCH_SIZE, EPOCHS, RATE = 37, 12, 8, 0.003


def data(objective, labeled):
    generator = np.random.default_rng(3)
    tokens = generator.integers(0, 8, (IMAGES, 9)).astype(np.int32)
    masked = generator.random((IMAGES, 9)) < 0.3
    inputs = tokens if objective == "ar" else {"tokens": tokens, "masked": masked}
    return inputs, (tokens[:, 0] % 3 if labeled else None)


def train(
    strategy,
    model_class,
    objective,
    *,
    config=CONFIG,
    steps_per_execution=1,
    micro_batches=1,
    optimizer=adam,
    jit_compile=False,
    remat=False,
    **settings,
):
    """Trains, evaluates and predicts; the weights and figures it ends with, by name."""
    inputs, labels = data(objective, bool(config.num_classes) or "num_classes" in settings)
    with strategy.scope():
        keras.utils.set_random_seed(5)
        model = model_class(config, objective=objective, **settings)
        model.compile(
            optimizer(RATE),
            steps_per_execution=steps_per_execution,
            jit_compile=jit_compile,
            remat=remat,
            micro_batches=micro_batches,
        )
    fitting = {"batch_size": BATCH_SIZE, "verbose": 0}
    history = model.fit(inputs, labels, epochs=EPOCHS, shuffle=False, **fitting).history
    measured = model.evaluate(inputs, labels, return_dict=True, **fitting)
    return {
        "weights": np.concatenate([weight.ravel() for weight in model.get_weights()]),
        "history": np.array([history[name] for name in sorted(history)]),
        "losses": np.array(history["loss"]),
        "measured": np.array([measured[name] for name in sorted(measured)]),
        "predicted": model.predict(inputs, **fitting),
    }


def free_ports(count):
    """Ports of the loopback interface that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
