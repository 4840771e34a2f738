"""Completions and samples of a model as files: images, contact sheets, log-likelihoods."""

import contextlib
import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence

import click
import numpy as np
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from igpt_keras.pictures import (
    color_scale,
    contact_sheet,
    heat_map,
    keep_known,
    save_png,
    stacked,
)
from igpt_keras.sampling.requests import Completions

SHEET = "contact-sheet.png"
ENTROPY = "entropy.png"
LIKELIHOODS = "log-likelihoods.json"
# Sequences sampled together. More need more memory and save little time.
BATCH_SIZE = 32
# Brighter pixels of a mask are sampled.
MASK_THRESHOLD = 128


def read_mask(path: pathlib.Path, size: int) -> np.ndarray:
    """Returns the known pixels, those where an image is not white: bool [size, size]."""
    from igpt_keras.data.image_decoding import read_image

    return read_image(path, size).mean(axis=-1) < MASK_THRESHOLD


def read_draft(path: str):
    """Returns a draft that `igpt draft` wrote, or a model that `igpt_keras.load` reads."""
    import igpt_keras
    from igpt_keras.sampling.drafts import NeighborDraft

    if pathlib.Path(path).suffix == NeighborDraft.SUFFIX:
        return NeighborDraft.load(path)
    return igpt_keras.load(path)


def complete_in_groups(
    model,
    images: np.ndarray,
    seed: int,
    settings: dict,
    progress: str,
) -> Completions:
    """Calls `ImageGPT.generate` for about `BATCH_SIZE` sequences at a time, with a bar of rows.

    Args:
        model: An `ImageGPT` with a tokenizer.
        images: uint8 [B, R, R, 3].
        seed: Seed of the first image; that of the next one is one more.
        settings: Further arguments of `ImageGPT.generate`.
        progress: "auto" or "quiet".

    Returns:
        The completions of all images.
    """
    at_once = max(BATCH_SIZE // max(settings.get("num_completions", 1), 1), 1)
    groups = np.split(np.arange(len(images)), range(at_once, len(images), at_once))
    # A BERT model fills all rows in at the same time.
    rows = model.config.image_size if model.objective == "ar" else 0
    with row_bar(rows * len(groups), progress) as on_row:
        parts = [
            model.generate(images[group], seed=seed + group, on_row=on_row, **settings)
            for group in groups
        ]
    return joined(parts)


def joined(parts: Sequence[Completions]) -> Completions:
    """Returns the completions of several groups of images as those of one group."""
    by_name = {
        field.name: [getattr(part, field.name) for part in parts]
        for field in dataclasses.fields(Completions)
    }
    passes = sum(by_name.pop("num_forward_passes"))
    arrays = {
        name: None if values[0] is None else np.concatenate(values)
        for name, values in by_name.items()
    }
    return Completions(**arrays, num_forward_passes=passes)


@contextlib.contextmanager
def row_bar(num_rows: int, progress: str) -> Iterator[Callable[..., None] | None]:
    """Shows a bar at a terminal; gives the callback that advances it, or None without a bar."""
    console = Console(stderr=True)
    if progress == "quiet" or not console.is_terminal or not num_rows:
        yield None
        return
    columns = (
        TextColumn("row"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=num_rows)
        yield lambda row, pixels: bar.advance(task)


def thumbnail(path: pathlib.Path, size: int) -> np.ndarray:
    """Reads an image for a contact sheet, without TensorFlow: uint8 [size, size, 3]."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    return np.asarray(ImageOps.fit(upright, (size, size), Image.Resampling.BOX))


def write_completions(
    folder: pathlib.Path,
    paths: Sequence[pathlib.Path],
    originals: np.ndarray,
    completed: np.ndarray,
    known: np.ndarray,
) -> list[list[str]]:
    """Creates a folder with a PNG for each completion and a contact sheet of all of them.

    Args:
        folder: The folder.
        paths: B image files; their names become part of the PNGs' names.
        originals: uint8 [B, R, R, 3], the images as the model saw them.
        completed: uint8 [B, N, R, R, 3].
        known: bool [R, R], the pixels that were known.

    Returns:
        The names of the PNGs of each image.
    """
    folder.mkdir()
    rows, names = [], []
    for index, (path, original, images) in enumerate(zip(paths, originals, completed, strict=True)):
        names.append([f"{index:03d}-{path.stem}-{number:02d}.png" for number in range(len(images))])
        for name, image in zip(names[-1], images, strict=True):
            save_png(Image.fromarray(image), folder / name)
        rows.append([original, keep_known(original, known), *images])
    sheet = contact_sheet(rows, ["original", "known", "completions"], cell_of(originals))
    save_png(sheet, folder / SHEET)
    return names


def cell_of(images: np.ndarray) -> int:
    """Returns the side in pixels of images uint8 [..., R, R, 3] on a contact sheet."""
    return max(96, 4 * images.shape[-2])


def likelihoods(
    completions: Completions, names: Sequence[Sequence[str]], num_sampled: int
) -> list[dict]:
    """Returns a record for each completion: its file, and log-likelihoods in nats and bits.

    Args:
        completions: N completions of each of B images.
        names: B lists of N file names.
        num_sampled: Number of pixels sampled in each image.
    """
    num_pixels = completions.tokens.shape[-1]
    records = []
    for image, of_image in enumerate(names):
        for number, name in enumerate(of_image):
            nll = float(completions.log_likelihood[image, number])
            record = {"file": name, "log_likelihood": nll}
            record["bits_per_sampled_pixel"] = bits(nll, num_sampled)
            if completions.total_log_likelihood is not None:
                total = float(completions.total_log_likelihood[image, number])
                record |= {"total_log_likelihood": total, "bits_per_pixel": bits(total, num_pixels)}
            records.append(record)
    return records


def bits(nll: float, num_pixels: int) -> float | None:
    """Returns the bits per pixel of a log-likelihood in nats; None for no pixels."""
    return -nll / math.log(2) / num_pixels if num_pixels else None


def print_likelihoods(records: list[dict]) -> None:
    """Prints a line for each completion."""
    for record in records:
        parts = [record["file"]]
        for what, name, per_pixel in (
            ("sampled pixels", "log_likelihood", "bits_per_sampled_pixel"),
            ("all pixels", "total_log_likelihood", "bits_per_pixel"),
        ):
            if record.get(per_pixel) is not None:
                parts.append(f"{what} {record[name]:.2f} nats ({record[per_pixel]:.3f} bits/pixel)")
        click.echo("  ".join(parts))


def entropy_sheet(
    completions: Completions, originals: np.ndarray, known: np.ndarray
) -> Image.Image:
    """Returns a picture of each completion next to the entropy of its pixels, with a scale.

    Args:
        completions: N completions of each of B images, with entropies.
        originals: uint8 [B, R, R, 3].
        known: bool [R, R].
    """
    largest = max(float(completions.entropy.max()), 1e-6)
    colors = heat_map(completions.entropy, largest)
    rows = []
    for original, images, of_images in zip(originals, completions.images, colors, strict=True):
        pairs = [picture for pair in zip(images, of_images, strict=True) for picture in pair]
        rows.append([keep_known(original, known), *pairs])
    sheet = contact_sheet(rows, ["known", "completion", "entropy"], cell_of(originals))
    return stacked([sheet, color_scale(largest, "nats")])


def write_samples(folder: pathlib.Path, images: np.ndarray) -> list[str]:
    """Creates a folder with a PNG for each of uint8 [N, R, R, 3] and a contact sheet of all.

    Returns:
        The names of the PNGs.
    """
    folder.mkdir()
    names = [f"{number:03d}.png" for number in range(len(images))]
    for name, image in zip(names, images, strict=True):
        save_png(Image.fromarray(image), folder / name)
    save_png(square_sheet(images), folder / SHEET)
    return names


def sample_entropies(samples: Completions) -> Image.Image:
    """Returns a picture of the entropy of the pixels of samples, with a scale."""
    largest = max(float(samples.entropy.max()), 1e-6)
    sheet = square_sheet(heat_map(samples.entropy[:, 0], largest))
    return stacked([sheet, color_scale(largest, "nats")])


def square_sheet(images: np.ndarray) -> Image.Image:
    """Returns a contact sheet of images uint8 [N, R, R, 3], about as wide as high."""
    columns = math.ceil(math.sqrt(len(images)))
    return contact_sheet(
        [images[start : start + columns] for start in range(0, len(images), columns)],
        cell_size=cell_of(images),
    )
