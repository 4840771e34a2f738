"""Models as a SavedModel that TensorFlow Serving runs: image files in, images or classes out.

| signature | inputs | outputs |
| --- | --- | --- |
| `complete` | `image_bytes` string [B], `keep_rows` int32 [B], `temperature` float32 [B], `top_k` int32 [B], `top_p` float32 [B], `seed` int64 [B] | `png_bytes` string [B], `pixels` uint8 [B, R, R, 3], `tokens` int32 [B, n], `log_likelihood` float32 [B] |
| `sample` | `temperature`, `top_k`, `top_p`, `seed` | as `complete` |
| `classify` | `inputs` string [B], tf.Examples with `image/encoded` | `classes` string [B, C], `scores` float32 [B, C] |
| `classify_images` | `image_bytes` | `classes`, `scores`, `logits` float32 [B, C] |
| `features` | `image_bytes` | `features` float32 [B, d] |
| `score` | `image_bytes` | `log_likelihood` float32 [B], `bits_per_pixel` float32 [B] |

`serving_default` is the first of `complete`, `classify_images` and `features` that there is.
`docs/export.md` has more.
"""  # noqa: E501

import os
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from igpt_keras.atomic import SUFFIX
from igpt_keras.errors import InputError
from igpt_keras.models.classifier import ImageGPTClassifier
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.models.image_gpt import ImageGPT
from igpt_keras.sampling.checks import check_backend
from igpt_keras.tokenizers.base import tokenizer_of
from serving.exporting.assets import write_assets
from serving.exporting.checks import check_runs, check_servable, read_graph
from serving.exporting.signatures import (
    CLASSIFY,
    check_feature_layer,
    describe,
    make_signatures,
)
from serving.exporting.warmup import warmup_inputs, write_warmup_requests
from serving.versions import check_version, publish

# The area of an 8192 × 8192 image: more than a phone's camera gives, and 200 MB decoded.
MAX_PIXELS = 1 << 26


def export(
    models: GenerativeModel | Sequence[GenerativeModel],
    directory: str | os.PathLike,
    version: int | None = None,
    *,
    feature_layer: int | None = None,
    max_pixels: int = MAX_PIXELS,
    training: Sequence[dict[str, Any]] | None = None,
) -> pathlib.Path:
    """Writes `<directory>/<version>/`, a SavedModel, whole or not at all.

    Several exports to one directory at a time give several versions.

    Args:
        models: an `ImageGPT`, an `ImageGPTClassifier`, or one of each; with palettes. Each
            signature comes from the first that can give it, the `ImageGPT` before the
            classifier: `features` from any, `complete`, `sample` and `score` from an
            autoregressive one with token logits, `classify` and `classify_images` from a
            classifier.
        directory: holds all versions of what is served; created if need be.
        version: at least 1; None for one more than the highest in `directory`.
        feature_layer: of `features`, in 0…L; None for `default_feature_layer`.
        max_pixels: an image whose header declares more is refused before it is decoded.
        training: what is known of the training of each of `models`, for the model card; as in
            a model folder (`igpt_keras.saving.read_training`).

    Returns: the path of the version's folder.

    Raises:
        InputError: models that cannot be served, or an unusable argument.
        FileExistsError: the version exists already.
    """
    models = list(models) if isinstance(models, Sequence) else [models]
    training = [{}] * len(models) if training is None else list(training)
    _check_models(models)
    if len(training) != len(models):
        raise InputError(f"training must hold one for each of {len(models)} models, got {training}")
    if not 1 <= max_pixels < 1 << 31:
        raise InputError(f"max_pixels must lie in 1…{(1 << 31) - 1}, got {max_pixels}")
    if version is not None:
        check_version(directory, version)
    pairs = sorted(zip(models, training, strict=True), key=lambda pair: _is_classifier(pair[0]))
    models, training = (list(part) for part in zip(*pairs, strict=True))
    check_feature_layer(models[0], feature_layer)
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export.", suffix=SUFFIX, dir=directory) as work:
        partial = pathlib.Path(work, "new")
        _write(partial, pathlib.Path(work), models, training, feature_layer, max_pixels)
        return publish(partial, directory, version)


def _write(partial, work, models, training, feature_layer, max_pixels) -> None:
    """Writes and checks the SavedModel `partial`, with further files in `work`."""
    signatures = make_signatures(models, feature_layer, max_pixels)
    # Only the variables are attached: a model would bring along the functions that Keras and
    # the sampler keep with it.
    module = tf.Module()
    module.weights = [v for function in signatures.values() for v in function.variables]
    assets = work / "assets"
    assets.mkdir()
    paths = write_assets(assets, models, training, describe(signatures, models, feature_layer))
    module.assets = [tf.saved_model.Asset(str(path)) for path in paths]
    # Nobody trains it. A Python process that loads gradients never lets go of their functions.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, str(partial), signatures, options)
    check_servable(read_graph(partial))
    if CLASSIFY in signatures:
        _set_method(partial, CLASSIFY, tf.compat.v1.saved_model.CLASSIFY_METHOD_NAME)
    inputs = warmup_inputs(signatures.keys(), models[0].config.image_size)
    check_runs(partial, inputs)
    write_warmup_requests(partial, inputs)


def _set_method(folder: pathlib.Path, signature_name: str, method_name: str) -> None:
    """TensorFlow writes every signature as one for the Predict call."""
    updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(folder))
    updater.replace_method_name(signature_name, method_name)
    updater.save()
    # Its checksum is that of the file before.
    (folder / "fingerprint.pb").unlink(missing_ok=True)


def _check_models(models: list[GenerativeModel]) -> None:
    check_backend()
    kinds = [type(model).__name__ for model in models]
    if not models or len(set(kinds)) < len(kinds):
        raise InputError(
            f"models must hold an ImageGPT, an ImageGPTClassifier or one of each, got {kinds}"
        )
    for model in models:
        if not isinstance(model, (ImageGPT, ImageGPTClassifier)):
            raise InputError(f"models must be ImageGPT or ImageGPTClassifier, got {model!r}")
        tokenizer_of(model)


def _is_classifier(model: GenerativeModel) -> bool:
    return isinstance(model, ImageGPTClassifier)
