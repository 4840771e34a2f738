"""What TensorFlow Serving's server cannot run is refused at export."""

import logging
import pathlib

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from igpt_keras.errors import InputError
from serving.exporting.signatures import SAMPLE

# The public list holds every operation of plain TensorFlow, and none that was loaded beside it.
PLAIN = frozenset(dir(tf.raw_ops))
# They need a Python interpreter.
PYTHON = frozenset({"EagerPyFunc", "PyFunc", "PyFuncStateless"})
# `saved_model_cli scan` reports these: they read and write files of the server.
FILES = frozenset({"PrintV2", "ReadFile", "WriteFile"})


def check_servable(graph: tf.compat.v1.GraphDef) -> None:
    """Raises `InputError` if TensorFlow Serving's server cannot run `graph`, or should not.

    It has no Python and no custom operations, and runs XLA-compiled functions only behind a
    flag. Operations on files of the server are refused as well.
    """
    places = [("the graph", graph.node)]
    for function in graph.library.function:
        where = f"function {function.signature.name}"
        _refuse_must_compile(function.attr, where)
        places.append((where, function.node_def))
    functions = {function.signature.name for function in graph.library.function}
    for where, nodes in places:
        for node in nodes:
            if node.op not in functions:
                _refuse_operation(node, where)
            _refuse_must_compile(node.attr, f"operation {node.name} in {where}")


def _refuse_operation(node, where: str) -> None:
    if node.op.startswith("Xla") or node.op in PYTHON:
        reason = "needs XLA or Python"
    elif node.op in FILES:
        reason = "reads or writes files of the server"
    elif node.op not in PLAIN:
        reason = "is none of TensorFlow's own"
    else:
        return
    raise InputError(
        f"the model cannot be served: operation {node.op} ({node.name} in {where}) {reason}"
    )


def _refuse_must_compile(attributes, where: str) -> None:
    if "_XlaMustCompile" in attributes and attributes["_XlaMustCompile"].b:
        raise InputError(f"the model cannot be served: {where} must be compiled by XLA")


def check_runs(folder: pathlib.Path, inputs: dict[str, dict[str, np.ndarray]]) -> None:
    """Raises `InputError` if the SavedModel does not run in a TensorFlow 1 session.

    Args:
        folder: of the SavedModel.
        inputs: of one example for each signature, by its name and theirs. `sample` runs with
            none of its examples: a whole image of a large model takes minutes.
    """
    try:
        with tf.compat.v1.Session(graph=tf.Graph()) as session:
            signatures = _load(session, folder)
            feeds, fetches = {}, []
            for name, values in inputs.items():
                count = 0 if name == SAMPLE else 1
                for key, info in signatures[name].inputs.items():
                    feeds[info.name] = values[key][:count]
                fetches += [info.name for info in signatures[name].outputs.values()]
            # All in one run: TensorFlow optimizes a graph anew for other fetches.
            session.run(fetches, feeds)
    except (OSError, RuntimeError, ValueError, tf.errors.OpError) as error:
        raise InputError(
            f"the model cannot be served: it does not run in a TensorFlow 1 session: {error}"
        ) from error


def _load(session: tf.compat.v1.Session, folder: pathlib.Path):
    """Loads the SavedModel into `session`, and gives its signatures by name."""
    level = tf.get_logger().level
    # TensorFlow advises against TensorFlow 1 sessions: nothing a user could act on.
    tf.get_logger().setLevel(logging.ERROR)
    try:
        tags = [tf.saved_model.SERVING]
        return tf.compat.v1.saved_model.load(session, tags, str(folder)).signature_def
    finally:
        tf.get_logger().setLevel(level)


def read_graph(folder: pathlib.Path) -> tf.compat.v1.GraphDef:
    """The graph of the SavedModel in `folder`."""
    saved_model = saved_model_pb2.SavedModel()
    saved_model.ParseFromString((folder / tf.saved_model.SAVED_MODEL_FILENAME_PB).read_bytes())
    return saved_model.meta_graphs[0].graph_def
