"""Event files for TensorBoard."""

import contextlib
import importlib.util
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from igpt_keras.atomic import atomic_path

EVENT_FILES = "events.out.tfevents.*"


def can_write_events() -> bool:
    """Whether `EventWriter` works: with TensorFlow as backend and TensorBoard installed."""
    if keras.backend.backend() != "tensorflow":
        return False
    try:
        return importlib.util.find_spec("tensorboard") is not None
    except ValueError:
        # `sys.modules` says that there is none.
        return False


class EventWriter:
    """Writes scalars and images to a new event file, and flushes after every call.

    Args:
        folder: Folder of event files.
    """

    def __init__(self, folder: str | os.PathLike):
        import tensorflow as tf

        self._summary = tf.summary
        self._folder = folder
        with _os_errors(folder):
            self._writer = tf.summary.create_file_writer(os.fspath(folder))

    def write(
        self,
        step: int,
        scalars: Mapping[str, float | None] | None = None,
        images: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes values of one step.

        Args:
            step: The training step.
            scalars: Numbers by name; None is skipped.
            images: Images by name: uint8 [H, W, 3], or PIL images.

        Raises:
            OSError: The file cannot be written.
        """
        with _os_errors(self._folder), self._writer.as_default(step=step):
            for name, scalar in (scalars or {}).items():
                if scalar is not None:
                    self._summary.scalar(name, scalar)
            for name, image in (images or {}).items():
                self._summary.image(name, np.asarray(image)[None])
            self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        with _os_errors(self._folder):
            self._writer.close()


@contextlib.contextmanager
def _os_errors(folder: str | os.PathLike) -> Iterator[None]:
    """Raises what goes wrong with a file as `OSError`, as everything else that writes does."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(f"{os.fspath(folder)} cannot be written: {error.message}") from error


def drop_events(folder: str | os.PathLike, after_step: int) -> None:
    """Removes the events of later steps from the event files in `folder`.

    An incomplete event at the end of a file, of a process that was killed, is removed too.

    Args:
        folder: Folder of event files; it need not exist.
        after_step: The last step that is kept.
    """
    import tensorflow as tf

    for path in sorted(pathlib.Path(folder).glob(EVENT_FILES)):
        # An incomplete record is an error, where the file ends.
        records = tf.data.TFRecordDataset(str(path)).ignore_errors()
        with _os_errors(path), atomic_path(path, overwrite=True) as partial:
            with tf.io.TFRecordWriter(str(partial)) as writer:
                for record in map(bytes, records.as_numpy_iterator()):
                    if tf.compat.v1.Event.FromString(record).step <= after_step:
                        writer.write(record)
