"""A progress bar over a whole run."""

import keras
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class ProgressBar(keras.callbacks.Callback):
    """One line for a whole `fit`: epochs, latest figures, time left, in the end time taken.

    A context manager, so that the terminal is as before whatever ends the run:

    >>> with ProgressBar("pre-training", ("loss", "val_loss")) as bar:
    ...     model.fit(tokens, callbacks=[bar], verbose=0)

    Args:
        description: what stands before the bar.
        metrics: names of the figures to show, as in the logs of `fit`.
    """

    def __init__(self, description: str, metrics: tuple[str, ...]):
        super().__init__()
        self.description = description
        self.metrics = metrics
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.completed:.0f}/{task.total:.0f}{task.fields[figures]}"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        )

    def __enter__(self) -> "ProgressBar":
        self.progress.start()
        return self

    def __exit__(self, *exception) -> None:
        self.progress.stop()

    def on_train_begin(self, logs=None):
        self.task = self.progress.add_task(
            self.description, total=self.params["epochs"], figures=""
        )

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        # The number of steps is unknown during the first epoch over a stream.
        if self.params["steps"]:
            done = self.epoch + (batch + 1) / self.params["steps"]
            self.progress.update(self.task, completed=done)

    def on_epoch_end(self, epoch, logs=None):
        figures = "".join(f" {name} {logs[name]:.3f}" for name in self.metrics if name in logs)
        self.progress.update(self.task, completed=epoch + 1, figures=figures)
