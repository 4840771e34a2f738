"""Everything that the server takes from TensorFlow outside its public API.

Only this module imports `tensorflow.core` and `tensorflow.python`.
`tests/serving/server/test_tensorflow_internals.py` names every attribute used here, and fails
when a TensorFlow release no longer has it.
"""

# Protocol buffer classes are made at run time.
# pyright: reportAttributeAccessIssue=false

import itertools
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

# Messages in a SavedModel and in a request. TensorFlow exports `tf.compat.v1.MetaGraphDef`, but
# not these around and inside it. tensorflow-serving-api imports them from the same modules.
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel as SavedModelProto
from tensorflow.python.eager import context, execute

# Ends a running graph from another thread; no public function does. Without it, a batch whose
# clients have gone would hold its thread until its last pixel.
from tensorflow.python.eager.cancellation import CancellationManager

__all__ = [
    "CancellationManager",
    "SavedModelProto",
    "SignatureDef",
    "TensorProto",
    "function_names",
    "run_cancelable",
]


def run_cancelable(
    function: tf.types.experimental.ConcreteFunction,
    tensors: Mapping[str, tf.Tensor],
    cancellation: CancellationManager,
) -> dict[str, tf.Tensor]:
    """Calls a concrete function until `cancellation.start_cancel` is called from any thread.

    `CancellationManager.get_cancelable_function` would do it, but it keeps the manager in a
    variable of the whole process, so that threads would cancel each other's calls.

    Args:
        function: A signature of a loaded SavedModel.
        tensors: Every input by name.
        cancellation: Ends the call within a step of a loop.

    Returns:
        The outputs by name.

    Raises:
        tf.errors.OpError: The graph failed, or was canceled (`tf.errors.CancelledError`).
    """
    inner: Any = function._inference_function
    bound = inner.function_type.bind(**tensors)
    arguments = [*inner.function_type.unpack_inputs(bound), *function.captured_inputs]
    eager: Any = context.context()
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


def function_names() -> list[str]:
    """Returns the functions that the process holds; a dropped model should leave none behind."""
    eager: Any = context.context()
    return eager.list_function_names()
