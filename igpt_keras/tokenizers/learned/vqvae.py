"""The VQ-VAE: images to fewer learned tokens and back."""

# Keras declares that its functions may return None.
# pyright: reportOptionalMemberAccess=false

import contextlib
import errno
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from igpt_keras.atomic import atomic_path
from igpt_keras.disk_space import check_space
from igpt_keras.errors import InputError, first_line
from igpt_keras.tensors import Shape, Tensor
from igpt_keras.tokenizers.base import ImageTokenizer, register_tokenizer
from igpt_keras.tokenizers.learned._autoencoder import (
    exact_dtype,
    make_decoder,
    make_encoder,
    to_array,
    to_levels,
    to_signal,
)
from igpt_keras.tokenizers.learned._quantizer import (
    CodeUsage,
    VectorQuantizer,
    has_replicas,
    loss_of_replica,
    nearest,
    sum_over_replicas,
)
from igpt_keras.tokenizers.learned._settings import check_settings

WEIGHTS_FILE = "tokenizer.weights.h5"
# More than HDF5 adds for each variable and once for the file.
BYTES_OF_HDF5 = 4096
# Distances between vectors and codes that tokenizing holds at once.
MAX_DISTANCES = 1 << 22
# The settings that the quantizer shares.
OF_QUANTIZER = (
    *("commitment_cost", "decay", "epsilon"),
    *("start_from_data", "restart_below", "seed"),
)
# The variance of levels that are all equally frequent, until the first batch tells another.
UNIFORM_VARIANCE = (256**2 - 1) / 12


@register_tokenizer("vqvae")
@keras.saving.register_keras_serializable("igpt_keras")
class VQVAE(keras.Model, ImageTokenizer):
    """A tokenizer that is trained: a VQ-VAE with a small receptive field.

    The encoder halves the image's sides `num_downsampling` times. A vector quantizer replaces
    each of the resulting vectors by the nearest of `codebook_size` codes, whose index is the
    token, and the decoder, a mirror of the encoder, makes an image of the codes. An encoder
    block is a downsampling convolution (4×4, stride 2), a ReLU and a residual network. The first
    version of the paper (Chen et al. 2020, "V1") reached 96×96 and 192×192 pixels with 48×48
    tokens in this way, with fewer than 200,000 parameters, as here.

    Codebook size, widths, the number of residual layers and the recipe are our choice, since our
    sources name none. They follow the example of Sonnet, with fewer channels.

    `fit` takes images uint8 [B, R, R, 3], as arrays or as a `tf.data.Dataset` of batches, alone
    or with labels, which it ignores. The loss is that of Sonnet: the mean squared error divided by
    the variance of the data, plus the commitment loss. The variance is that of all pixels and
    channels of the first batch; the ratio does not depend on the scale or contrast of the data.
    Logged are `loss`, `reconstruction_loss` (the first term), `perplexity` and `used_codes`, the
    share of codes in use, each over all images of an epoch.

    A call returns `{"images": reconstructions, "tokens": tokens}`, float32 [B, R, R, 3] in levels
    0…255 and int32 [B, R/2^k, R/2^k]. Tokens for other uses come from `tokenize`: it computes in
    float64 under TensorFlow, whatever the dtype policy, so that an image's tokens do not depend
    on its batch.

    Args:
        image_size: Side R of the images in pixels.
        num_downsampling: Number k of encoder blocks; R must be a multiple of 2^k.
        codebook_size: Number of codes, V.
        embedding_dim: Length of a code.
        hidden_dim: Channels of the blocks.
        residual_dim: Channels inside the residual layers.
        num_residual_layers: Residual layers of a block.
        commitment_cost: Factor of the commitment loss.
        decay: Share of the codebook's moving averages that a step keeps.
        epsilon: Laplace smoothing of the codes' counts.
        start_from_data: Whether the codes start as vectors of the first batch.
        restart_below: A code with fewer than this share of the mean number of vectors moves to
            a vector of the batch; 0 for never.
        seed: Seed of the vectors that are drawn for the last two.
        dtype: The dtype policy of encoder and decoder in training; the codebook is float32.
        name: Name of the model.

    Raises:
        InputError: An argument is out of its range, or the downsampling does not divide
            `image_size`.

    Example:
        ```python
        import numpy as np
        from igpt_keras import VQVAE

        images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3)).astype(np.uint8)
        vqvae = VQVAE(image_size=16, num_downsampling=1, codebook_size=32)
        vqvae.compile()
        vqvae.fit(images, epochs=2, verbose=0)
        tokens = vqvae.tokenize(images)  # int32 [8, 64]
        restored = vqvae.detokenize(tokens)  # uint8 [8, 16, 16, 3]
        ```
    """

    def __init__(
        self,
        image_size: int,
        num_downsampling: int,
        *,
        codebook_size: int = 512,
        embedding_dim: int = 64,
        hidden_dim: int = 32,
        residual_dim: int = 32,
        num_residual_layers: int = 2,
        commitment_cost: float = 0.25,
        decay: float = 0.99,
        epsilon: float = 1e-5,
        start_from_data: bool = True,
        restart_below: float = 0.01,
        seed: int = 0,
        dtype: Any = None,
        name: str | None = None,
    ):
        settings = {
            "image_size": image_size,
            "num_downsampling": num_downsampling,
            "codebook_size": codebook_size,
            "embedding_dim": embedding_dim,
            "hidden_dim": hidden_dim,
            "residual_dim": residual_dim,
            "num_residual_layers": num_residual_layers,
            "commitment_cost": commitment_cost,
            "decay": decay,
            "epsilon": epsilon,
            "start_from_data": start_from_data,
            "restart_below": restart_below,
            "seed": seed,
        }
        check_settings(settings)
        super().__init__(dtype=dtype, name=name)
        self._settings = settings
        self.image_size = image_size
        blocks = (num_downsampling, hidden_dim, residual_dim, num_residual_layers)
        self.encoder = make_encoder(*blocks, embedding_dim, dtype=self.dtype_policy)
        self.quantizer = VectorQuantizer(
            codebook_size,
            embedding_dim,
            **{name: settings[name] for name in OF_QUANTIZER},
            name="quantizer",
        )
        self.decoder = make_decoder(*blocks, dtype=self.dtype_policy)
        self.reconstruction_loss = keras.metrics.Mean(name="reconstruction_loss")
        self.code_usage = CodeUsage(codebook_size)
        self.build((None, image_size, image_size, 3))

    def __repr__(self) -> str:
        return ImageTokenizer.__repr__(self)

    @property
    def vocabulary_size(self) -> int:
        """Number of codes, V."""
        return self._settings["codebook_size"]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of an image's tokens: (R / 2^k, R / 2^k)."""
        side = self._settings["image_size"] >> self._settings["num_downsampling"]
        return (side, side)

    def build(self, images_shape: Shape) -> None:
        self.encoder.build(images_shape)
        vectors_shape = (None, *self.grid, self._settings["embedding_dim"])
        self.quantizer.build(vectors_shape)
        self.decoder.build(vectors_shape)
        self.data_variance = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(UNIFORM_VARIANCE),
            trainable=False,
            dtype="float32",
            name="data_variance",
            aggregation="only_first_replica",
        )
        self.built = True

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "auto",
        *,
        jit_compile: str | bool = "auto",
        **kwargs: Any,
    ) -> None:
        """Configures training, as `keras.Model.compile`; no loss is needed.

        Args:
            optimizer: "auto" is Adam with a learning rate of 3e-4, as in Sonnet's example.
            jit_compile: As for Keras; "auto" does not compile for several replicas.
            **kwargs: As for Keras.
        """
        if optimizer == "auto":
            optimizer = keras.optimizers.Adam(3e-4)
        if jit_compile == "auto" and has_replicas():
            # A step that XLA compiles reads the variables of one device only.
            jit_compile = False
        super().compile(optimizer, jit_compile=jit_compile, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def __call__(self, images: Any, *args: Any, **kwargs: Any) -> Any:
        self._check_batch(images)
        return super().__call__(images, *args, **kwargs)

    def _check_batch(self, images: Any) -> None:
        size = self.image_size
        wanted = f"images must be uint8 [B, {size}, {size}, 3]"
        shape, dtype = getattr(images, "shape", None), getattr(images, "dtype", None)
        if shape is None or dtype is None:
            raise InputError(f"{wanted}, got {type(images).__name__}")
        name = keras.backend.standardize_dtype(dtype)
        if name != "uint8" or len(shape) != 4 or tuple(shape[1:]) != (size, size, 3):
            raise InputError(f"{wanted}, got {name} {list(shape)}")

    def call(self, images: Tensor, training: bool = False) -> dict[str, Tensor]:
        levels = ops.cast(images, "float32")
        if training:
            self._start_variance(levels)
        vectors = self.encoder(ops.cast(to_signal(levels), self.compute_dtype))
        codes, tokens = self.quantizer(vectors, training=training)
        signal = self.decoder(ops.cast(codes, self.compute_dtype))
        reconstructed = to_levels(ops.cast(signal, "float32"))
        error = ops.mean(ops.square(reconstructed - levels))
        self.add_loss(error / self.data_variance)
        return {"images": reconstructed, "tokens": tokens}

    def _start_variance(self, levels: Tensor) -> None:
        """Sets the data's variance at the first step, to that of the first batch."""
        numbers = [ops.ones_like(levels), levels, ops.square(levels)]
        number, total, squares = sum_over_replicas([ops.sum(each) for each in numbers])
        # Images of one color have none.
        variance = ops.maximum(squares / number - ops.square(total / number), 1)
        started = self.quantizer.num_updates > 0
        before = ops.convert_to_tensor(self.data_variance)
        self.data_variance.assign(ops.where(started, before, variance))

    def compute_loss(
        self,
        x: Any = None,
        y: Tensor | None = None,
        y_pred: Any = None,
        sample_weight: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        # Before the metrics are summed over the replicas: another one may take its turn then.
        own_loss = loss_of_replica(self, self.quantizer) if has_replicas() else None
        error = ops.mean(ops.square(y_pred["images"] - ops.cast(x, "float32")))
        size: Any = ops.shape(x)
        self.reconstruction_loss.update_state(
            error / self.data_variance, sample_weight=ops.cast(size[0], "float32")
        )
        self.code_usage.update_state(y_pred["tokens"])
        if own_loss is not None:
            return own_loss
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def _tokenize(self, images: np.ndarray) -> np.ndarray:
        chunks = [self._tokens_of(chunk) for chunk in self._chunks(images)]
        tokens = [to_array(chunk) for chunk in chunks]
        return np.concatenate([np.zeros((0, math.prod(self.grid)), np.int32), *tokens])

    def _detokenize(self, tokens: np.ndarray) -> np.ndarray:
        chunks = [self._images_of(chunk) for chunk in self._chunks(tokens.astype(np.int32))]
        images = [to_array(chunk) for chunk in chunks]
        size = self._settings["image_size"]
        return np.concatenate([np.zeros((0, size, size, 3), np.uint8), *images])

    def _chunks(self, values: np.ndarray) -> Iterable[np.ndarray]:
        at_once = max(1, MAX_DISTANCES // (math.prod(self.grid) * self.vocabulary_size))
        if exact_dtype() != "float64":
            # Images that are computed alone do not depend on each other's number.
            at_once = 1
        return (values[start : start + at_once] for start in range(0, len(values), at_once))

    def _tokens_of(self, images: Tensor) -> Tensor:
        """Returns int32 [B, n], computed in float64."""
        dtype = exact_dtype()
        vectors = self.encoder(to_signal(ops.cast(images, dtype)))
        flat = ops.reshape(vectors, (-1, self._settings["embedding_dim"]))
        indices = nearest(flat, ops.cast(self.quantizer.codebook, dtype))
        return ops.reshape(ops.cast(indices, "int32"), (-1, math.prod(self.grid)))

    def _images_of(self, tokens: Tensor) -> Tensor:
        """Returns uint8 [B, R, R, 3], computed in float64."""
        codebook = ops.cast(self.quantizer.codebook, exact_dtype())
        shape = (-1, *self.grid, self._settings["embedding_dim"])
        signal = self.decoder(ops.reshape(ops.take(codebook, tokens, axis=0), shape))
        return ops.cast(ops.clip(ops.round(to_levels(signal)), 0, 255), "uint8")

    def tokenize_in_graph(self, images: Tensor) -> Tensor:
        """Returns the tokens of a TensorFlow tensor: uint8 [B, R, R, 3] to int32 [B, n]."""
        with self._constant_weights(self.encoder):
            return self._tokens_of(images)

    def detokenize_in_graph(self, tokens: Tensor) -> Tensor:
        """Returns the images of a TensorFlow tensor: int32 [B, n] to uint8 [B, R, R, 3]."""
        with self._constant_weights(self.decoder):
            return self._images_of(tokens)

    @contextlib.contextmanager
    def _constant_weights(self, network: keras.Layer) -> Iterator[None]:
        """Puts constants in the place of variables, which a saved graph would have to track."""
        import tensorflow as tf

        variables = [*network.variables, self.quantizer.codebook]
        with tf.init_scope():
            values = [to_array(variable) for variable in variables]
        constants = [tf.constant(value) for value in values]
        with keras.StatelessScope(list(zip(variables, constants, strict=True))):
            yield

    def fingerprint(self) -> str:
        """Returns a SHA-256 digest of the sizes and weights that tokens and images depend on."""
        sizes = (self.kind, self.image_size, self._settings["num_downsampling"])
        digest = hashlib.sha256(json.dumps(sizes).encode())
        for variable in (*self.encoder.variables, *self.decoder.variables, self.quantizer.codebook):
            value = to_array(variable)
            digest.update(json.dumps([*value.shape, value.dtype.name]).encode() + value.tobytes())
        return digest.hexdigest()

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, JSON-serializable."""
        return {"name": self.name, "dtype": self.dtype_policy.name, **self._settings}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "VQVAE":
        """Returns a VQ-VAE of these sizes, with weights that are not trained.

        Raises:
            InputError: The settings cannot be used.
        """
        if not isinstance(config.get("dtype"), str | None):
            raise InputError(f"dtype must be the name of a dtype policy, got {config['dtype']!r}")
        try:
            return cls(**config)
        except ValueError as error:
            # Keras' own, for a dtype policy that there is not.
            raise InputError(first_line(error)) from None

    def write_assets(self, folder: pathlib.Path) -> dict[str, Any]:
        """Writes `tokenizer.weights.h5` into `folder`; returns the settings."""
        settings = self.get_config()
        del settings["name"]
        # A copy has no optimizer, whose state Keras would write as well.
        plain = type(self).from_config(settings)
        plain.set_weights(self.get_weights())
        weights = sum(math.prod(each.shape) * 4 + BYTES_OF_HDF5 for each in plain.variables)
        with atomic_path(folder / WEIGHTS_FILE, overwrite=True) as partial:
            whole = partial.with_name(WEIGHTS_FILE)
            check_space(whole, weights + BYTES_OF_HDF5)
            plain.save_weights(whole)
            whole.rename(partial)
        return settings

    @classmethod
    def read_assets(cls, folder: pathlib.Path, config: dict[str, Any]) -> "VQVAE":
        """Reads `tokenizer.weights.h5` from `folder`.

        Raises:
            FileNotFoundError: It is missing.
            InputError: It is damaged, or does not fit the settings.
        """
        file = folder / WEIGHTS_FILE
        if not file.is_file():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(file))
        tokenizer = cls.from_config(config)
        try:
            tokenizer.load_weights(file)
        except Exception as error:  # Keras has no exception of its own for a damaged file.
            raise InputError(
                f"{file} is damaged or holds a tokenizer of another shape: {first_line(error)}"
            ) from error
        return tokenizer
