import gc

import keras
import numpy as np
import pytest
import tensorflow as tf

from igpt_keras import ImageGPT
from igpt_keras.network.attention import dot_product_attention
from igpt_keras.network.custom_gradients import _registered_gradients


@pytest.fixture
def nothing_stays():
    """Fails a test after which there are more graphs or registered gradients than before."""

    def count():
        gc.collect()
        graphs = [x for x in gc.get_objects() if isinstance(x, tf.Graph)]
        return len(graphs), len(_registered_gradients())

    tf.compat.v1.get_default_graph()  # makes one that stays
    before = count()
    yield
    assert count() == before


@pytest.mark.usefixtures("nothing_stays")
def test_a_graph_with_attention_is_freed_and_has_the_gradients_of_eager_execution():
    x = tf.random.stateless_normal((3, 5, 2, 4), seed=(1, 2))

    def attend(x):
        return dot_product_attention(x, 2 * x, x - 1, causal=True)

    def gradient_through(function):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return tape.gradient(y, x).numpy()

    in_graph = gradient_through(tf.function(attend))
    np.testing.assert_allclose(in_graph, gradient_through(attend), atol=1e-6)


@pytest.mark.usefixtures("nothing_stays")
def test_the_graphs_of_a_trained_model_are_freed(config, tokens):
    model = ImageGPT(config)
    model.compile(keras.optimizers.SGD(0.1), micro_batches=2)
    model.fit(tokens, validation_data=(tokens, None), verbose=0)
    model.predict(tokens, verbose=0)
