"""A SavedModel in memory: signatures that run, and that can be stopped while they run."""

import os
import pathlib

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from igpt_keras.errors import InputError
from serving.server.errors import RequestError
from serving.server.tensorflow_internals import (
    CancellationManager,
    SavedModelProto,
    run_cancelable,
)

# What TensorFlow raises for damaged files; the last for a file of variables that was cut.
LOADING_ERRORS = (
    OSError,
    RuntimeError,
    ValueError,
    tf.errors.OpError,
    DecodeError,
    IndexError,
)


class SavedModel:
    """The SavedModel in a folder.

    Args:
        folder: The folder that holds `saved_model.pb`.

    Attributes:
        signatures: The `SignatureDef`s by name.

    Raises:
        InputError: The folder cannot be loaded.
    """

    def __init__(self, folder: str | os.PathLike):
        try:
            self.signatures = dict(_meta_graph(folder).signature_def)
            self._loaded = tf.saved_model.load(os.fspath(folder), tags=[tf.saved_model.SERVING])
        except LOADING_ERRORS as error:
            raise InputError(f"{folder} is not a SavedModel that can be loaded: {error}") from error

    def run(
        self, signature_name: str, inputs: dict[str, np.ndarray], cancellation: CancellationManager
    ) -> dict[str, np.ndarray]:
        """Runs a signature and returns all its outputs by name.

        Args:
            signature_name: The signature.
            inputs: Every input by name, with the signature's dtype and shape.
            cancellation: Its `start_cancel` stops the run from any thread, within a step of a
                loop.

        Raises:
            RequestError: The graph refuses the inputs, or was stopped.
        """
        function = self._loaded.signatures[signature_name]
        tensors = {name: tf.constant(values) for name, values in inputs.items()}
        try:
            outputs = run_cancelable(function, tensors, cancellation)
        except tf.errors.OpError as error:
            raise RequestError.from_tensorflow(error) from None
        # TensorFlow returns a single string as bytes.
        return {
            name: np.asarray(values.numpy(), values.dtype.as_numpy_dtype)
            for name, values in outputs.items()
        }


def _meta_graph(folder: str | os.PathLike) -> tf.compat.v1.MetaGraphDef:
    """Reads the graph for serving: a loaded model no longer knows its signatures' methods."""
    path = pathlib.Path(folder, tf.saved_model.SAVED_MODEL_FILENAME_PB)
    for meta_graph in SavedModelProto.FromString(path.read_bytes()).meta_graphs:
        if set(meta_graph.meta_info_def.tags) == {tf.saved_model.SERVING}:
            return meta_graph
    raise ValueError(f"no graph is tagged {tf.saved_model.SERVING}")
