import asyncio
import io
import socket
import struct

import grpc
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from igpt_keras import InputError
from igpt_keras.data.image_decoding import read_image
from igpt_keras.sampling.samplers import Categorical, TopP
from serving.client import (
    AsyncClient,
    Client,
    MissingSignatureError,
    RetryPolicy,
    ServingError,
)
from serving.client.carriers import ModelSpec
from serving.client.grpc_carrier import GrpcCarrier
from serving.client.images import encoded_images
from serving.client.queries import Served

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
CARRIER = GrpcCarrier("localhost:1", ModelSpec("igpt"), None, 1000)


@pytest.fixture(scope="module")
def client(server):
    with Client(server.address) as client:
        yield client


def png(pixels) -> bytes:
    return encoded_images([pixels])[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"keep_rows": 2},
        {"keep_rows": 0, "num_completions": 3, "seed": 7},
        {
            "keep_rows": 1,
            "num_completions": 2,
            "seed": [4, 4, 9],
            "sampler": Categorical(temperature=0.7),
        },
        {"keep_rows": 3, "sampler": Categorical(top_k=2, top_p=0.8)},
        {"keep_rows": 2, "sampler": Categorical(temperature=0)},
        {"keep_rows": 4},
    ],
    ids=str,
)
def test_completions_equal_those_in_process(client, model, settings):
    served = client.complete(IMAGES, **settings)
    expected = model.generate(IMAGES, **settings)
    np.testing.assert_array_equal(served.tokens, expected.tokens)
    np.testing.assert_array_equal(served.images, expected.images)
    np.testing.assert_allclose(served.log_likelihood, expected.log_likelihood, rtol=1e-5, atol=1e-5)
    for name in ("images", "tokens", "log_likelihood"):
        assert getattr(served, name).dtype == getattr(expected, name).dtype


def test_seeds_matter(client):
    first, second = (
        client.complete(IMAGES, keep_rows=0, num_completions=4, seed=seed).tokens for seed in (0, 1)
    )
    assert (first[1:] == second[:-1]).all(), "seed s stands for s, s + 1, …"
    assert (first != second).any()
    assert (first[:, 0] != first[:, 1]).any()


def test_the_batch_does_not_matter(client):
    together = client.complete(IMAGES, keep_rows=1, num_completions=2, seed=3)
    for index, image in enumerate(IMAGES):
        alone = client.complete([image], keep_rows=1, num_completions=2, seed=3 + index)
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[index])
    fewer = client.complete(IMAGES[::-1], keep_rows=1, seed=[5, 4, 3])
    np.testing.assert_array_equal(fewer.tokens[::-1, 0], together.tokens[:, 0])


def test_many_images_go_in_several_requests(client):
    together = client.complete(IMAGES, keep_rows=1, num_completions=3)
    with Client(client.address, batch_size=2) as other:
        apart = other.complete(IMAGES, keep_rows=1, num_completions=3)
    np.testing.assert_array_equal(apart.tokens, together.tokens)
    np.testing.assert_array_equal(apart.images, together.images)


@pytest.mark.parametrize(
    ("lengths", "batch_size", "request_bytes", "expected"),
    [
        ([2, 2, 5, 1, 1, 1], 9, 4, [[2, 2], [5], [1, 1, 1]]),
        ([1, 1, 1, 1, 1], 2, 99, [[1, 1], [1, 1], [1]]),
        ([3], 1, 1, [[3]]),
    ],
)
def test_requests_hold_at_most_the_limits_or_one(lengths, batch_size, request_bytes, expected):
    contents = np.array([b"a" * length for length in lengths], object)
    served = Served(CARRIER, batch_size, 2 * request_bytes)
    parts = [contents[part] for part in served.parts({"image_bytes": contents})]
    assert [list(map(len, part)) for part in parts] == expected


def test_requests_hold_at_most_the_pixels_that_a_server_takes():
    header = b"\x89PNG\r\n\x1a\n" + bytes(8)
    sides = [2048] * 9 + [60_000] + [32] * 3
    contents = np.array([header + struct.pack(">II", side, side) for side in sides], object)
    parts = Served(CARRIER, 99, 10**9).parts({"image_bytes": contents})
    assert [range(*part.indices(99)) for part in parts] == [
        range(0, 8),
        range(8, 9),
        range(9, 10),
        range(10, 13),
    ]


def test_paths_bytes_and_arrays_are_the_same_image(client, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    path = tmp_path / "image.png"
    PIL.Image.fromarray(pixels).save(path)
    images = [path, str(path), path.read_bytes(), pixels, PIL.Image.open(path)]
    tokens = client.complete(images, keep_rows=2, seed=[0] * 5).tokens
    assert (tokens == tokens[0]).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "HSV", "I;16"])
def test_pil_images_arrive_as_a_person_sees_them(client, model, tmp_path, mode):
    image = PIL.Image.fromarray(np.random.default_rng(3).integers(0, 256, (9, 13, 3), np.uint8))
    if mode == "I;16":
        image = PIL.Image.fromarray(np.arange(117, dtype=np.uint16).reshape(9, 13) * 500)
    else:
        image = image.convert(mode)
    file_format = "TIFF" if mode in ("CMYK",) else "PNG"
    seen = image.convert("RGB") if mode == "HSV" else image
    seen.save(tmp_path / "image", file_format)
    expected = model.tokenizer.tokenize(read_image(tmp_path / "image", 4))
    np.testing.assert_array_equal(client.complete([image], keep_rows=4).tokens[0, 0], expected)


def test_turned_photographs_arrive_upright(client, tmp_path):
    pixels = np.random.default_rng(4).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=exif)
    PIL.ImageOps.exif_transpose(PIL.Image.open(tmp_path / "turned.jpg")).save(
        tmp_path / "upright.png"
    )
    images = [tmp_path / "turned.jpg", PIL.Image.open(tmp_path / "turned.jpg")]
    images.append(tmp_path / "upright.png")
    tokens = client.complete(images, keep_rows=4).tokens
    assert (tokens == tokens[0]).all()


def test_files_arrive_whole(client, model, tmp_path):
    # A BMP of a black corner ends in zeros.
    pixels = np.random.default_rng(2).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    pixels[0] = 0
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "BMP")
    content = file.getvalue()
    assert content.endswith(b"\0" * 12)
    served = client.complete([content], keep_rows=4)
    np.testing.assert_array_equal(served.tokens[0, 0], model.tokenizer.tokenize(pixels))


def test_gray_arrays_are_images(client):
    gray = IMAGES[:, :, :, :1]
    np.testing.assert_array_equal(
        client.complete(gray, keep_rows=2).tokens,
        client.complete(np.repeat(gray, 3, axis=-1), keep_rows=2).tokens,
    )


def test_classes_equal_those_in_process(client, classifier, tmp_path):
    paths = []
    for index in range(5):
        paths.append(tmp_path / f"{index}.png")
        generator = np.random.default_rng(index)
        color = generator.integers(0, 200, 3)
        pixels = color + generator.integers(0, 56, (11, 8, 3))
        PIL.Image.fromarray(pixels.astype(np.uint8)).save(paths[-1])
    served = client.classify(paths)
    images = np.stack([read_image(path, 6) for path in paths])
    logits = classifier.predict(classifier.tokenizer.tokenize(images), verbose=0)
    np.testing.assert_allclose(served.logits, logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(served.scores.sum(axis=1), 1, rtol=1e-5)
    assert served.class_names == classifier.class_names
    assert served.best == [classifier.class_names[index] for index in logits.argmax(axis=1)]
    assert len(set(served.best)) > 1


def test_samples_equal_those_in_process(client, model):
    sampler = Categorical(temperature=0.8, top_k=5, top_p=0.9)
    served = client.sample(5, sampler=sampler, seed=11)
    expected = model.sample(5, sampler=sampler, seed=11)
    np.testing.assert_array_equal(served.tokens, expected.tokens)
    np.testing.assert_array_equal(served.images, expected.images)
    assert served.images.shape == (5, 1, 4, 4, 3)


def test_scores_and_features_equal_those_in_process(client, model):
    scores = client.score(IMAGES)
    np.testing.assert_allclose(scores.log_likelihood, model.score(IMAGES), rtol=1e-5)
    bits = -scores.log_likelihood / (16 * np.log(2))
    np.testing.assert_allclose(scores.bits_per_pixel, bits, rtol=1e-6)
    tokens = model.tokenizer.tokenize(IMAGES)
    np.testing.assert_allclose(
        client.features(IMAGES), model.features(tokens, layer=1), rtol=1e-5, atol=1e-6
    )


def test_any_signature_can_be_asked_for_by_name(client):
    contents = [png(image) for image in IMAGES]
    outputs = client.predict("score", {"image_bytes": contents}, ["bits_per_pixel"])
    assert outputs.keys() == {"bits_per_pixel"}
    np.testing.assert_array_equal(outputs["bits_per_pixel"], client.score(IMAGES).bits_per_pixel)
    assert client.predict("features", {"image_bytes": contents})["features"].shape == (3, 16)


@pytest.mark.parametrize("inputs", [{}, {"a": 1}, {"a": [1, 2], "b": [1]}, {"a": np.zeros((0, 2))}])
def test_inputs_have_one_batch_size(client, inputs):
    with pytest.raises(InputError, match="one batch size of at least 1"):
        client.predict("complete", inputs)


@pytest.mark.parametrize(
    "images, message",
    [
        ([], "at least one image"),
        ("cat.png", "sequence of images, got one str"),
        (b"png", "sequence of images, got one bytes"),
        (IMAGES[0], r"\[\.\.\., height, width, 3\]"),
        ([IMAGES], r"\[height, width, 3\], got \[3, 4, 4, 3\]"),
        ([IMAGES[0] / 255], "uint8"),
    ],
    ids=["none", "path", "bytes", "one array", "batch in a list", "floats"],
)
def test_images_are_checked(client, images, message):
    with pytest.raises(InputError, match=message):
        client.complete(images, keep_rows=2)
    with pytest.raises(InputError, match=message):
        client.classify(images)


def test_a_missing_file_is_named(client, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.png"):
        client.classify([tmp_path / "nowhere.png"])


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_completions": 0}, "num_completions"),
        ({"sampler": TopP(0.9)}, r"sampler must be a Categorical.*, got TopP\(p=0.9"),
        ({"seed": -1}, "seed"),
        ({"seed": [1, 2]}, "seed"),
        ({"keep_rows": 1.5}, "keep_rows must be an integer"),
        ({"keep_rows": 2**31}, "keep_rows must be an integer"),
    ],
    ids=str,
)
def test_settings_are_checked(client, settings, message):
    with pytest.raises(InputError, match=message):
        client.complete(IMAGES, **{"keep_rows": 2, **settings})


def test_what_the_server_refuses_is_one_line(client):
    with pytest.raises(ServingError) as caught:
        client.complete(IMAGES, keep_rows=5)
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
    assert "INVALID_ARGUMENT" in str(caught.value)
    assert "keep_rows must lie in 0…4" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_image_that_cannot_be_read_is_named(client, tmp_path):
    paths = [tmp_path / f"{name}.png" for name in ("good", "bad", "other")]
    for path in paths:
        path.write_bytes(png(IMAGES[0]))
    paths[1].write_bytes(png(IMAGES[0])[:60])
    with pytest.raises(InputError, match="/bad.png cannot be read as an image"):
        client.classify(paths)
    cut = PIL.Image.open(io.BytesIO(paths[1].read_bytes()))
    for image in (b"no image", cut, PIL.Image.new("F", (4, 4)), PIL.Image.new("L", (9000, 9000))):
        with pytest.raises(InputError, match=r"images\[2\] cannot be read as an image"):
            client.classify([paths[0], IMAGES[0], image])


def test_an_undecodable_image_is_refused(client):
    with pytest.raises(ServingError, match="INVALID_ARGUMENT.*Unknown image file format"):
        client.predict("classify_images", {"image_bytes": [b"no image"]})


def test_photographs_larger_than_an_export_takes_are_sent_smaller(client, model, tmp_path):
    pixels = np.random.default_rng(5).integers(0, 256, (6, 9, 3), np.uint8)
    large = PIL.Image.fromarray(pixels).resize((3200, 2400), PIL.Image.Resampling.NEAREST)
    large.save(tmp_path / "large.jpg")
    expected = model.tokenizer.tokenize(read_image(tmp_path / "large.jpg", 4))
    served = client.complete([tmp_path / "large.jpg", large], keep_rows=4).tokens
    np.testing.assert_array_equal(served[0, 0], expected)
    with pytest.raises(ServingError, match="an image must have 1…4194304 pixels"):
        client.predict("score", {"image_bytes": [(tmp_path / "large.jpg").read_bytes()]})


def test_an_unknown_model_is_not_found(client):
    with Client(client.address, model_name="gpt") as other:
        with pytest.raises(ServingError, match=r"NOT_FOUND.*Latest\(gpt\)"):
            other.classify(IMAGES)


def test_versions_are_asked_for_by_number(client):
    with Client(client.address, version=1) as first, Client(client.address, version=9) as ninth:
        assert first.score(IMAGES).bits_per_pixel.shape == (3,)
        with pytest.raises(ServingError, match=r"NOT_FOUND.*Specific\(igpt, 9\)"):
            ninth.score(IMAGES)


def test_a_missing_signature_is_told(client):
    with pytest.raises(MissingSignatureError, match='"colorize" not found'):
        client.predict("colorize", {"image_bytes": [png(IMAGES[0])]})
    names = {"classify", "classify_images", "complete", "features", "sample", "score"}
    assert set(client.signatures()) == names | {"serving_default"}


def test_no_server_is_unavailable():
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
    with Client(address, retries=RetryPolicy(attempts=2, initial_pause=0.01)) as client:
        with pytest.raises(ServingError, match=address) as caught:
            client.complete(IMAGES, keep_rows=2)
    assert caught.value.code == grpc.StatusCode.UNAVAILABLE


def test_the_asynchronous_client_gives_the_same(client):
    async def ask():
        async with AsyncClient(client.address) as other:
            answers = await asyncio.gather(
                other.complete(IMAGES, keep_rows=1, num_completions=2, seed=3),
                other.sample(2, seed=4),
                other.score(IMAGES),
                other.classify(IMAGES),
            )
            with pytest.raises(ServingError, match="INVALID_ARGUMENT.*keep_rows must lie in"):
                await other.complete(IMAGES, keep_rows=5)
            return answers

    completions, samples, scores, classes = asyncio.run(ask())
    expected = client.complete(IMAGES, keep_rows=1, num_completions=2, seed=3)
    np.testing.assert_array_equal(completions.tokens, expected.tokens)
    np.testing.assert_array_equal(samples.tokens, client.sample(2, seed=4).tokens)
    np.testing.assert_allclose(
        scores.bits_per_pixel, client.score(IMAGES).bits_per_pixel, rtol=1e-5
    )
    assert classes.best == client.classify(IMAGES).best
