import contextlib
import io
import math
import os
from functools import partial
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import igpt_keras
from igpt_keras import ImageGPT, cli
from igpt_keras.data.image_decoding import read_image
from igpt_keras.runs import read_result


@pytest.fixture
def model_folder(config, palette, randomized, tmp_path):
    return randomized(ImageGPT(config, tokenizer=palette)).save_to_preset(tmp_path / "model")


@pytest.fixture
def photos(tmp_path):
    generator = np.random.default_rng(15)
    paths = [tmp_path / "photo.png", tmp_path / "other.jpg"]
    for path, shape in zip(paths, [(30, 44, 3), (9, 7, 3)], strict=True):
        Image.fromarray(generator.integers(0, 256, shape).astype(np.uint8)).save(path)
    return paths


def flat(options):
    return [part for option in options.items() for part in option]


def test_complete_writes_every_completion_and_a_contact_sheet(
    igpt, model_folder, photos, tmp_path, palette
):
    output = tmp_path / "out"
    options = {
        "--model": model_folder,
        "--output": output,
        "--keep-rows": 2,
        "--num-completions": 3,
        "--seed": 5,
    }
    status, printed, errors = igpt("complete", *photos, *flat(options))
    assert status == 0, errors
    assert str(output) in printed
    names = {path.name for path in output.iterdir()}
    assert names == {"contact-sheet.png", "result.json"} | {
        f"{index:03d}-{stem}-{number:02d}.png"
        for index, stem in enumerate(["photo", "other"])
        for number in range(3)
    }
    model = igpt_keras.load(model_folder)
    images = np.stack([read_image(path, 4) for path in photos])
    expected = model.generate(images, keep_rows=2, num_completions=3, seed=5).images
    written = np.asarray(Image.open(output / "001-other-02.png"))
    np.testing.assert_array_equal(written, expected[1, 2])
    kept = palette.detokenize(palette.tokenize(images[1]))[:2]
    np.testing.assert_array_equal(written[:2], kept)


def test_a_mask_is_white_where_pixels_are_filled(igpt, model_folder, photos, tmp_path, palette):
    # As wide as high, and twice the model's size: a mask is averaged down as the images are.
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6, 4:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    output = tmp_path / "out"
    options = {
        "--model": model_folder,
        "--output": output,
        "--mask": tmp_path / "mask.png",
        "--num-completions": 2,
    }
    arguments = ("complete", photos[0], "--entropy", "--scale", 3, *flat(options))
    status, printed, errors = igpt(*arguments)
    assert status == 0, errors
    known = np.ones((4, 4), bool)
    known[1:3, 2:] = False
    images = read_image(photos[0], 4)[None]
    model = igpt_keras.load(model_folder)
    expected = model.generate(images, known_mask=known, num_completions=2)
    enlarged = np.asarray(Image.open(output / "000-photo-01.png"))
    written = enlarged[::3, ::3]
    np.testing.assert_array_equal(written.repeat(3, axis=0).repeat(3, axis=1), enlarged)
    np.testing.assert_array_equal(written, expected.images[0, 1])
    original = palette.detokenize(palette.tokenize(images[0]))
    np.testing.assert_array_equal(written[known], original[known])
    assert Image.open(output / "entropy.png").width > Image.open(output / "000-photo-01.png").width


def test_likelihoods_are_printed_and_written(igpt, model_folder, photos, tmp_path):
    output = tmp_path / "out"
    options = {
        "--model": model_folder,
        "--output": output,
        "--keep-rows": 1,
        "--num-completions": 2,
    }
    status, printed, errors = igpt("complete", *photos, *flat(options))
    assert status == 0, errors
    images = np.stack([read_image(path, 4) for path in photos])
    expected = igpt_keras.load(model_folder).generate(images, keep_rows=1, num_completions=2)
    records = read_result(output).metrics["completions"]
    assert len(records) == 4
    for record, sampled, total in zip(
        records,
        expected.log_likelihood.reshape(-1),
        expected.total_log_likelihood.reshape(-1),
        strict=True,
    ):
        assert record["log_likelihood"] == pytest.approx(sampled, rel=1e-5)
        assert record["total_log_likelihood"] == pytest.approx(total, rel=1e-5)
        assert record["bits_per_sampled_pixel"] == pytest.approx(-sampled / math.log(2) / 12)
        assert record["bits_per_pixel"] == pytest.approx(-total / math.log(2) / 16)
        assert f"{record['file']}  sampled tokens {sampled:.2f} nats" in printed


@pytest.mark.parametrize("kind", ["CMYK", "RGBA", "rotated", "WebP"])
def test_photographs_of_any_kind_are_read_as_a_person_sees_them(
    igpt, model_folder, tmp_path, palette, kind
):
    pixels = np.random.default_rng(3).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    image, path, saving = Image.fromarray(pixels), tmp_path / "photo.png", {}
    if kind == "CMYK":
        image, path = image.convert("CMYK"), tmp_path / "photo.tif"
        pixels = np.asarray(image.convert("RGB"))
    elif kind == "RGBA":
        alpha = np.full((4, 4, 1), 255, np.uint8)
        alpha[0] = 0
        image = Image.fromarray(np.concatenate([pixels, alpha], axis=-1))
        pixels[0] = 255
    elif kind == "rotated":
        saving["exif"] = Image.Exif()
        saving["exif"][0x0112] = 3  # upside down
        pixels = pixels[::-1, ::-1]
    else:
        path, saving = tmp_path / "photo.webp", {"lossless": True}
    image.save(path, **saving)
    output = tmp_path / "out"
    options = {
        "--model": model_folder,
        "--output": output,
        "--keep-rows": 4,
        "--num-completions": 1,
    }
    status, printed, errors = igpt("complete", path, *flat(options))
    assert status == 0, errors
    written = np.asarray(Image.open(output / "000-photo-00.png"))
    np.testing.assert_array_equal(written, palette.detokenize(palette.tokenize(pixels)))


def test_many_images_are_completed_as_one_would_be(igpt, model_folder, tmp_path):
    """In groups, each image with its own seed."""
    generator = np.random.default_rng(4)
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for path in paths:
        Image.fromarray(generator.integers(0, 256, (4, 4, 3)).astype(np.uint8)).save(path)
    options = {"--model": model_folder, "--output": tmp_path / "out", "--keep-rows": 1}
    status, printed, errors = igpt("complete", *paths, "--num-completions", 20, *flat(options))
    assert status == 0, errors
    images = np.stack([read_image(path, 4) for path in paths])
    expected = igpt_keras.load(model_folder).generate(images, keep_rows=1, num_completions=20)
    for index in range(3):
        written = np.asarray(Image.open(tmp_path / "out" / f"00{index}-{index}-19.png"))
        np.testing.assert_array_equal(written, expected.images[index, 19])


@pytest.mark.parametrize(
    "stem",
    [
        pytest.param("a" * 238, marks=pytest.mark.slow),
        os.fsdecode(b"caf\xe9"),
        pytest.param("日本" * 39, marks=pytest.mark.slow),
        "a\nb",
    ],
)
def test_the_result_is_kept_whatever_the_name_of_the_image(igpt, model_folder, tmp_path, stem):
    Image.new("RGB", (4, 4)).save(tmp_path / (stem + ".png"))
    options = {"--model": model_folder, "--output": tmp_path / "out", "--keep-rows": 2}
    status, printed, errors = igpt("complete", tmp_path / (stem + ".png"), *flat(options))
    assert status == 0, errors
    written = [path.name for path in (tmp_path / "out").glob("000-*.png")]
    files = [record["file"] for record in read_result(tmp_path / "out").metrics["completions"]]
    assert len(written) == 4 and sorted(files) == sorted(written)
    assert printed.count("\n") == 5 and all(name in printed for name in written)


def test_names_that_are_not_utf_8_are_printed_as_they_are(model_folder, tmp_path):
    output = os.fsdecode(os.fsencode(tmp_path / "caf") + b"\xe9")
    options = {"--model": model_folder, "--output": output, "--num-samples": 1}
    # A terminal takes bytes; the other outputs of these tests do not.
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    arguments = ["igpt", "sample", *map(str, flat(options))]
    with contextlib.redirect_stdout(terminal), mock.patch("sys.argv", arguments):
        assert cli.run() == 0
    terminal.flush()
    assert os.fsencode(output) in terminal.buffer.getvalue()


@pytest.mark.parametrize("progress", ["auto", "quiet"])
def test_a_terminal_sees_how_many_rows_are_done(
    igpt, model_folder, photos, tmp_path, progress, monkeypatch
):
    shown = io.StringIO()
    monkeypatch.setattr("igpt_keras.cli.stages.Console", partial(Console, file=shown))
    monkeypatch.setattr(Console, "is_terminal", True)
    options = {"--model": model_folder, "--output": tmp_path / "out", "--keep-rows": 2}
    status, _, errors = igpt("complete", photos[0], *flat(options), "--progress", progress)
    assert status == 0, errors
    assert ("4/4" in shown.getvalue()) == (progress == "auto")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--model": "missing"}, "missing does not exist"),
        ({"image": "missing.png"}, "error: No such file or directory: 'missing.png'"),
        ({"image": __file__}, "cannot be read as an image"),
        ({"--mask": "photo.png"}, "give either keep_rows or mask"),
        ({"--draft": "draft.npz"}, "error: No such file or directory: 'draft.npz'"),
        ({"--num-steps": 3}, "num_steps=3 is for BERT models"),
        ({"--keep-rows": 5}, "keep_rows must lie in 0…4"),
        ({"--keep-rows": -1}, "keep_rows must be an integer >= 0, got -1"),
        ({"--num-completions": 0}, "0 is not in the range x>=1"),
        ({"--temperature": -1}, "temperature must be finite and >= 0"),
        ({"--top-p": 2}, "top_p must be above 0 and at most 1"),
        ({"--output": "."}, "exists already"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    igpt, model_folder, photos, tmp_path, monkeypatch, change, message
):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    image = change.get("image", photos[0])
    options = {"--model": model_folder, "--output": "out", "--keep-rows": 2, **change}
    options.pop("image", None)
    status, printed, errors = igpt("complete", photos[1], image, *flat(options))
    assert status == 2, errors
    assert message in errors
    assert errors.startswith("igpt: error: ")
    assert errors.count("\n") == 1
    assert set(tmp_path.rglob("*")) == before


def test_unknown_commands_and_options_are_refused(igpt):
    status, printed, errors = igpt("compleat")
    assert status == 2, errors
    assert "No such command 'compleat'" in errors
    status, printed, errors = igpt("complete", "--sed", "1")
    assert status == 2, errors
    assert "No such option" in errors


def test_colors_far_from_the_model_s_are_a_line_that_names_the_file(
    igpt, config, palette, randomized, tmp_path
):
    model = randomized(ImageGPT(config, tokenizer=palette))
    near = palette.rgb[np.arange(16) % 8].reshape(4, 4, 3)
    # The corner of the cube of colors that is farthest from the palette.
    corners = np.array(np.meshgrid(*[[0, 255]] * 3)).reshape(3, 8).T
    distances = ((corners[:, None] - palette.rgb.astype(float)) ** 2).sum(axis=-1).min(axis=1)
    far = np.broadcast_to(corners[distances.argmax()], (4, 4, 3)).astype(np.uint8)
    error = math.sqrt(distances.max() / 3)
    assert error > 30
    for name, image in (("near", near), ("far", far)):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    for name, usual, told in (
        ("unknown", None, ""),
        ("far", 2.0, ", 2.0 for images like those it was trained on"),
        ("near", error / 2.4, None),
    ):
        training = {} if usual is None else {"tokenizer_rmse": usual}
        folder = model.save_to_preset(tmp_path / f"model-{name}", training=training)
        options = {"--model": folder, "--output": tmp_path / f"out-{name}", "--keep-rows": 2}
        images = (tmp_path / "near.png", tmp_path / "far.png")
        status, _, errors = igpt("complete", *images, *flat(options), "--num-completions", 1)
        assert status == 0, errors
        expected = (
            []
            if told is None
            else [
                f"igpt: warning: {images[1]} has colors that the model cannot show: RMSE "
                f"{error:.1f} of 255{told}; completions will look different"
            ]
        )
        assert errors.splitlines() == expected


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help_and_one_form_of_error(igpt, command):
    status, printed, errors = igpt(command, "--help")
    assert status == 0, errors
    assert f"igpt {command}" in printed
    commands = ((),)
    if command in ("client", "tokenizer", "tune"):
        group = cli.igpt.get_command(None, command)
        commands = [(name,) for name in group.list_commands(None)]
    for names in commands:
        status, printed, errors = igpt(command, *names, "--no-such-option")
        assert (status, printed) == (2, "")
        path = " ".join(("igpt", command, *names))
        assert errors.startswith("igpt: error: No such option '--no-such-option'")
        assert errors.endswith(f" (see {path} --help)\n") and errors.count("\n") == 1
