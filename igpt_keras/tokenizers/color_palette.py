"""The color palette: RGB pixels to tokens and back (paper, section 3.2)."""

import os
import pathlib

import numpy as np

from igpt_keras import paper
from igpt_keras.atomic import atomic_path
from igpt_keras.errors import InputError

# A mean of float32 white pixels may lie this far outside [-1, 1].
ROUNDING = 1e-5
# What a channel's values 0…255 stand for.
LEVELS = np.arange(256) / 127.5 - 1
# Pixels looked up at once: their indices stay in the processor's cache.
CHUNK = 16384
# The table is filled in blocks of SIDE³ colors, whose candidates are chosen BLOCKS at a time.
SIDE = 8
BLOCKS = 16


class ColorPalette:
    """The k colors whose indices are the tokens.

    Args:
        colors: float [k, 3], RGB in [-1, 1]; a uint8 channel v stands for
            v / 127.5 - 1 (published `kmeans_centers.npy`).

    Attributes:
        colors: float32 [k, 3].

    Raises:
        InputError: colors of another shape, not finite, or outside [-1, 1].
    """

    def __init__(self, colors):
        colors = np.asarray(colors, dtype=np.float32)
        if colors.ndim != 2 or colors.shape[1] != 3 or not len(colors):
            raise InputError(f"palette colors must have shape [k, 3], got {list(colors.shape)}")
        if not np.isfinite(colors).all() or np.abs(colors).max() > 1 + ROUNDING:
            raise InputError(
                "palette colors must be finite and lie in [-1, 1], "
                f"got {colors.min()}…{colors.max()}"
            )
        self.colors = colors
        # Token + 1 of all 2²⁴ colors, 0 where it is not known yet. Zeros take no memory until
        # they are written; threads that fill the same entries write the same values.
        self._table = np.zeros(1 << 24, np.min_scalar_type(len(colors)))

    @property
    def num_colors(self) -> int:
        return len(self.colors)

    @classmethod
    def fit(
        cls, images, num_colors: int = paper.PALETTE_SIZE, seed: int = 0, max_pixels: int = 250_000
    ) -> "ColorPalette":
        """Fits the palette by k-means over pixels.

        Args:
            images: uint8 [..., H, W, 3] (or 1 channel, gray).
            num_colors: k; 512 is the paper's 9 bits.
            seed: of the sample of pixels and of k-means.
            max_pixels: k-means sees at most this many pixels, drawn at random.

        Returns: a palette whose colors are sorted from dark to light.

        Raises:
            InputError: unusable images, or fewer distinct colors than `num_colors`.
        """
        from sklearn.cluster import KMeans

        if num_colors < 1:
            raise InputError(f"num_colors must be at least 1, got {num_colors}")
        pixels = check_images(images).reshape(-1, 3)
        if len(pixels) > max_pixels:
            chosen = np.random.default_rng(seed).choice(len(pixels), max_pixels, replace=False)
            pixels = pixels[chosen]
        distinct, counts = np.unique(pixels, axis=0, return_counts=True)
        if len(distinct) < num_colors:
            raise InputError(
                f"num_colors={num_colors} but the images hold only {len(distinct)} distinct "
                f"colors; ask for at most {len(distinct)}"
            )
        kmeans = KMeans(num_colors, n_init=1, random_state=seed)
        kmeans.fit(distinct / 127.5 - 1, sample_weight=counts)
        colors = np.clip(kmeans.cluster_centers_, -1, 1)
        return cls(colors[np.argsort(colors.sum(axis=1), kind="stable")])

    def quantize(self, images) -> np.ndarray:
        """Pixels to the tokens of their nearest colors.

        Nearest by squared Euclidean distance in float64; of equally near colors,
        the one of lowest index.

        Args:
            images: uint8 [..., H, W, 3] (or 1 channel, gray).

        Returns: int32 [..., H, W].

        Raises:
            InputError: images of another rank, dtype or number of channels.
        """
        images = check_images(images)
        pixels = images.reshape(-1, 3)
        tokens = np.empty(len(pixels), np.int32)
        for start in range(0, len(pixels), CHUNK):
            chunk = slice(start, start + CHUNK)
            tokens[chunk] = self._look_up(pixels[chunk])
        return tokens.reshape(images.shape[:-1])

    def _look_up(self, pixels) -> np.ndarray:
        """Tokens int32 [m] of pixels uint8 [m, 3]."""
        rgb = pixels[:, 0].astype(np.intp)
        for channel in (1, 2):
            rgb <<= 8
            rgb |= pixels[:, channel]
        entries = self._table.take(rgb)
        if not entries.all():
            self._fill(pixels[entries == 0])
            entries = self._table.take(rgb)
        return np.subtract(entries, 1, dtype=np.int32)

    def _fill(self, pixels) -> None:
        """Fills the table's blocks of SIDE³ colors that pixels uint8 [m, 3] lie in."""
        table = self._table.reshape(256, 256, 256)
        colors = self.colors.astype(np.float64).T
        blocks = np.unique(pixels // SIDE, axis=0).astype(np.intp) * SIDE
        for start in range(0, len(blocks), BLOCKS):
            corners = blocks[start : start + BLOCKS]
            for corner, possible in zip(corners, _possible(corners, colors), strict=True):
                candidates = np.flatnonzero(possible)
                levels = LEVELS[corner[:, None] + np.arange(SIDE)]
                red, green, blue = (levels[:, :, None] - colors[:, None, candidates]) ** 2
                nearest = (red[:, None, None] + green[:, None] + blue).argmin(axis=-1)
                r, g, b = (slice(value, value + SIDE) for value in corner)
                table[r, g, b] = candidates[nearest] + 1

    @property
    def rgb(self) -> np.ndarray:
        """The colors as uint8 [k, 3]: rint(127.5 · (c + 1)), as in the published code."""
        return np.rint(127.5 * (self.colors.astype(np.float64) + 1)).astype(np.uint8)

    def dequantize(self, tokens) -> np.ndarray:
        """Tokens int [...] to pixels uint8 [..., 3].

        Raises:
            InputError: tokens that are not integers in 0…k - 1.
        """
        tokens = np.asarray(tokens)
        if tokens.dtype.kind not in "iu":
            raise InputError(f"tokens must be integers, got {tokens.dtype}")
        if tokens.size and (tokens.min() < 0 or tokens.max() >= self.num_colors):
            raise InputError(
                f"tokens must lie in 0…{self.num_colors - 1}, got {tokens.min()}…{tokens.max()}"
            )
        return self.rgb[tokens]

    def error(self, images) -> np.ndarray:
        """What quantization loses: the root mean square error of each image.

        Args:
            images: as for `quantize`.

        Returns: float64 [...], in levels 0…255 of a channel.
        """
        images = check_images(images)
        difference = images - self.dequantize(self.quantize(images)).astype(np.float64)
        return np.sqrt(np.mean(difference**2, axis=(-3, -2, -1)))

    def save(self, path: str | os.PathLike, overwrite: bool = True) -> None:
        """Writes the colors as the published `.npy`, float32 [k, 3], whole or not at all.

        Raises:
            FileExistsError: `path` exists and `overwrite` is false.
        """
        with atomic_path(path, overwrite) as partial, open(partial, "wb") as file:
            np.save(file, self.colors)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "ColorPalette":
        """Reads a `.npy` palette.

        Raises:
            FileNotFoundError: no such file.
            InputError: a file that is not a palette.
        """
        path = pathlib.Path(path)
        try:
            colors = np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise InputError(f"palette {path} is not a .npy file: {error}") from None
        try:
            return cls(colors)
        except (ValueError, TypeError) as error:
            raise InputError(f"palette {path} is unusable: {error}") from None


def _possible(corners, colors) -> np.ndarray:
    """Which colors may be the nearest one somewhere in a block: bool [m, k].

    The others' smallest distance to the block exceeds the largest one of some color. The
    bounds are summed as the distances are; rounding keeps the order of what it rounds, so
    they hold for the computed distances exactly.

    Args:
        corners: int [m, 3], the lowest channel values of each block.
        colors: float64 [3, k].
    """
    low, high = (LEVELS[values][:, :, None] for values in (corners, corners + SIDE - 1))
    red, green, blue = np.moveaxis((np.clip(colors, low, high) - colors) ** 2, 1, 0)
    smallest = red + green + blue
    red, green, blue = np.moveaxis(np.maximum((low - colors) ** 2, (high - colors) ** 2), 1, 0)
    largest = red + green + blue
    return smallest <= largest.min(axis=1, keepdims=True)


def check_images(images) -> np.ndarray:
    """Images as uint8 [..., H, W, 3]; gray ones get three equal channels.

    Raises:
        InputError: another rank, dtype or number of channels.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8:
        raise InputError(f"images must be uint8 with values 0…255, got {images.dtype}")
    if images.ndim < 3 or images.shape[-1] not in (1, 3):
        raise InputError(
            f"images must have shape [..., height, width, 3] (or 1 channel), "
            f"got {list(images.shape)}"
        )
    return np.broadcast_to(images, (*images.shape[:-1], 3))
