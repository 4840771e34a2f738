"""What users do with a trained model: load, save, complete, sample and score."""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import keras
import numpy as np

from igpt_keras import saving

if TYPE_CHECKING:
    from igpt_keras.network.protocols import TokenModel
    from igpt_keras.sampling.drafts import Draft
    from igpt_keras.sampling.requests import Completions
    from igpt_keras.sampling.samplers import Sampler

Model = TypeVar("Model", bound="Task")


class Task(keras.Model):
    """Methods of `ImageGPT` and `ImageGPTClassifier` that need nothing but a `TokenModel`.

    Sampling runs on Keras' TensorFlow and JAX backends; its modules are imported when it is used.
    """

    @classmethod
    def from_preset(
        cls: type[Model], preset: str | os.PathLike, *, load_weights: bool = True, **settings: Any
    ) -> Model:
        """Loads a model.

        Args:
            preset: A preset folder or the folder of a run; a `.keras` file; a folder of
                Hugging Face Transformers; the prefix of a checkpoint of the original
                TensorFlow code, or its folder; `hf://<owner>/<name>`; or the name of a
                preset, such as "image_gpt_small".
            load_weights: Whether to load the weights; False leaves them random.
            **settings: Arguments of the class to change, such as `dtype`.

        Raises:
            FileNotFoundError: There is nothing at `preset`.
            InputError: It is not a model or one of another class, or a part of it is missing
                or damaged.

        Example:
            ```python
            model = igpt_keras.ImageGPT.from_preset("image_gpt_small", load_weights=False)
            ```
        """
        return saving.load_preset(preset, cls, load_weights=load_weights, **settings)

    def save_to_preset(
        self,
        path: str | os.PathLike,
        *,
        training: dict[str, Any] | None = None,
        weights_dtype: str | None = None,
        overwrite: bool = False,
    ) -> pathlib.Path:
        """Writes the model and its tokenizer as a folder that `from_preset` reads.

        Args:
            path: The folder.
            training: How the model was trained, JSON-serializable.
            weights_dtype: "float16" for a folder to publish: half as large, and without the
                state of the optimizer. None for all that Keras saves.
            overwrite: Whether to replace an existing folder of a model.

        Returns:
            The folder's path.

        Raises:
            FileExistsError: `path` exists and `overwrite` is false, or it is not the folder
                of a model.
            InputError: `weights_dtype` is another, or a weight is too large for it.
        """
        return saving.save_to_preset(
            self, path, training=training, weights_dtype=weights_dtype, overwrite=overwrite
        )

    def save(self, filepath: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Writes a `.keras` file, as `keras.Model.save`; `~` is the home folder."""
        super().save(os.path.expanduser(filepath), *args, **kwargs)

    def save_weights(self, filepath: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Writes the weights, as `keras.Model.save_weights`; `~` is the home folder."""
        super().save_weights(os.path.expanduser(filepath), *args, **kwargs)

    def load_weights(self, filepath: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Reads weights, as `keras.Model.load_weights`; `~` is the home folder."""
        super().load_weights(os.path.expanduser(filepath), *args, **kwargs)

    def generate(
        self,
        images: np.ndarray,
        *,
        keep_rows: int | None = None,
        known_mask: np.ndarray | None = None,
        num_completions: int = 1,
        labels: int | Sequence[int] | np.ndarray | None = None,
        guidance_scale: float = 1.0,
        sampler: "Sampler | None" = None,
        seed: int | Sequence[int] | np.ndarray = 0,
        draft: "Draft | TokenModel | None" = None,
        num_steps: int | None = None,
        on_row: Callable[[int, np.ndarray], None] | None = None,
        jit_compile: bool = False,
    ) -> "Completions":
        """Completes images: keeps the known pixels and samples the others.

        `igpt_keras.sampling.generate.generate` explains every argument.

        Args:
            images: uint8 [B, R, R, 3].
            keep_rows: Number of known rows from the top. Give either this or `known_mask`.
            known_mask: bool [R, R] or [B, R, R], the known pixels.
            num_completions: N, completions of each image.
            labels: The class of all images or of each, for a model with `num_classes`; None for
                the distribution of all images.
            guidance_scale: How much the class counts; 1 for the model's distribution.
            sampler: How tokens are drawn, such as `samplers.TopP(0.9)`; None for the model's
                distribution.
            seed: One integer, or one per image.
            draft: Guesses tokens ahead; the completions do not change. Not for BERT.
            num_steps: Steps of a BERT model.
            on_row: Called with each finished row's number and pixels. Not for BERT.
            jit_compile: Whether XLA compiles the decoder. Not for BERT.

        Returns:
            The completions, uint8 [B, N, R, R, 3] in `images`.

        Raises:
            InputError: An argument cannot be used.

        Example:
            >>> model.generate(images, keep_rows=16, num_completions=6).images.shape
            (8, 6, 32, 32, 3)
        """
        from igpt_keras.sampling.generate import generate

        return generate(
            self,
            images,
            keep_rows=keep_rows,
            known_mask=known_mask,
            num_completions=num_completions,
            labels=labels,
            guidance_scale=guidance_scale,
            sampler=sampler,
            seed=seed,
            draft=draft,
            num_steps=num_steps,
            on_row=on_row,
            jit_compile=jit_compile,
        )

    def sample(
        self, num_samples: int, *, sampler: "Sampler | None" = None, seed: int = 0, **settings: Any
    ) -> "Completions":
        """Samples images from nothing.

        Args:
            num_samples: B, number of images.
            sampler: As for `generate`.
            seed: As for `generate`.
            **settings: `labels`, `guidance_scale`, `draft`, `num_steps`, `on_row` and
                `jit_compile`, as for `generate`.

        Returns:
            One completion of each of B blank images.

        Example:
            >>> model.sample(16, seed=0).images.shape
            (16, 1, 32, 32, 3)
        """
        from igpt_keras.sampling.generate import sample

        return sample(self, num_samples, sampler=sampler, seed=seed, **settings)

    def score(
        self,
        images: np.ndarray,
        labels: int | Sequence[int] | np.ndarray | None = None,
        *,
        per_pixel: bool = False,
        batch_size: int = 32,
    ) -> np.ndarray:
        """Returns the log-likelihood of images in nats; autoregressive models only.

        Args:
            images: uint8 [B, R, R, 3].
            labels: The class of all images or of each, for log p(x | class) of a model with
                `num_classes`; None for log p(x).
            per_pixel: Whether to return that of each token given those before it.
            batch_size: Images in a forward pass.

        Returns:
            float32 [B], or with `per_pixel` float32 [B, rows, columns].

        Raises:
            InputError: The model has no likelihood, or the images cannot be used.
        """
        from igpt_keras.sampling.scoring import score

        return score(self, images, labels, per_pixel=per_pixel, batch_size=batch_size)

    def class_log_likelihood(self, images: np.ndarray, *, batch_size: int = 32) -> np.ndarray:
        """Returns log p(x | class) of images in nats, for each class of a model with `num_classes`.

        The argmax is the answer of a generative classifier whose classes are equally frequent.

        Args:
            images: uint8 [B, R, R, 3].
            batch_size: Images in a forward pass, one for each class.

        Returns:
            float32 [B, K].

        Raises:
            InputError: The model has no classes, or the images cannot be used.

        Example:
            >>> model.class_log_likelihood(images).argmax(axis=1)
            array([3, 8, 8, 0])
        """
        from igpt_keras.sampling.scoring import class_log_likelihood

        return class_log_likelihood(self, images, batch_size=batch_size)
