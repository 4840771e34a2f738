"""A training that is told to stop."""

import keras


class Stopper(keras.callbacks.Callback):
    """Asks `checkpoints` to stop at the end of a step, counted over all epochs."""

    def __init__(self, checkpoints, step):
        super().__init__()
        self.checkpoints, self.step = checkpoints, step
        self.done = 0

    def on_train_batch_end(self, batch, logs=None):
        self.done += 1
        if self.done == self.step:
            self.checkpoints.stop()
