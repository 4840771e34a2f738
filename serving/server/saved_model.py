"""A SavedModel in memory: signatures that run, and that can be stopped while they run."""

import itertools
import os
import pathlib

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2
from tensorflow.python.eager import cancellation, context, execute

from igpt_keras.errors import InputError
from serving.server.errors import RequestError

Cancellation = cancellation.CancellationManager


class SavedModel:
    """The SavedModel in `folder`.

    Attributes:
        signatures: `SignatureDef`s by name.

    Raises:
        InputError: a folder that cannot be loaded.
    """

    def __init__(self, folder: str | os.PathLike):
        try:
            self.signatures = dict(_meta_graph(folder).signature_def)
            self._loaded = tf.saved_model.load(os.fspath(folder), tags=[tf.saved_model.SERVING])
        # The last is what a cut file of variables gives.
        except (
            OSError,
            RuntimeError,
            ValueError,
            tf.errors.OpError,
            DecodeError,
            IndexError,
        ) as error:
            raise InputError(f"{folder} is not a SavedModel that can be loaded: {error}") from error

    def run(
        self, signature_name: str, inputs: dict[str, np.ndarray], cancellation: Cancellation
    ) -> dict[str, np.ndarray]:
        """All outputs of a signature.

        Args:
            signature_name: which.
            inputs: every input, by name, with dtype and shape of the signature.
            cancellation: its `start_cancel` ends the run, from any thread, within a step of
                a loop.

        Raises:
            RequestError: the graph refuses the inputs, or was stopped.
        """
        function = self._loaded.signatures[signature_name]
        tensors = {name: tf.constant(values) for name, values in inputs.items()}
        try:
            outputs = _run_cancelable(function, tensors, cancellation)
        except tf.errors.OpError as error:
            raise RequestError.of(error) from None
        return {name: values.numpy() for name, values in outputs.items()}


def _run_cancelable(function, tensors, cancellation: Cancellation):
    """Calls a concrete function.

    TensorFlow's own `CancellationManager.get_cancelable_function` keeps the manager in a
    variable of the process, so that threads would stop each other's runs.
    """
    inner = function._inference_function
    bound = inner.function_type.bind(**tensors)
    arguments = [*inner.function_type.unpack_inputs(bound), *function.captured_inputs]
    eager = context.context()
    attributes = tuple(itertools.chain(*eager.function_call_options.as_attrs().items()))
    outputs = execute.execute_with_cancellation(
        inner.name.decode(),
        len(inner.function_type.flat_outputs),
        arguments,
        attributes,
        eager,
        cancellation,
    )
    return inner.function_type.pack_output(outputs)


def _meta_graph(folder: str | os.PathLike) -> meta_graph_pb2.MetaGraphDef:
    """The graph for serving, as it is on disk: a loaded model no longer has method names."""
    path = pathlib.Path(folder, tf.saved_model.SAVED_MODEL_FILENAME_PB)
    saved_model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for meta_graph in saved_model.meta_graphs:
        if set(meta_graph.meta_info_def.tags) == {tf.saved_model.SERVING}:
            return meta_graph
    raise ValueError(f"no graph is tagged {tf.saved_model.SERVING}")
