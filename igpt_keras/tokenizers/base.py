"""The tokenizer interface: images to discrete tokens and back."""

import abc
import copy
import hashlib
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from igpt_keras.errors import InputError
from igpt_keras.json_files import read_json, write_json
from igpt_keras.registry import Registry
from igpt_keras.tensors import Tensor
from igpt_keras.tokenizers.image_hints import check_images
from igpt_keras.tokenizers.known_pixels import (
    fill_rows_in_graph,
    fill_unknown,
    known_tokens,
    known_tokens_in_graph,
)

TOKENIZER_FILE = "tokenizer.json"

tokenizers: Registry[type["ImageTokenizer"]] = Registry("tokenizer", f"{__package__}.learned")

Self = TypeVar("Self", bound="ImageTokenizer")


class ImageTokenizer(abc.ABC):
    """Maps square images to sequences of discrete tokens and back.

    A subclass implements `vocabulary_size`, `grid`, `_tokenize` and `_detokenize`, sets
    `image_size`, and registers itself under the name that saved models store. It also
    implements `tokenize_in_graph` and `detokenize_in_graph` if models with it are to be
    exported, `final_rows` if rows of pixels need not wait for all tokens, and `write_assets` and
    `read_assets` if its state does not fit into `get_config`.

    Attributes:
        image_size: Side R of the images in pixels; None if images of any size will do.
        pixelwise: Whether each token stands for one pixel, in raster order.
        lossless: Whether every image comes back from its tokens unchanged. The likelihood of
            tokens is then one of images, and has bits per dimension.
        requires_fit: Whether something is learned or read from a file. If not, `cls(image_size)`
            makes a tokenizer, so that a kind is enough to name it: `--tokenizer rgb`.
        kind: Name of the class in `tokenizers`, set by `register_tokenizer`.

    Example:
        ```python
        import numpy as np
        from igpt_keras.tokenizers import ImageTokenizer, register_tokenizer

        @register_tokenizer("mean_gray")
        class MeanGray(ImageTokenizer):
            \"\"\"One token for an image: its mean gray level.\"\"\"

            vocabulary_size = 256
            grid = (1, 1)

            def __init__(self, image_size):
                self.image_size = image_size

            def get_config(self):
                return {"image_size": self.image_size}

            def _tokenize(self, images):
                return np.rint(images.mean(axis=(1, 2, 3)))[:, None].astype(np.int32)

            def _detokenize(self, tokens):
                size = self.image_size
                gray = tokens.astype(np.uint8)[:, :, None, None]
                return np.broadcast_to(gray, (len(tokens), size, size, 3))
        ```
    """

    image_size: int | None = None
    pixelwise: ClassVar[bool] = False
    lossless: ClassVar[bool] = False
    requires_fit: ClassVar[bool] = True
    kind: ClassVar[str]

    def __repr__(self) -> str:
        size = "any size" if self.image_size is None else f"{self.image_size}×{self.image_size}"
        return f"<{type(self).__name__}: {self.vocabulary_size:,} tokens, images of {size}>"

    @property
    @abc.abstractmethod
    def vocabulary_size(self) -> int:
        """Number of different tokens, V."""

    @property
    @abc.abstractmethod
    def grid(self) -> tuple[int, int]:
        """Rows and columns of an image's tokens; their product is the sequence length n."""

    @abc.abstractmethod
    def _tokenize(self, images: np.ndarray) -> np.ndarray:
        """Maps uint8 [B, R, R, 3] to int32 [B, n]."""

    @abc.abstractmethod
    def _detokenize(self, tokens: np.ndarray) -> np.ndarray:
        """Maps integers [B, n] in 0…V - 1 to uint8 [B, R, R, 3]."""

    @abc.abstractmethod
    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, JSON-serializable."""

    @classmethod
    def from_config(cls: type[Self], config: dict[str, Any]) -> Self:
        """Returns the tokenizer that `get_config` describes."""
        return cls(**config)

    def tokenize(self, images: np.ndarray) -> np.ndarray:
        """Returns the tokens of images.

        Args:
            images: uint8 [..., R, R, 3], or with one gray channel.

        Returns:
            int32 [..., n].

        Raises:
            InputError: The images have another shape or dtype.
        """
        images = check_images(images)
        *batch, height, width, _ = images.shape
        if height != width or self.image_size not in (None, height):
            raise InputError(
                f"images must be {self._size_text()}, got {height}×{width} (height × width)"
            )
        tokens = self._tokenize(images.reshape(math.prod(batch), height, width, 3))
        return tokens.reshape(*batch, tokens.shape[-1])

    def detokenize(self, tokens: np.ndarray) -> np.ndarray:
        """Returns the images that tokens stand for.

        Args:
            tokens: Integers [..., n] in 0…V - 1.

        Returns:
            uint8 [..., R, R, 3].

        Raises:
            InputError: The tokens are not such integers, or have another length.
        """
        tokens = np.asarray(tokens)
        if tokens.dtype.kind not in "iu":
            raise InputError(f"tokens must be integers, got {tokens.dtype}")
        if tokens.size and (tokens.min() < 0 or tokens.max() >= self.vocabulary_size):
            raise InputError(
                f"tokens must lie in 0…{self.vocabulary_size - 1}, "
                f"got {tokens.min()}…{tokens.max()}"
            )
        self._check_length(tokens)
        images = self._detokenize(tokens.reshape(-1, tokens.shape[-1]))
        return images.reshape(*tokens.shape[:-1], *images.shape[1:])

    def _check_length(self, tokens: np.ndarray) -> None:
        length = math.prod(self.grid)
        if tokens.ndim < 1 or tokens.shape[-1] != length:
            raise InputError(f"tokens must have shape [..., {length}], got {list(tokens.shape)}")

    def _size_text(self) -> str:
        return "square" if self.image_size is None else f"{self.image_size}×{self.image_size}"

    def tokenize_in_graph(self, images: Tensor) -> Tensor:
        """Returns the tokens of a TensorFlow tensor: uint8 [B, R, R, 3] to int32 [B, n]."""
        raise InputError(f"a {type(self).__name__} cannot be part of a TensorFlow graph")

    def detokenize_in_graph(self, tokens: Tensor) -> Tensor:
        """Returns the images of a TensorFlow tensor: int32 [B, n] to uint8 [B, R, R, 3]."""
        raise InputError(f"a {type(self).__name__} cannot be part of a TensorFlow graph")

    def tokenize_known(
        self, images: np.ndarray, known: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the tokens of images of which only some pixels are known.

        Known pixels alone determine the known tokens: before `tokenize` sees an image, each
        unknown pixel gets the color of the nearest known one.

        Args:
            images: uint8 [B, R, R, 3], or with one gray channel.
            known: bool [B, R, R], the known pixels.

        Returns:
            int32 [B, n], and bool [B, n], the known tokens: those that stand for known pixels
            only. The values of other tokens mean nothing.

        Raises:
            InputError: The images or the mask have another shape or dtype.

        Example:
            ```python
            known = np.broadcast_to(np.arange(32)[:, None] < 16, (len(images), 32, 32))
            tokens, known_tokens = tokenizer.tokenize_known(images, known)
            ```
        """
        images, known = check_images(images), np.asarray(known)
        if known.dtype != bool or known.ndim != 3 or known.shape != images.shape[:-1]:
            raise InputError(
                f"known must be boolean of shape {list(images.shape[:-1])}, "
                f"got {known.dtype} of shape {list(known.shape)}"
            )
        # A token of a pixel sees no other pixel.
        visible = images if self.pixelwise else fill_unknown(images, known)
        return self.tokenize(visible), known_tokens(known, self.grid)

    def tokenize_known_in_graph(self, images: Tensor, keep_rows: Tensor) -> tuple[Tensor, Tensor]:
        """Does what `tokenize_known` does where the first rows are known.

        Args:
            images: uint8 tensor [B, R, R, 3] of TensorFlow.
            keep_rows: int32 tensor [B], the number of known rows, 0…R.
        """
        import tensorflow as tf

        size = images.shape[1]
        visible = images if self.pixelwise else fill_rows_in_graph(images, keep_rows)
        known = tf.range(size)[None, :, None] < keep_rows[:, None, None]
        known = tf.broadcast_to(known, [tf.shape(images)[0], size, size])
        return self.tokenize_in_graph(visible), known_tokens_in_graph(known, self.grid)

    def final_rows(self, token_rows: int) -> int:
        """Returns how many first rows of an image its first rows of tokens determine.

        By default, unless each token is a pixel, all tokens determine all rows together.

        Args:
            token_rows: The number of rows of tokens.
        """
        if self.pixelwise:
            return token_rows
        rows = self.grid[0]
        return (self.image_size or rows) if token_rows == rows else 0

    def reconstruction_error(self, images: np.ndarray) -> np.ndarray:
        """Returns how far images are from what their tokens stand for.

        Args:
            images: As for `tokenize`.

        Returns:
            float64 [...], the root mean square error of each image in levels of a channel,
            0…255.
        """
        images = check_images(images)
        difference = images - self.detokenize(self.tokenize(images)).astype(np.float64)
        return np.sqrt(np.mean(difference**2, axis=(-3, -2, -1)))

    def bind(self: Self, image_size: int) -> Self:
        """Returns this tokenizer for images of a given size.

        Raises:
            InputError: It is made for images of another size.
        """
        if self.image_size is None:
            bound = copy.copy(self)
            bound.image_size = image_size
            return bound
        if image_size != self.image_size:
            raise InputError(
                f"tokenizer must be for image_size={image_size}, "
                f"got a {type(self).__name__} for image_size={self.image_size}"
            )
        return self

    def fingerprint(self) -> str:
        """Returns a SHA-256 digest of settings and files: equal for tokenizers that act alike."""
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            description = {"kind": self.kind, "config": self.write_assets(folder)}
            digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                digest.update(f"\n{file.relative_to(folder)}\n".encode())
                digest.update(hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()

    def save_to_preset(self, folder: str | os.PathLike) -> None:
        """Writes `tokenizer.json` and the tokenizer's own files into an existing folder."""
        folder = pathlib.Path(folder).expanduser()
        description = {"kind": self.kind, "config": self.write_assets(folder)}
        write_json(folder / TOKENIZER_FILE, description)

    @classmethod
    def from_preset(cls: type[Self], folder: str | os.PathLike) -> Self:
        """Reads the tokenizer of a preset folder.

        Raises:
            FileNotFoundError: The folder holds no `tokenizer.json`.
            InputError: The files are damaged, or hold a tokenizer of another class.
        """
        file = pathlib.Path(folder, TOKENIZER_FILE).expanduser()
        found, config = _kind_and_config(read_json(file), file)
        if not issubclass(found, cls):
            raise InputError(f"{file} describes a {found.__name__}, not a {cls.__name__}")
        try:
            return found.read_assets(file.parent, config)
        except FileNotFoundError as error:
            raise InputError(f"{error.filename} is missing; {file} needs it") from None
        except TypeError as error:
            raise InputError(f"{file} does not describe a tokenizer: {error}") from None

    def write_assets(self, folder: pathlib.Path) -> dict[str, Any]:
        """Writes the tokenizer's files into `folder`; returns the settings they leave out."""
        return self.get_config()

    @classmethod
    def read_assets(cls: type[Self], folder: pathlib.Path, config: dict[str, Any]) -> Self:
        """Returns the tokenizer that `write_assets` wrote, given what that returned."""
        return cls.from_config(config)


def register_tokenizer(kind: str) -> Callable[[type[Self]], type[Self]]:
    """Returns a class decorator that registers an `ImageTokenizer` as `kind`."""

    def add(cls: type[Self]) -> type[Self]:
        tokenizers.register(kind)(cls)
        cls.kind = kind
        return cls

    return add


def serialize(tokenizer: ImageTokenizer | None) -> dict[str, Any] | None:
    """Returns a JSON-serializable description of a tokenizer, for a model's `get_config`."""
    if tokenizer is None:
        return None
    return {"kind": tokenizer.kind, "config": tokenizer.get_config()}


def deserialize(description: dict[str, Any] | None) -> ImageTokenizer | None:
    """Returns the tokenizer that `serialize` described.

    Raises:
        InputError: The description is of another form or of an unknown kind.
    """
    if description is None:
        return None
    cls, config = _kind_and_config(description, "tokenizer")
    return cls.from_config(config)


def _kind_and_config(description: Any, source: object) -> tuple[type[ImageTokenizer], dict]:
    try:
        kind, config = str(description["kind"]), dict(description["config"])
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f'{source} must be an object with "kind" and "config", got {description!r:.200}'
        ) from None
    return tokenizers.get(kind), config


class HasTokenizer(Protocol):
    """A model with a tokenizer, or with None for one."""

    @property
    def tokenizer(self) -> ImageTokenizer | None: ...


def tokenizer_of(model: HasTokenizer) -> ImageTokenizer:
    """Returns the tokenizer of a model that has to have one.

    Raises:
        InputError: The model has none.
    """
    if model.tokenizer is None:
        raise InputError(
            f"tokenizer is missing: this {type(model).__name__} has none to turn images into "
            "tokens; set model.tokenizer, for a trained model to the palette of its training, "
            'igpt_keras.ColorPalette.load("palette.npy"), for a new one to '
            "igpt_keras.ColorPalette.fit(images, num_colors=vocabulary_size)"
        )
    return model.tokenizer
