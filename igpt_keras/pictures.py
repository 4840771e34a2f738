"""Contact sheets: many small images as one picture to look at."""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from igpt_keras.atomic import atomic_path

BACKGROUND = (255, 255, 255)
INK = (40, 40, 40)
UNKNOWN = (120, 150, 190)
TEXT_SIZE = 14
GAP = 6


def keep_top(images: np.ndarray, keep_rows: int) -> np.ndarray:
    """Images uint8 [..., H, W, 3] with all but the first rows in one plain colour."""
    kept = images.copy()
    kept[..., keep_rows:, :, :] = UNKNOWN
    return kept


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray]], headings: Sequence[str] = (), cell: int = 96
) -> Image.Image:
    """Rows of images side by side, each pixel enlarged to a sharp square.

    Args:
        rows: images uint8 [H, W, 3], the same number in each row.
        headings: one above each of the first columns; the last one may run on.
        cell: side of an enlarged image in pixels.

    Returns: an RGB picture.
    """
    columns = max(len(row) for row in rows)
    top = TEXT_SIZE + 2 * GAP if headings else GAP
    step = cell + GAP
    sheet = Image.new("RGB", (GAP + columns * step, top + len(rows) * step), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    for column, heading in enumerate(headings):
        position = (GAP + column * step, GAP)
        pen.text(position, heading, fill=INK, font=ImageFont.load_default(TEXT_SIZE))
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            enlarged = Image.fromarray(image).resize((cell, cell), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (GAP + x * step, top + y * step))
    return sheet


def save_png(picture: Image.Image, path: str | os.PathLike) -> None:
    """Writes `picture` as PNG, whole or not at all; replaces an existing file."""
    with atomic_path(path, overwrite=True) as partial:
        picture.save(partial, format="PNG")
