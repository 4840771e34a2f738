"""Pictures to look at: contact sheets of small images, heat maps and swatches of tokens."""

import functools
import math
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from igpt_keras.atomic import atomic_path

BACKGROUND = (255, 255, 255)
TEXT_COLOR = (40, 40, 40)
FRAME_COLOR = (200, 200, 200)
# Colors of the checkerboard that shows through transparent pixels, and the side of its squares.
CHECKERBOARD = np.array([[255] * 3, [208] * 3], np.uint8)
SQUARE_SIZE = 8
TEXT_SIZE = 14
TITLE_SIZE = 17
GAP = 6
# The side of a cell is about this in pixels, where images are small.
CELL_SIZE = 128
# Longer texts are shortened.
LABEL_WIDTH = 180
TITLE_WIDTH = 480
NEAREST = Image.Resampling.NEAREST
# The color map "inferno" (CC0), sampled evenly: equal steps of a value look equal.
INFERNO = np.array(
    [
        *[(0, 0, 4), (10, 7, 34), (30, 12, 69), (56, 9, 98), (81, 14, 108), (105, 22, 110)],
        *[(128, 31, 108), (152, 39, 102), (176, 49, 91), (198, 61, 77), (217, 77, 61)],
        *[(233, 97, 43), (244, 121, 24), (250, 148, 7), (252, 176, 20), (248, 205, 55)],
        *[(242, 234, 105), (252, 255, 164)],
    ]
)


def keep_known(images: np.ndarray, known_mask: np.ndarray) -> np.ndarray:
    """Makes all but the known pixels of images transparent.

    Args:
        images: uint8 [..., H, W, 3].
        known_mask: bool [H, W], or [H, 1] for whole rows.

    Returns:
        uint8 [..., H, W, 4], red, green, blue and opacity.
    """
    opacity = np.where(np.broadcast_to(known_mask, images.shape[:-1]), 255, 0).astype(np.uint8)
    return np.concatenate([images, opacity[..., None]], axis=-1)


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray | None] | np.ndarray],
    headings: Sequence[str] = (),
    cell_size: int | None = None,
    *,
    title: str = "",
    labels: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
) -> Image.Image:
    """Arranges small images in rows, each enlarged without smoothing.

    Texts that are longer than their place lose their middle.

    Args:
        rows: Rows of images uint8 [H, W, 3], or [H, W, 4] with opacity: a checkerboard shows
            through transparent pixels. None leaves a cell empty; the last rows may be shorter.
        headings: Texts above the columns.
        cell_size: Side of an enlarged image in pixels; None for a multiple of the images' side
            that is large enough to see.
        title: Text above everything.
        labels: Texts to the left of the rows.
        captions: For each row, texts below its images; rows without captions are less high.

    Returns:
        An RGB picture.

    Example:
        ```python
        from igpt_keras.data import open_data
        from igpt_keras.pictures import contact_sheet, save_png

        images = open_data("digits").test.images
        sheet = contact_sheet([images[:8], images[8:16]], title="Digits", labels=["0–7", "8–15"])
        save_png(sheet, "digits.png")
        ```
    """
    size = cell_size or _cell_size(rows)
    font, title_font = (ImageFont.load_default(size) for size in (TEXT_SIZE, TITLE_SIZE))
    step, line = size + GAP, TEXT_SIZE + GAP
    labels = [_fitting(text, font, LABEL_WIDTH) for text in labels]
    left = GAP
    if labels:
        left += max(math.ceil(font.getlength(text)) for text in labels) + 2 * GAP
    right = left + max(len(row) for row in rows) * step
    head = GAP + (TITLE_SIZE + 2 * GAP if title else 0)
    top = head + (line if headings else 0)
    lines = [line if row < len(captions) and any(captions[row]) else 0 for row in range(len(rows))]
    tops = [top + row * step + sum(lines[:row]) for row in range(len(rows))]
    title = _fitting(title, title_font, max(right - 2 * GAP, TITLE_WIDTH))
    width = max(right, 2 * GAP + math.ceil(title_font.getlength(title)))
    sheet = Image.new("RGB", (width, tops[-1] + step + lines[-1]), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    write = functools.partial(pen.text, fill=TEXT_COLOR, font=font)
    pen.text((GAP, GAP), title, fill=TEXT_COLOR, font=title_font)
    for column, heading in enumerate(headings):
        write((left + column * step, head), _fitting(heading, font, size))
    for y, label in zip(tops, labels, strict=False):
        write((GAP, y + size // 2), label, anchor="lm")
    for y, texts in zip(tops, captions, strict=False):
        for column, caption in enumerate(texts):
            write((left + column * step, y + size + GAP // 2), _fitting(caption, font, size))
    for y, row in zip(tops, rows, strict=True):
        for column, image in enumerate(row):
            if image is not None:
                _paste(sheet, pen, image, left + column * step, y, size)
    return sheet


def _cell_size(rows: Sequence[Sequence[np.ndarray | None] | np.ndarray]) -> int:
    """Returns a multiple of the side of the first image."""
    side = next(image for row in rows for image in row if image is not None).shape[0]
    return side * max(4, round(CELL_SIZE / side))


def _paste(sheet, pen, image: np.ndarray, left: int, top: int, size: int) -> None:
    """Draws an enlarged image with a frame around it."""
    pen.rectangle((left - 1, top - 1, left + size, top + size), outline=FRAME_COLOR)
    cell = Image.fromarray(image).resize((size, size), NEAREST)
    if cell.mode == "RGBA":
        squares = (np.indices((size, size)) // SQUARE_SIZE).sum(axis=0) % 2
        sheet.paste(Image.fromarray(CHECKERBOARD[squares]), (left, top))
        sheet.paste(cell, (left, top), cell)
    else:
        sheet.paste(cell, (left, top))


def _fitting(text: str, font, width: float) -> str:
    """Returns a text, without its middle if it is wider than `width`: names differ at ends."""
    if font.getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        short = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
        if font.getlength(short) <= width:
            return short
    return "…"


def heat_map(values: np.ndarray, largest: float) -> np.ndarray:
    """Maps numbers to colors, from dark to light.

    Args:
        values: float [...].
        largest: The value (> 0) from which on colors are lightest; 0 is darkest.

    Returns:
        uint8 [..., 3].
    """
    places = np.clip(values / largest, 0, 1) * (len(INFERNO) - 1)
    channels = [np.interp(places, np.arange(len(INFERNO)), channel) for channel in INFERNO.T]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def color_scale(largest: float, label: str, width: int = 288) -> Image.Image:
    """Draws the colors of `heat_map` from 0 to `largest` as a bar with numbers below it.

    Args:
        largest: The value (> 0) at the right end.
        label: What the values are, with their unit.
        width: Width of the bar in pixels.
    """
    bar = heat_map(np.linspace(0, 1, width)[None].repeat(TEXT_SIZE, axis=0), 1.0)
    font = ImageFont.load_default(TEXT_SIZE)
    right = 3 * GAP + width + math.ceil(font.getlength(label))
    picture = Image.new("RGB", (right + GAP, 2 * TEXT_SIZE + 4 * GAP), BACKGROUND)
    picture.paste(Image.fromarray(bar), (GAP, GAP))
    write = functools.partial(ImageDraw.Draw(picture).text, fill=TEXT_COLOR, font=font)
    for index, anchor in enumerate(("lt", "mt", "rt")):
        text = f"{index * largest / 2:.3g}"
        write((GAP + index * width // 2, TEXT_SIZE + 2 * GAP), text, anchor=anchor)
    write((3 * GAP + width, GAP + TEXT_SIZE // 2), label, anchor="lm")
    return picture


def swatches(
    pictures: np.ndarray, title: str, columns: int = 32, cell_size: int = 16
) -> Image.Image:
    """Draws what tokens look like, row by row, labeled with the index of each row's first token.

    Args:
        pictures: uint8 [k, h, w, 3], for a palette of one pixel each.
        title: Text above them.
        columns: Number of squares in a row.
        cell_size: Side of a square in pixels.
    """
    starts = range(0, len(pictures), columns)
    rows = [pictures[start : start + columns] for start in starts]
    labels = [str(start) for start in starts]
    return contact_sheet(rows, cell_size=cell_size, title=title, labels=labels)


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Puts pictures below each other into one RGB picture."""
    width = max(picture.width for picture in pictures)
    sheet = Image.new("RGB", (width, sum(picture.height for picture in pictures)), BACKGROUND)
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    return sheet


def save_png(picture: Image.Image, path: str | os.PathLike, overwrite: bool = True) -> None:
    """Writes a picture as a PNG file, whole or not at all.

    Raises:
        FileExistsError: `path` exists and `overwrite` is false.
    """
    with atomic_path(path, overwrite) as partial:
        picture.save(partial, format="PNG")
