"""Whether the colors of a model suit an image."""

import os
import warnings

from igpt_keras.errors import InputWarning

# Of 1,250 CIFAR-10 images, fewer than 1% have an error so much larger than the mean.
FACTOR = 2.5
# Levels of 255: a smaller error is hardly visible.
SMALL = 8.0
# More than most images have in as few as eight colors fitted to images of their kind.
LARGE = 30.0


def warn_of_colors(path: str | os.PathLike, error: float, usual: float | None = None) -> None:
    """Warns if a model's colors show an image much worse than the images it was trained on.

    Args:
        path: The image.
        error: Root mean square error of the image in the model's colors, in levels 0…255.
        usual: The same of images like those that the model was trained on; None if unknown.
    """
    bound = LARGE if usual is None else max(FACTOR * usual, SMALL)
    if error > bound:
        than = "" if usual is None else f", {usual:.1f} for images like those it was trained on"
        warnings.warn(
            f"{os.fspath(path)} has colors that the model cannot show: RMSE {error:.1f} of 255"
            f"{than}; completions will look different",
            InputWarning,
            stacklevel=2,
        )
