"""Image files that the tests of loading read."""

import numpy as np
from PIL import Image

from igpt_keras import ColorPalette
from igpt_keras.data.file_splits import FileSplit

# Each gray has its own token.
GREYS = ColorPalette(np.repeat(np.arange(256)[:, None] / 127.5 - 1, 3, axis=1))


def photos(folder, count, height=8, width=8, seed=0):
    """PNG files of random pixels; their pixels uint8 [N, h, w, 3] beside them."""
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, height, width, 3)).astype(np.uint8)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index:02d}.png")
    return FileSplit("photos", sorted(folder.iterdir()), np.arange(count) % 3), images
