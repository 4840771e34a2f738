"""A progress bar over a whole run."""

import keras
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class ProgressBar(keras.callbacks.Callback):
    """One line for a whole `fit`: epochs, latest figures, time left, in the end time taken.

    Args:
        description: what stands before the bar.
        metrics: names of the figures to show, as in the logs of `fit`.
    """

    def __init__(self, description: str, metrics: tuple[str, ...]):
        super().__init__()
        self.description = description
        self.metrics = metrics

    def on_train_begin(self, logs=None):
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.completed:.0f}/{task.total:.0f}{task.fields[figures]}"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        )
        self.task = self.progress.add_task(
            self.description, total=self.params["epochs"], figures=""
        )
        self.progress.start()

    def on_train_batch_end(self, batch, logs=None):
        steps = self.params["steps"]
        if steps:
            done = int(self.progress.tasks[0].completed) + (batch + 1) / steps
            self.progress.update(self.task, completed=min(done, self.params["epochs"]))

    def on_epoch_end(self, epoch, logs=None):
        figures = "".join(f" {name} {logs[name]:.3f}" for name in self.metrics if name in logs)
        self.progress.update(self.task, completed=epoch + 1, figures=figures)

    def on_train_end(self, logs=None):
        self.progress.stop()
