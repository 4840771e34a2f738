import concurrent.futures

import numpy as np
import pytest

from igpt_keras import ColorPalette, InputError
from igpt_keras.tokenizers.color_palette import PIXELS_PER_LOOKUP


def brute_force(palette, images):
    """Nearest colors by comparing every pixel with every color, one at a time."""
    tokens = np.empty(images.shape[:-1], np.int32)
    for index in np.ndindex(tokens.shape):
        differences = images[index] / 127.5 - 1 - palette.colors.astype(np.float64)
        tokens[index] = np.argmin((differences**2).sum(axis=1))
    return tokens


@pytest.fixture
def images():
    return np.random.default_rng(2).integers(0, 256, (3, 5, 7, 3)).astype(np.uint8)


def test_nearest_is_the_exact_nearest_color(palette, images):
    tokens = palette.nearest(images)
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens, brute_force(palette, images))
    np.testing.assert_array_equal(palette.nearest(images), tokens)
    np.testing.assert_array_equal(palette.nearest(images[1]), tokens[1])


def palettes():
    """Palettes for which a bound or a tie could go wrong, by name."""
    generator = np.random.default_rng(3)
    few = generator.uniform(-1, 1, (5, 3))
    corners = np.stack(np.meshgrid(*[[-1, 1]] * 3), axis=-1).reshape(-1, 3)
    grid = np.stack(np.meshgrid(*[[-1, -0.5, 0, 0.5, 1]] * 3), axis=-1).reshape(-1, 3)
    return {
        "one color": few[:1],
        "corners of the cube": corners,
        "grid, shuffled and doubled": generator.permutation(np.concatenate([grid, grid])),
        "as many grays as a byte can count": np.linspace(-1, 1, 256)[:, None].repeat(3, axis=1),
        "two, alike to a gray but for rounding": few[0][np.array([[0, 1, 2], [2, 1, 0]])],
        "just below a block's last gray": [
            [14.9 / 127.5 - 1 - 0.1] * 3,
            [14.9 / 127.5 - 1 + 0.1] * 3,
        ],
        "just above a block's first gray": [
            [16.1 / 127.5 - 1 + 0.1] * 3,
            [16.1 / 127.5 - 1 - 0.1] * 3,
        ],
        "far more colors in a corner": np.concatenate([few, generator.uniform(0.9, 1, (300, 3))]),
        "one apart in the last bit": np.nextafter(
            np.float32(few[:1]), np.float32([[1], [-1], [1]])
        ),
        "random": generator.uniform(-1, 1, (700, 3)),
    }


@pytest.mark.parametrize("colors", palettes().values(), ids=palettes())
def test_the_table_equals_brute_force(colors):
    """At random, on the faces of its cubes, half-way between colors, and for all grays."""
    palette = ColorPalette(colors)
    generator = np.random.default_rng(4)
    edges = np.array([0, 1, 7, 8, 63, 64, 127, 128, 191, 192, 247, 248, 254, 255])
    images = np.concatenate(
        [
            generator.integers(0, 256, (400, 3)),
            generator.choice(edges, (400, 3)),
            palette.rgb[:400],
            (palette.rgb[:400] / 2 + palette.rgb[:400][::-1] / 2).round(),
            np.arange(256)[:, None].repeat(3, axis=1),
        ]
    ).astype(np.uint8)[None]
    np.testing.assert_array_equal(palette.nearest(images), brute_force(palette, images))


def test_more_colors_than_16_bits_can_count():
    generator = np.random.default_rng(5)
    palette = ColorPalette(generator.uniform(-1, 1, (70_000, 3)))
    images = palette.rgb[[0, 65_534, 65_535, 65_536, 69_999]][None]
    tokens = palette.nearest(images)
    assert tokens.max() > 65_535
    np.testing.assert_array_equal(tokens, brute_force(palette, images))


def test_pixels_of_any_layout_and_number_are_looked_up_one_by_one(palette):
    generator = np.random.default_rng(6)
    levels = generator.integers(0, 256, (3, PIXELS_PER_LOOKUP // 2 + 1)).astype(np.uint8)
    by_level = np.arange(256, dtype=np.uint8).reshape(1, 256, 1).repeat(3, axis=-1)
    expected = brute_force(palette, by_level)[0][levels]
    gray = np.broadcast_to(levels[..., None], (*levels.shape, 3))
    np.testing.assert_array_equal(palette.nearest(gray), expected)
    np.testing.assert_array_equal(palette.nearest(gray[::-1, ::2]), expected[::-1, ::2])
    assert palette.nearest(gray[:0]).shape == (0, PIXELS_PER_LOOKUP // 2 + 1)


def test_tokens_are_the_nearest_colors_in_raster_order(palette):
    images = np.random.default_rng(8).integers(0, 256, (2, 3, 5, 5, 3)).astype(np.uint8)
    expected = brute_force(palette, images).reshape(2, 3, 25)
    tokens = palette.tokenize(images)
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens, expected)
    np.testing.assert_array_equal(palette.tokenize(images[1, 2]), expected[1, 2])
    assert palette.tokenize(images[0, :0]).shape == (0, 25)
    gray = images[..., :1]
    np.testing.assert_array_equal(
        palette.tokenize(gray), palette.tokenize(np.repeat(gray, 3, axis=-1))
    )


def test_threads_that_share_a_palette_agree(images):
    """The table is filled while others read it."""
    colors = np.random.default_rng(7).uniform(-1, 1, (50, 3))
    expected = brute_force(ColorPalette(colors), images)
    for _ in range(5):
        palette = ColorPalette(colors)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(palette.nearest, [images] * 16))
        for tokens in answers:
            np.testing.assert_array_equal(tokens, expected)


def test_reconstruction_error_is_the_root_mean_square_of_each_image(palette):
    images = np.random.default_rng(9).integers(0, 256, (3, 6, 6, 3)).astype(np.uint8)
    restored = palette.rgb[brute_force(palette, images)].astype(float)
    expected = [
        np.linalg.norm(after - before) / np.sqrt(before.size)
        for before, after in zip(images, restored, strict=True)
    ]
    np.testing.assert_allclose(palette.reconstruction_error(images), expected, rtol=1e-12)
    exact = palette.rgb.reshape(2, 2, 2, 3)
    np.testing.assert_array_equal(palette.reconstruction_error(exact), [0, 0])


def test_ties_go_to_the_lowest_index():
    palette = ColorPalette([[1, 1, 1], [-1, -1, -1], [-1, -1, -1], [1, 1, 1]])
    black_and_white = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    np.testing.assert_array_equal(palette.nearest(black_and_white), [[1, 0]])


def test_detokenize_follows_the_published_formula(palette):
    tokens = np.arange(8).reshape(2, 4)
    expected = np.rint(127.5 * (palette.colors[tokens] + 1)).astype(np.uint8)
    images = palette.detokenize(tokens)
    np.testing.assert_array_equal(images, expected.reshape(2, 2, 2, 3))
    np.testing.assert_array_equal(palette.tokenize(images), tokens)
    np.testing.assert_array_equal(palette.detokenize(tokens[1]), images[1])


class TestInGraph:
    def test_tokens_and_images_are_those_outside_the_graph(self):
        tf = pytest.importorskip("tensorflow")
        generator = np.random.default_rng(12)
        palette = ColorPalette(generator.uniform(-1, 1, (64, 3)), image_size=16)
        images = generator.integers(0, 256, (20, 16, 16, 3)).astype(np.uint8)
        tokens = palette.tokenize(images)
        np.testing.assert_array_equal(tf.function(palette.tokenize_in_graph)(images), tokens)
        np.testing.assert_array_equal(
            tf.function(palette.detokenize_in_graph)(tokens), palette.detokenize(tokens)
        )

    def test_ties_go_to_the_lowest_index(self):
        pytest.importorskip("tensorflow")
        palette = ColorPalette([[1, 1, 1], [-1, -1, -1], [-1, -1, -1]], image_size=2)
        black = np.zeros((1, 2, 2, 3), np.uint8)
        np.testing.assert_array_equal(palette.tokenize_in_graph(black), [[1, 1, 1, 1]])


class TestImageSize:
    def test_a_palette_is_for_any_size_until_it_is_bound(self, palette):
        assert palette.image_size is None
        assert palette.tokenize(np.zeros((5, 5, 3), np.uint8)).shape == (25,)
        with pytest.raises(InputError, match="image_size of the palette is not set"):
            palette.grid  # noqa: B018
        bound = palette.bind(4)
        assert (bound.image_size, bound.grid, palette.image_size) == (4, (4, 4), None)
        assert bound.bind(6).grid == (6, 6)
        with pytest.raises(InputError, match="images must be 4×4, got 5×5"):
            bound.tokenize(np.zeros((5, 5, 3), np.uint8))
        with pytest.raises(InputError, match=r"shape \[..., 16\], got \[2, 25\]"):
            bound.detokenize(np.zeros((2, 25), np.int32))

    def test_images_must_be_square(self, palette):
        with pytest.raises(InputError, match="images must be square, got 4×5"):
            palette.tokenize(np.zeros((2, 4, 5, 3), np.uint8))
        with pytest.raises(InputError, match=r"n a square, got \[2, 20\]"):
            palette.detokenize(np.zeros((2, 20), np.int32))

    def test_a_fitted_palette_is_for_the_size_of_its_images(self, images):
        assert ColorPalette.fit(images[:, :5, :5], 4).image_size == 5
        assert ColorPalette.fit(images, 4).image_size is None


def test_the_fingerprint_is_that_of_the_colors(palette):
    same = ColorPalette(palette.colors.tolist())
    assert same.fingerprint() == palette.bind(9).fingerprint() == palette.fingerprint()
    other = palette.colors.copy()
    other[3, 1] = np.nextafter(other[3, 1], np.float32(1))
    assert ColorPalette(other).fingerprint() != palette.fingerprint()
    assert ColorPalette(palette.colors[::-1]).fingerprint() != palette.fingerprint()


def test_fit_finds_well_separated_colors_from_any_seed():
    rng = np.random.default_rng(0)
    centers = np.array([[20, 20, 20], [60, 200, 60], [230, 230, 230]])
    labels = rng.integers(0, 3, (4, 16, 16))
    images = (centers[labels] + rng.integers(-5, 6, (4, 16, 16, 3))).astype(np.uint8)
    for seed in (0, 1):
        palette = ColorPalette.fit(images, 3, seed=seed)
        means = [images[labels == label].mean(axis=0) / 127.5 - 1 for label in range(3)]
        np.testing.assert_allclose(palette.colors, means, atol=1e-6)
        np.testing.assert_array_equal(palette.nearest(images), labels)


def test_fit_with_as_many_colors_as_there_are_is_lossless():
    gray = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1) * 17
    palette = ColorPalette.fit(gray, 16)
    restored = palette.detokenize(palette.tokenize(gray))
    np.testing.assert_array_equal(restored, np.repeat(gray, 3, axis=-1))


def test_fit_on_a_sample_is_reproducible(images):
    fits = [ColorPalette.fit(images, 4, seed=3, max_pixels=50).colors for _ in range(2)]
    np.testing.assert_array_equal(*fits)


def test_fewer_distinct_colors_than_asked_for_is_an_error():
    images = np.zeros((2, 4, 4, 3), np.uint8)
    images[0, 0, 0] = 255
    with pytest.raises(InputError, match="num_colors=3 .* only 2 distinct colors"):
        ColorPalette.fit(images, 3)


def test_save_writes_the_published_format(palette, tmp_path):
    path = tmp_path / "kmeans_centers.npy"
    palette.save(path)
    colors = np.load(path)
    assert colors.dtype == np.float32
    assert colors.shape == (8, 3)
    np.testing.assert_array_equal(ColorPalette.load(path).colors, palette.colors)
    with pytest.raises(FileExistsError):
        ColorPalette(-colors).save(path, overwrite=False)
    ColorPalette(-colors).save(path)
    np.testing.assert_array_equal(ColorPalette.load(path).colors, -colors)


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
        palette.tokenize(images)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [([8], "0…7, got 8…8"), ([-1], "0…7, got -1…-1"), ([0.5], "integers, got float64")],
)
def test_tokens_outside_the_palette_are_named(palette, tokens, message):
    with pytest.raises(InputError, match=message):
        palette.detokenize(tokens)


@pytest.mark.parametrize(
    ("colors", "message"),
    [
        (np.zeros((4, 4)), r"shape \[k, 3\], got \[4, 4\]"),
        ([[0, 0, 1.5]], r"\[-1, 1\]"),
        ([[0, 0, np.nan]], "finite"),
    ],
)
def test_unusable_colors_are_named(colors, message, tmp_path):
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
