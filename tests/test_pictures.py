import os

import numpy as np
import pytest
from PIL import Image

from igpt_keras.errors import InputError
from igpt_keras.pictures.completions import (
    check_scale,
    completion_names,
    completion_sheet,
    entropy_sheet,
    known_rows,
    numbered_sheet,
    sample_entropy_sheet,
    write_completions,
    write_samples,
)
from igpt_keras.pictures.contact_sheets import (
    BACKGROUND,
    CHECKERBOARD,
    FRAME_COLOR,
    GAP,
    SQUARE_SIZE,
    color_scale,
    contact_sheet,
    heat_map,
    keep_known,
    save_png,
    stacked,
    swatches,
)


def cells(sheet, rows, columns, size):
    """Finds the cells of a contact sheet by their frames: arrays by row and column."""
    pixels = np.asarray(sheet)
    framed = (pixels == FRAME_COLOR).all(axis=-1)

    def starts(counts):
        return [int(i) + 1 for i in np.flatnonzero(counts >= size) if i + size + 1 < len(counts)]

    lefts = [x for x in starts(framed.sum(axis=0)) if framed[:, x + size].sum() >= size]
    tops = [y for y in starts(framed.sum(axis=1)) if framed[y + size].sum() >= size]
    assert (len(tops), len(lefts)) == (rows, columns)
    return [[pixels[y : y + size, x : x + size] for x in lefts] for y in tops]


def enlarged(image, factor):
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def test_a_contact_sheet_holds_every_image_enlarged(tmp_path):
    images = np.random.default_rng(14).integers(0, 256, (2, 3, 4, 4, 3)).astype(np.uint8)
    sheet = contact_sheet(images, cell_size=32)
    save_png(sheet, tmp_path / "sheet.png")
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))
    for y in range(2):
        for x in range(3):
            top, left = GAP + y * (32 + GAP), GAP + x * (32 + GAP)
            cell = pixels[top : top + 32, left : left + 32]
            np.testing.assert_array_equal(cell, images[y, x].repeat(8, axis=0).repeat(8, axis=1))


def test_texts_stand_where_they_belong_and_move_the_images_aside():
    image = np.zeros((4, 4, 3), np.uint8)
    rows = [[image, image], [image, image]]
    plain = np.asarray(contact_sheet(rows, cell_size=64))

    def text_in(box):
        return ((box > 30) & (box < 128)).any()

    def pixels(**texts):
        return np.asarray(contact_sheet(rows, cell_size=64, **texts))

    for texts in ({"headings": ["original", ""]}, {"title": "A title"}):
        higher = pixels(**texts)
        added = len(higher) - len(plain)
        assert added > 0 and text_in(higher[:added, :64])
        # From the frames on: the tail of a letter may reach into the gap above them.
        frames = higher[added + GAP - 1 :, : plain.shape[1]]
        np.testing.assert_array_equal(frames, plain[GAP - 1 :])

    labeled = pixels(labels=["", "photo"])
    left = labeled.shape[1] - plain.shape[1]
    np.testing.assert_array_equal(labeled[:, left:], plain)
    first, second = GAP, GAP + 64 + GAP
    assert text_in(labeled[second : second + 64, :left])
    assert not text_in(labeled[first : first + 64, :left])

    captioned = pixels(captions=[["one", "two"]])
    line = len(captioned) - len(plain)
    np.testing.assert_array_equal(captioned[: GAP + 64], plain[: GAP + 64])
    for x in (GAP, GAP + 64 + GAP):
        assert text_in(captioned[GAP + 65 : GAP + 64 + line, x : x + 64])
    np.testing.assert_array_equal(captioned[GAP + 65 + line :], plain[GAP + 65 :])


def test_texts_too_long_for_their_place_keep_their_ends():
    image = np.zeros((1, 1, 3), np.uint8)
    name = "photograph" * 30
    kwargs = {"cell_size": 64, "captions": [[name] * 2]}
    long = contact_sheet([[image] * 2], [name] * 2, title=name, labels=[name], **kwargs)
    assert long.width < 800
    assert (np.asarray(long)[:, -GAP + 1 :] == BACKGROUND).all()
    # Names that differ at an end look different.
    sheets = [
        contact_sheet([[image]], labels=[text], cell_size=64)
        for text in ("a" + name, "b" + name, name + "a", name + "b")
    ]
    assert len({sheet.tobytes() for sheet in sheets}) == 4


def test_cells_are_large_enough_to_see_and_multiples_of_the_images():
    for side in (1, 4, 8, 12, 32, 48, 64, 192):
        sheet = contact_sheet([[np.zeros((side, side, 3), np.uint8)]])
        cell = sheet.width - 2 * GAP
        assert cell >= max(4 * side, 96) and cell % side == 0


def test_a_checkerboard_shows_through_transparent_pixels():
    image = np.full((4, 4, 3), 9, np.uint8)
    known = known_rows(4, 3)
    (sheet,) = cells(contact_sheet([[keep_known(image, known)]], cell_size=64), 1, 1, 64)
    (cell,) = sheet
    assert (cell[:48] == 9).all()
    y, x = np.indices((16, 64)) // SQUARE_SIZE
    np.testing.assert_array_equal(cell[48:], CHECKERBOARD[(y + x) % 2])
    assert (image == 9).all()


def test_swatches_show_every_token_in_order():
    colors = np.random.default_rng(15).integers(0, 256, (7, 3)).astype(np.uint8)
    rows = [colors[:3], colors[3:6], colors[6:]]
    sheet = swatches(colors[:, None, None], "7 colors", 3, 24)
    for row, shown in zip(rows, cells(sheet, 3, 3, 24), strict=True):
        for color, cell in zip(row, shown, strict=False):
            assert (cell == color).all()
        for cell in shown[len(row) :]:
            assert (cell == BACKGROUND).all()


def test_stacked_pictures_stand_below_each_other():
    wide, tall = Image.new("RGB", (9, 2), "red"), Image.new("RGB", (3, 5), "blue")
    sheet = stacked([wide, tall])
    assert sheet.size == (9, 7)
    assert sheet.crop((0, 0, 9, 2)).tobytes() == wide.tobytes()
    assert sheet.crop((0, 2, 3, 7)).tobytes() == tall.tobytes()
    assert sheet.getpixel((5, 4)) == BACKGROUND


@pytest.mark.parametrize(
    "name",
    [
        *("a" * 238, "ä" * 127, "photo", "a\nb\x1b[2J", "日本" * 42, ".hidden", "x.tar.gz"),
        os.fsdecode(b"caf\xe9" * 60),
    ],
)
def test_completions_have_names_that_any_file_system_and_terminal_takes(name, tmp_path):
    names = completion_names([name + ".png", tmp_path / (name + ".png")], 3)
    assert len({each for of_image in names for each in of_image}) == 6
    for index, of_image in enumerate(names):
        for number, each in enumerate(of_image):
            assert each.isprintable()
            assert len(each.encode()) < 143, "the least of common file systems"
            assert each.startswith(f"{index:03d}-") and each.endswith(f"-{number:02d}.png")
            save_png(Image.new("RGB", (1, 1)), tmp_path / each)
            assert (tmp_path / each).is_file()


def test_short_names_are_kept():
    assert completion_names(["a/Äpfel 日本.jpg"], 1) == [["000-Äpfel 日本-00.png"]]


def test_keep_known_makes_the_rest_transparent():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 3)).astype(np.uint8)
    known = np.eye(3, dtype=bool)
    kept = keep_known(images, known)
    assert kept.dtype == np.uint8
    np.testing.assert_array_equal(kept[..., :3], images)
    np.testing.assert_array_equal(kept[..., 3], np.where(known, 255, 0)[None].repeat(2, axis=0))


@pytest.fixture
def completed():
    """Two images of 8×8, three completions of each and which pixels were known."""
    generator = np.random.default_rng(3)
    originals = generator.integers(0, 100, (2, 8, 8, 3)).astype(np.uint8)
    completions = generator.integers(0, 100, (2, 3, 8, 8, 3)).astype(np.uint8)
    return originals, completions, generator.random((8, 8)) < 0.5


def test_a_completion_sheet_has_a_row_for_each_image(completed):
    originals, completions, known = completed
    sheet = cells(completion_sheet(*completed, title="Completions"), 2, 5, 128)
    for row, original, images in zip(sheet, originals, completions, strict=True):
        np.testing.assert_array_equal(row[0], enlarged(original, 16))
        given = enlarged(known, 16)
        np.testing.assert_array_equal(row[1][given], row[0][given])
        assert set(row[1][~given].ravel()) == set(CHECKERBOARD.ravel())
        for cell, image in zip(row[2:], images, strict=True):
            np.testing.assert_array_equal(cell, enlarged(image, 16))


def test_entropy_is_below_its_completion_and_only_of_sampled_pixels(completed):
    known = completed[2]
    entropy = np.random.default_rng(4).uniform(0, 1, (2, 3, 8, 8))
    # Larger than every entropy of a sampled pixel, it must not darken them.
    entropy[:, :, known] = 50
    largest = entropy[:, :, ~known].max()
    sheet = cells(entropy_sheet(*completed, entropy), 4, 4, 128)
    for index, (images, below) in enumerate(zip(sheet[::2], sheet[1::2], strict=True)):
        for number in range(3):
            image = completed[1][index, number]
            np.testing.assert_array_equal(images[1 + number], enlarged(image, 16))
            expected = heat_map(entropy[index, number], largest)
            expected[known] = BACKGROUND
            np.testing.assert_array_equal(below[1 + number], enlarged(expected, 16))
        assert (below[0] == BACKGROUND).all()


@pytest.mark.parametrize("grid", [(4, 4), (8, 24), (2, 8), (3, 5)])
def test_entropy_of_tokens_is_shown_at_their_pixels(completed, grid):
    """A pixel that several tokens share has their mean, by area."""
    rows, columns = grid
    entropy = np.random.default_rng(4).uniform(0, 1, (2, 3, *grid))
    parts = entropy.repeat(8, axis=2).repeat(8, axis=3)
    of_pixels = parts.reshape(2, 3, 8, rows, 8, columns).mean(axis=(3, 5))
    found, expected = (
        np.array(cells(entropy_sheet(*completed, values), 4, 4, 128), int)
        for values in (entropy, of_pixels)
    )
    # Rounding may fall either way.
    assert np.abs(found - expected).max() <= 1
    found, expected = (
        np.array(cells(sample_entropy_sheet(values[0], 8), 2, 2, 128), int)
        for values in (entropy, of_pixels)
    )
    assert np.abs(found - expected).max() <= 1


def test_a_sheet_of_samples_is_about_square():
    images = np.random.default_rng(5).integers(0, 256, (7, 4, 4, 3)).astype(np.uint8)
    shown = sum(cells(numbered_sheet(images, "Samples"), 3, 3, 128), [])
    for cell, image in zip(shown, images, strict=False):
        np.testing.assert_array_equal(cell, enlarged(image, 32))


def test_single_files_are_enlarged_on_request(completed, tmp_path):
    originals, completions, known = completed
    names = completion_names(["a.png", "b.png"], 3)
    for scale in (1, 3):
        folder = tmp_path / str(scale)
        folder.mkdir()
        write_completions(folder, names, originals, completions, known, title="", scale=scale)
        written = np.asarray(Image.open(folder / "001-b-02.png"))
        np.testing.assert_array_equal(written, enlarged(completions[1, 2], scale))
        assert write_samples(folder, originals, title="", scale=scale) == ["000.png", "001.png"]
        written = np.asarray(Image.open(folder / "001.png"))
        np.testing.assert_array_equal(written, enlarged(originals[1], scale))
    for scale in (0, 65):
        with pytest.raises(InputError, match=rf"scale must lie in 1…64, got {scale}"):
            check_scale(scale)


def test_heat_is_the_color_map_that_it_says():
    colormaps = pytest.importorskip("matplotlib").colormaps
    values = np.linspace(0, 3, 100).reshape(10, 10)
    expected = 255 * colormaps["inferno"](values / 3)[..., :3]
    # Between 18 of its 256 colors lines are drawn.
    np.testing.assert_allclose(heat_map(values, 3), expected, atol=7)
    np.testing.assert_array_equal(heat_map(np.array([4.0]), 3), heat_map(np.array([3.0]), 3))


def test_a_color_scale_goes_from_dark_to_light():
    scale = np.asarray(color_scale(2.5, "nats", width=100))
    np.testing.assert_array_equal(scale[GAP, GAP : GAP + 100], heat_map(np.linspace(0, 1, 100), 1))
    assert (scale[-2 * GAP - 5] < 128).any()
