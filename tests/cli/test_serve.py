"""Export, serve and ask as a user does: a server process, and commands that talk to it."""

import json
import pathlib
import re
import signal
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
from PIL import Image

import serving
from igpt_keras import ImageGPT, ImageGPTClassifier
from tests.serving.server.test_operations import reads, save

IGPT = pathlib.Path(sys.executable).with_name("igpt")


@pytest.mark.slow
def test_export_serve_and_client(igpt, config, palette, randomized, tmp_path, monkeypatch):
    model = randomized(ImageGPT(config, tokenizer=palette))
    classifier = randomized(
        ImageGPTClassifier(config, 3, class_names=["cat", "dog", "owl"], tokenizer=palette)
    )
    model.save_to_preset(tmp_path / "model", training={"data": "random pixels"})
    classifier.save_to_preset(tmp_path / "classifier")
    monkeypatch.chdir(tmp_path)
    status, printed, errors = igpt("export", "model", "classifier", "--output", "served")
    assert status == 0, errors
    assert "served/1" in printed
    card = pathlib.Path("served/1/assets/MODEL_CARD.md").read_text(encoding="utf-8")
    assert "| data | random pixels |" in card

    image = np.random.default_rng(16).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    Image.fromarray(image).save("image.png")
    with open("log", "w") as log:
        server = subprocess.Popen(
            [IGPT, "serve", "served", "--port", "0", "--rest-port", "0", "--metrics-port", "0"],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        announced = server.stdout.readline()
        address = re.fullmatch(r"serving igpt version 1 at (127\.0\.0\.1:\d+)\n", announced)[1]
        options = [
            "--server",
            address,
            "--keep-rows",
            1,
            "--num-completions",
            2,
            "--seed",
            3,
            "--output",
        ]
        status, printed, errors = igpt("client", "complete", "image.png", *options, "completed")
        assert status == 0, errors
        expected = model.generate(image[None], keep_rows=1, num_completions=2, seed=3).images[0]
        for number in range(2):
            written = np.asarray(Image.open(f"completed/000-image-{number:02d}.png"))
            np.testing.assert_array_equal(written, expected[number])
        # Noise is not of the palette's colors: the known row tells the client.
        error = np.sqrt(np.mean((image[:1] - expected[0][:1].astype(float)) ** 2))
        assert error > 30
        assert errors.startswith("igpt: warning: image.png has colors that the model cannot show: ")
        assert f"RMSE {error:.1f} of 255;" in errors and errors.count("\n") == 1
        status, printed, errors = igpt("client", "classify", "image.png", "--server", address)
        assert status == 0, errors
        logits = classifier.predict(palette.tokenize(image[None]), verbose=0)[0]
        name = classifier.class_names[logits.argmax()]
        score = np.exp(logits.max()) / np.exp(logits).sum()
        assert printed == f"image.png\t{name}\t{score:.3f}\n"

        status, printed, errors = igpt("client", "score", "image.png", "--server", address)
        assert status == 0, errors
        path, *printed = printed.split("\t")
        log_likelihood = model.score(image[None])[0]
        expected = [log_likelihood, -log_likelihood / (16 * np.log(2))]
        assert path == "image.png"
        np.testing.assert_allclose([float(value) for value in printed], expected, atol=2e-3)

        ask = ["--server", address, "--output"]
        status, printed, errors = igpt("client", "features", "image.png", *ask, "features.npy")
        assert status == 0, errors
        np.testing.assert_allclose(
            np.load("features.npy"),
            model.features(palette.tokenize(image[None]), layer=1),
            rtol=1e-5,
            atol=1e-6,
        )
        status, printed, errors = igpt(
            "client", "sample", *ask, "samples", "--num-samples", 2, "--seed", 5
        )
        assert status == 0, errors
        expected = model.sample(2, seed=5).images[:, 0]
        for number in range(2):
            written = np.asarray(Image.open(f"samples/{number:03d}.png"))
            np.testing.assert_array_equal(written, expected[number])
        status, printed, errors = igpt("client", "status", "--server", address)
        assert status == 0, errors
        first, second = printed.splitlines()
        assert first == "1\tAVAILABLE"
        assert "classify_images, complete, features" in second

        options[3] = 9
        status, printed, errors = igpt("client", "complete", "image.png", *options, "refused")
        assert status == 1, errors
        assert "INVALID_ARGUMENT" in errors
        assert "keep_rows must lie in 0…4" in errors
        assert not pathlib.Path("refused").exists()

        rest = server.stdout.readline().removeprefix("REST at ").strip()
        for command in (["score", "image.png"], ["status"]):
            answers = [igpt("client", *command, "--server", each) for each in (address, rest)]
            assert answers[0] == answers[1]
            assert answers[0][0] == 0
        metrics = server.stdout.readline().removeprefix("metrics at ").strip()
        with urllib.request.urlopen(metrics, timeout=30) as answer:
            assert b'igpt_serving_loaded_version{model="igpt",version="1"} 1.0' in answer.read()
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=60)
    assert server.returncode == 0
    lines = [json.loads(line) for line in open("log")]
    requests = [(line["method"], line["status"]) for line in lines if line["message"] == "request"]
    assert requests.count(("Predict", "OK")) >= 2
    assert requests.count(("Predict", "INVALID_ARGUMENT")) == 1
    assert "INFO:serving" not in pathlib.Path("log").read_text(), "logged twice"
    status, printed, errors = igpt("client", "classify", "image.png", "--server", address)
    assert status == 1, errors
    assert errors.startswith("igpt: error: ") and "UNAVAILABLE" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve", "missing"], "missing does not exist"),
        (["serve", "."], "holds no version"),
        (["serve"], "one of directory and model_config_file must be given"),
        (["serve", "--model-config-file", "none.config"], "none.config"),
        (["serve", ".", "--batching-parameters-file", "none.config"], "none.config"),
        (["serve", ".", "--monitoring-config-file", "none.config"], "--metrics-port"),
        (["serve", ".", "--cors-origin", "a.example"], 'must be "*" or such as "https://'),
        (["serve", ".", "--volume", "served"], "must be FOLDER:PATH with an absolute PATH"),
        (["serve", ".", "--check"], "holds no version"),
        (["serve", "--check"], "one of directory and model_config_file must be given"),
        (["serve", ".", "--tls-key", "server.key"], "--tls-certificate and --tls-key go together"),
        (["serve", ".", "--tls-client-ca", "ca.pem"], "--tls-client-ca needs --tls-certificate"),
        (["export", "missing", "--output", "served"], "missing does not exist"),
        (
            ["client", "classify", "missing.png", "--server", "localhost:1"],
            "missing.png",
        ),
        (["client", "status", "--server", "http://localhost:8501/v1"], 'must be "host:port"'),
        (["client", "status", "--server", "http://localhost:1", "--tls"], "tls goes with"),
        (["client", "status", "--server", "localhost"], "such as localhost:8500"),
        (
            ["client", "status", "--server", "localhost:1", "--root-certificates", "missing.pem"],
            "missing.pem",
        ),
    ],
)
def test_a_mistake_is_one_line_and_status_2(igpt, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, printed, errors = igpt(*arguments)
    assert status == 2, errors
    assert message in errors
    assert errors.startswith("igpt: error: ")
    assert errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_check_tells_what_is_wrong_and_serves_nothing(igpt, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "served", lambda x: x)
    status, printed, errors = igpt("serve", "served", "--check")
    assert (status, printed) == (0, "served: only operations of exports in version 1\n"), errors
    save(tmp_path / "served", reads, version=2)
    config = pathlib.Path(serving.__file__).parent / "deploy" / "base" / "models.config"
    volume = f"{tmp_path / 'served'}:/models/igpt"
    for arguments in (["served"], ["--model-config-file", config, "--volume", volume]):
        status, printed, errors = igpt("serve", *arguments, "--check")
        assert (status, printed, errors.count("\n")) == (2, "", 1)
        assert "version 2" in errors and "ReadFile" in errors and "served/2" in errors
