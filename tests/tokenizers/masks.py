"""Masks of known pixels of all kinds."""

import numpy as np


def some_masks(size):
    """Random, single, checkered, all and no known pixels, columns, and every number of rows."""
    generator = np.random.default_rng(5)
    rows, columns = np.indices((size, size))
    single = np.zeros((2, size, size), bool)
    single[0, size // 2, 0] = single[1, 0, size - 1] = True
    return np.stack(
        [
            *(generator.random((size, size)) < share for share in (0.2, 0.5, 0.9)),
            *single,
            *~single,
            (rows + columns) % 2 == 0,
            columns < size - 1,
            *(rows < count for count in range(size + 1)),
        ]
    )


def differing_where_unknown(masks, seed=0):
    """Two lots of images with the same known pixels, and others elsewhere."""
    generator = np.random.default_rng(seed)
    shape = (*masks.shape, 3)
    images = generator.integers(0, 250, shape).astype(np.uint8)
    # Each channel differs, and by less than 7.
    others = images + generator.integers(1, 7, shape).astype(np.uint8)
    return images, np.where(masks[..., None], images, others)
