"""Contact sheets: many small images as one picture to look at; numbers as colors."""

import math
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from igpt_keras.atomic import atomic_path

BACKGROUND = (255, 255, 255)
INK = (40, 40, 40)
FRAME = (200, 200, 200)
UNKNOWN = (120, 150, 190)
TEXT_SIZE = 14
GAP = 6
# The perceptually uniform color map "inferno" (CC0) at even distances: equal steps look equal.
INFERNO = np.array(
    [
        *[(0, 0, 4), (10, 7, 34), (30, 12, 69), (56, 9, 98), (81, 14, 108), (105, 22, 110)],
        *[(128, 31, 108), (152, 39, 102), (176, 49, 91), (198, 61, 77), (217, 77, 61)],
        *[(233, 97, 43), (244, 121, 24), (250, 148, 7), (252, 176, 20), (248, 205, 55)],
        *[(242, 234, 105), (252, 255, 164)],
    ]
)


def keep_top(images: np.ndarray, keep_rows: int) -> np.ndarray:
    """Images uint8 [..., H, W, 3] with all but the first rows in one plain color."""
    return keep_known(images, (np.arange(images.shape[-3]) < keep_rows)[:, None])


def keep_known(images: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Images uint8 [..., H, W, 3] with all but the pixels `known`, bool [H, W], in one color."""
    return np.where(known[..., None], images, np.uint8(UNKNOWN))


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray]],
    headings: Sequence[str] = (),
    cell: int = 96,
    captions: Sequence[str] = (),
) -> Image.Image:
    """Rows of images side by side, each pixel enlarged to a sharp square.

    Args:
        rows: images uint8 [H, W, 3]; the last rows may hold fewer.
        headings: one above each of the first columns; the last one may run on.
        cell: side of an enlarged image in pixels.
        captions: one to the right of each of the first rows.

    Returns: an RGB picture.
    """
    columns = max(len(row) for row in rows)
    top = TEXT_SIZE + 2 * GAP if headings else GAP
    step = cell + GAP
    right = GAP + columns * step
    font = ImageFont.load_default(TEXT_SIZE)
    starts = [(GAP + column * step, heading) for column, heading in enumerate(headings)]
    starts += [(right, caption) for caption in captions]
    ends = [start + math.ceil(font.getlength(text)) + GAP for start, text in starts]
    size = (max([right, *ends]), top + len(rows) * step)
    sheet = Image.new("RGB", size, BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    for column, heading in enumerate(headings):
        pen.text((GAP + column * step, GAP), heading, fill=INK, font=font)
    for row, caption in enumerate(captions):
        pen.text((right, top + row * step + cell // 2), caption, fill=INK, font=font, anchor="lm")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            enlarged = Image.fromarray(image).resize((cell, cell), Image.Resampling.NEAREST)
            left, upper = GAP + x * step, top + y * step
            pen.rectangle((left - 1, upper - 1, left + cell, upper + cell), outline=FRAME)
            sheet.paste(enlarged, (left, upper))
    return sheet


def heat_map(values: np.ndarray, largest: float) -> np.ndarray:
    """Values float [...] as colors uint8 [..., 3]: 0 dark, `largest` (> 0) and above light."""
    places = np.clip(values / largest, 0, 1) * (len(INFERNO) - 1)
    channels = [np.interp(places, np.arange(len(INFERNO)), channel) for channel in INFERNO.T]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def color_scale(largest: float, unit: str, width: int = 288) -> Image.Image:
    """The colors of `heat_map` from 0 to `largest` from left to right, with what they stand for.

    Args:
        largest: > 0.
        unit: written after the numbers.
        width: of the bar in pixels.
    """
    bar = heat_map(np.linspace(0, 1, width)[None].repeat(TEXT_SIZE, axis=0), 1.0)
    font = ImageFont.load_default(TEXT_SIZE)
    texts = ["0", f"{largest / 2:.2f}", f"{largest:.2f} {unit}"]
    end = GAP + width + math.ceil(font.getlength(texts[-1]))
    picture = Image.new("RGB", (end + GAP, 2 * TEXT_SIZE + 3 * GAP), BACKGROUND)
    picture.paste(Image.fromarray(bar), (GAP, GAP))
    pen = ImageDraw.Draw(picture)
    for index, text in enumerate(texts):
        left = GAP + index * width // 2
        pen.text((left, TEXT_SIZE + 2 * GAP), text, fill=INK, font=font, anchor="lt")
    return picture


def swatches(colors: np.ndarray, columns: int = 32, cell: int = 16) -> Image.Image:
    """Colors uint8 [k, 3] as squares in their order, row by row.

    The caption of a row is the index of its first color.
    """
    pixels = colors.reshape(-1, 1, 1, 3)
    starts = range(0, len(pixels), columns)
    rows = [pixels[start : start + columns] for start in starts]
    return contact_sheet(rows, [f"{len(colors)} colors"], cell, [str(start) for start in starts])


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures below each other, as one RGB picture."""
    width = max(picture.width for picture in pictures)
    sheet = Image.new("RGB", (width, sum(picture.height for picture in pictures)), BACKGROUND)
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    return sheet


def save_png(picture: Image.Image, path: str | os.PathLike, overwrite: bool = True) -> None:
    """Writes `picture` as PNG, whole or not at all.

    Raises:
        FileExistsError: `path` exists and `overwrite` is false.
    """
    with atomic_path(path, overwrite) as partial:
        picture.save(partial, format="PNG")
