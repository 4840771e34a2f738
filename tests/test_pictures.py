import numpy as np
from PIL import Image

from igpt_keras.pictures import GAP, UNKNOWN, contact_sheet, keep_top, save_png


def test_a_contact_sheet_holds_every_image_enlarged(tmp_path):
    images = np.random.default_rng(14).integers(0, 256, (2, 3, 4, 4, 3)).astype(np.uint8)
    sheet = contact_sheet(images, cell=32)
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


def test_keep_top_hides_the_rows_below_and_copies():
    images = np.full((2, 4, 4, 3), 9, np.uint8)
    kept = keep_top(images, 3)
    assert (kept[:, :3] == 9).all()
    assert (kept[:, 3] == UNKNOWN).all()
    assert (images == 9).all()
