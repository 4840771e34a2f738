"""`igpt complete`: image files in, completed images out."""

import contextlib
import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence

import click
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import igpt_keras
from igpt_keras.atomic import atomic_path
from igpt_keras.cli.command import command, option, plural
from igpt_keras.cli.options import COUNT, IMAGES, PATH, output, overwrite, seed
from igpt_keras.data.image_decoding import read_image
from igpt_keras.errors import InputError
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.pictures import (
    color_scale,
    contact_sheet,
    heat_map,
    keep_known,
    save_png,
    stacked,
)
from igpt_keras.sampling.drafts import Draft, NeighborDraft
from igpt_keras.sampling.requests import Completions
from igpt_keras.sampling.samplers import Categorical

SHEET = "contact-sheet.png"
ENTROPY = "entropy.png"
LIKELIHOODS = "log-likelihoods.json"
# Decoded together. More take more memory and little less time each.
SEQUENCES = 32
# What is lighter in a mask is to be filled.
WHITE = 128


SAMPLING = (
    output(),
    option(
        "--temperature",
        type=float,
        default=1.0,
        help="Sampling temperature: divides the logits; 0 takes the most probable color.",
    ),
    option(
        "--top-k",
        type=int,
        default=0,
        help="Top-k sampling: keep the K most probable colors; 0 keeps all.",
    ),
    option(
        "--top-p",
        type=float,
        default=1.0,
        help="Nucleus sampling: keep the smallest set of colors whose probabilities sum to P.",
    ),
    seed("Random seed for sampling."),
    overwrite(),
)
NUM_COMPLETIONS = option(
    "--num-completions", type=COUNT, default=4, help="Number of completions of each image."
)
MODEL = (
    option(
        "--model",
        required=True,
        metavar="PATH",
        help="Model, in any format that `igpt convert` reads.",
    ),
    option(
        "--draft",
        metavar="PATH",
        help="Smaller model, or a file that `igpt draft` wrote, with which the same pixels are "
        "sampled in fewer passes.",
    ),
    option(
        "--num-steps",
        type=COUNT,
        show_default="16",
        help="Number of steps in which a BERT model fills the pixels in.",
    ),
    option("--entropy", is_flag=True, help=f"Draw the entropy of each pixel as {ENTROPY}."),
    option(
        "--progress",
        type=click.Choice(["auto", "quiet"]),
        default="auto",
        help="How to show progress: auto is a bar at a terminal.",
    ),
)


@command(
    IMAGES,
    option("--keep-rows", type=int, help="Number of rows of the model's input to keep."),
    option(
        "--mask",
        type=PATH,
        metavar="FILE",
        help="Image that is white where pixels are to be sampled, instead of --keep-rows. It is "
        "cropped like IMAGES.",
    ),
    NUM_COMPLETIONS,
    *SAMPLING,
    *MODEL,
)
def complete(
    model,
    draft,
    images,
    output,
    keep_rows,
    mask,
    num_completions,
    temperature,
    top_k,
    top_p,
    seed,
    num_steps,
    entropy,
    progress,
    overwrite,
):
    """Complete images of which some pixels are known.

    IMAGES, of any format and size, are cropped to a square and scaled down to the model's input.
    The model samples the pixels that are not kept. Writes the completions, a contact sheet of all
    of them, and their log-likelihoods.
    """
    if (keep_rows is None) == (mask is None):
        raise InputError("give either --keep-rows or --mask")
    with atomic_path(output, overwrite, marker=SHEET) as partial:
        loaded = igpt_keras.load(model)
        size = loaded.config.image_size
        originals = np.stack([read_image(path, size) for path in images])
        known = None if mask is None else read_mask(mask, size)
        settings = {
            "keep_rows": keep_rows,
            "known_mask": known,
            "num_completions": num_completions,
            "sampler": Categorical(temperature, top_k, top_p),
            "draft": draft and read_draft(draft),
            "num_steps": num_steps,
        }
        completions = complete_in_groups(loaded, originals, seed, settings, progress)
        if known is None:
            known = np.broadcast_to(np.arange(size)[:, None] < keep_rows, (size, size))
        write_completions(partial, images, originals, completions.images, known)
        names = [names_of(index, path, num_completions) for index, path in enumerate(images)]
        records = likelihoods(completions, names, int((~known).sum()))
        write_likelihoods(partial, records)
        if entropy:
            save_png(entropy_sheet(completions, originals, known), partial / ENTROPY)
    say_likelihoods(records)
    click.echo(
        f"Wrote {plural(len(images) * num_completions, 'completion')} and {SHEET} to {output}"
    )


def read_mask(path: pathlib.Path, size: int) -> np.ndarray:
    """The known pixels by an image that is white where they are not: bool [size, size]."""
    return read_image(path, size).mean(axis=-1) < WHITE


def read_draft(path: str) -> Draft | GenerativeModel:
    """A draft from a file that `igpt draft` wrote, or a model as `igpt_keras.load` reads it."""
    if pathlib.Path(path).suffix == NeighborDraft.SUFFIX:
        return NeighborDraft.load(path)
    return igpt_keras.load(path)


def complete_in_groups(
    model: GenerativeModel,
    images: np.ndarray,
    seed: int,
    settings: dict,
    progress: str,
) -> Completions:
    """`ImageGPT.generate`, `SEQUENCES` or so at a time, with a bar that counts rows.

    Args:
        model: its palette is used.
        images: uint8 [B, R, R, 3].
        seed: of the first image; that of the next is one more.
        settings: further arguments of `ImageGPT.generate`.
        progress: "auto" or "quiet".
    """
    at_once = max(SEQUENCES // max(settings.get("num_completions", 1), 1), 1)
    groups = np.split(np.arange(len(images)), range(at_once, len(images), at_once))
    # A BERT model fills all rows together.
    rows = model.config.image_size if model.objective == "ar" else 0
    with row_bar(rows * len(groups), progress) as on_row:
        parts = [
            model.generate(images[group], seed=seed + group, on_row=on_row, **settings)
            for group in groups
        ]
    return joined(parts)


def joined(parts: Sequence[Completions]) -> Completions:
    """The completions of several groups of images as those of one."""
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
    """A bar on stderr, and what tells it of a row; None where nobody looks, or of no row."""
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


def names_of(index: int, path: pathlib.Path, count: int) -> list[str]:
    """File names of the completions of an image, by its place among the images and its name."""
    return [f"{index:03d}-{path.stem}-{number:02d}.png" for number in range(count)]


def write_completions(
    folder: pathlib.Path,
    paths: Sequence[pathlib.Path],
    originals: np.ndarray,
    completed: np.ndarray,
    known: np.ndarray,
) -> None:
    """Writes `folder` with a PNG for each completion and a contact sheet of all.

    Args:
        folder: is created.
        paths: B image files; their names go into those of the PNGs.
        originals: uint8 [B, R, R, 3], the images as the model saw them.
        completed: uint8 [B, N, R, R, 3].
        known: bool [R, R], the pixels that were known.
    """
    folder.mkdir()
    rows = []
    for index, (path, original, images) in enumerate(zip(paths, originals, completed, strict=True)):
        for name, image in zip(names_of(index, path, len(images)), images, strict=True):
            save_png(Image.fromarray(image), folder / name)
        rows.append([original, keep_known(original, known), *images])
    sheet = contact_sheet(rows, ["original", "known", "completions"], cell_of(originals))
    save_png(sheet, folder / SHEET)


def cell_of(images: np.ndarray) -> int:
    """Side in pixels of images uint8 [..., R, R, 3] on a contact sheet."""
    return max(96, 4 * images.shape[-2])


def likelihoods(
    completions: Completions, names: Sequence[Sequence[str]], num_sampled: int
) -> list[dict]:
    """For every completion its file's name and log-likelihoods, in nats and bits per pixel.

    Args:
        completions: N of each of B images.
        names: B lists of N names.
        num_sampled: pixels sampled of each image.
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
    """Bits per pixel of a log-likelihood; None of no pixel."""
    return -nll / math.log(2) / num_pixels if num_pixels else None


def write_likelihoods(folder: pathlib.Path, records: list[dict]) -> None:
    (folder / LIKELIHOODS).write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")


def say_likelihoods(records: list[dict]) -> None:
    """Prints a line for every completion."""
    for record in records:
        parts = [record["file"]]
        for what, name, per_pixel in (
            ("sampled", "log_likelihood", "bits_per_sampled_pixel"),
            ("in all", "total_log_likelihood", "bits_per_pixel"),
        ):
            if record.get(per_pixel) is not None:
                parts.append(f"{what} {record[name]:.2f} nats ({record[per_pixel]:.3f} bits/pixel)")
        click.echo("  ".join(parts))


def entropy_sheet(
    completions: Completions, originals: np.ndarray, known: np.ndarray
) -> Image.Image:
    """Every completion beside the entropy of its pixels, over the scale of its colors.

    Args:
        completions: N of each of B images, with entropies.
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
