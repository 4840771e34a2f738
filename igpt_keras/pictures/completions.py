"""Pictures of completions and samples: files, contact sheets and maps of entropy."""

import math
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from igpt_keras.errors import InputError
from igpt_keras.pictures.contact_sheets import (
    BACKGROUND,
    NEAREST,
    color_scale,
    contact_sheet,
    heat_map,
    keep_known,
    save_png,
    stacked,
)

SHEET_FILE = "contact-sheet.png"
MAX_SCALE = 64
# Most file systems take names of 255 bytes, some of 143.
MAX_STEM_BYTES = 100


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


def known_rows(image_size: int, keep_rows: int) -> np.ndarray:
    """Returns a mask bool [image_size, image_size] that is true in the first rows."""
    rows = np.arange(image_size)[:, None] < keep_rows
    return np.broadcast_to(rows, (image_size, image_size))


def completion_sheet(
    originals: np.ndarray,
    completed: np.ndarray,
    known: np.ndarray,
    *,
    title: str = "",
    names: Sequence[Sequence[str]] | None = None,
) -> Image.Image:
    """Draws a row for each image: the original, what was known of it, and its completions.

    Args:
        originals: uint8 [B, R, R, 3], the images as the model sees them.
        completed: uint8 [B, N, R, R, 3].
        known: bool [R, R], the pixels that were known.
        title: Text above everything.
        names: B lists of N file names, of which the rows and columns are labeled.
    """
    rows = [
        [original, keep_known(original, known), *images]
        for original, images in zip(originals, completed, strict=True)
    ]
    labels, numbers = _parts(names, completed.shape[1])
    return contact_sheet(rows, ["original", "known", *numbers], title=title, labels=labels)


def entropy_sheet(
    originals: np.ndarray,
    completed: np.ndarray,
    known: np.ndarray,
    entropy: np.ndarray,
    *,
    title: str = "",
    names: Sequence[Sequence[str]] | None = None,
) -> Image.Image:
    """Draws every completion, and below it the entropy of its sampled pixels.

    Args:
        originals: uint8 [B, R, R, 3], the images as the model sees them.
        completed: uint8 [B, N, R, R, 3].
        known: bool [R, R], the pixels that were known.
        entropy: float [B, N, rows, columns], in nats, of the tokens of a grid.
        title: Text above everything.
        names: As for `completion_sheet`.
    """
    colors, scale = _entropy_colors(entropy, known)
    labels, numbers = _parts(names, completed.shape[1])
    rows, row_labels = [], []
    for index, (original, images) in enumerate(zip(originals, completed, strict=True)):
        rows += [[keep_known(original, known), *images], [None, *colors[index]]]
        row_labels += [labels[index] if labels else "", "entropy"]
    sheet = contact_sheet(rows, ["known", *numbers], title=title, labels=row_labels)
    return stacked([sheet, scale])


def _parts(names: Sequence[Sequence[str]] | None, count: int) -> tuple[list[str], list[str]]:
    """Returns what the names in each row begin with, and the headings of `count` columns."""
    if names is None:
        return [], [f"completion {number}" for number in range(count)]
    starts = [of_image[0].rpartition("-")[0] for of_image in names]
    ends = [pathlib.Path(name).stem.rpartition("-")[2] for name in names[0]]
    return starts, [f"completion {end}" for end in ends]


def _entropy_colors(entropy: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, Image.Image]:
    """Colors the entropy of tokens.

    Args:
        entropy: float [..., rows, columns].
        known: bool [R, R], the pixels that were known.

    Returns:
        uint8 [..., R, R, 3], plain where pixels were known, and the scale of the colors.
    """
    what = "pixel" if entropy.shape[-2:] == known.shape else "token"
    rows, columns = (
        shares_of_pixels(count, len(known)).astype(entropy.dtype) for count in entropy.shape[-2:]
    )
    entropy = rows @ entropy @ columns.T
    known = np.broadcast_to(known, entropy.shape)
    largest = max(float(entropy.max(where=~known, initial=0)), 1e-6)
    colors = np.where(known[..., None], BACKGROUND, heat_map(entropy, largest))
    scale = color_scale(largest, f"entropy of a sampled {what}, nats")
    return colors.astype(np.uint8), scale


def shares_of_pixels(count: int, size: int) -> np.ndarray:
    """Returns how much of each pixel of a side lies in each token.

    Args:
        count: The number of tokens along the side, which they share evenly.
        size: R, the number of pixels along the side.

    Returns:
        float64 [R, count], of which each row sums to 1: its product with values of tokens are
        their means over pixels.
    """
    pixels, tokens = np.arange(size)[:, None] * count, np.arange(count) * size
    overlap = np.minimum(pixels + count, tokens + size) - np.maximum(pixels, tokens)
    return np.maximum(overlap, 0) / count


def numbered_sheet(images: np.ndarray, title: str = "") -> Image.Image:
    """Draws images uint8 [N, R, R, 3] with their numbers, about as wide as high."""
    columns = math.ceil(math.sqrt(len(images)))
    numbers = [f"{number:03d}" for number in range(len(images))]
    starts = range(0, len(images), columns)
    return contact_sheet(
        [images[start : start + columns] for start in starts],
        title=title,
        captions=[numbers[start : start + columns] for start in starts],
    )


def sample_entropy_sheet(entropy: np.ndarray, image_size: int, title: str = "") -> Image.Image:
    """Draws the entropy of the tokens of samples, float [N, rows, columns], in nats."""
    colors, scale = _entropy_colors(entropy, np.zeros([image_size, image_size], bool))
    return stacked([numbered_sheet(colors, title), scale])


def write_completions(
    folder: pathlib.Path,
    names: Sequence[Sequence[str]],
    originals: np.ndarray,
    completed: np.ndarray,
    known: np.ndarray,
    *,
    title: str,
    scale: int = 1,
) -> None:
    """Writes a PNG for each completion, and a contact sheet of all.

    Args:
        folder: The folder to write to; it exists.
        names: B lists of N file names.
        originals: uint8 [B, R, R, 3], the images as the model sees them.
        completed: uint8 [B, N, R, R, 3].
        known: bool [R, R], the pixels that were known.
        title: Text above the contact sheet.
        scale: Factor, at most 64, by which each side of a PNG is enlarged, without smoothing.
    """
    for of_image, images in zip(names, completed, strict=True):
        for name, image in zip(of_image, images, strict=True):
            save_png(_enlarged(image, scale), folder / name)
    sheet = completion_sheet(originals, completed, known, title=title, names=names)
    save_png(sheet, folder / SHEET_FILE)


def write_samples(
    folder: pathlib.Path, images: np.ndarray, *, title: str, scale: int = 1
) -> list[str]:
    """Writes a PNG for each image, uint8 [N, R, R, 3], and a contact sheet of all.

    Args:
        folder: The folder to write to; it exists.
        images: The images.
        title: Text above the contact sheet.
        scale: As for `write_completions`.

    Returns:
        The names of the PNGs.
    """
    names = [f"{number:03d}.png" for number in range(len(images))]
    for name, image in zip(names, images, strict=True):
        save_png(_enlarged(image, scale), folder / name)
    save_png(numbered_sheet(images, title), folder / SHEET_FILE)
    return names


def check_scale(scale: int) -> None:
    """Raises `InputError` if `scale` is not what `write_completions` accepts."""
    if not 1 <= scale <= MAX_SCALE:
        raise InputError(f"scale must lie in 1…{MAX_SCALE}, got {scale}")


def _enlarged(image: np.ndarray, scale: int) -> Image.Image:
    picture = Image.fromarray(image)
    return picture.resize((picture.width * scale, picture.height * scale), NEAREST)
