"""A SavedModel in memory: signatures that run, and that can be stopped while they run."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from igpt_keras.errors import InputError
from serving.row_functions import ROW_FUNCTIONS, ROWS
from serving.server.errors import RequestError
from serving.server.tensorflow_internals import (
    CancellationManager,
    SavedModelProto,
    run_cancelable,
)

ConcreteFunction = tf.types.experimental.ConcreteFunction
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
        canonical: For each signature the name of the first, by the alphabet, that is the same.
        row_functions: The functions that complete an image row by row, by name; None without
            them (`serving.row_functions`).

    Raises:
        InputError: The folder cannot be loaded.
    """

    def __init__(self, folder: str | os.PathLike):
        try:
            self.signatures = dict(_meta_graph(folder).signature_def)
            self._loaded = tf.saved_model.load(os.fspath(folder), tags=[tf.saved_model.SERVING])
        except LOADING_ERRORS as error:
            raise InputError(f"{folder} is not a SavedModel that can be loaded: {error}") from error
        self.canonical = {
            name: min(other for other in self.signatures if self.signatures[other] == signature)
            for name, signature in self.signatures.items()
        }
        self.row_functions = _row_functions(self._loaded)

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
        tensors = {name: tf.constant(values) for name, values in inputs.items()}
        outputs = run_function(self._loaded.signatures[signature_name], tensors, cancellation)
        # TensorFlow returns a single string as bytes.
        return {
            name: np.asarray(values.numpy(), values.dtype.as_numpy_dtype)
            for name, values in outputs.items()
        }


def run_function(
    function: ConcreteFunction,
    tensors: Mapping[str, tf.Tensor],
    cancellation: CancellationManager,
) -> dict[str, tf.Tensor]:
    """Runs a function of a SavedModel, and returns its outputs by name.

    Args:
        function: The function.
        tensors: Every input by name.
        cancellation: As for `SavedModel.run`.

    Raises:
        RequestError: The graph refuses the inputs, or was stopped.
    """
    try:
        return run_cancelable(function, tensors, cancellation)
    except tf.errors.OpError as error:
        raise RequestError.from_tensorflow(error) from None


def _row_functions(loaded: Any) -> dict[str, Any] | None:
    module = getattr(loaded, ROWS, None)
    functions: dict[str, Any] = {name: getattr(module, name, None) for name in ROW_FUNCTIONS}
    if not all(isinstance(function, ConcreteFunction) for function in functions.values()):
        return None
    for name, function in functions.items():
        if not ROW_FUNCTIONS[name] <= function.structured_input_signature[1].keys():
            return None
    return functions


def _meta_graph(folder: str | os.PathLike) -> tf.compat.v1.MetaGraphDef:
    """Reads the graph for serving: a loaded model no longer knows its signatures' methods."""
    path = pathlib.Path(folder, tf.saved_model.SAVED_MODEL_FILENAME_PB)
    for meta_graph in SavedModelProto.FromString(path.read_bytes()).meta_graphs:
        if set(meta_graph.meta_info_def.tags) == {tf.saved_model.SERVING}:
            return meta_graph
    raise ValueError(f"no graph is tagged {tf.saved_model.SERVING}")
