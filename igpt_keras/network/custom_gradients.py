"""Custom gradients on TensorFlow: they end with their graph, and compute in order."""

import contextlib
import functools
import weakref
from collections.abc import Iterator, Sequence
from typing import Any


@contextlib.contextmanager
def custom_gradients_in_graph() -> Iterator[None]:
    """Ties the custom gradients that a block of code makes to the current graph.

    TensorFlow registers the gradient of every call to a `tf.custom_gradient` in a graph, and
    never forgets it. The gradient holds tensors of its graph, so neither is ever freed, and a
    search that trains many models runs out of memory (issue 97697 of tensorflow/tensorflow).
    After this block, the graph holds the gradients and the registry only weak references.

    Example:
        >>> with custom_gradients_in_graph():
        ...     replicas.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    """
    import tensorflow as tf

    registry = _registered_gradients()
    before = set(registry)
    yield
    made = registry.keys() - before
    if made and not tf.executing_eagerly():
        graph = tf.compat.v1.get_default_graph()
        for name in made:
            _move_to_graph(registry, name, graph)


def computed_after(tensors: Sequence[Any]) -> contextlib.AbstractContextManager:
    """Delays what a block of code adds to a graph until `tensors` are computed.

    TensorFlow runs operations that do not depend on each other in any order. It would run what
    a gradient computes again in the forward pass already, or find it to be the same and keep it.

    Example:
        >>> with computed_after([upstream]):
        ...     gate = ops.sigmoid(x)
    """
    import tensorflow as tf

    return tf.control_dependencies(tensors)


def _registered_gradients() -> dict[str, dict[str, Any]]:
    """Returns TensorFlow's gradients by name; each is a dictionary with the key "type"."""
    from tensorflow.python.framework.ops import gradient_registry

    return gradient_registry._registry


def _move_to_graph(registry, name, graph):
    gradient = registry[name]["type"]
    graph.igpt_keras_gradients = [*getattr(graph, "igpt_keras_gradients", ()), gradient]
    registry[name]["type"] = functools.partial(_call, weakref.ref(gradient))
    weakref.finalize(graph, registry.pop, name, None).atexit = False


def _call(reference, *arguments):
    gradient = reference()
    assert gradient is not None, "the graph of this gradient was freed"
    return gradient(*arguments)
