"""The client over gRPC and over REST gets the same answers from one server."""

import asyncio

import grpc
import numpy as np
import pytest

from igpt_keras.sampling.samplers import Categorical
from serving.client import AsyncClient, Client, MissingSignatureError, ServingError
from serving.client.images import encoded_images
from serving.client.rows import GRAY

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
CONTENTS = np.array([*encoded_images(IMAGES)], object)
SAMPLER = Categorical(0.8, top_k=5)
SAMPLING = {
    "temperature": np.float32([0.9, 1, 0]),
    "top_k": np.int32([0, 2, 0]),
    "top_p": np.float32([1, 0.7, 1]),
    "seed": np.array([0, 2**62 + 1, 7]),
}
INPUTS = {
    "complete": {"image_bytes": CONTENTS, "keep_rows": np.int32([0, 1, 3]), **SAMPLING},
    "sample": SAMPLING,
    "classify_images": {"image_bytes": CONTENTS},
    "features": {"image_bytes": CONTENTS},
    "score": {"image_bytes": CONTENTS},
}


@pytest.fixture(scope="module")
def over_grpc(server):
    with Client(server.address) as client:
        yield client


@pytest.fixture(scope="module")
def over_rest(server):
    with Client(server.rest_address) as client:
        yield client


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, values in first.items():
        assert values.dtype == second[name].dtype, name
        # Nine digits, which REST writes, are all that a float32 has.
        np.testing.assert_array_equal(values, second[name], err_msg=name)


@pytest.mark.parametrize("signature_name", INPUTS)
def test_every_signature_answers_the_same(over_grpc, over_rest, signature_name):
    inputs = INPUTS[signature_name]
    answer = over_grpc.predict(signature_name, inputs)
    assert_same(answer, over_rest.predict(signature_name, inputs))
    some = sorted(answer)[:1]
    assert over_rest.predict(signature_name, inputs, some).keys() == {*some}


def test_the_signatures_are_these_and_those_for_examples(over_grpc, over_rest):
    assert over_grpc.signatures() == over_rest.signatures()
    assert set(over_rest.signatures()) == {*INPUTS, "classify", "serving_default"}
    assert over_grpc.status() == over_rest.status()


def test_methods_answer_the_same(over_grpc, over_rest):
    def ask(client):
        return [
            client.complete(IMAGES[:2], keep_rows=3, num_completions=2, sampler=SAMPLER, seed=3),
            client.classify(IMAGES),
            client.score(IMAGES),
        ]

    for first, second in zip(ask(over_grpc), ask(over_rest), strict=True):
        first, second = vars(first), vars(second)
        present = {name for name, value in first.items() if value is not None}
        assert_same(
            *({name: np.asarray(each[name]) for name in present} for each in (first, second))
        )
    np.testing.assert_array_equal(over_grpc.features(IMAGES), over_rest.features(IMAGES))


def test_many_images_go_in_several_requests(over_rest):
    with Client(over_rest.address, batch_size=2) as other:
        apart = other.score(IMAGES).log_likelihood
    np.testing.assert_allclose(apart, over_rest.score(IMAGES).log_likelihood, rtol=1e-5)


def test_refusals_have_the_same_words(over_grpc, over_rest):
    questions = [
        (lambda client: client.complete(IMAGES, keep_rows=5), "INVALID_ARGUMENT"),
        (
            lambda client: client.predict("score", {"image_bytes": [b"no image"]}),
            "INVALID_ARGUMENT",
        ),
    ]
    for ask, code in questions:
        errors = []
        for client in (over_grpc, over_rest):
            with pytest.raises(ServingError) as caught:
                ask(client)
            assert caught.value.code == grpc.StatusCode[code]
            errors.append(str(caught.value).removeprefix(client.address))
        assert errors[0] == errors[1]
    for client in (over_grpc, over_rest):
        with pytest.raises(MissingSignatureError, match='"colorize" not found'):
            client.predict("colorize", {"image_bytes": CONTENTS})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model_name": "gpt"}, r"NOT_FOUND.*Latest\(gpt\)"),
        ({"version": 9}, r"NOT_FOUND.*Specific\(igpt, 9\)"),
        (
            {"version_label": "stable"},
            "INVALID_ARGUMENT.*Unrecognized servable version label: stable",
        ),
    ],
    ids=str,
)
def test_other_models_and_versions_are_not_found(server, options, words):
    for address in (server.address, server.rest_address):
        with Client(address, **options) as client, pytest.raises(ServingError, match=words):
            client.score(IMAGES)
    with Client(server.rest_address, version=1) as client:
        assert client.score(IMAGES).bits_per_pixel.shape == (3,)
        assert [status.version for status in client.status()] == [1]


def test_the_asynchronous_client_gives_the_same(over_rest):
    async def ask():
        async with AsyncClient(over_rest.address) as other:
            with pytest.raises(ServingError, match="INVALID_ARGUMENT.*keep_rows must lie in"):
                await other.complete(IMAGES, keep_rows=5)
            return await asyncio.gather(other.features(IMAGES), other.classify(IMAGES))

    features, classes = asyncio.run(ask())
    np.testing.assert_allclose(features, over_rest.features(IMAGES), rtol=1e-5, atol=1e-6)
    assert classes.best == over_rest.classify(IMAGES).best


@pytest.mark.parametrize(
    "settings",
    [
        {"keep_rows": 1, "num_completions": 2, "seed": 9},
        {"keep_rows": 0, "sampler": SAMPLER},
    ],
    ids=str,
)
def test_rows_end_in_the_completions(over_rest, settings):
    *partials, last = over_rest.complete_rows(IMAGES[0], **settings)
    expected = over_rest.complete(IMAGES[:1], **settings)
    keep_rows = settings["keep_rows"]
    assert [partial.num_rows for partial in partials] == [*range(keep_rows, 5)]
    for partial in [*partials, last]:
        rows = partial.num_rows
        np.testing.assert_array_equal(partial.images[:, :rows], expected.images[0][:, :rows])
        assert (partial.images[:, rows:] == GRAY).all()
        assert (
            np.isnan(partial.entropy).all(axis=(0, 2))
            == [not keep_rows <= r < rows for r in range(4)]
        ).all()
    np.testing.assert_allclose(
        last.log_likelihood, expected.log_likelihood[0], rtol=1e-5, atol=1e-5
    )


def test_rows_of_a_mask_and_of_nothing_come_asynchronously(over_rest, server):
    known = np.random.default_rng(1).random((4, 4)) < 0.5

    async def ask():
        async with AsyncClient(over_rest.address) as client:
            masked = [partial async for partial in client.complete_rows(IMAGES[0], known=known)]
            sampled = [partial async for partial in client.complete_rows(None, seed=4)]
        return masked[-1].images[0], sampled[-1].images

    masked, sampled = asyncio.run(ask())
    whole = over_rest.complete(IMAGES[:1], keep_rows=4).images[0, 0]
    np.testing.assert_array_equal(masked[known], whole[known])
    np.testing.assert_array_equal(sampled[None], over_rest.sample(1, seed=4).images)
