"""Sets of generated images: files of OpenAI's evaluator, and folders of image files."""

import contextlib
import os
import pathlib
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from igpt_keras.data.augmentation import center_square, resize_squares
from igpt_keras.data.files import check_regular, printable
from igpt_keras.data.image_decoding import read_square
from igpt_keras.data.sources._files import image_suffixes, is_image
from igpt_keras.errors import InputError
from igpt_keras.pictures.completions import SHEET_FILE

SAMPLES_FILE = "samples.npz"
# The name that `np.savez` gives an array without one, and that guided-diffusion's evaluator reads.
KEY = "arr_0"
BATCH_SIZE = 32


class SampleSet:
    """Images of one set, read a few at a time.

    Args:
        path: A .npz file as `write_sample_set` writes it, or a folder. A folder is read from its
            `samples.npz` if it has one, as those of `igpt sample` do; else all image files right
            in it are read, without contact sheets.

    Attributes:
        path: As given.
        num_images: Number of images.
        format: The suffixes of the files, such as "npz" or "jpg, png".

    Raises:
        FileNotFoundError: There is nothing at `path`.
        InputError: It is not a set of images.

    Example:
        ```python
        from igpt_keras.data.sample_sets import SampleSet, write_sample_set

        write_sample_set("samples.npz", np.zeros((100, 16, 16, 3), np.uint8))
        samples = SampleSet("samples.npz")
        first = next(samples.batches(image_size=16))  # uint8 [32, 16, 16, 3]
        ```
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path).expanduser()
        if not self.path.exists():
            raise FileNotFoundError(
                f"{printable(os.fspath(path))} does not exist; expected a .npz file or a folder of "
                "images"
            )
        self._files: list[pathlib.Path] = []
        if self.path.is_dir() and not (self.path / SAMPLES_FILE).exists():
            self._files = _image_files(self.path)
            self.num_images = len(self._files)
            self.format = ", ".join(sorted({file.suffix.lower()[1:] for file in self._files}))
            return
        if self.path.is_dir():
            self.path /= SAMPLES_FILE
        self.format = "npz"
        with self._opened() as (shape, _):
            self.num_images = shape[0]

    def __len__(self) -> int:
        return self.num_images

    def batches(self, image_size: int) -> Iterator[np.ndarray]:
        """Yields all images in order, uint8 [B, image_size, image_size, 3], B up to `BATCH_SIZE`.

        They are cropped to a square and averaged by area, as the images of a data set.

        Raises:
            InputError: An image cannot be read.
        """
        for images in self._read_files() if self._files else self._read_array():
            yield resize_squares(images, image_size)

    def _read_files(self) -> Iterator[Sequence[np.ndarray]]:
        for start in range(0, len(self._files), BATCH_SIZE):
            yield [read_square(file) for file in self._files[start : start + BATCH_SIZE]]

    def _read_array(self) -> Iterator[Sequence[np.ndarray]]:
        with self._opened() as (shape, file):
            count, *image = shape
            for start in range(0, count, BATCH_SIZE):
                size = min(BATCH_SIZE, count - start)
                content = file.read(size * int(np.prod(image)))
                images = np.frombuffer(content, np.uint8).reshape(size, *image)
                yield [center_square(each) for each in images]

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[tuple[int, ...], Any]]:
        """Gives the shape of the array, and the file at its first image."""
        check_regular(self.path)
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{KEY}.npy") as file:
                yield _read_header(file, printable(os.fspath(self.path))), file
        except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{printable(os.fspath(self.path))} must be a .npz file with an array {KEY} of "
                f"images, or a folder of images: {error}"
            ) from None


def write_sample_set(path: str | os.PathLike, images: np.ndarray) -> None:
    """Writes images, uint8 [N, R, R, 3], as guided-diffusion's `evaluator.py` reads them.

    The array may be mapped from disk; it is copied in parts.
    """
    np.savez(path, images)


def _read_header(file: Any, name: str) -> tuple[int, ...]:
    """Returns the shape of an array of images; `file` is at its first number then."""
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise InputError(f"{name} has arrays of version {version}; 1.0 and 2.0 are read")
    shape, fortran_order, dtype = readers[version](file)
    if dtype != np.uint8 or fortran_order or len(shape) != 4 or shape[-1] != 3 or 0 in shape:
        order = " in Fortran's order" if fortran_order else ""
        raise InputError(
            f"{name} must hold images uint8 [N, height, width, 3], got {dtype} {list(shape)}{order}"
        )
    return shape


def _image_files(folder: pathlib.Path) -> list[pathlib.Path]:
    suffixes = image_suffixes()
    files = [
        path
        for path in sorted(folder.iterdir())
        if is_image(path.name, suffixes) and path.name != SHEET_FILE and path.is_file()
    ]
    if not files:
        raise InputError(f"{printable(os.fspath(folder))} holds no {SAMPLES_FILE} and no images")
    return files
