import numpy as np
import pytest
from PIL import Image

from igpt_keras import ColorPalette, ImageGPT
from igpt_keras.data.data_set import open_data
from igpt_keras.evaluation.reconstructions import Reconstructions
from igpt_keras.pictures.contact_sheets import swatches
from igpt_keras.runs.result import read_result

FITTED = 16


@pytest.fixture
def run(igpt):
    """Runs `igpt tokenizer …`; gives the status, the lines on stdout and those on stderr."""

    def run_tokenizer(*arguments):
        status, out, err = igpt("tokenizer", *arguments)
        return status, out.splitlines(), err.splitlines()

    return run_tokenizer


@pytest.fixture
def files(tmp_path):
    """Two image files of 8×8 pixels, and what they hold."""
    images = np.random.default_rng(8).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    paths = [tmp_path / "first.png", tmp_path / "second.bmp"]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths, images


@pytest.fixture
def palette_file(palette, tmp_path):
    path = tmp_path / "palette.npy"
    palette.save(path)
    return path


def fit(run, output, *more):
    return run(
        *("fit", "palette", "--data", "digits", "--image-size", 8, "--output", output),
        *("--num-colors", FITTED, *more),
    )


def test_fit_to_all_training_images_equals_the_library(run, tmp_path):
    status, out, err = fit(run, tmp_path / "digits.npy")
    assert (status, err) == (0, [])
    train = open_data("digits").train.images
    expected = ColorPalette.fit(train, FITTED)
    np.testing.assert_allclose(
        ColorPalette.load(tmp_path / "digits.npy").colors, expected.colors, atol=1e-6
    )
    assert out[0].startswith(f"Fitted {FITTED} colors to {len(train):,} images; ")
    assert out[1] == f"Wrote {tmp_path / 'digits.npy'}"


def test_fit_draws_images_and_pixels_by_the_seed(run, tmp_path):
    few = ("--max-images", 20, "--max-pixels", 300)
    fits = {}
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        status, out, _ = fit(run, tmp_path / f"{name}.npy", *few, "--seed", seed)
        assert status == 0
        assert "to 20 images" in out[0]
        fits[name] = ColorPalette.load(tmp_path / f"{name}.npy").colors
    np.testing.assert_array_equal(fits["first"], fits["again"])
    assert not np.array_equal(fits["first"], fits["other"])


def test_fit_mixes_sources_by_weight(run, tmp_path):
    folders = {"black": 0, "white": 255}
    for name, level in folders.items():
        (tmp_path / name).mkdir()
        for index in range(6):
            image = np.full((2, 2, 3), level, np.uint8)
            Image.fromarray(image).save(tmp_path / name / f"{index}.png")
    sources = [f"folder:{tmp_path}/black@weight=3", f"folder:{tmp_path}/white@weight=1"]
    output = tmp_path / "mixed.npy"
    status, out, _ = run(
        *("fit", "palette", "--data", sources[0], "--data", sources[1], "--image-size", 2),
        *("--num-colors", 1, "--max-images", 4, "--output", output),
    )
    assert status == 0
    # Three black images and a white one.
    np.testing.assert_allclose(ColorPalette.load(output).colors, [[-0.5] * 3], atol=1e-6)


def test_show_draws_the_palette(run, palette, palette_file, tmp_path):
    output = tmp_path / "palette.png"
    status, out, _ = run("show", palette_file, "--output", output)
    assert status == 0
    assert out == [f"Wrote {output}: 8 tokens"]
    colors = swatches(palette.rgb[:, None, None], "8 tokens")
    np.testing.assert_array_equal(np.asarray(Image.open(output)), colors)


def test_show_draws_images_and_what_their_tokens_stand_for(
    run, palette, palette_file, files, tmp_path
):
    paths, images = files
    output = tmp_path / "shown.png"
    status, out, _ = run("show", palette_file, *paths, "--image-size", 8, "--output", output)
    assert status == 0
    tokens = palette.tokenize(images)
    error = np.sqrt(np.mean((images - palette.detokenize(tokens).astype(float)) ** 2))
    decibels = 10 * np.log10(255**2 / error**2)
    shares = np.unique(tokens, return_counts=True)[1] / tokens.size
    perplexity = np.prod(shares**-shares)
    assert out == [
        f"Wrote {output}: 8 tokens, 2 images; RMSE {error:.2f} of 255, PSNR {decibels:.1f} dB; "
        f"{len(shares)} of 8 tokens used, perplexity {perplexity:.1f}"
    ]
    picture = np.asarray(Image.open(output))
    height = swatches(palette.rgb[:, None, None], "8 tokens").height
    reconstructions = Reconstructions.of(palette, images)
    assert str(reconstructions) in out[0]
    sheet = reconstructions.sheet([path.name for path in paths])
    np.testing.assert_array_equal(picture[height:, : sheet.width], sheet)


def test_show_takes_the_palette_and_the_size_of_a_model(run, config, palette, files, tmp_path):
    folder = ImageGPT(config, tokenizer=palette).save_to_preset(tmp_path / "model")
    paths, images = files
    status, out, _ = run("show", folder, paths[0], "--output", tmp_path / "shown.png")
    assert status == 0
    small = images[0].reshape(4, 2, 4, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)
    assert f"RMSE {palette.reconstruction_error(small):.2f} " in out[0]


def test_show_draws_images_of_a_source(run, palette, palette_file, tmp_path):
    status, out, _ = run(
        *("show", palette_file, "--data", "digits", "--num-images", 3, "--image-size", 8),
        *("--output", tmp_path / "shown.png"),
    )
    assert status == 0
    assert "8 tokens, 3 images; RMSE" in out[0]


def test_images_of_palette_colors_have_no_error(run, palette, palette_file, tmp_path):
    Image.fromarray(palette.rgb.reshape(2, 4, 3)[:, :2]).save(tmp_path / "exact.png")
    status, out, _ = run(
        *("show", palette_file, tmp_path / "exact.png", "--image-size", 2),
        *("--output", tmp_path / "shown.png"),
    )
    assert status == 0
    assert out[0].endswith("8 tokens, 1 image; no error; 4 of 8 tokens used, perplexity 4.0")


@pytest.mark.parametrize("command", ["fit palette", "show"])
def test_an_existing_output_stays_unless_overwritten(run, palette_file, tmp_path, command):
    output = tmp_path / "mine.npy"
    output.write_bytes(b"mine")
    arguments = {
        "fit palette": [
            "--data",
            "digits",
            "--image-size",
            8,
            "--num-colors",
            2,
            "--max-images",
            9,
        ],
        "show": [palette_file],
    }[command]
    status, _, err = run(*command.split(), *arguments, "--output", output)
    assert (status, len(err)) == (2, 1)
    assert "exists already" in err[0]
    assert output.read_bytes() == b"mine"
    assert run(*command.split(), *arguments, "--output", output, "--overwrite")[0] == 0
    assert output.read_bytes() != b"mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "missing.npy"], "No such file or directory: 'missing.npy'"),
        (["show", "missing"], "missing does not exist"),
        (["show", "PALETTE", "PALETTE"], "palette.npy cannot be read as an image"),
        (
            ["show", "PALETTE", "--data", "photos"],
            "data must be KIND:LOCATION, such as folder:",
        ),
        (["show", "PALETTE", "a.png", "--data", "digits"], "give IMAGES or --data, not both"),
        (["fit", "palette", "--data", "digits"], "output must end in .npy"),
        (["fit", "vqvae", "--data", "digits", "--image-size", "9"], "size must be a multiple of 2"),
        (["fit", "vqvae", "--data", "folder:nowhere"], "nowhere is not a folder of images"),
        (["fit", "vqvae", "--data", "digits", "--output", "palette.npy"], "exists already"),
        (["fit", "vqvae", "--resume", "missing"], "missing is not the folder of a run"),
        (["fit", "palette", "--data", "digits", "--output", "x.npy"], "ask for at most"),
    ],
)
def test_mistakes_are_named_and_leave_nothing(
    run, palette_file, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    arguments = [palette_file if argument == "PALETTE" else argument for argument in arguments]
    if "--output" not in arguments:
        arguments += ["--output", "out.png"]
    status, _, err = run(*arguments)
    assert status == 2
    assert message in err[-1]
    assert list(tmp_path.iterdir()) == [palette_file]


@pytest.mark.slow
def test_from_images_to_an_export_with_a_vqvae(igpt, tmp_path):
    """Every command takes the folder of the fitted tokenizer, or a model that carries it."""
    digits, folder = ["--data", "digits"], tmp_path / "vqvae"
    image = tmp_path / "digit.png"
    pixels = open_data("digits").test.images[0]
    Image.fromarray(np.broadcast_to(pixels, (8, 8, 3))).save(image)
    sizes = ["--num-layers", 1, "--hidden-dim", 16, "--num-heads", 1, "--steps", 8]
    model = ["--model", tmp_path / "model"]
    printed = {}
    for name, *command in (
        ("tokenizer", "fit", "vqvae", *digits, "--image-size", 8, "--codebook-size", 32)
        + ("--steps", 300, "--learning-rate", 0.005, "--output", folder),
        ("tokenizer", "show", folder, *digits, "--output", tmp_path / "shown.png"),
        ("pretrain", *digits, "--tokenizer", folder, *sizes, "--output", tmp_path / "model"),
        ("complete", image, *model, "--keep-rows", 4, "--output", tmp_path / "completed"),
        ("sample", *model, "--num-samples", 2, "--output", tmp_path / "samples"),
        ("report", folder, tmp_path / "model", "--output", tmp_path / "report"),
        ("export", tmp_path / "model", "--output", tmp_path / "served"),
    ):
        status, out, err = igpt(name, *command)
        assert status == 0, err
        printed[name] = out
    assert printed["tokenizer"].startswith(f"Wrote {tmp_path / 'shown.png'}: 32 tokens, 8 images; ")
    # Sixteen tokens an image, of 32: better than the error of 2 colors for 64 pixels.
    colors = ColorPalette.fit(open_data("digits").train.images, 2)
    held_out = open_data("digits").validation.images
    error = np.sqrt(np.mean(colors.reconstruction_error(held_out) ** 2))
    assert read_result(folder).metrics["rmse"] < error
    completed = np.asarray(Image.open(next((tmp_path / "completed").glob("000-*.png"))))
    assert completed.shape == (8, 8, 3)
    np.testing.assert_array_equal(completed[:4], np.broadcast_to(pixels, (8, 8, 3))[:4])
