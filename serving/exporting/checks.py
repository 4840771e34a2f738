"""Checks at export that TensorFlow Serving's server can run a SavedModel."""

import contextlib
import logging
import pathlib
import tempfile
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from igpt_keras.errors import InputError
from serving.exporting.signatures import SAMPLE
from serving.server.tensorflow_internals import SavedModelProto

# The public list has every operation of TensorFlow itself, and no custom one that was loaded.
TENSORFLOW_OPERATIONS = frozenset(dir(tf.raw_ops))
# They need a Python interpreter.
PYTHON_OPERATIONS = frozenset({"EagerPyFunc", "PyFunc", "PyFuncStateless"})
# `saved_model_cli scan` reports these, which read and write files of the server.
FILE_OPERATIONS = frozenset({"PrintV2", "ReadFile", "WriteFile"})
# The attribute of a call that holds a `ConfigProto`.
FUNCTION_SETTINGS = "config_proto"


def check_servable(graph: tf.compat.v1.GraphDef) -> None:
    """Raises `InputError` if TensorFlow Serving's server cannot run a graph, or should not.

    The server has neither Python nor custom operations, and runs functions that XLA must
    compile only behind a flag. Operations on the server's files are refused too.
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
    if node.op.startswith("Xla") or node.op in PYTHON_OPERATIONS:
        reason = "needs XLA or Python"
    elif node.op in FILE_OPERATIONS:
        reason = "reads or writes files of the server"
    elif node.op not in TENSORFLOW_OPERATIONS:
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
    """Raises `InputError` if a SavedModel is not servable or not run by a TensorFlow 1 session.

    Args:
        folder: The folder of the SavedModel.
        inputs: For each signature by its name, inputs [1, …] by their names. `sample` runs
            with an empty batch: a whole image takes a large model minutes. Of signatures that
            are the same, one runs.
    """
    # To optimize graphs for speed takes longer than to run them once.
    config = tf.compat.v1.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    with (
        _unoptimized(folder, config) as copy,
        tf.compat.v1.Session(graph=tf.Graph(), config=config) as session,
    ):
        with _reporting_errors(), _without_advice():
            tags = [tf.saved_model.SERVING]
            meta_graph = tf.compat.v1.saved_model.load(session, tags, str(copy))
        check_servable(meta_graph.graph_def)
        feeds, fetches, checked = {}, [], []
        for name, values in inputs.items():
            signature = meta_graph.signature_def[name]
            if any(signature == other for other in checked):
                continue
            checked.append(signature)
            count = 0 if name == SAMPLE else 1
            for key, info in signature.inputs.items():
                feeds[info.name] = values[key][:count]
            fetches += [info.name for info in signature.outputs.values()]
        # One run for all: TensorFlow prepares the graph again for other fetches.
        with _reporting_errors():
            session.run(fetches, feeds)


@contextlib.contextmanager
def _unoptimized(folder: pathlib.Path, config: tf.compat.v1.ConfigProto) -> Iterator[pathlib.Path]:
    """Yields the folder of the same SavedModel, whose functions run with a session's settings.

    Each call of a function brings along its own, which would be those of this process.
    """
    file = folder / tf.saved_model.SAVED_MODEL_FILENAME_PB
    saved_model = SavedModelProto.FromString(file.read_bytes())
    for meta_graph in saved_model.meta_graphs:
        graph = meta_graph.graph_def
        for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
            for node in nodes:
                if FUNCTION_SETTINGS in node.attr:
                    node.attr[FUNCTION_SETTINGS].s = config.SerializeToString()
    with tempfile.TemporaryDirectory() as name:
        for path in folder.iterdir():
            (pathlib.Path(name) / path.name).symlink_to(path.resolve())
        copy = pathlib.Path(name, file.name)
        copy.unlink()
        copy.write_bytes(saved_model.SerializeToString())
        yield pathlib.Path(name)


@contextlib.contextmanager
def _reporting_errors() -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, ValueError, tf.errors.OpError) as error:
        raise InputError(
            f"the model cannot be served: it does not run in a TensorFlow 1 session: {error}"
        ) from error


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Silences TensorFlow's advice against TensorFlow 1 sessions, which users cannot follow."""
    level = tf.get_logger().level
    tf.get_logger().setLevel(logging.ERROR)
    try:
        yield
    finally:
        tf.get_logger().setLevel(level)
