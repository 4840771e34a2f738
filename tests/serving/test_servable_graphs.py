import shutil

import numpy as np
import pytest
import tensorflow as tf

from igpt_keras import InputError
from serving.exporting import export
from serving.exporting.checks import check_runs, check_servable


def graph_of(function) -> tf.compat.v1.GraphDef:
    return tf.function(function).get_concrete_function(tf.TensorSpec([2])).graph.as_graph_def()


def inside_a_function(function):
    inner = tf.function(function)
    return lambda x: tf.identity(inner(x))


def with_python(x):
    return tf.py_function(lambda y: y + 1, [x], tf.float32)


def with_numpy(x):
    return tf.numpy_function(lambda y: y + 1, [x], tf.float32)


@pytest.mark.parametrize("function", [with_python, with_numpy])
@pytest.mark.parametrize("wrap", [lambda f: f, inside_a_function])
def test_python_in_the_graph_is_refused(function, wrap):
    with pytest.raises(InputError, match="PyFunc"):
        check_servable(graph_of(wrap(function)))


def test_must_compile_functions_are_refused():
    compiled = tf.function(lambda x: x + 1, jit_compile=True)
    with pytest.raises(InputError, match="compiled by XLA"):
        check_servable(graph_of(lambda x: compiled(x) * 2))


@pytest.mark.parametrize("attributes_of", [lambda f: f, lambda f: f.node_def.add(name="call")])
def test_must_compile_is_refused_on_functions_and_on_calls(attributes_of):
    graph = tf.compat.v1.GraphDef()
    attributes_of(graph.library.function.add()).attr["_XlaMustCompile"].b = True
    with pytest.raises(InputError, match="compiled by XLA"):
        check_servable(graph)


def test_xla_operations_are_refused():
    graph = tf.compat.v1.GraphDef()
    graph.library.function.add().node_def.add(name="dot", op="XlaDotV2")
    with pytest.raises(InputError, match="XlaDotV2"):
        check_servable(graph)


def test_a_plain_graph_is_accepted():
    check_servable(graph_of(inside_a_function(lambda x: x + 1)))


@pytest.mark.parametrize("operation", ["ReadFile", "WriteFile", "PrintV2"])
def test_operations_on_files_of_the_server_are_refused(operation):
    graph = tf.compat.v1.GraphDef()
    graph.library.function.add().node_def.add(name="file", op=operation)
    with pytest.raises(InputError, match=f"{operation} .*files of the server"):
        check_servable(graph)


def test_custom_operations_are_refused():
    graph = tf.compat.v1.GraphDef()
    graph.node.add(name="mine", op="MyOwnOperation")
    with pytest.raises(InputError, match="MyOwnOperation .* none of TensorFlow's own"):
        check_servable(graph)


def test_what_does_not_run_in_a_session_is_refused(exported, tmp_path):
    folder = shutil.copytree(exported / "1", tmp_path / "1")
    inputs = {"features": {"image_bytes": np.array([b"no image"], object)}}
    with pytest.raises(InputError, match="does not run in a TensorFlow 1 session"):
        check_runs(folder, inputs)
    (folder / "variables" / "variables.index").unlink()
    with pytest.raises(InputError, match="does not run in a TensorFlow 1 session"):
        check_runs(folder, {})


def test_an_unservable_model_leaves_nothing_behind(make_classifier, tmp_path):
    classifier = make_classifier("bert")

    def python_head(features, head=classifier.class_head):
        return tf.ensure_shape(with_python(head(features)), [None, 3])

    object.__setattr__(classifier, "class_head", python_head)
    with pytest.raises(InputError, match="EagerPyFunc"):
        export(classifier, tmp_path)
    assert not list(tmp_path.iterdir())
