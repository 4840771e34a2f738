"""Reconstruction error of a tokenizer and of a palette with as many tokens an image.

    igpt tokenizer fit vqvae --data folder:photos --image-size 96 --output vqvae
    python benchmarks/reconstruction.py vqvae --data folder:photos

The palette gets images averaged down to the tokenizer's grid, and as many colors as the tokenizer
has tokens; its images are enlarged again, by repeating pixels and by bicubic interpolation.
Both are fitted to the training images and measured on the held-out ones of the source. Prints a
Markdown table of the root mean square error in levels 0…255 and the peak signal-to-noise ratio.
"""

import argparse
import sys

import numpy as np
from PIL import Image

import igpt_keras
from igpt_keras.data import read_images, resize_area
from igpt_keras.evaluation.reconstructions import Reconstructions
from igpt_keras.tokenizers import load_tokenizer


def enlarged(images: np.ndarray, size: int, resampling: Image.Resampling) -> np.ndarray:
    """Returns uint8 [B, size, size, 3]."""
    squares = (Image.fromarray(image).resize((size, size), resampling) for image in images)
    return np.stack([np.asarray(square) for square in squares])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokenizer", help="folder of the tokenizer")
    parser.add_argument("--data", required=True, metavar="SOURCE", help="a source of images")
    parser.add_argument("--max-images", type=int, default=1000, help="images of each split")
    options = parser.parse_args()
    tokenizer = load_tokenizer(options.tokenizer)
    if tokenizer is None:
        sys.exit(f"{options.tokenizer} holds no tokenizer")
    size, grid = tokenizer.image_size, tokenizer.grid
    data = igpt_keras.open_data(options.data)
    train, held_out = (
        read_images(split, size, limit=options.max_images, seed=0).images
        for split in (data.train, data.validation or data.test)
    )
    palette = igpt_keras.ColorPalette.fit(resize_area(train, *grid), tokenizer.vocabulary_size)
    small = palette.detokenize(palette.tokenize(resize_area(held_out, *grid)))
    rows, columns = grid
    made = {repr(tokenizer): Reconstructions.of(tokenizer, held_out)}
    for name, resampling in (
        ("pixels repeated", Image.Resampling.NEAREST),
        ("bicubic", Image.Resampling.BICUBIC),
    ):
        restored = enlarged(small, size, resampling)
        made[f"palette, {name}"] = Reconstructions(held_out, restored, np.zeros(1, np.int64))
    print(f"{len(held_out)} images of {size}×{size} pixels, {rows}×{columns} tokens:\n")
    print("| tokenizer | RMSE of 255 | PSNR, dB |\n| --- | ---: | ---: |")
    for name, each in made.items():
        print(f"| {name} | {each.rmse:.2f} | {each.psnr:.1f} |")


if __name__ == "__main__":
    main()
