"""What a tokenizer loses of images, and which tokens it uses."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from igpt_keras.pictures.contact_sheets import contact_sheet
from igpt_keras.tokenizers import ImageTokenizer

IMAGES_IN_A_ROW = 8
# The side of a cell in pixels is at least this, so that a caption has room.
CELL_SIZE = 144
# Tokens are turned into images this many at a time.
CHUNK = 64
MAX_PICTURES = 1024


@dataclasses.dataclass(frozen=True)
class Reconstructions:
    """Images, and the images that their tokens stand for.

    Attributes:
        images: uint8 [N, R, R, 3].
        restored: uint8 [N, R, R, 3].
        counts: int64 [V], how often each token occurs.

    Example:
        ```python
        from igpt_keras import ColorPalette
        from igpt_keras.data import open_data, read_images
        from igpt_keras.evaluation.reconstructions import Reconstructions

        images = read_images(open_data("digits").train, image_size=8).images
        made = Reconstructions.of(ColorPalette.fit(images, num_colors=8), images)
        print(made.rmse, made.psnr, made.used_share, made.perplexity)
        ```
    """

    images: np.ndarray
    restored: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, tokenizer: ImageTokenizer, images: np.ndarray) -> "Reconstructions":
        """Tokenizes images and turns the tokens back into images.

        Args:
            tokenizer: The tokenizer.
            images: uint8 [N, R, R, 3].
        """
        tokens = tokenizer.tokenize(images)
        counts = np.bincount(tokens.ravel(), minlength=tokenizer.vocabulary_size)
        return cls(images, tokenizer.detokenize(tokens), counts)

    @property
    def errors(self) -> np.ndarray:
        """Root mean square error of each image in levels of a channel, 0…255: float64 [N]."""
        pairs = zip(self.images, self.restored, strict=True)
        squares = [np.mean(np.square(x.astype(np.float64) - y)) for x, y in pairs]
        return np.sqrt(squares)

    @property
    def rmse(self) -> float:
        """Root mean square error over all pixels of all images, in levels."""
        return math.sqrt(np.mean(np.square(self.errors)))

    @property
    def psnr(self) -> float:
        """Peak signal-to-noise ratio over all pixels of all images, in dB."""
        return psnr(self.rmse)

    @property
    def used_share(self) -> float:
        """Share of the vocabulary that occurs in the images."""
        return float(np.mean(self.counts > 0))

    @property
    def perplexity(self) -> float:
        """Exponential of the entropy of tokens: V if all occur equally often, 1 for only one."""
        shares = self.counts[self.counts > 0] / self.counts.sum()
        return float(np.exp(-np.sum(shares * np.log(shares))))

    def __str__(self) -> str:
        return f"{self.error_text()}; {self.usage_text()}"

    def error_text(self) -> str:
        """Returns the error over all images in words."""
        if self.rmse == 0:
            return "no error"
        return f"RMSE {self.rmse:.2f} of 255, PSNR {self.psnr:.1f} dB"

    def usage_text(self) -> str:
        """Returns how many tokens are used, and how evenly, in words."""
        used = np.count_nonzero(self.counts)
        return f"{used:,} of {len(self.counts):,} tokens used, perplexity {self.perplexity:.1f}"

    def sheet(self, names: Sequence[str] = (), title: str = "") -> Image.Image:
        """Draws the images, and below each what its tokens stand for, with the error.

        Args:
            names: Names of the images.
            title: Text above them; the error over all images by default.
        """
        errors = [f"RMSE {e:.1f}, {psnr(e):.1f} dB" if e else "no error" for e in self.errors]
        rows, captions = [], []
        for start in range(0, len(self.images), IMAGES_IN_A_ROW):
            part = slice(start, start + IMAGES_IN_A_ROW)
            rows += [self.images[part], self.restored[part]]
            captions += [names[part], errors[part]]
        side = self.images.shape[1]
        return contact_sheet(
            rows,
            title=title or self.error_text(),
            labels=["image", "from tokens"] * (len(rows) // 2),
            captions=captions,
            cell_size=side * math.ceil(CELL_SIZE / side),
        )


def psnr(rmse: float) -> float:
    """Returns the peak signal-to-noise ratio in dB of a root mean square error in levels."""
    return math.inf if rmse == 0 else 20 * math.log10(255 / rmse)


def pictures_of_tokens(tokenizer: ImageTokenizer) -> np.ndarray:
    """Returns what each token looks like among tokens of its kind.

    Args:
        tokenizer: A tokenizer with an image size.

    Returns:
        uint8 [V, h, w, 3], of at most the first `MAX_PICTURES` tokens: from the middle of an
        image that has no other token, the pixels of one token, h = R / rows, w = R / columns,
        at least 1.
    """
    rows, columns = tokenizer.grid
    count = min(tokenizer.vocabulary_size, MAX_PICTURES)
    pictures = []
    for start in range(0, count, CHUNK):
        tokens = np.arange(start, min(start + CHUNK, count))
        images = tokenizer.detokenize(np.repeat(tokens[:, None], rows * columns, axis=1))
        side = images.shape[1]
        height, width = max(side // rows, 1), max(side // columns, 1)
        top, left = rows // 2 * side // rows, columns // 2 * side // columns
        pictures.append(images[:, top : top + height, left : left + width])
    return np.concatenate(pictures)
