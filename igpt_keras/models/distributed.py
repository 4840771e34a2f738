"""`fit`, `evaluate` and `predict` of a Keras model under any `tf.distribute` strategy.

Keras 3's own trainer fails or errs there (keras issues 19246 and 20585): several steps an
execution under `MirroredStrategy`, every `fit` under `MultiWorkerMirroredStrategy`, means of
unequal shares of a batch, gradients clipped before they are summed. What is here can go when
that is mended.
"""

import itertools

import keras
import tensorflow as tf


class DistributedTrainer:
    """Mixed into a `keras.Model`, before it.

    A step's loss is the mean over the global batch, however it is shared out: the share of
    every replica counts by its number of images, which may be 0. Gradients are summed over
    the replicas before the optimizer sees them, so its clipping, its loss scale and its
    accumulators are those of one replica.

    Attributes:
        micro_batches: into how many equal parts a replica's share of a batch is cut, which
            go through the model one after the other before the weights change once (what is
            left over is one part more). Memory for activations shrinks as much; the result is
            that of the whole batch. Is read when training is compiled.
        gradient_norm: the global norm of the gradient before it is clipped, as a metric of
            training.
    """

    micro_batches = 1

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gradient_norm = keras.metrics.Mean(name="gradient_norm")
        self._training = False

    def distribute_scope(self):
        """The scope of the model's strategy, in which its optimizer is to be made."""
        return self.distribute_strategy.scope()

    def train_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        local = tf.cast(_batch_size(x), tf.float32)
        replicas = tf.distribute.get_replica_context()
        share = local / replicas.all_reduce(tf.distribute.ReduceOp.SUM, local)
        gradients = self._gradients((x, y, sample_weight), share)
        gradients = replicas.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        norm = tf.linalg.global_norm(gradients) / self.optimizer.scale_loss(1.0)
        # A loss scale that is too large makes it infinite; such a step changes no weight.
        finite = tf.math.is_finite(norm)
        self.gradient_norm.update_state(tf.where(finite, norm, 0.0), tf.cast(finite, tf.float32))
        self.optimizer.apply(gradients, self.trainable_variables)
        return self.get_metrics_result()

    def _gradients(self, batch, share):
        """Gradients of `share` · the mean loss of `batch`, which counts in the metrics."""
        if self.micro_batches == 1:
            return self._gradients_at_once(batch, share)
        given = [x for x in batch if x is not None]
        absent = [None] * (len(batch) - len(given))
        count, size = self.micro_batches, _batch_size(given)
        each = size // count
        share_of_image = share / tf.cast(tf.maximum(size, 1), tf.float32)

        def of_part(part, images):
            share_of_part = share_of_image * tf.cast(images, tf.float32)
            return self._gradients_at_once([*part, *absent], share_of_part)

        def add(index, sums):
            part = tf.nest.map_structure(lambda x: x[index], parts)
            return index + 1, [s + g for s, g in zip(sums, of_part(part, each), strict=True)]

        parts = tf.nest.map_structure(
            lambda x: tf.reshape(x[: each * count], (count, each, *x.shape[1:])), given
        )
        if tf.get_static_value(size % count) == 0:
            sums = [tf.zeros(v.shape, v.dtype) for v in self.trainable_variables]
        else:
            rest = tf.nest.map_structure(lambda x: x[each * count :], given)
            sums = of_part(rest, size - each * count)
        _, sums = tf.while_loop(
            lambda index, sums: index < count,
            add,
            (tf.constant(0), sums),
            parallel_iterations=1,
            maximum_iterations=count,
        )
        return sums

    def _gradients_at_once(self, batch, share):
        x, y, sample_weight = batch
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self._mean_loss(x, y, y_pred, sample_weight, training=True)
            scaled = self.optimizer.scale_loss(loss * share)
        self._count(loss, x, y, y_pred, sample_weight)
        gradients = tape.gradient(scaled, self.trainable_variables)
        return [tf.convert_to_tensor(gradient) for gradient in gradients]

    def test_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y_pred = self(x, training=False)
        loss = self._mean_loss(x, y, y_pred, sample_weight, training=False)
        self._count(loss, x, y, y_pred, sample_weight)
        return self.get_metrics_result()

    def get_metrics_result(self):
        figures = super().get_metrics_result()
        if not self._training:
            del figures[self.gradient_norm.name]
        return figures

    def _get_metrics_result_or_logs(self, logs):
        # `logs` are those of the last whole execution; the data may have ended within another.
        return self.get_metrics_result()

    def _mean_loss(self, x, y, y_pred, sample_weight, training):
        """The mean over the images of `x`, which Keras has divided by the number of replicas."""
        loss = self.compute_loss(x, y, y_pred, sample_weight, training)
        return loss * tf.distribute.get_strategy().num_replicas_in_sync

    def _count(self, loss, x, y, y_pred, sample_weight):
        self._loss_tracker.update_state(loss, sample_weight=_batch_size(x))
        self.compute_metrics(x, y, y_pred, sample_weight)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras takes the mean of a batch over the replicas: integers become floats.
        if self._distribute_strategy is None:
            return
        if iterator is not None:
            _, _, batches = next(iter(iterator))
            data_batch = tf.nest.map_structure(self._of_first_replica, next(batches))
        with self._distribute_strategy.scope():
            self._symbolic_build(data_batch=data_batch)

    def _of_first_replica(self, values):
        return self._distribute_strategy.experimental_local_results(values)[0]

    def make_train_function(self, force=False):
        if self.train_function is None or force:
            _keep_gradients(self.optimizer)
            if not self.optimizer.built:
                # A loss scale is a variable only from then on; before, it would be traced as
                # the number it starts with.
                with self.distribute_scope():
                    self.optimizer.build(self.trainable_variables)
            self.train_function = self._steps(self.train_step, training=True)

    def make_test_function(self, force=False):
        if self.test_function is None or force:
            self.test_function = self._steps(self.test_step, training=False)

    def _steps(self, step, training):
        """What Keras calls with an iterator, to run `steps_per_execution` batches of it.

        Where the data end within these, callbacks hear of none of them, but all count.
        """
        strategy = self.distribute_strategy
        count = self.steps_per_execution

        def one_step(data):
            # At the end of the data, what needs none of them must not run either.
            with tf.control_dependencies(tf.nest.flatten(data)):
                step(data)

        if not self.run_eagerly:
            # A compiled step reads the variables of one device alone.
            jit_compile = self.jit_compile and strategy.num_replicas_in_sync == 1
            one_step = tf.function(one_step, jit_compile=jit_compile, reduce_retracing=True)

        def several_steps(iterator):
            for _ in tf.range(count):
                strategy.run(one_step, args=(next(iterator),))
            return self.get_metrics_result()

        if not self.run_eagerly:
            several_steps = tf.function(several_steps, reduce_retracing=True)

        def function(iterator):
            self._training = training
            if isinstance(iterator, (tf.data.Iterator, tf.distribute.DistributedIterator)):
                return several_steps(iterator)
            for data in itertools.islice(iterator, count):
                strategy.run(one_step, args=(data,))
            return self.get_metrics_result()

        return function


def _batch_size(x):
    return tf.shape(tf.nest.flatten(x)[0])[0]


def _keep_gradients(optimizer):
    """Keeps `optimizer` from summing over the replicas what is their sum already."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    optimizer._all_reduce_sum_gradients = list
