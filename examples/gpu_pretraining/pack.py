"""Packs a folder of small square images into a few JPEG files and a palette.

    python pack.py photos packed --train 440 --held-out 20

An image's side has to be a multiple of 8, the block size of JPEG: then no image touches another
in the mosaic. Of each folder of images, the last ones by name are held out.
"""

import argparse
import pathlib

import numpy as np
from PIL import Image

import igpt_keras
from igpt_keras.json_files import read_json, write_json

ROWS = COLUMNS = 128  # images in a mosaic
SPLITS = ("train", "validation")


def write_mosaics(images: np.ndarray, folder: pathlib.Path, split: str, **settings) -> None:
    """Writes uint8 [N, R, R, 3] as `<split>-0.jpg`, `<split>-1.jpg`, …"""
    size = images.shape[1]
    for number, start in enumerate(range(0, len(images), ROWS * COLUMNS)):
        part = images[start : start + ROWS * COLUMNS]
        rows = -(-len(part) // COLUMNS)
        mosaic = np.zeros((rows * COLUMNS, size, size, 3), np.uint8)
        mosaic[: len(part)] = part
        mosaic = mosaic.reshape(rows, COLUMNS, size, size, 3).swapaxes(1, 2)
        picture = Image.fromarray(mosaic.reshape(rows * size, COLUMNS * size, 3))
        # Progressive files with tables of their own are a tenth smaller.
        picture.save(folder / f"{split}-{number}.jpg", optimize=True, progressive=True, **settings)


def read_mosaics(folder: pathlib.Path, split: str) -> np.ndarray:
    """Returns the images of a split, uint8 [N, R, R, 3]."""
    packed = read_json(folder / "packed.json")
    count, size = packed[split], packed["image_size"]
    images = []
    for number in range(-(-count // (ROWS * COLUMNS))):
        mosaic = np.asarray(Image.open(folder / f"{split}-{number}.jpg"))
        mosaic = mosaic.reshape(-1, size, COLUMNS, size, 3).swapaxes(1, 2)
        images.append(mosaic.reshape(-1, size, size, 3))
    return np.concatenate(images)[:count]


def read_tokens(folder: pathlib.Path) -> tuple[igpt_keras.ColorPalette, np.ndarray, np.ndarray]:
    """Returns the palette, and the tokens of both splits, uint16 [N, R²]."""
    palette = igpt_keras.ColorPalette.load(folder / "palette.npy")
    images = (read_mosaics(folder, split) for split in SPLITS)
    return palette, *(palette.tokenize(split).astype(np.uint16) for split in images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=pathlib.Path, help="folder of images, or of such folders")
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--train", type=int, help="training images per folder; default: all")
    parser.add_argument("--held-out", type=int, default=20, help="held-out images per folder")
    arguments = parser.parse_args()

    files = {split: [] for split in SPLITS}
    for folder in sorted({path.parent for path in arguments.source.rglob("*.*")}):
        found = sorted(path for path in folder.iterdir() if path.is_file())
        kept = len(found) - arguments.held_out
        files["train"] += found[:kept][: arguments.train]
        files["validation"] += found[kept:]
    images = {
        split: np.stack([np.asarray(Image.open(path).convert("RGB")) for path in files[split]])
        for split in SPLITS
    }
    # With the quantization of the source, JPEG images change only by rounding.
    tables = getattr(Image.open(files["train"][0]), "quantization", None)
    settings = {"subsampling": 0, **({"qtables": tables} if tables else {"quality": 90})}
    arguments.output.mkdir(parents=True)
    for split in SPLITS:
        write_mosaics(images[split], arguments.output, split, **settings)
    packed = {"image_size": images["train"].shape[1]}
    packed |= {split: len(images[split]) for split in SPLITS}
    write_json(arguments.output / "packed.json", packed)
    unpacked = read_mosaics(arguments.output, "train")
    palette = igpt_keras.ColorPalette.fit(unpacked)
    palette.save(arguments.output / "palette.npy")
    changed = np.mean(palette.tokenize(unpacked) != palette.tokenize(images["train"]))
    size = sum(path.stat().st_size for path in arguments.output.iterdir())
    print(f"{packed}, {size / 2**20:.1f} MiB, {changed:.2%} of the tokens changed")


if __name__ == "__main__":
    main()
