"""Runs the blocks of a network in a graph, where blocks that compute the same share a function.

TensorFlow traces a shared function once, which takes most of the time to the first token. It
inlines the calls before it runs them, so that they cost nothing in a step.

Shapes: B sequences, k positions of each, d `hidden_dim`, H heads of width D.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from igpt_keras.network.layers import Block
from igpt_keras.tensors import Tensor

Cache = tuple[Tensor, Tensor] | tuple[()]


def run_blocks(
    blocks: Sequence[Block], h: Tensor, caches: Sequence[Cache], attend: Callable
) -> tuple[Tensor, list[Any]]:
    """Runs blocks one after the other, each with caches of its own.

    Args:
        blocks: The blocks.
        h: [B · k, d].
        caches: What `attend` gets for each block: keys and values, or ().
        attend: Maps queries, keys and values, each [B · k, H, D], the block's pattern and its
            caches to attended values [B · k, H, D] and the new caches. It has no side effects and
            uses no tensors that an earlier call made.

    Returns:
        The states after the last block, [B · k, d], and the new caches of each block.
    """
    functions, updated = {}, []
    for block, cached in zip(blocks, caches, strict=True):
        if tf.executing_eagerly():
            h, cached = _run(block, h, cached, attend)
        else:
            key = _computation(block)
            if key not in functions:
                functions[key] = tf.function(_Stateless(block, attend), autograph=False)
            weights = (block.trainable_variables, block.non_trainable_variables)
            # Read here, so that the graph that calls the function knows its variables.
            values = tf.nest.map_structure(tf.convert_to_tensor, weights)
            h, cached = functions[key](values, h, cached)
        updated.append(cached)
    return h, updated


class _Stateless:
    """A block as a function of its weights.

    Args:
        block: One of the blocks that compute the same.
        attend: As for `run_blocks`.
    """

    def __init__(self, block: Block, attend: Callable):
        self.block, self.attend = block, attend

    def __call__(self, weights, h, cached):
        def call(h, attend):
            return self.block.stateless_call(*weights, h, attend=attend)[0]

        return _run(call, h, cached, self.attend)


def _run(call, h, cached, attend):
    """Calls a block with the caches; returns its states and the new caches."""
    updated = cached

    def attend_and_update(query, key, value, pattern):
        nonlocal updated
        attended, updated = attend(query, key, value, pattern, cached)
        return attended

    h = call(h, attend=attend_and_update)
    return h, updated


def _computation(block: Block) -> str:
    """Describes all that a block computes, except for the values of its weights."""
    layers = (
        block,
        block.attention_norm,
        block.attention.qkv,
        block.attention.output_proj,
        block.mlp_norm,
        block.mlp.up_proj,
        block.mlp.down_proj,
    )
    weights = (block.trainable_variables, block.non_trainable_variables)
    return json.dumps(
        [
            [[type(each).__module__, type(each).__qualname__] for each in layers],
            [{**each.get_config(), "name": None} for each in layers],
            [[[v.shape, v.dtype] for v in variables] for variables in weights],
        ],
        default=repr,
    )
