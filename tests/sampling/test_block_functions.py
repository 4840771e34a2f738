import numpy as np
import pytest
import tensorflow as tf

from igpt_keras.models import ImageGPT
from igpt_keras.network.config import ImageGPTConfig
from igpt_keras.sampling.decoder import decode_step, grow, prefill


def make_model(seed, **settings):
    config = ImageGPTConfig(
        image_size=4, vocabulary_size=7, hidden_dim=8, num_layers=4, num_heads=2, **settings
    )
    model, random = ImageGPT(config), np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(random.normal(0, 0.5, variable.shape))
    return model


def decoded(model, in_graph):
    """Logits of two passes, of the first 5 positions and of 2 more."""
    tokens = np.random.default_rng(0).integers(0, 7, (3, 16)).astype(np.int32)

    def run(tokens):
        first, caches = prefill(model, tokens[:, :5])
        logits, _ = decode_step(model, tokens[:, 4:6], tf.constant(5), grow(caches, 8))
        return first, logits

    run = tf.function(run, autograph=False) if in_graph else run
    return [logits.numpy() for logits in run(tf.constant(tokens))], run


def num_functions(run):
    """How many functions the blocks of the graph call."""
    graph = run.get_concrete_function(tf.TensorSpec([3, 16], tf.int32)).graph
    names = [
        node.attr["f"].func.name
        for node in graph.as_graph_def().node
        if node.op in ("PartitionedCall", "StatefulPartitionedCall")
    ]
    assert len(names) == 8  # 4 blocks, 2 passes
    return len(set(names))


def change_nothing(model):
    pass


def adapt_one(model):
    layer = model.backbone.blocks[2].mlp.up_proj
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(np.random.default_rng(1).normal(size=layer.lora_kernel_b.shape))


def adapt_with_two_scales(model):
    for block, alpha in zip(model.backbone.blocks, (1, 2, 1, 2), strict=True):
        layer = block.mlp.up_proj
        layer.enable_lora(2, lora_alpha=alpha)
        layer.lora_kernel_b.assign(np.ones(layer.lora_kernel_b.shape))


def activate_one(model):
    model.backbone.blocks[1].attention.output_proj.activation = tf.nn.relu


@pytest.mark.parametrize(
    "change, settings, expected",
    [
        (change_nothing, {}, 1),
        (adapt_one, {}, 2),
        (adapt_with_two_scales, {}, 2),
        (activate_one, {}, 2),
        (change_nothing, {"attention": "strided"}, 2),
    ],
)
def test_blocks_share_a_function_only_if_they_compute_the_same(change, settings, expected):
    model = make_model(0, **settings)
    change(model)
    in_graph, run = decoded(model, in_graph=True)
    eager, _ = decoded(model, in_graph=False)
    for ours, theirs in zip(in_graph, eager, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert num_functions(run) == 2 * expected
