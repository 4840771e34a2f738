"""Palette tokenization compared with Hugging Face's image processors, and its share of loading.

    python -m pip install -e '.[benchmark]'
    python benchmarks/palette.py

Prints two Markdown tables. All contestants run in one process, in turns, on crops of scikit-learn's
two sample photographs. CPU time is summed over threads; it depends less than wall time on other
work of the machine.
"""

import contextlib
import dataclasses
import io
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import torch
import transformers
from peers import mend_torchvision
from PIL import Image
from sklearn.datasets import load_sample_images

from igpt_keras.data.augmentation import augmentations, resize_squares
from igpt_keras.data.file_splits import FileSplit
from igpt_keras.data.image_decoding import decode
from igpt_keras.data.splits import RECORD_BLOCK_SIZE
from igpt_keras.data.tokenization import tokenize
from igpt_keras.tokenizers.color_palette import ColorPalette

NUM_COLORS = 512
IMAGE_SIZE = 32
BATCH_SIZES = (1, 16, 256)
# Enough that the lookup table's entries do not all stay in the processor's cache.
NUM_IMAGES = 4096
# Hugging Face's processors are too slow for all of them.
NUM_IMAGES_SLOW = 256
ROUNDS = 5
# Width, height and number of JPEG files.
JPEG_FILES = ((500, 375, 200), (IMAGE_SIZE, IMAGE_SIZE, 2000))
JPEG_QUALITY = 90


@dataclasses.dataclass
class Time:
    """The time of an image in seconds, the best of all rounds."""

    wall: float = float("inf")
    cpu: float = float("inf")

    @contextlib.contextmanager
    def round(self, count: int) -> Iterator[None]:
        """Times a block that handles `count` images."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall = min(self.wall, (time.perf_counter() - wall) / count)
        self.cpu = min(self.cpu, (time.process_time() - cpu) / count)


@dataclasses.dataclass
class Contestant:
    """Something that turns images uint8 [B, R, R, 3] into tokens [B, R²].

    Attributes:
        tokenize: The function that does so.
        num_images: Number of images in a round.
        times: The best times, by batch size.
    """

    tokenize: Callable[[np.ndarray], np.ndarray]
    num_images: int
    times: dict[int, Time] = dataclasses.field(
        default_factory=lambda: {size: Time() for size in BATCH_SIZES}
    )

    def measure(self, images: np.ndarray, batch_size: int) -> None:
        batches = images[: self.num_images].reshape(-1, batch_size, *images.shape[1:])
        with self.times[batch_size].round(self.num_images):
            for batch in batches:
                self.tokenize(batch)


def crops(count: int, width: int, height: int, seed: int) -> list[Image.Image]:
    """Cuts out random parts of the two photographs, averaged down to `width` × `height`."""
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    generator = np.random.default_rng(seed)
    parts = []
    for index in range(count):
        photograph = photographs[index % len(photographs)]
        most = min(photograph.width / width, photograph.height / height)
        scale = generator.uniform(1, most)
        side = (scale * width, scale * height)
        left = generator.uniform(0, photograph.width - side[0])
        top = generator.uniform(0, photograph.height - side[1])
        box = (left, top, left + side[0], top + side[1])
        parts.append(photograph.resize((width, height), Image.Resampling.BOX, box=box))
    return parts


def image_processors(colors: np.ndarray, **settings) -> tuple:
    """Hugging Face's fast image processor (torchvision) and its slow one (Pillow)."""
    mend_torchvision()
    from transformers import ImageGPTImageProcessor, ImageGPTImageProcessorPil

    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return (
        ImageGPTImageProcessor(clusters=colors, size=size, **settings),
        ImageGPTImageProcessorPil(clusters=colors, size=size, **settings),
    )


def contestants(palette: ColorPalette) -> dict[str, Contestant]:
    """Returns everything that is measured, by name; resizing is switched off."""
    fast, slow = image_processors(palette.colors, do_resize=False)

    def with_threads(processor, threads):
        def tokens(images):
            torch.set_num_threads(threads)
            return np.asarray(processor(list(images), return_tensors="np")["input_ids"])

        return tokens

    cores = os.cpu_count()
    return {
        "Hugging Face, Pillow": Contestant(with_threads(slow, cores), NUM_IMAGES_SLOW),
        "Hugging Face, fast, 1 thread": Contestant(with_threads(fast, 1), NUM_IMAGES_SLOW),
        f"Hugging Face, fast, {cores} threads": Contestant(
            with_threads(fast, cores), NUM_IMAGES_SLOW
        ),
        "igpt_keras, always the first call": Contestant(
            lambda images: ColorPalette(palette.colors).tokenize(images),
            NUM_IMAGES_SLOW,
        ),
        "igpt_keras": Contestant(palette.tokenize, NUM_IMAGES),
    }


def compare_speed(all_of_them: dict[str, Contestant], images: np.ndarray) -> None:
    """Measures all contestants in turns and prints the table."""
    for batch_size in BATCH_SIZES:
        for _ in range(ROUNDS):
            for contestant in all_of_them.values():
                contestant.measure(images, batch_size)
    fast = [contestant for name, contestant in all_of_them.items() if "fast" in name]
    print(f"| images/s (per CPU second), batches of | {' | '.join(map(str, BATCH_SIZES))} |")
    print(f"| --- |{' ---: |' * len(BATCH_SIZES)}")
    for name, contestant in all_of_them.items():
        cells = [f"{1 / t.wall:,.0f} ({1 / t.cpu:,.0f})" for t in contestant.times.values()]
        print(f"| {name} | {' | '.join(cells)} |")
    ours = all_of_them["igpt_keras"]
    ratios = []
    for size in BATCH_SIZES:
        wall = min(contestant.times[size].wall for contestant in fast)
        cpu = min(contestant.times[size].cpu for contestant in fast)
        ratios.append(f"{wall / ours.times[size].wall:,.0f}× ({cpu / ours.times[size].cpu:,.0f}×)")
    print(f"| igpt_keras : the better fast one | {' | '.join(ratios)} |")


def compare_tokens(all_of_them: dict[str, Contestant], images: np.ndarray, colors: np.ndarray):
    """Prints how many tokens differ, and whose colors are nearer to their pixels there."""
    ours = all_of_them["igpt_keras"].tokenize(images)
    colors = colors.astype(np.float64)
    for name, contestant in all_of_them.items():
        theirs = contestant.tokenize(images)
        differ = theirs != ours
        pixels = images.reshape(ours.shape + (3,))[differ] / 127.5 - 1
        distance = [np.sum((pixels - colors[t[differ]]) ** 2, axis=1) for t in (theirs, ours)]
        nearer = np.sum(distance[0] < distance[1])
        print(
            f"{name}: {differ.sum()} of {ours.size:,} tokens differ from igpt_keras; "
            f"{nearer} of them are nearer to their pixels"
        )


def jpeg_shares(palette: ColorPalette) -> None:
    """Prints the time of loading JPEG files, stage by stage and as a pipeline."""
    stages = ("read, decode", "crop, resize", "tokenize")
    print(
        f"| CPU ms an image | {' | '.join(stages)} | all three | tokenize's share "
        "| `tokenize` | its images/s | Hugging Face, fast |"
    )
    print(f"| --- |{' ---: |' * 8}")
    fast, _ = image_processors(palette.colors)
    torch.set_num_threads(1)
    for width, height, count in JPEG_FILES:
        with tempfile.TemporaryDirectory() as folder:
            paths = write_jpegs(pathlib.Path(folder), width, height, count)
            times = stage_times(palette, paths)
            whole, theirs = Time(), Time()
            for _ in range(ROUNDS):
                split = FileSplit("JPEG files", paths)
                with whole.round(len(paths)):
                    tokenize(split, palette.bind(IMAGE_SIZE))
                with theirs.round(len(paths)):
                    read_with(fast, paths)
        cells = [f"{1000 * stage.cpu:.3f}" for stage in times]
        total = sum(stage.cpu for stage in times)
        cells += [f"{1000 * total:.3f}", f"{times[-1].cpu / total:.1%}"]
        cells += [f"{1000 * whole.cpu:.3f}", f"{1 / whole.wall:,.0f}", f"{1000 * theirs.cpu:.3f}"]
        print(f"| {width}×{height} JPEG | {' | '.join(cells)} |")


def write_jpegs(folder: pathlib.Path, width: int, height: int, count: int) -> list[pathlib.Path]:
    """Writes crops of the photographs as files of this size."""
    paths = [folder / f"{index:04d}.jpg" for index in range(count)]
    for path, image in zip(paths, crops(count, width, height, seed=2), strict=True):
        image.save(path, quality=JPEG_QUALITY)
    return paths


def stage_times(palette: ColorPalette, paths: list[pathlib.Path]) -> list[Time]:
    """Times decoding, resizing and tokenizing one by one, with the pipeline's own functions."""
    crop = augmentations.get("none").evaluate
    decoding, resizing, tokenizing = Time(), Time(), Time()
    for _ in range(ROUNDS):
        with decoding.round(len(paths)):
            decoded = [decode(path.read_bytes()) for path in paths]
        with resizing.round(len(paths)):
            squares = [crop(image) for image in decoded]
            chunks = [
                squares[start : start + RECORD_BLOCK_SIZE]
                for start in range(0, len(squares), RECORD_BLOCK_SIZE)
            ]
            resized = [resize_squares(chunk, IMAGE_SIZE) for chunk in chunks]
        with tokenizing.round(len(paths)):
            for chunk in resized:
                palette.tokenize(chunk)
    return [decoding, resizing, tokenizing]


def read_with(processor, paths: list[pathlib.Path]) -> np.ndarray:
    """Maps files to tokens [N, R²] by Hugging Face's processor, including its resizing."""
    images = [Image.open(io.BytesIO(path.read_bytes())).convert("RGB") for path in paths]
    return processor(images, return_tensors="np")["input_ids"]


def main() -> None:
    images = np.stack([np.asarray(c) for c in crops(NUM_IMAGES, IMAGE_SIZE, IMAGE_SIZE, seed=1)])
    palette = ColorPalette.fit(images, NUM_COLORS)
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start; {versions}")
    print(f"{NUM_COLORS} colors, {IMAGE_SIZE}×{IMAGE_SIZE} pixels, best of {ROUNDS} rounds\n")
    all_of_them = contestants(palette)
    compare_tokens(all_of_them, images[:NUM_IMAGES_SLOW], palette.colors)
    print()
    compare_speed(all_of_them, images)
    print()
    jpeg_shares(palette)


if __name__ == "__main__":
    main()
