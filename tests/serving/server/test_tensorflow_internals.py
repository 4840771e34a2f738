"""Each private attribute of TensorFlow that the server uses, by name."""

import importlib
import pathlib
import re
import threading

import pytest
import tensorflow as tf

import serving.server
from serving.server import tensorflow_internals

ATTRIBUTES = """
tensorflow.core.framework.tensor_pb2 TensorProto
tensorflow.core.protobuf.meta_graph_pb2 SignatureDef
tensorflow.core.protobuf.saved_model_pb2 SavedModel
tensorflow.python.eager.cancellation CancellationManager.start_cancel
tensorflow.python.eager.cancellation CancellationManager.is_cancelled
tensorflow.python.eager.context Context.function_call_options
tensorflow.python.eager.context Context.list_function_names
tensorflow.python.eager.context FunctionCallOptions.as_attrs
tensorflow.python.eager.execute execute_with_cancellation
""".split("\n")[1:-1]
FUNCTION_ATTRIBUTES = [
    "captured_inputs",
    "_inference_function.name",
    "_inference_function.function_type.bind",
    "_inference_function.function_type.unpack_inputs",
    "_inference_function.function_type.flat_outputs",
    "_inference_function.function_type.pack_output",
]


def resolve(found, path):
    for name in path.split("."):
        found = getattr(found, name)
    return found


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_modules_have(attribute):
    module, path = attribute.split()
    resolve(importlib.import_module(module), path)


@tf.function(input_signature=[tf.TensorSpec([], tf.int32, "last")])
def count(last):
    """Counts up to `last`."""
    (step,) = tf.while_loop(lambda step: step < last, lambda step: (step + 1,), (tf.constant(0),))
    return {"step": step}


@pytest.fixture(scope="module")
def function(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("count"))
    tf.saved_model.save(tf.Module(), folder, {"serving_default": count})
    return tf.saved_model.load(folder).signatures["serving_default"]


@pytest.mark.parametrize("path", FUNCTION_ATTRIBUTES)
def test_concrete_functions_have(path, function):
    resolve(function, path)


def test_a_cancellation_ends_its_own_call_and_no_other(function):
    cancellations = [tensorflow_internals.CancellationManager() for _ in range(2)]
    results = [None, None]

    def run(index, last):
        try:
            outputs = tensorflow_internals.run_cancelable(
                function, {"last": tf.constant(last)}, cancellations[index]
            )
            results[index] = outputs["step"].numpy()
        except tf.errors.CancelledError as error:
            results[index] = error

    threads = [
        threading.Thread(target=run, args=(index, last))
        for index, last in enumerate((2**31 - 1, 100_000))
    ]
    for thread in threads:
        thread.start()
    threads[1].join(60)
    cancellations[0].start_cancel()
    threads[0].join(60)
    assert isinstance(results[0], tf.errors.CancelledError)
    assert results[1] == 100_000
    assert [cancellation.is_cancelled for cancellation in cancellations] == [True, False]


def test_no_other_module_of_the_server_reaches_into_tensorflow():
    (folder,) = serving.server.__path__
    private = re.compile(r"tensorflow\.(core|python)|\._[a-z]\w*function")
    found = [
        path.name
        for path in sorted(pathlib.Path(folder).glob("*.py"))
        if private.search(path.read_text(encoding="utf-8"))
    ]
    assert found == ["tensorflow_internals.py"]
