import numpy as np
import pytest

from igpt_keras import ColorPalette, InputError


def brute_force(palette, images):
    """Nearest colours by comparing every pixel with every colour, one at a time."""
    tokens = np.empty(images.shape[:-1], np.int32)
    for index in np.ndindex(tokens.shape):
        differences = images[index] / 127.5 - 1 - palette.colors.astype(np.float64)
        tokens[index] = np.argmin((differences**2).sum(axis=1))
    return tokens


@pytest.fixture
def images():
    return np.random.default_rng(2).integers(0, 256, (3, 5, 7, 3)).astype(np.uint8)


def test_quantize_is_the_exact_nearest_colour(palette, images):
    tokens = palette.quantize(images)
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens, brute_force(palette, images))
    np.testing.assert_array_equal(palette.quantize(images), tokens)
    np.testing.assert_array_equal(palette.quantize(images[1]), tokens[1])


def test_ties_go_to_the_lowest_index():
    palette = ColorPalette([[1, 1, 1], [-1, -1, -1], [-1, -1, -1], [1, 1, 1]])
    black_and_white = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    np.testing.assert_array_equal(palette.quantize(black_and_white), [[1, 0]])


def test_dequantize_follows_the_published_formula(palette):
    tokens = np.arange(8).reshape(2, 4)
    expected = np.rint(127.5 * (palette.colors[tokens] + 1)).astype(np.uint8)
    np.testing.assert_array_equal(palette.dequantize(tokens), expected)
    np.testing.assert_array_equal(palette.quantize(palette.dequantize(tokens)), tokens)


def test_fit_finds_well_separated_colours_from_any_seed():
    rng = np.random.default_rng(0)
    centers = np.array([[20, 20, 20], [60, 200, 60], [230, 230, 230]])
    labels = rng.integers(0, 3, (4, 16, 16))
    images = (centers[labels] + rng.integers(-5, 6, (4, 16, 16, 3))).astype(np.uint8)
    for seed in (0, 1):
        palette = ColorPalette.fit(images, 3, seed=seed)
        means = [images[labels == label].mean(axis=0) / 127.5 - 1 for label in range(3)]
        np.testing.assert_allclose(palette.colors, means, atol=1e-6)
        np.testing.assert_array_equal(palette.quantize(images), labels)


def test_fit_with_as_many_colours_as_there_are_is_lossless():
    grey = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1) * 17
    palette = ColorPalette.fit(grey, 16)
    restored = palette.dequantize(palette.quantize(grey))
    np.testing.assert_array_equal(restored, np.repeat(grey, 3, axis=-1))


def test_fit_on_a_sample_is_reproducible(images):
    fits = [ColorPalette.fit(images, 4, seed=3, max_pixels=50).colors for _ in range(2)]
    np.testing.assert_array_equal(*fits)


def test_fewer_distinct_colours_than_asked_for_is_an_error():
    images = np.zeros((2, 4, 4, 3), np.uint8)
    images[0, 0, 0] = 255
    with pytest.raises(InputError, match="num_colors=3 .* only 2 distinct colours"):
        ColorPalette.fit(images, 3)


def test_save_writes_the_published_format(palette, tmp_path):
    path = tmp_path / "kmeans_centers.npy"
    palette.save(path)
    colors = np.load(path)
    assert colors.dtype == np.float32
    assert colors.shape == (8, 3)
    np.testing.assert_array_equal(ColorPalette.load(path).colors, palette.colors)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 4, 4, 3)), "uint8 .* got float64"),
        (np.zeros((4, 4), np.uint8), r"got \[4, 4\]"),
        (np.zeros((4, 4, 4), np.uint8), r"got \[4, 4, 4\]"),
    ],
)
def test_unusable_images_are_named(palette, images, message):
    with pytest.raises(InputError, match=message):
        palette.quantize(images)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [([8], "0…7, got 8…8"), ([-1], "0…7, got -1…-1"), ([0.5], "integers, got float64")],
)
def test_tokens_outside_the_palette_are_named(palette, tokens, message):
    with pytest.raises(InputError, match=message):
        palette.dequantize(tokens)


@pytest.mark.parametrize(
    ("colors", "message"),
    [
        (np.zeros((4, 4)), r"shape \[k, 3\], got \[4, 4\]"),
        ([[0, 0, 1.5]], r"\[-1, 1\]"),
        ([[0, 0, np.nan]], "finite"),
    ],
)
def test_unusable_colours_are_named(colors, message, tmp_path):
    with pytest.raises(InputError, match=message):
        ColorPalette(colors)
    np.save(tmp_path / "bad.npy", colors)
    with pytest.raises(InputError, match="bad.npy is unusable"):
        ColorPalette.load(tmp_path / "bad.npy")


def test_files_that_are_no_palette_are_named(tmp_path):
    (tmp_path / "text.npy").write_text("not an array")
    with pytest.raises(InputError, match="text.npy is not a .npy file"):
        ColorPalette.load(tmp_path / "text.npy")
    with pytest.raises(FileNotFoundError):
        ColorPalette.load(tmp_path / "missing.npy")
