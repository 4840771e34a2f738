"""Every use of Keras' trainer beyond its documented API, each with what it works around.

`tests/models/test_keras_internals.py` names each attribute and fails when it is gone. Issues
are those of https://github.com/keras-team/keras.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from igpt_keras.errors import InputError
from igpt_keras.tensors import Tensor


class TrainerOverrides(keras.Model):
    """Overrides of Keras' TensorFlow trainer."""

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Builds compiled losses and metrics from the batch of the first replica.

        Issue 20585: Keras takes the mean of the replicas' batches, which turns integers into
        floats and fails for batches of different sizes.
        """
        strategy = self.distribute_strategy
        if strategy.num_replicas_in_sync == 1:
            return
        if iterator is not None:
            _, _, batches = next(iter(iterator))
            data_batch = keras.tree.map_structure(
                lambda values: strategy.experimental_local_results(values)[0], next(batches)
            )
        with strategy.scope():
            self._symbolic_build(data_batch=data_batch)

    def _get_metrics_result_or_logs(self, logs: dict[str, Any]) -> dict[str, Any]:
        """Returns the metrics at the end of an epoch.

        Issue 19246: where the data end within an execution of several steps, Keras has the
        logs of the execution before, or none. Where there were no data at all, it reports a
        loss of 0.

        Raises:
            InputError: No image was seen.
        """
        loss = next(metric for metric in self.metrics if metric.name == "loss")
        if not keras.ops.convert_to_numpy(loss.count):
            raise InputError("the data must hold at least one batch of images, got none")
        return self.get_metrics_result()


@contextlib.contextmanager
def replaced_losses(model: keras.Model, losses: list[Tensor]) -> Iterator[None]:
    """Puts others in the place of `model.losses`, as Keras' JAX trainer does, in a block."""
    override = model._losses_override
    before = list(override)
    override[:] = losses
    try:
        yield
    finally:
        override[:] = before


def remove_variable(layer: keras.Layer, name: str) -> None:
    """Removes a variable from a layer; its attribute `name` is None afterwards.

    `del layer.name` is public, and collects all garbage of the process each time.
    """
    layer._untrack_variable(getattr(layer, name))
    setattr(layer, name, None)


def first_added_loss(model: keras.Model) -> Tensor | None:
    """Returns the loss that the model's own `call` added, or None before its first call.

    `Layer.losses` is public, its order is not documented: a layer's own losses come before
    those of its sublayers, so a regularizer that a user adds to one does not change this.
    """
    return model.losses[0] if model.losses else None
