"""How often a completion depends on the batch that it is computed in.

    python benchmarks/ties.py MODEL --images folder-of-images --save tokens.npy
    KERAS_BACKEND=jax python benchmarks/ties.py MODEL --images folder-of-images --saved tokens.npy

Matrix products round differently at different batch sizes. Where two colors tie to within
rounding, the other one may be drawn, and the rest of the completion differs. This script
completes the lower halves of images all at once, in smaller batches and in other ways, and prints
a Markdown table of the completions that differ. `--saved` compares with what another backend
completed all at once, and with nothing else.
"""

import argparse
import pathlib

import numpy as np

import igpt_keras
from igpt_keras.data import open_data, read_image


def images_of(folder: pathlib.Path | None, size: int, count: int) -> np.ndarray:
    """Returns images uint8 [B, R, R, 3] of a folder, or scikit-learn's digits without one."""
    if folder is None:
        return open_data("digits").test.images[:count]
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    chosen = np.random.default_rng(0).choice(len(files), count, replace=False)
    return np.stack([read_image(files[index], size) for index in chosen])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument(
        "--images", type=pathlib.Path, help="a folder of images; scikit-learn's digits by default"
    )
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--completions", type=int, default=4, help="completions of each image")
    parser.add_argument("--save", type=pathlib.Path, help="where to write the tokens")
    parser.add_argument("--saved", type=pathlib.Path, help="tokens of another backend")
    arguments = parser.parse_args()
    model = igpt_keras.load(arguments.model)
    size = model.config.image_size
    images = images_of(arguments.images, size, arguments.count)

    def complete(at_once, **options):
        parts = [
            model.generate(
                images[start : start + at_once],
                keep_rows=size // 2,
                num_completions=arguments.completions,
                seed=list(range(start, min(start + at_once, len(images)))),
                **options,
            ).tokens
            for start in range(0, len(images), at_once)
        ]
        return np.concatenate(parts)

    all_at_once = complete(len(images))
    if arguments.save is not None:
        np.save(arguments.save, all_at_once)
    ways = {
        "7 images at a time": (7, {}),
        "1 image at a time": (1, {}),
        "row by row": (len(images), {"on_row": lambda row, pixels: None}),
        "compiled by XLA": (len(images), {"jit_compile": True}),
    }
    total = all_at_once[..., 0].size
    drawn = total * (size - size // 2) * size
    print(f"{total} completions with {drawn} drawn pixels, compared with all at once:\n")
    print("| | completions that differ | drawn pixels per difference |\n| --- | ---: | ---: |")
    if arguments.saved is not None:
        others = {f"saved as {arguments.saved.name}": np.load(arguments.saved)}
    else:
        others = {name: complete(at_once, **options) for name, (at_once, options) in ways.items()}
    for name, tokens in others.items():
        differ = int((tokens != all_at_once).any(axis=-1).sum())
        print(f"| {name} | {differ} | {f'{drawn / differ:,.0f}' if differ else ''} |")


if __name__ == "__main__":
    main()
