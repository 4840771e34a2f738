"""The colour palette: RGB pixels to tokens and back (paper, section 3.2)."""

import os
import pathlib

import numpy as np

from igpt_keras.atomic import atomic_path
from igpt_keras.errors import InputError

CHUNK = 4096
# A mean of float32 white pixels may lie this far outside [-1, 1].
ROUNDING = 1e-5


class ColorPalette:
    """The k colours whose indices are the tokens.

    Args:
        colors: float [k, 3], RGB in [-1, 1]; a uint8 channel v stands for
            v / 127.5 - 1 (published `kmeans_centers.npy`).

    Attributes:
        colors: float32 [k, 3].

    Raises:
        InputError: colours of another shape, not finite, or outside [-1, 1].
    """

    def __init__(self, colors):
        colors = np.asarray(colors, dtype=np.float32)
        if colors.ndim != 2 or colors.shape[1] != 3 or not len(colors):
            raise InputError(f"palette colours must have shape [k, 3], got {list(colors.shape)}")
        if not np.isfinite(colors).all() or np.abs(colors).max() > 1 + ROUNDING:
            raise InputError(
                "palette colours must be finite and lie in [-1, 1], "
                f"got {colors.min()}…{colors.max()}"
            )
        self.colors = colors
        self._token_of_rgb = None

    @property
    def num_colors(self) -> int:
        return len(self.colors)

    @classmethod
    def fit(
        cls, images, num_colors: int = 512, seed: int = 0, max_pixels: int = 250_000
    ) -> "ColorPalette":
        """Fits the palette by k-means over pixels.

        Args:
            images: uint8 [..., H, W, 3] (or 1 channel, grey).
            num_colors: k; 512 is the paper's 9 bits.
            seed: of the sample of pixels and of k-means.
            max_pixels: k-means sees at most this many pixels, drawn at random.

        Returns: a palette whose colours are sorted from dark to light.

        Raises:
            InputError: unusable images, or fewer distinct colours than `num_colors`.
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
                f"colours; ask for at most {len(distinct)}"
            )
        kmeans = KMeans(num_colors, n_init=1, random_state=seed)
        kmeans.fit(distinct / 127.5 - 1, sample_weight=counts)
        colors = np.clip(kmeans.cluster_centers_, -1, 1)
        return cls(colors[np.argsort(colors.sum(axis=1), kind="stable")])

    def quantize(self, images) -> np.ndarray:
        """Pixels to the tokens of their nearest colours.

        Nearest by squared Euclidean distance in float64; of equally near colours,
        the one of lowest index.

        Args:
            images: uint8 [..., H, W, 3] (or 1 channel, grey).

        Returns: int32 [..., H, W].

        Raises:
            InputError: images of another rank, dtype or number of channels.
        """
        red, green, blue = np.moveaxis(check_images(images).astype(np.int32), -1, 0)
        rgb = (red << 16) | (green << 8) | blue
        if self._token_of_rgb is None:
            self._token_of_rgb = np.full(1 << 24, -1, np.int32)
        tokens = self._token_of_rgb[rgb]
        unknown = np.unique(rgb[tokens < 0])
        if len(unknown):
            self._token_of_rgb[unknown] = self._nearest(unknown)
            tokens = self._token_of_rgb[rgb]
        return tokens

    def _nearest(self, rgb) -> np.ndarray:
        """Tokens [m] of packed colours [m] (0xRRGGBB), by comparing with every colour."""
        values = np.stack([rgb >> 16, (rgb >> 8) & 255, rgb & 255], axis=1) / 127.5 - 1
        colors = self.colors.astype(np.float64)
        nearest = []
        for start in range(0, len(values), CHUNK):
            difference = values[start : start + CHUNK, None] - colors
            red, green, blue = np.moveaxis(difference**2, -1, 0)
            nearest.append((red + green + blue).argmin(axis=1))
        return np.concatenate(nearest).astype(np.int32)

    @property
    def rgb(self) -> np.ndarray:
        """The colours as uint8 [k, 3]: rint(127.5 · (c + 1)), as in the published code."""
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

    def save(self, path: str | os.PathLike) -> None:
        """Writes the colours as the published `.npy`, float32 [k, 3]; replaces the file whole."""
        with atomic_path(path, overwrite=True) as partial, open(partial, "wb") as file:
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


def check_images(images) -> np.ndarray:
    """Images as uint8 [..., H, W, 3]; grey ones get three equal channels.

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
