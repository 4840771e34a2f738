"""`fit`, `evaluate` and `predict` of a Keras model under any `tf.distribute` strategy.

Keras 3's own trainer fails or errs there (issues 19246 and 20585): with several steps an
execution under `MirroredStrategy`, in every `fit` under `MultiWorkerMirroredStrategy`, in
means over replicas with different shares of a batch, and by clipping gradients before they
are summed. This module can go once that is mended.
"""

import contextlib
import itertools
from typing import Any

import keras
import tensorflow as tf

from igpt_keras.models.keras_internals import TrainerOverrides
from igpt_keras.network.custom_gradients import custom_gradients_in_graph


class DistributedTrainer(TrainerOverrides):
    """A `keras.Model` that trains under any strategy as on one device.

    The loss of a step is the mean over the global batch, of which a replica may have any share
    (even none). Gradients are summed over the replicas before the optimizer clips,
    unscales or accumulates them, so a step is that of one device.

    Attributes:
        micro_batches: Number of equal parts that a replica's share of a batch is cut into.
            They go through the model in turn before the weights change once, which divides
            the memory for activations; the result is that of the whole batch. `compile` sets
            it.
        gradient_norm: Metric of training: the global norm of the gradient before clipping.
    """

    micro_batches = 1

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gradient_norm = keras.metrics.Mean(name="gradient_norm")
        self._reports_gradient_norm = False

    def distribute_scope(self) -> contextlib.AbstractContextManager:
        """Returns the scope of the model's strategy, in which its optimizer is made."""
        return self.distribute_strategy.scope()

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        size = _batch_size(x)
        replicas = tf.distribute.get_replica_context()
        start, total = _place_in_batch(size, replicas)
        x = self.draw_inputs(x, start, size, total)
        share = tf.cast(size, tf.float32) / tf.cast(total, tf.float32)
        gradients = self._gradients((x, y, sample_weight), share)
        gradients = replicas.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        # The heads are float32 whatever the dtype of the other layers.
        norm = tf.linalg.global_norm([tf.cast(gradient, tf.float32) for gradient in gradients])
        norm /= self.optimizer.scale_loss(1.0)
        # Too large a loss scale makes the norm infinite; such a step changes no weight.
        is_finite = tf.math.is_finite(norm)
        self.gradient_norm.update_state(
            tf.where(is_finite, norm, 0.0), tf.cast(is_finite, tf.float32)
        )
        self.optimizer.apply(_on_one_replica(gradients), self.trainable_variables)
        return self.get_metrics_result()

    def draw_inputs(self, inputs: Any, start: Any, size: Any, total: Any) -> Any:
        """Returns the inputs of a training step with what is drawn anew in each; here nothing.

        Args:
            inputs: The replica's share of the global batch.
            start: int32 scalar, the place of its first image in the global batch.
            size: int32 scalar, its images.
            total: int32 scalar, the images of the global batch.
        """
        return inputs

    def _gradients(self, batch, share):
        """Returns the gradients of `share` times the mean loss of a batch, micro-batch by one."""
        if self.micro_batches == 1:
            return self._micro_batch_gradients(batch, share)
        given = [x for x in batch if x is not None]
        absent = [None] * (len(batch) - len(given))
        count, size = self.micro_batches, _batch_size(given)
        each = size // count
        image_share = share / tf.cast(tf.maximum(size, 1), tf.float32)

        def gradients_of(part, num_images):
            part_share = image_share * tf.cast(num_images, tf.float32)
            return self._micro_batch_gradients([*part, *absent], part_share)

        def add(index, sums):
            part = tf.nest.map_structure(lambda x: x[index], parts)
            gradients = gradients_of(part, each)
            return index + 1, [s + g for s, g in zip(sums, gradients, strict=True)]

        parts = tf.nest.map_structure(
            lambda x: tf.reshape(x[: each * count], (count, each, *x.shape[1:])), given
        )
        known_size = tf.nest.flatten(given)[0].shape[0]
        if known_size is not None and known_size % count == 0:
            sums = [tf.zeros(v.shape, v.dtype) for v in self.trainable_variables]
        else:
            rest = tf.nest.map_structure(lambda x: x[each * count :], given)
            sums = gradients_of(rest, size - each * count)
        _, sums = tf.while_loop(
            lambda index, sums: index < count,
            add,
            (tf.constant(0), sums),
            parallel_iterations=1,
            maximum_iterations=count,
        )
        return sums

    def _micro_batch_gradients(self, batch, share):
        x, y, sample_weight = batch
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self._mean_loss(x, y, y_pred, sample_weight, training=True)
            scaled = self.optimizer.scale_loss(loss * share)
        self._update_metrics(loss, x, y, y_pred, sample_weight)
        gradients = tape.gradient(scaled, self.trainable_variables)
        return [tf.convert_to_tensor(gradient) for gradient in gradients]

    def test_step(self, data: Any) -> dict[str, Any]:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y_pred = self(x, training=False)
        loss = self._mean_loss(x, y, y_pred, sample_weight, training=False)
        self._update_metrics(loss, x, y, y_pred, sample_weight)
        return self.get_metrics_result()

    def get_metrics_result(self) -> dict[str, Any]:
        metrics = super().get_metrics_result()
        if not self._reports_gradient_norm:
            del metrics[self.gradient_norm.name]
        return metrics

    def _mean_loss(self, x, y, y_pred, sample_weight, training):
        """Returns the mean over the images of `x`; Keras divides it by the number of replicas."""
        loss = self.compute_loss(x, y, y_pred, sample_weight, training)
        return loss * tf.distribute.get_strategy().num_replicas_in_sync

    def _update_metrics(self, loss, x, y, y_pred, sample_weight):
        tracker = next(metric for metric in self.metrics if metric.name == "loss")
        tracker.update_state(loss, sample_weight=_batch_size(x))
        self.compute_metrics(x, y, y_pred, sample_weight)

    def make_train_function(self, force: bool = False) -> None:
        if self.train_function is None or force:
            if not self.optimizer.built:
                # A loss scale becomes a variable when it is built. Traced earlier, it would
                # stay the number that it starts with.
                with self.distribute_scope():
                    self.optimizer.build(self.trainable_variables)
            self.train_function = self._function_of(self.train_step, is_training=True)

    def make_test_function(self, force: bool = False) -> None:
        if self.test_function is None or force:
            self.test_function = self._function_of(self.test_step, is_training=False)

    def _function_of(self, step, is_training):
        """Returns what Keras calls with an iterator, to run `steps_per_execution` batches.

        If the data end within these, callbacks are not told of them, but they all count.
        """
        strategy = self.distribute_strategy
        num_steps = self.steps_per_execution

        def one_step(data):
            # At the end of the data, ops that need no data must not run either.
            given = [x for x in tf.nest.flatten(data) if x is not None]
            with custom_gradients_in_graph(), tf.control_dependencies(given):
                step(data)

        # Autograph would wrap an `InputError` of a step in a page of its own.
        if not self.run_eagerly:
            # A step that XLA compiles reads the variables of one device only.
            jit_compile = self.jit_compile and strategy.num_replicas_in_sync == 1
            one_step = tf.function(
                one_step, jit_compile=jit_compile, reduce_retracing=True, autograph=False
            )

        def several_steps(iterator):
            def run(index):
                strategy.run(one_step, args=(next(iterator),))
                return (index + 1,)

            tf.while_loop(lambda index: index < num_steps, run, (tf.constant(0),))
            return self.get_metrics_result()

        if not self.run_eagerly:
            several_steps = tf.function(several_steps, reduce_retracing=True, autograph=False)

        def function(iterator):
            self._reports_gradient_norm = is_training
            if isinstance(iterator, (tf.data.Iterator, tf.distribute.DistributedIterator)):
                return several_steps(iterator)
            for data in itertools.islice(iterator, num_steps):
                strategy.run(one_step, args=(data,))
            return self.get_metrics_result()

        return function


def _batch_size(x):
    return tf.shape(tf.nest.flatten(x)[0])[0]


def _place_in_batch(size, replicas):
    """Returns the place of a replica's first image in the global batch, and the batch's size."""
    count, replica = replicas.num_replicas_in_sync, replicas.replica_id_in_sync_group
    if count == 1:
        return 0, size
    own = tf.cast(size, tf.float32) * tf.one_hot(replica, count)
    sizes = tf.cast(replicas.all_reduce(tf.distribute.ReduceOp.SUM, own), tf.int32)
    return tf.reduce_sum(sizes[:replica]), tf.reduce_sum(sizes)


def _on_one_replica(gradients):
    """Returns the summed gradients on the first replica and zeros elsewhere.

    Keras' optimizers sum gradients over the replicas after clipping them. They find the sum
    here already, and add zeros to it. (NaNs and infinities stay non-finite on every replica.)
    """
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return gradients
    is_first = tf.equal(context.replica_id_in_sync_group, 0)
    return [gradient * tf.cast(is_first, gradient.dtype) for gradient in gradients]
