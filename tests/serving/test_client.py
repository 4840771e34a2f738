import io

import grpc
import numpy as np
import PIL.Image
import pytest

from igpt_keras import InputError, complete
from igpt_keras.data.images import read_image
from serving import client as client_module
from serving.client import Client, ServingError
from serving.server import Server

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def client(exported):
    with Server(exported) as server, Client(server.address) as client:
        yield client


@pytest.mark.parametrize(
    "settings",
    [
        {"keep_rows": 2},
        {"keep_rows": 0, "num_completions": 3, "seed": 7},
        {"keep_rows": 1, "num_completions": 2, "seed": [4, 4, 9], "temperature": 0.7},
        {"keep_rows": 3, "top_k": 2, "top_p": 0.8},
        {"keep_rows": 2, "temperature": 0},
        {"keep_rows": 4},
    ],
    ids=str,
)
def test_completions_equal_those_in_process(client, model, settings):
    served = client.complete(IMAGES, **settings)
    expected = complete(model, None, IMAGES, **settings)
    np.testing.assert_array_equal(served.tokens, expected.tokens)
    np.testing.assert_array_equal(served.images, expected.images)
    np.testing.assert_allclose(served.log_likelihood, expected.log_likelihood, rtol=1e-5, atol=1e-5)
    for name in ("images", "tokens", "log_likelihood"):
        assert getattr(served, name).dtype == getattr(expected, name).dtype


def test_seeds_matter(client):
    first, second = (client.complete(IMAGES, 0, 4, seed=seed).tokens for seed in (0, 1))
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


def test_many_bytes_go_in_several_requests(client, monkeypatch):
    together = client.complete(IMAGES, keep_rows=1, num_completions=2)
    monkeypatch.setattr(client_module, "MAX_MESSAGE_BYTES", 300)
    parts = list(client_module._parts(client_module._contents(IMAGES), 150))
    assert len(parts) > 1
    apart = client.complete(IMAGES, keep_rows=1, num_completions=2)
    np.testing.assert_array_equal(apart.tokens, together.tokens)
    np.testing.assert_array_equal(apart.images, together.images)


def test_parts_hold_at_most_the_limit_or_one():
    contents = np.array([b"aa", b"bb", b"ccccc", b"d", b"e", b"f"], dtype=object)
    parts = [list(contents[part]) for part in client_module._parts(contents, 4)]
    assert parts == [[b"aa", b"bb"], [b"ccccc"], [b"d", b"e", b"f"]]


def test_paths_bytes_and_arrays_are_the_same_image(client, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    path = tmp_path / "image.png"
    PIL.Image.fromarray(pixels).save(path)
    images = [path, str(path), path.read_bytes(), pixels]
    tokens = client.complete(images, keep_rows=2, seed=[0, 0, 0, 0]).tokens
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
    np.testing.assert_array_equal(served.tokens[0, 0], model.palette.quantize(pixels).reshape(-1))


def test_grey_arrays_are_images(client):
    grey = IMAGES[:, :, :, :1]
    np.testing.assert_array_equal(
        client.complete(grey, keep_rows=2).tokens,
        client.complete(np.repeat(grey, 3, axis=-1), keep_rows=2).tokens,
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
    logits = classifier.predict(classifier.palette.quantize(images).reshape(5, -1), verbose=0)
    np.testing.assert_allclose(served.logits, logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(served.scores.sum(axis=1), 1, rtol=1e-5)
    assert served.class_names == classifier.class_names
    assert served.best == [classifier.class_names[index] for index in logits.argmax(axis=1)]
    assert len(set(served.best)) > 1


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
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": 2**31}, "top_k must be an integer"),
        ({"top_p": 0}, "top_p"),
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


def test_an_undecodable_image_is_refused(client):
    with pytest.raises(ServingError, match="Unknown image file format") as caught:
        client.classify([b"no image"])
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT


def test_an_unknown_model_is_not_found(client):
    with Client(client.address, model_name="gpt") as other:
        with pytest.raises(ServingError, match=r"Latest\(gpt\)") as caught:
            other.classify(IMAGES)
    assert caught.value.code == grpc.StatusCode.NOT_FOUND


def test_no_server_is_unavailable(exported):
    with Server(exported) as server:
        address = server.address
    with Client(address) as client:
        with pytest.raises(ServingError, match=address) as caught:
            client.complete(IMAGES, keep_rows=2)
    assert caught.value.code == grpc.StatusCode.UNAVAILABLE
