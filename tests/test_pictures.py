import os

import numpy as np
import pytest
from PIL import Image

from igpt_keras.pictures import (
    BACKGROUND,
    GAP,
    UNKNOWN_COLOR,
    color_scale,
    completion_names,
    contact_sheet,
    heat_map,
    keep_known,
    keep_top,
    save_png,
    stacked,
    swatches,
)


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


def test_headings_stand_above_the_images():
    image = np.zeros((4, 4, 3), np.uint8)
    plain, headed = contact_sheet([[image]]), contact_sheet([[image]], ["original"])
    assert headed.height > plain.height
    above = np.asarray(headed)[: headed.height - plain.height]
    assert (above < 128).any()


def test_a_heading_longer_than_its_image_is_not_cut_off():
    image = np.zeros((1, 1, 3), np.uint8)
    short, long = (contact_sheet([[image]], [text], cell_size=4) for text in ("a", "a longer one"))
    assert long.width > short.width
    assert (np.asarray(long)[:, -GAP:] == BACKGROUND).all()


def test_captions_stand_right_of_the_rows_they_belong_to():
    image = np.zeros((4, 4, 3), np.uint8)
    plain = contact_sheet([[image]] * 2, cell_size=32)
    captioned = np.asarray(contact_sheet([[image]] * 2, cell_size=32, captions=["", "error"]))
    np.testing.assert_array_equal(captioned[:, : plain.width], plain)
    right = (captioned[:, plain.width :] < 128).any(axis=(1, 2))
    first, second = GAP, GAP + 32 + GAP
    assert right[second : second + 32].any()
    assert not right[first : first + 32].any()


def test_swatches_show_every_color_in_order():
    colors = np.random.default_rng(15).integers(0, 256, (7, 3)).astype(np.uint8)
    squares = contact_sheet([[color.reshape(1, 1, 3) for color in colors[:1]]], ["7 colors"], 8)
    top = squares.height - 8 - GAP
    sheet = np.asarray(swatches(colors, columns=3, cell_size=8))
    for index, color in enumerate(colors):
        y, x = divmod(index, 3)
        y, x = top + y * (8 + GAP), GAP + x * (8 + GAP)
        assert (sheet[y : y + 8, x : x + 8] == color).all()
    # Nothing follows the last color, in the last row.
    assert (sheet[top + 2 * (8 + GAP) :, GAP + 8 + GAP : 3 * (8 + GAP)] == BACKGROUND).all()


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


def test_keep_top_hides_the_rows_below_and_copies():
    images = np.full((2, 4, 4, 3), 9, np.uint8)
    kept = keep_top(images, 3)
    assert (kept[:, :3] == 9).all()
    assert (kept[:, 3] == UNKNOWN_COLOR).all()
    assert (images == 9).all()


def test_keep_known_hides_the_rest():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 3)).astype(np.uint8)
    known = np.eye(3, dtype=bool)
    kept = keep_known(images, known)
    assert kept.dtype == np.uint8
    np.testing.assert_array_equal(kept[:, known], images[:, known])
    assert (kept[:, ~known] == UNKNOWN_COLOR).all()


def test_heat_is_the_color_map_that_it_says():
    colormaps = pytest.importorskip("matplotlib").colormaps
    values = np.linspace(0, 3, 100).reshape(10, 10)
    expected = 255 * colormaps["inferno"](values / 3)[..., :3]
    # Between 18 of its 256 colors lines are drawn.
    np.testing.assert_allclose(heat_map(values, 3), expected, atol=7)
    np.testing.assert_array_equal(heat_map(np.array([4.0]), 3), heat_map(np.array([3.0]), 3))


def test_a_color_scale_goes_from_dark_to_light():
    scale = np.asarray(color_scale(2.5, "nll", width=100))
    np.testing.assert_array_equal(scale[GAP, GAP : GAP + 100], heat_map(np.linspace(0, 1, 100), 1))
    assert (scale[-GAP - 5] < 128).any()
