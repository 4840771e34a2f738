import numpy as np
import pytest
from PIL import Image

import igpt_keras
from igpt_keras import ImageGPT, cli
from igpt_keras.data.images import read_image


@pytest.fixture
def model_folder(config, palette, randomized, tmp_path):
    return igpt_keras.save(randomized(ImageGPT(config, palette=palette)), tmp_path / "model")


@pytest.fixture
def photos(tmp_path):
    generator = np.random.default_rng(15)
    paths = [tmp_path / "photo.png", tmp_path / "other.jpg"]
    for path, shape in zip(paths, [(30, 44, 3), (9, 7, 3)], strict=True):
        Image.fromarray(generator.integers(0, 256, shape).astype(np.uint8)).save(path)
    return paths


def flat(options):
    return [part for option in options.items() for part in option]


def run(monkeypatch, *arguments):
    """The status with which `igpt` exits."""
    monkeypatch.setattr("sys.argv", ["igpt", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    return exit_info.value.code


def test_complete_writes_every_completion_and_a_contact_sheet(
    model_folder, photos, tmp_path, monkeypatch, capsys, palette
):
    output = tmp_path / "out"
    options = {
        "--model": model_folder,
        "--output": output,
        "--keep-rows": 2,
        "--num": 3,
        "--seed": 5,
    }
    assert run(monkeypatch, "complete", *photos, *flat(options)) == 0
    assert str(output) in capsys.readouterr().out
    names = {path.name for path in output.iterdir()}
    assert names == {"contact-sheet.png"} | {
        f"{index:03d}-{stem}-{number:02d}.png"
        for index, stem in enumerate(["photo", "other"])
        for number in range(3)
    }
    model = igpt_keras.load(model_folder)
    images = np.stack([read_image(path, 4) for path in photos])
    expected = igpt_keras.complete(model, None, images, 2, 3, seed=5).images
    written = np.asarray(Image.open(output / "001-other-02.png"))
    np.testing.assert_array_equal(written, expected[1, 2])
    kept = palette.dequantize(palette.quantize(images[1]))[:2]
    np.testing.assert_array_equal(written[:2], kept)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--model": "missing"}, "missing does not exist"),
        ({"image": "missing.png"}, "No such file or directory: 'missing.png'"),
        ({"image": __file__}, "cannot be read as an image"),
        ({"--keep-rows": 5}, "keep_rows must lie in 0…4"),
        ({"--keep-rows": -1}, "keep_rows must be an integer >= 0, got -1"),
        ({"--num": 0}, "num_completions must be an integer >= 1, got 0"),
        ({"--temperature": -1}, "temperature must be finite and >= 0"),
        ({"--top-p": 2}, "top_p must be above 0 and at most 1"),
        ({"--output": "."}, "exists already"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    model_folder, photos, tmp_path, monkeypatch, capsys, change, message
):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    image = change.get("image", photos[0])
    options = {"--model": model_folder, "--output": "out", "--keep-rows": 2, **change}
    options.pop("image", None)
    assert run(monkeypatch, "complete", photos[1], image, *flat(options)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("igpt: error: ")
    assert error.count("\n") == 1
    assert set(tmp_path.rglob("*")) == before


def test_unknown_commands_and_options_are_refused(monkeypatch, capsys):
    assert run(monkeypatch, "compleat") == 2
    assert "No such command 'compleat'" in capsys.readouterr().err
    assert run(monkeypatch, "complete", "--sed", "1") == 2
    assert "No such option" in capsys.readouterr().err


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help(monkeypatch, capsys, command):
    assert run(monkeypatch, command, "--help") == 0
    assert f"igpt {command}" in capsys.readouterr().out
