"""Exports of models whose tokens are no pixels."""

import io
import math

import numpy as np
import PIL.Image
import pytest

from igpt_keras import ImageGPT, ImageGPTConfig
from serving import Client, Server, export
from serving.exporting.assets import model_card
from serving.exporting.preprocessing import preprocess
from serving.exporting.rows import make_row_functions
from serving.exporting.signatures import signature_functions
from serving.exporting.warmup import warmup_inputs
from serving.row_functions import ROW_FUNCTIONS
from serving.server import row_streams
from serving.server.batching import Call
from serving.server.operations import check_operations
from serving.server.row_streams import RowsRequest, RowStreams, StateBudget
from tests.serving.conftest import build_vqvae_model, randomize
from tests.tokenizers.masks import differing_where_unknown, some_masks
from tests.tokenizers.mean_blocks import MeanBlocks
from tests.tokenizers.tangle import Tangle

SIZE = 4
MASKS = some_masks(SIZE)
GRIDS = [(2, 2), pytest.param((4, 12), marks=pytest.mark.slow)]


def png(image) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def build(tokenizer) -> ImageGPT:
    config = ImageGPTConfig(SIZE, tokenizer.vocabulary_size, 16, 1, 2, grid=tokenizer.grid)
    return randomize(ImageGPT(config, tokenizer=tokenizer), seed=2)


@pytest.fixture(scope="module", params=GRIDS, ids=str)
def model(request):
    return build(Tangle(SIZE, request.param))


@pytest.fixture(scope="module")
def preprocessing(model):
    (preprocessing,) = preprocess([model], max_pixels=100)
    return preprocessing


def row_streams_of(preprocessing) -> RowStreams:
    module = make_row_functions([preprocessing])
    return RowStreams({name: getattr(module, name) for name in ROW_FUNCTIONS}, StateBudget())


def test_completions_depend_on_kept_rows_only(model, preprocessing):
    """They are those of `generate`, and kept pixels come back as they are."""
    signatures = signature_functions(preprocessing, None)
    count = SIZE + 1
    rows = np.arange(count, dtype=np.int32)
    images, others = differing_where_unknown(MASKS[-count:])
    expected = model.generate(images, known_mask=MASKS[-count:], seed=7)
    (inputs,) = warmup_inputs(["complete"], model).values()
    inputs = {name: np.repeat(values, count, axis=0) for name, values in inputs.items()}
    # Seeds of completions are hashes of those of images.
    inputs |= {"keep_rows": rows, "seed": np.array([_seed(7 + i) for i in range(count)])}
    for batch in (images, others):
        inputs["image_bytes"] = np.array([png(image) for image in batch], object)
        outputs = signatures["complete"](*inputs.values())
        np.testing.assert_array_equal(outputs["tokens"], expected.tokens[:, 0])
        np.testing.assert_array_equal(outputs["pixels"], expected.images[:, 0])
        np.testing.assert_allclose(
            outputs["log_likelihood"], expected.log_likelihood[:, 0], rtol=1e-5, atol=1e-5
        )
    decoded = [np.asarray(PIL.Image.open(io.BytesIO(x))) for x in outputs["png_bytes"].numpy()]
    np.testing.assert_array_equal(decoded, outputs["pixels"])
    scores = signatures["score"](np.array([png(image) for image in images], object))
    np.testing.assert_allclose(scores["log_likelihood"], model.score(images), rtol=1e-5)
    bits = -model.score(images) / math.log(2) / SIZE**2
    np.testing.assert_allclose(scores["bits_per_pixel"], bits, rtol=1e-5)


def _seed(image_seed):
    return row_streams.completion_seeds(image_seed, 1, 1)[0, 0]


def test_rows_are_those_of_generate(model, preprocessing):
    streams = row_streams_of(preprocessing)
    images, others = differing_where_unknown(MASKS)
    rows, columns = model.tokenizer.grid
    for image, other, known in zip(images, others, MASKS, strict=True):
        expected = model.generate(image[None], known_mask=known, num_completions=2, seed=3)
        request = RowsRequest(png(other), known=known, num_completions=2, seed=3)
        start, *found, done = streams.run(request, Call())
        np.testing.assert_array_equal(start.pixels, other)
        first = 0 if not known.any() else int((~known.all(axis=1)).argmax())
        first = SIZE if known.all() else first
        assert [row.row for row in found] == list(range(first, SIZE))
        entropy = expected.entropy[0].repeat(SIZE, axis=1).repeat(SIZE, axis=2)
        entropy = entropy.reshape(2, SIZE, rows, SIZE, columns).mean(axis=(2, 4))
        for row in found:
            np.testing.assert_array_equal(row.pixels, expected.images[0, :, row.row])
            np.testing.assert_allclose(row.entropies, entropy[:, row.row], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(done.log_likelihood, expected.log_likelihood[0], rtol=1e-5)
        if not known.all():
            bits = -done.log_likelihood / math.log(2) / (~known).sum()
            np.testing.assert_allclose(done.bits_per_pixel, bits, rtol=1e-5)


class LocalBlocks(MeanBlocks):
    """Rows of blocks determine their own rows of pixels."""

    def final_rows(self, token_rows):
        return 2 * token_rows

    def detokenize_in_graph(self, tokens):
        import tensorflow as tf

        levels = tf.cast(tf.gather(tf.constant(self.levels), tokens), tf.uint8)
        blocks = tf.reshape(levels, [-1, *self.grid, 1])
        return tf.tile(tf.repeat(tf.repeat(blocks, 2, axis=1), 2, axis=2), [1, 1, 1, 3])


def test_rows_come_as_soon_as_they_are_final(monkeypatch):
    model = build(LocalBlocks(SIZE, levels=[0, 80, 160, 255]))
    streams = row_streams_of(*preprocess([model], max_pixels=100))
    decoded = []
    run_function = row_streams.run_function

    def count(function, tensors, cancellation):
        decoded.append("position" in tensors)
        return run_function(function, tensors, cancellation)

    monkeypatch.setattr(row_streams, "run_function", count)
    image = np.full((SIZE, SIZE, 3), 70, np.uint8)
    events = streams.run(RowsRequest(png(image), keep_rows=1, seed=4), Call())
    steps = [(event, sum(decoded)) for event in events]
    # A start, the rows from the first unknown one on, and the end.
    assert [count for _, count in steps] == [0, 1, 2, 2, 2]
    reported = []
    completed = model.generate(
        image[None], keep_rows=1, seed=4, on_row=lambda row, pixels: reported.append(pixels[0])
    )
    streamed = [event.pixels for event, _ in steps[1:-1]]
    np.testing.assert_array_equal(np.stack(streamed, axis=1), completed.images[0, :, 1:])
    np.testing.assert_array_equal(np.stack(reported, axis=1), completed.images[0])


def test_the_model_card_tells_what_the_tokens_are(model, make_model):
    rows, columns = model.tokenizer.grid
    assert f"| tokens of an image | {rows} × {columns} |" in model_card([model], [{}], {})
    card = model_card([make_model()], [{}], {})
    assert "| tokens of an image | 4 × 4, one for each pixel |" in card


@pytest.mark.slow
def test_an_export_is_served(model, tmp_path):
    export(model, tmp_path)
    images, others = differing_where_unknown(MASKS)
    with Server(tmp_path, rest_port=0) as server:
        with Client(server.address) as client:
            for keep_rows in range(SIZE + 1):
                pair = [x[keep_rows - SIZE - 1] for x in (images, others)]
                expected = model.generate(pair[0][None], keep_rows=keep_rows, num_completions=3)
                found = client.complete(pair, keep_rows=keep_rows, num_completions=3, seed=[0, 0])
                for answer in range(2):
                    np.testing.assert_array_equal(found.tokens[answer], expected.tokens[0])
                    np.testing.assert_array_equal(found.images[answer], expected.images[0])
        with Client(server.rest_address) as client:
            for image, other, known in zip(images, others, MASKS, strict=True):
                expected = model.generate(image[None], known_mask=known, num_completions=2)
                *_, last = client.complete_rows(other, known=known, num_completions=2)
                np.testing.assert_array_equal(last.images, expected.images[0])
                assert last.num_rows == SIZE


@pytest.mark.slow
def test_a_vqvae_is_exported(tmp_path):
    """It passes the server's check, and encoder and decoder are part of the graph."""
    model = build_vqvae_model()
    export(model, tmp_path)
    assert check_operations(tmp_path) == [1]
    masks = some_masks(8)
    images, others = differing_where_unknown(masks)
    with Server(tmp_path, rest_port=0) as server, Client(server.rest_address) as client:
        for image, other, known in zip(images, others, masks, strict=True):
            expected = model.generate(image[None], known_mask=known, num_completions=2)
            *_, last = client.complete_rows(other, known=known, num_completions=2)
            np.testing.assert_array_equal(last.images, expected.images[0])
        found = client.complete(others[-4:-3], keep_rows=5, seed=9)
        expected = model.generate(images[-4:-3], keep_rows=5, seed=9)
        np.testing.assert_array_equal(found.tokens, expected.tokens)
        np.testing.assert_array_equal(found.images, expected.images)
