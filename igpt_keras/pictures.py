"""Pictures to look at: contact sheets of small images, heat maps and color swatches."""

import functools
import math
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from igpt_keras.atomic import atomic_path

BACKGROUND = (255, 255, 255)
TEXT_COLOR = (40, 40, 40)
FRAME_COLOR = (200, 200, 200)
UNKNOWN_COLOR = (120, 150, 190)
TEXT_SIZE = 14
GAP = 6
SHEET_FILE = "contact-sheet.png"
# Most file systems take names of 255 bytes, some of 143.
MAX_STEM_BYTES = 100
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


def keep_top(images: np.ndarray, keep_rows: int) -> np.ndarray:
    """Covers all but the first rows of images with a plain color.

    Args:
        images: uint8 [..., H, W, 3].
        keep_rows: Number of rows to show.

    Returns:
        uint8 [..., H, W, 3].
    """
    return keep_known(images, (np.arange(images.shape[-3]) < keep_rows)[:, None])


def keep_known(images: np.ndarray, known_mask: np.ndarray) -> np.ndarray:
    """Covers all but the known pixels of images with a plain color.

    Args:
        images: uint8 [..., H, W, 3].
        known_mask: bool [H, W], or [H, 1] for whole rows.

    Returns:
        uint8 [..., H, W, 3].
    """
    return np.where(known_mask[..., None], images, np.array(UNKNOWN_COLOR, np.uint8))


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray] | np.ndarray],
    headings: Sequence[str] = (),
    cell_size: int = 96,
    captions: Sequence[str] = (),
) -> Image.Image:
    """Arranges small images in rows, each enlarged without smoothing.

    Args:
        rows: Rows of images uint8 [H, W, 3]; the last rows may be shorter.
        headings: Texts above the first columns; the last one may be longer than its column.
        cell_size: Side of an enlarged image in pixels.
        captions: Texts to the right of the first rows.

    Returns:
        An RGB picture.

    Example:
        ```python
        from igpt_keras.data import open_data
        from igpt_keras.pictures import contact_sheet, save_png

        images = open_data("digits").test.images
        save_png(contact_sheet([images[:8], images[8:16]], ["digits"]), "digits.png")
        ```
    """
    columns = max(len(row) for row in rows)
    top = TEXT_SIZE + 2 * GAP if headings else GAP
    step = cell_size + GAP
    right = GAP + columns * step
    font = ImageFont.load_default(TEXT_SIZE)
    starts = [(GAP + column * step, heading) for column, heading in enumerate(headings)]
    starts += [(right, caption) for caption in captions]
    ends = [start + math.ceil(font.getlength(text)) + GAP for start, text in starts]
    size = (max([right, *ends]), top + len(rows) * step)
    sheet = Image.new("RGB", size, BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    write = functools.partial(pen.text, fill=TEXT_COLOR, font=font)
    for column, heading in enumerate(headings):
        write((GAP + column * step, GAP), heading)
    for row, caption in enumerate(captions):
        write((right, top + row * step + cell_size // 2), caption, anchor="lm")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            left, upper = GAP + x * step, top + y * step
            frame = (left - 1, upper - 1, left + cell_size, upper + cell_size)
            pen.rectangle(frame, outline=FRAME_COLOR)
            cell = Image.fromarray(image).resize((cell_size, cell_size), NEAREST)
            sheet.paste(cell, (left, upper))
    return sheet


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


def color_scale(largest: float, unit: str, width: int = 288) -> Image.Image:
    """Draws the colors of `heat_map` from 0 to `largest` as a bar with numbers below it.

    Args:
        largest: The value (> 0) at the right end.
        unit: Text after the last number, such as "nats".
        width: Width of the bar in pixels.
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
        pen.text((left, TEXT_SIZE + 2 * GAP), text, fill=TEXT_COLOR, font=font, anchor="lt")
    return picture


def swatches(colors: np.ndarray, columns: int = 32, cell_size: int = 16) -> Image.Image:
    """Draws colors as squares, row by row; captions are the index of each row's first color.

    Args:
        colors: uint8 [k, 3].
        columns: Number of squares in a row.
        cell_size: Side of a square in pixels.
    """
    pixels = colors.reshape(-1, 1, 1, 3)
    starts = range(0, len(pixels), columns)
    rows = [pixels[start : start + columns] for start in starts]
    captions = [str(start) for start in starts]
    return contact_sheet(rows, [f"{len(colors)} colors"], cell_size, captions)


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


def completion_names(paths: Sequence[str | os.PathLike], count: int) -> list[list[str]]:
    """Returns the file names of `count` completions of each image, by its place and its name.

    Long names are shortened, and characters that cannot be printed become `_`.
    """
    stems = [_short(pathlib.Path(path).stem) for path in paths]
    return [
        [f"{index:03d}-{stem}-{number:02d}.png" for number in range(count)]
        for index, stem in enumerate(stems)
    ]


def _short(stem: str) -> str:
    # Bytes of a name that is not UTF-8 are no printable characters either.
    printable = "".join(char if char.isprintable() else "_" for char in stem)
    return printable.encode()[:MAX_STEM_BYTES].decode(errors="ignore")


def write_completions(
    folder: pathlib.Path,
    names: Sequence[Sequence[str]],
    originals: np.ndarray,
    completed: np.ndarray,
    known: np.ndarray,
) -> None:
    """Writes a PNG for each completion, and a contact sheet of all.

    Args:
        folder: The folder to write to; it exists.
        names: B lists of N file names.
        originals: uint8 [B, R, R, 3], the images as the model sees them.
        completed: uint8 [B, N, R, R, 3].
        known: bool [R, R], the pixels that were known.
    """
    rows = []
    for of_image, original, images in zip(names, originals, completed, strict=True):
        for name, image in zip(of_image, images, strict=True):
            save_png(Image.fromarray(image), folder / name)
        rows.append([original, keep_known(original, known), *images])
    sheet = contact_sheet(rows, ["original", "known", "completions"], cell_size_of(originals))
    save_png(sheet, folder / SHEET_FILE)


def write_samples(folder: pathlib.Path, images: np.ndarray) -> list[str]:
    """Writes a PNG for each image, uint8 [N, R, R, 3], and a contact sheet of all.

    Args:
        folder: The folder to write to; it exists.
        images: The images.

    Returns:
        The names of the PNGs.
    """
    names = [f"{number:03d}.png" for number in range(len(images))]
    for name, image in zip(names, images, strict=True):
        save_png(Image.fromarray(image), folder / name)
    save_png(square_sheet(images), folder / SHEET_FILE)
    return names


def square_sheet(images: np.ndarray) -> Image.Image:
    """Draws a contact sheet of images uint8 [N, R, R, 3] that is about as wide as high."""
    columns = math.ceil(math.sqrt(len(images)))
    return contact_sheet(
        [images[start : start + columns] for start in range(0, len(images), columns)],
        cell_size=cell_size_of(images),
    )


def cell_size_of(images: np.ndarray) -> int:
    """Returns the side in pixels of images uint8 [..., R, R, 3] on a contact sheet."""
    return max(96, 4 * images.shape[-2])
