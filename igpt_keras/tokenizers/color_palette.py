"""The color palette: RGB pixels to tokens and back (paper, section 3.2)."""

import copy
import hashlib
import math
import os
import pathlib
from typing import Any, ClassVar

import numpy as np

from igpt_keras import paper
from igpt_keras.atomic import atomic_path
from igpt_keras.errors import InputError, first_line
from igpt_keras.tensors import Tensor
from igpt_keras.tokenizers.base import ImageTokenizer, register_tokenizer
from igpt_keras.tokenizers.image_hints import check_images

PALETTE_FILE = "palette.npy"

# All that channels of 8 bits can tell apart.
MAX_COLORS = 1 << 24
# A mean of float32 white pixels may lie this far outside [-1, 1].
ROUNDING_TOLERANCE = 1e-5
# The colors of the channel values 0…255.
LEVELS = np.arange(256) / 127.5 - 1
# Pixels per lookup: their table indices fit into the processor's cache.
PIXELS_PER_LOOKUP = 16384
# The table is filled in cubes of CUBE_SIDE³ colors; candidates are chosen for CUBES_AT_ONCE.
CUBE_SIDE = 8
CUBES_AT_ONCE = 16


@register_tokenizer("color_palette")
class ColorPalette(ImageTokenizer):
    """A tokenizer whose tokens are indices into k colors, one token per pixel.

    Args:
        colors: float [k, 3], RGB in [-1, 1]: a uint8 channel v is the color v / 127.5 - 1,
            as in the published `kmeans_centers.npy`.
        image_size: Side of the images in pixels; None for square images of any size.

    Attributes:
        colors: float32 [k, 3].
        image_size: As given.

    Raises:
        InputError: The colors have another shape, are more than 2²⁴, are not finite, or lie
            outside [-1, 1].

    Example:
        ```python
        import numpy as np
        from igpt_keras import ColorPalette

        images = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3)).astype(np.uint8)
        palette = ColorPalette.fit(images, num_colors=16)
        tokens = palette.tokenize(images)  # int32 [10, 64]
        restored = palette.detokenize(tokens)  # uint8 [10, 8, 8, 3]
        ```
    """

    pixelwise: ClassVar[bool] = True

    def __init__(self, colors: Any, image_size: int | None = None):
        colors = np.asarray(colors)
        if colors.dtype.kind in "bOSU":
            raise InputError(f"palette colors must be numbers, got an array of {colors.dtype}")
        if colors.ndim != 2 or colors.shape[1] != 3 or not len(colors):
            raise InputError(f"palette colors must have shape [k, 3], got {list(colors.shape)}")
        if len(colors) > MAX_COLORS:
            raise InputError(
                f"palette colors must be at most {MAX_COLORS:,}, got {len(colors):,} of them"
            )
        colors = colors.astype(np.float32)
        if not np.isfinite(colors).all() or np.abs(colors).max() > 1 + ROUNDING_TOLERANCE:
            raise InputError(
                "palette colors must be finite and lie in [-1, 1], "
                f"got {colors.min()}…{colors.max()}"
            )
        self.colors = colors
        self.image_size = image_size
        # Token + 1 of each of the 2²⁴ colors, or 0 where it is not known yet. Zeros take no
        # memory until they are overwritten. Threads that fill the same entries write the same
        # values.
        self._table = np.zeros(1 << 24, np.min_scalar_type(len(colors)))

    @property
    def vocabulary_size(self) -> int:
        """Number of colors, k."""
        return len(self.colors)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of an image: (R, R).

        Raises:
            InputError: The palette is for images of any size.
        """
        if self.image_size is None:
            raise InputError("image_size of the palette is not set; bind it to one")
        return (self.image_size, self.image_size)

    @classmethod
    def fit(
        cls,
        images: np.ndarray,
        num_colors: int = paper.PALETTE_SIZE,
        seed: int = 0,
        max_pixels: int = 250_000,
    ) -> "ColorPalette":
        """Fits a palette to the pixels of images by k-means.

        Args:
            images: uint8 [..., R, R, 3], or with one gray channel.
            num_colors: Number of colors, k.
            seed: Seed of the pixel sample and of k-means.
            max_pixels: Maximum number of pixels, drawn at random, that k-means is given.

        Returns:
            A palette for images of this size, its colors sorted from dark to light.

        Raises:
            InputError: The images cannot be used or have fewer than `num_colors` distinct
                colors.
        """
        from sklearn.cluster import KMeans

        if num_colors < 1:
            raise InputError(f"num_colors must be at least 1, got {num_colors}")
        images = check_images(images)
        height, width = images.shape[-3:-1]
        pixels = images.reshape(-1, 3)
        if len(pixels) > max_pixels:
            chosen = np.random.default_rng(seed).choice(len(pixels), max_pixels, replace=False)
            pixels = pixels[chosen]
        distinct, counts = np.unique(pixels, axis=0, return_counts=True)
        if len(distinct) < num_colors:
            raise InputError(
                f"num_colors={num_colors} but the images hold only {len(distinct)} distinct "
                f"colors; ask for at most {len(distinct)}"
            )
        kmeans = KMeans(num_colors, n_init=1, random_state=seed)  # pyright: ignore[reportArgumentType]
        kmeans.fit(distinct / 127.5 - 1, sample_weight=counts)
        colors = np.clip(kmeans.cluster_centers_, -1, 1)
        colors = colors[np.argsort(colors.sum(axis=1), kind="stable")]
        return cls(colors, height if height == width else None)

    def bind(self, image_size: int) -> "ColorPalette":
        """Returns the palette for images of a given size; colors do not depend on it."""
        bound = copy.copy(self)
        bound.image_size = image_size
        return bound

    def fingerprint(self) -> str:
        """Returns a SHA-256 digest of the colors, the same for every image size."""
        return hashlib.sha256(self.kind.encode() + self.colors.tobytes()).hexdigest()

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, JSON-serializable."""
        return {"colors": self.colors.tolist(), "image_size": self.image_size}

    def nearest(self, pixels: np.ndarray) -> np.ndarray:
        """Returns the indices of the colors nearest to pixels.

        The distance is squared Euclidean, in float64; of equally near colors, the one with
        the lowest index counts.

        Args:
            pixels: uint8 [..., 3].

        Returns:
            int32 [...].
        """
        flat = pixels.reshape(-1, 3)
        tokens = np.empty(len(flat), np.int32)
        for start in range(0, len(flat), PIXELS_PER_LOOKUP):
            chunk = slice(start, start + PIXELS_PER_LOOKUP)
            tokens[chunk] = self._look_up(flat[chunk])
        return tokens.reshape(pixels.shape[:-1])

    def _tokenize(self, images: np.ndarray) -> np.ndarray:
        return self.nearest(images).reshape(len(images), math.prod(images.shape[1:3]))

    def _detokenize(self, tokens: np.ndarray) -> np.ndarray:
        side = math.isqrt(tokens.shape[-1])
        return self.rgb[tokens].reshape(len(tokens), side, side, 3)

    def _check_length(self, tokens: np.ndarray) -> None:
        if self.image_size is not None:
            super()._check_length(tokens)
        elif tokens.ndim < 1 or math.isqrt(tokens.shape[-1]) ** 2 != tokens.shape[-1]:
            raise InputError(
                f"tokens must have shape [..., n], n a square, got {list(tokens.shape)}"
            )

    @property
    def rgb(self) -> np.ndarray:
        """The colors as uint8 [k, 3]: rint(127.5 · (c + 1)), as in the published code."""
        return np.rint(127.5 * (self.colors.astype(np.float64) + 1)).astype(np.uint8)

    def tokenize_in_graph(self, images: Tensor) -> Tensor:
        """Returns the tokens of a TensorFlow tensor: uint8 [B, R, R, 3] to int32 [B, n]."""
        import tensorflow as tf

        shape = tf.shape(images)
        values = tf.cast(images, tf.float64) / 127.5 - 1
        # Summed in the order of `_fill`, so that ties fall alike.
        red, green, blue = tf.unstack(
            (values[..., None, :] - tf.constant(self.colors, tf.float64)) ** 2, axis=-1
        )
        tokens = tf.argmin(red + green + blue, axis=-1, output_type=tf.int32)
        return tf.reshape(tokens, [shape[0], shape[1] * shape[2]])

    def detokenize_in_graph(self, tokens: Tensor) -> Tensor:
        """Returns the images of a TensorFlow tensor: int32 [B, n] to uint8 [B, R, R, 3]."""
        import tensorflow as tf

        return tf.reshape(tf.gather(tf.constant(self.rgb), tokens), [-1, *self.grid, 3])

    def save(self, path: str | os.PathLike, overwrite: bool = True) -> None:
        """Writes the colors in the published format: a `.npy` file, float32 [k, 3].

        Raises:
            FileExistsError: `path` exists and `overwrite` is false.
        """
        with atomic_path(path, overwrite) as partial, open(partial, "wb") as file:
            np.save(file, self.colors)

    @classmethod
    def load(cls, path: str | os.PathLike, image_size: int | None = None) -> "ColorPalette":
        """Reads a palette in the published format.

        Args:
            path: A `.npy` file, float [k, 3].
            image_size: As in the constructor.

        Raises:
            FileNotFoundError: `path` does not exist.
            InputError: The file does not hold a palette.
        """
        path = pathlib.Path(path).expanduser()
        if path.exists() and not path.is_file():
            raise InputError(f"palette {path} is not a file")
        try:
            # Mapped, not read: a header may declare more than the file holds.
            colors = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise
        # NumPy raises these and others, by what is wrong with the header.
        except Exception as error:
            raise InputError(f"palette {path} is not a .npy file: {first_line(error)}") from None
        try:
            return cls(colors, image_size)
        except (ValueError, TypeError) as error:
            raise InputError(f"palette {path} is unusable: {error}") from None

    def write_assets(self, folder: pathlib.Path) -> dict[str, Any]:
        """Writes `palette.npy` into `folder`; returns the other settings."""
        self.save(folder / PALETTE_FILE)
        return {"image_size": self.image_size}

    @classmethod
    def read_assets(cls, folder: pathlib.Path, config: dict[str, Any]) -> "ColorPalette":
        """Reads `palette.npy` from `folder`."""
        return cls.load(folder / PALETTE_FILE, **config)

    def _look_up(self, pixels: np.ndarray) -> np.ndarray:
        """Returns the tokens int32 [m] of pixels uint8 [m, 3]."""
        rgb = pixels[:, 0].astype(np.intp)
        for channel in (1, 2):
            rgb <<= 8
            rgb |= pixels[:, channel]
        entries = self._table.take(rgb)
        if not entries.all():
            self._fill(pixels[entries == 0])
            entries = self._table.take(rgb)
        return np.subtract(entries, 1, dtype=np.int32)

    def _fill(self, pixels: np.ndarray) -> None:
        """Fills the table's cubes of CUBE_SIDE³ colors that pixels uint8 [m, 3] lie in."""
        table = self._table.reshape(256, 256, 256)
        colors = self.colors.astype(np.float64).T
        cubes = np.unique(pixels // CUBE_SIDE, axis=0).astype(np.intp) * CUBE_SIDE
        for start in range(0, len(cubes), CUBES_AT_ONCE):
            corners = cubes[start : start + CUBES_AT_ONCE]
            for corner, possible in zip(corners, _possible(corners, colors), strict=True):
                candidates = np.flatnonzero(possible)
                levels = LEVELS[corner[:, None] + np.arange(CUBE_SIDE)]
                red, green, blue = (levels[:, :, None] - colors[:, None, candidates]) ** 2
                nearest = (red[:, None, None] + green[:, None] + blue).argmin(axis=-1)
                r, g, b = (slice(value, value + CUBE_SIDE) for value in corner)
                table[r, g, b] = candidates[nearest] + 1


def _possible(corners: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Returns which colors may be the nearest one somewhere in each cube: bool [m, k].

    A color is ruled out if its smallest distance to the cube exceeds the largest distance of
    another color. The bounds are summed in the order of the distances; rounding is monotonic,
    so they hold exactly for the computed distances.

    Args:
        corners: int [m, 3], the lowest channel values of each cube.
        colors: float64 [3, k].
    """
    low, high = (LEVELS[values][:, :, None] for values in (corners, corners + CUBE_SIDE - 1))
    red, green, blue = np.moveaxis((np.clip(colors, low, high) - colors) ** 2, 1, 0)
    smallest = red + green + blue
    red, green, blue = np.moveaxis(np.maximum((low - colors) ** 2, (high - colors) ** 2), 1, 0)
    largest = red + green + blue
    return smallest <= largest.min(axis=1, keepdims=True)
