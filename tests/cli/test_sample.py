import numpy as np
import pytest
from PIL import Image

import igpt_keras
from igpt_keras.runs import read_result


@pytest.fixture
def model(pretrained):
    return pretrained("ar")


def test_samples_and_their_likelihoods_are_written(igpt, model, tmp_path):
    output = tmp_path / "out"
    status, printed, _ = igpt(
        "sample", "--model", model, "--num-samples", 5, "--output", output, "--seed", 3
    )
    assert status == 0
    names = [f"{number:03d}.png" for number in range(5)]
    assert {path.name for path in output.iterdir()} == {
        *names,
        "contact-sheet.png",
        "result.json",
        "samples.npz",
    }
    sampled = igpt_keras.load(model).sample(5, seed=3)
    np.testing.assert_array_equal(np.load(output / "samples.npz")["arr_0"], sampled.images[:, 0])
    records = read_result(output).metrics["completions"]
    for index, (name, record) in enumerate(zip(names, records, strict=True)):
        np.testing.assert_array_equal(Image.open(output / name), sampled.images[index, 0])
        assert record["file"] == name
        nll = sampled.total_log_likelihood[index, 0]
        assert record["total_log_likelihood"] == pytest.approx(nll, rel=1e-5)
        assert record["bits_per_pixel"] == pytest.approx(-nll / np.log(2) / 16, rel=1e-5)
        assert f"{name}  sampled tokens {nll:.2f} nats" in printed


def test_a_bert_model_samples_in_rounds(igpt, pretrained, tmp_path):
    model = pretrained("bert")
    output = tmp_path / "out"
    arguments = ("--num-samples", 2, "--num-steps", 3, "--entropy", "--output", output)
    assert igpt("sample", "--model", model, *arguments)[0] == 0
    sampled = igpt_keras.load(model).sample(2, num_steps=3)
    np.testing.assert_array_equal(Image.open(output / "001.png"), sampled.images[1, 0])
    assert (output / "entropy.png").is_file()
    assert "total_log_likelihood" not in (output / "result.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--num-samples", 0), "0 is not in the range x>=1"),
        (("--num-steps", 2), "num_steps=2 is for BERT models"),
        (("--temperature", -1), "temperature must be finite and >= 0, got -1.0"),
    ],
)
def test_mistakes_are_one_line(igpt, model, tmp_path, arguments, message):
    output = tmp_path / "out"
    status, _, errors = igpt("sample", "--model", model, "--output", output, *arguments)
    assert status == 2
    assert message in errors
    assert not output.exists()
