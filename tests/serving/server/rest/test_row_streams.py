"""Completions that come row by row, of models in `serving.exporting`."""

import base64
import io
import json

import numpy as np
import PIL.Image
import pytest
import requests

from igpt_keras.data.image_decoding import read_image
from igpt_keras.sampling.samplers import Categorical

SIZE = 4
RNG = np.random.default_rng(5)
IMAGE = RNG.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
BRUSH = RNG.random((SIZE, SIZE)) < 0.5
BRUSH[0], BRUSH[1, 1] = True, False


def png(pixels) -> dict:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return {"b64": base64.b64encode(file.getvalue()).decode()}


def read_events(answer) -> list[tuple[str, dict]]:
    """Reads server-sent events, as WHATWG's HTML describes them."""
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/event-stream")
    *blocks, rest = answer.text.split("\n\n")
    assert rest == ""
    events = []
    for block in blocks:
        name, data = block.split("\n")
        value = json.loads(data.removeprefix("data: "), parse_constant=pytest.fail)
        events.append((name.removeprefix("event: "), value))
    return events


def ask(server, body, path="igpt"):
    url = f"{server.rest_address}/v1/models/{path}:stream"
    return requests.post(url, data=json.dumps(body), timeout=60)


def decoded(text, *shape):
    return np.frombuffer(base64.b64decode(text, validate=True), np.uint8).reshape(*shape, 3)


CASES = [
    (np.arange(SIZE)[:, None] < [2] * SIZE, {"keep_rows": 2}, {}),
    (
        np.zeros([SIZE, SIZE], bool),
        {"keep_rows": 0, "num_completions": 3},
        {"temperature": 0.7, "top_k": 3, "top_p": 0.9, "seed": 11},
    ),
    (BRUSH, {"known": BRUSH.tolist(), "num_completions": 16}, {"top_p": 0.5, "seed": 2**53}),
    (~BRUSH, {"known": (~BRUSH).tolist(), "num_completions": 2}, {"temperature": 0}),
]


def test_pixels_are_those_of_generate(server, model):
    for known, arguments, settings in CASES:
        answer = ask(server, {"image": png(IMAGE), **arguments, **settings})
        (_, start), *rows, (last, done) = read_events(answer)
        pixels = decoded(start.pop("pixels"), SIZE, SIZE)
        count = arguments.get("num_completions", 1)
        sizes = {"image_size": SIZE, "num_completions": count}
        assert (start, last) == ({"model": "igpt", "version": 1, **sizes}, "done")
        seen = model.tokenizer.detokenize(model.tokenizer.tokenize(IMAGE))
        np.testing.assert_array_equal(pixels, seen)
        seed = settings.pop("seed", 0)
        reported = {}
        expected = model.generate(
            IMAGE[None],
            known_mask=known,
            num_completions=count,
            sampler=Categorical(**settings),
            seed=[seed],
            on_row=lambda row, pixels: reported.update({row: pixels[0]}),  # noqa: B023
        )
        first = int(np.argmin(known.all(axis=1)))
        names = [(name, row["row"]) for name, row in rows]
        assert names == [("row", row) for row in range(first, SIZE)]
        for _, row in rows:
            number, pixels = row["row"], decoded(row["pixels"], count, SIZE)
            np.testing.assert_array_equal(pixels, reported[number])
            kept = known[number]
            assert (pixels[:, kept] == seen[number, kept]).all()
            entropy = expected.entropy[0, :, number]
            np.testing.assert_allclose(row["entropies"], entropy, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(done["log_likelihood"], expected.log_likelihood[0], rtol=1e-5)
        bits = -expected.log_likelihood[0] / np.log(2) / (~known).sum()
        np.testing.assert_allclose(done["bits_per_pixel"], bits, rtol=1e-5, atol=1e-5)


def test_without_an_image_completions_are_samples(server, model):
    (_, start), *rows, _ = read_events(ask(server, {"image": None, "seed": 3}))
    assert start["pixels"] is None
    pixels = np.stack([decoded(row["pixels"], SIZE) for _, row in rows])
    np.testing.assert_array_equal(pixels, model.sample(1, seed=3).images[0, 0])


def test_a_preview_decodes_nothing_and_a_whole_image_needs_nothing(server, model, tmp_path):
    photo = RNG.integers(0, 256, (23, 37, 3), dtype=np.uint8)
    (tmp_path / "photo.png").write_bytes(base64.b64decode(png(photo)["b64"]))
    seen = model.tokenizer.tokenize(read_image(tmp_path / "photo.png", SIZE))
    body = {"image": png(photo), "keep_rows": 1}
    ((name, start),) = read_events(ask(server, {**body, "num_completions": 0}))
    assert (name, start["num_completions"]) == ("start", 0)
    pixels = decoded(start["pixels"], SIZE, SIZE)
    np.testing.assert_array_equal(pixels, model.tokenizer.detokenize(seen))
    whole = {"image": png(photo), "keep_rows": SIZE, "num_completions": 2}
    names, (_, done) = zip(*read_events(ask(server, whole)), strict=True)
    assert names == ("start", "done")
    assert done == {"log_likelihood": [0, 0], "bits_per_pixel": [None, None]}


GOOD = {"image": png(IMAGE), "keep_rows": 1}
MASK = [[True] * SIZE] * SIZE
REFUSALS = [
    ({"keep_rows": 1}, 'image must be given: {"b64": "…"}, or null to sample from nothing'),
    ({**GOOD, "image": "cat.png"}, 'image must be {"b64": "…"} or null, got "cat.png"'),
    ({**GOOD, "image": {"b64": "!"}}, "Unable to base64 decode"),
    ({**GOOD, "image": {"b64": "QUJD"}}, "Unknown image file format. One of JPEG, PNG, GIF, BMP"),
    ({"image": None, "keep_rows": 1}, "keep_rows needs an image, got image=null"),
    ({"image": png(IMAGE)}, "exactly one of keep_rows and known must be given, got neither"),
    ({**GOOD, "known": MASK}, "exactly one of keep_rows and known must be given, got both"),
    ({**GOOD, "keep_rows": 5}, "keep_rows must lie in 0…4 (the image height), got 5"),
    ({**GOOD, "keep_rows": -1}, "keep_rows must lie in 0…4 (the image height), got -1"),
    ({**GOOD, "keep_rows": 1.0}, "keep_rows must be an integer, got 1.0"),
    ({**GOOD, "keep_rows": True}, "keep_rows must be an integer, got true"),
    ({"image": png(IMAGE), "known": MASK[:3]}, "known must be boolean of shape [4, 4], got bool"),
    ({"image": png(IMAGE), "known": [*MASK[:3], [True]]}, "known must be a list of rows of true"),
    ({"image": png(IMAGE), "known": [[1] * 4] * 4}, "known must be a list of rows of true and"),
    ({"image": png(IMAGE), "known": 7}, "known must be a list of rows of true and false, got 7"),
    ({**GOOD, "num_completions": 17}, "num_completions must be an integer from 0 to 16, got 17"),
    ({**GOOD, "num_completions": -1}, "num_completions must be an integer from 0 to 16, got -1"),
    ({**GOOD, "num_completions": "4"}, 'num_completions must be an integer, got "4"'),
    ({**GOOD, "temperature": -1}, "temperature must be finite and >= 0, got -1"),
    ({**GOOD, "temperature": 10**400}, "temperature must be finite and >= 0, got 1000000000"),
    ({**GOOD, "temperature": float("nan")}, "temperature must be finite and >= 0, got"),
    ({**GOOD, "temperature": "warm"}, 'temperature must be finite and >= 0, got "warm"'),
    ({**GOOD, "top_k": 1.5}, "top_k must be an integer >= 0 (0 for all colors), got 1.5"),
    ({**GOOD, "top_k": 2**31}, "top_k must be an integer >= 0 (0 for all colors), got 2147483648"),
    ({**GOOD, "top_p": 0}, "top_p must be above 0 and at most 1, got 0"),
    ({**GOOD, "top_p": 1.5}, "top_p must be above 0 and at most 1, got 1.5"),
    ({**GOOD, "seed": -1}, "seed must be an integer from 0 to 9223372036854775807, got -1"),
    ({**GOOD, "seed": 2**63}, "seed must be an integer from 0 to 9223372036854775807, got 922337"),
    ({**GOOD, "sampler": "greedy"}, '"sampler" is no argument of a stream; it has image, keep_'),
    ([GOOD], "JSON Value: ["),
]


def test_what_cannot_be_answered_is_refused_before_anything_is_sent(server):
    for body, message in REFUSALS:
        answer = ask(server, body)
        assert answer.status_code == 400, body
        assert message in answer.json()["error"], body
    assert ask(server, GOOD, "igpt/versions/1").status_code == 200
    assert ask(server, GOOD, "igpt/versions/2").status_code == 404
    assert ask(server, GOOD, "other").status_code == 404


def test_the_models_are_described(server, model, classifier):
    answer = requests.get(f"{server.rest_address}/v1/models", timeout=30)
    (entry,) = answer.json()["models"]
    about = entry.pop("description")
    assert entry == {
        "name": "igpt",
        "version": 1,
        "labels": [],
        "signatures": ["classify", "classify_images", "complete", "features", "sample", "score"],
        "streams": True,
        "image_size": SIZE,
        "class_names": classifier.class_names,
        "label_names": [],
    }
    first, second = about.split("; ")
    assert first == f"autoregressive, 2 layers of width 16, {model.count_params():,} parameters"
    assert second.startswith("autoregressive classifier of 3 classes, 1 layer of width 16, ")
    assert second.endswith(f" {classifier.count_params():,} parameters")
