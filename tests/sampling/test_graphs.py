"""Compiled functions are made once, and live exactly as long as their model."""

import dataclasses
import gc
import weakref

import numpy as np
import pytest

from igpt_keras import ImageGPT
from igpt_keras.network import projection
from igpt_keras.sampling.compiled import compiled_decoder
from igpt_keras.sampling.conditioning import Conditioning
from igpt_keras.sampling.drafts import NeighborDraft
from igpt_keras.sampling.graphs import MAX_GRAPHS
from igpt_keras.sampling.samplers import Categorical, TopP


@pytest.mark.slow
def test_a_model_is_freed_with_its_graphs_though_its_drafts_live(config, palette, images):
    tokens = palette.tokenize(images)
    neighbors = NeighborDraft.fit(tokens, vocabulary_size=8)
    small = ImageGPT(config)

    def use_a_model():
        model = ImageGPT(config, tokenizer=palette)
        for draft in (None, neighbors, small):
            model.generate(images, keep_rows=2, draft=draft)
        model.score(images)
        return weakref.ref(model), weakref.ref(model.token_head.kernel)

    references = use_a_model()
    gc.collect()
    assert [reference() for reference in references] == [None, None]


@pytest.mark.slow
def test_a_draft_is_freed_with_the_model_that_used_it(config, palette, images):
    model, draft = ImageGPT(config, tokenizer=palette), ImageGPT(config)
    model.generate(images, keep_rows=2, draft=draft)
    reference = weakref.ref(draft)
    del model, draft
    gc.collect()
    assert reference() is None


def test_graphs_are_compiled_once_for_the_same_arguments(plain_model):
    first = compiled_decoder(plain_model, Categorical)
    assert compiled_decoder(plain_model, Categorical) == first
    other = compiled_decoder(plain_model, TopP)
    assert other.begin is first.begin
    assert other.decode_rows is not first.decode_rows


@pytest.mark.parametrize("label", [None, 1])
def test_one_sequence_of_a_large_model_has_a_graph_of_its_own(
    config, palette, images, randomized, monkeypatch, label
):
    monkeypatch.setattr(projection, "SMALLEST_CUT_KERNEL", 1)
    num_classes = None if label is None else 3
    model = ImageGPT(dataclasses.replace(config, num_classes=num_classes), tokenizer=palette)
    randomized(model, 3)
    settings = {"labels": label, "keep_rows": 2, "seed": 5}
    several = model.generate(images[:1], num_completions=3, **settings)
    one = model.generate(images[:1], **settings)
    np.testing.assert_array_equal(one.tokens[0, 0], several.tokens[0, 0])
    conditioning: Conditioning = "none" if label is None else "class"
    graph = (
        compiled_decoder(model, Categorical, conditioning=conditioning, num_sequences=1)
        .decode_rows.get_concrete_function()
        .graph
    )
    products = [
        node.name
        for function in graph.as_graph_def().library.function
        for node in function.node_def
        if node.op == "MatMul"
    ]
    # Four projections of the blocks, which share a function, and the head.
    assert len(products) == 4 * projection.ROW_PARTS + 1


def test_graphs_do_not_pile_up(config, palette, images):
    model = ImageGPT(config, tokenizer=palette)
    places, neighbors = np.zeros((16, 8)), np.zeros((4, 9, 8))
    references = []
    for _ in range(MAX_GRAPHS):
        draft = NeighborDraft(places, neighbors)
        references.append(weakref.ref(draft))
        compiled_decoder(model, Categorical, draft)
    del draft
    gc.collect()
    # Each decoder has two graphs.
    assert sum(reference() is not None for reference in references) == MAX_GRAPHS // 2
