"""Images of which only some pixels are known: what tokens may be computed from.

Shapes: B images, R their side, n tokens in the rows and columns of a grid.
"""

import numpy as np

from igpt_keras.tensors import Tensor

# Level of all channels of an image without a known pixel.
GRAY = 128


def fill_unknown(images: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Returns images in which every unknown pixel has the color of the nearest known one.

    Args:
        images: uint8 [B, R, R, 3].
        known: bool [B, R, R], the known pixels.

    Returns:
        uint8 [B, R, R, 3], gray where no pixel is known. It depends on known pixels and the
        mask only.
    """
    from scipy.ndimage import distance_transform_edt

    filled = np.full_like(images, GRAY)
    masks, places = np.unique(known, axis=0, return_inverse=True)
    for index, mask in enumerate(masks):
        if mask.any():
            nearest = distance_transform_edt(~mask, return_distances=False, return_indices=True)
            rows, columns = np.asarray(nearest)
            same = places.reshape(-1) == index
            filled[same] = images[same][:, rows, columns]
    return filled


def fill_rows_in_graph(images: Tensor, keep_rows: Tensor) -> Tensor:
    """Does what `fill_unknown` does where the first rows are known, int32 [B] of them."""
    import tensorflow as tf

    last = tf.maximum(keep_rows - 1, 0)[:, None]
    filled = tf.gather(images, tf.minimum(tf.range(tf.shape(images)[1]), last), batch_dims=1)
    return tf.where((keep_rows > 0)[:, None, None, None], filled, tf.cast(GRAY, images.dtype))


def known_tokens(known: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Returns which tokens stand for known pixels only.

    Args:
        known: bool [B, R, R], the known pixels.
        grid: Rows and columns of an image's tokens. Tokens share the image evenly; one whose
            border crosses a pixel stands for that pixel too.

    Returns:
        bool [B, n].
    """
    rows, columns = (_stands_for(count, known.shape[-1]) for count in grid)
    return (rows @ ~known @ columns.T == 0).reshape(len(known), -1)


def known_tokens_in_graph(known: Tensor, grid: tuple[int, int]) -> Tensor:
    """Does what `known_tokens` does, for a tensor bool [B, R, R] whose R is known."""
    import tensorflow as tf

    rows, columns = (tf.constant(_stands_for(count, known.shape[-1])) for count in grid)
    unknown = tf.cast(~known, tf.float32)
    num_unknown = tf.matmul(tf.matmul(rows, unknown), columns, transpose_b=True)
    return tf.reshape(num_unknown, [-1, grid[0] * grid[1]]) == 0


def _stands_for(count: int, size: int) -> np.ndarray:
    """Returns float32 [count, size], 1 where a token's share of a side overlaps a pixel's."""
    tokens, pixels = np.arange(count)[:, None], np.arange(size)
    before, after = (pixels + 1) * count > tokens * size, pixels * count < (tokens + 1) * size
    return (before & after).astype(np.float32)
