"""Writing a checked SavedModel into a directory of versions."""

import os
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from igpt_keras.atomic import SUFFIX
from igpt_keras.data.image_decoding import MAX_SIDE
from igpt_keras.errors import InputError
from igpt_keras.models.classifier import ImageGPTClassifier
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.models.image_gpt import ImageGPT
from igpt_keras.sampling.checks import check_backend
from igpt_keras.stages import stage
from igpt_keras.tokenizers.base import tokenizer_of
from serving.exporting.assets import write_assets
from serving.exporting.checks import check_runs
from serving.exporting.preprocessing import preprocess
from serving.exporting.rows import make_row_functions
from serving.exporting.signatures import (
    CLASSIFY,
    SERVING_DEFAULT,
    check_feature_layer,
    default_signature,
    describe,
    make_signatures,
)
from serving.exporting.warmup import warmup_inputs, write_warmup_requests
from serving.row_functions import ROWS
from serving.server.tensorflow_internals import SavedModelProto
from serving.versions import check_version, publish

# Larger images would be averaged down before anything else: a client should send them smaller.
MAX_PIXELS = MAX_SIDE**2


def export(
    models: GenerativeModel | Sequence[GenerativeModel],
    directory: str | os.PathLike,
    version: int | None = None,
    *,
    feature_layer: int | None = None,
    max_pixels: int = MAX_PIXELS,
    training: Sequence[dict[str, Any]] | None = None,
) -> pathlib.Path:
    """Writes models as the SavedModel `<directory>/<version>/`, completely or not at all.

    This takes five to twenty seconds; the logger "igpt_keras.stages" reports each stage at INFO.
    Concurrent exports to one directory get different versions.

    Args:
        models: An `ImageGPT`, an `ImageGPTClassifier` or one of each, with tokenizers. Each
            signature comes from the first model that has it, the `ImageGPT` before the
            classifier: `features` from any model; `complete`, `sample` and `score` from an
            autoregressive model with a token head; `classify` and `classify_images` from a
            classifier, or without one from a class-conditional model.
        directory: Holds all versions of a served model; created if missing.
        version: At least 1. By default one more than the highest in `directory`.
        feature_layer: The layer of `features`, 0…L. By default the classifier's layer, or the
            middle one.
        max_pixels: Larger images, by the size in their header, are refused before they are
            decoded.
        training: For each of `models` a description of its training for the model card, as
            `igpt_keras.saving.read_training` returns it.

    Returns:
        The path of the version's folder.

    Raises:
        InputError: The models cannot be served, or an argument cannot be used.
        FileExistsError: The version exists.

    Example:
        ```python
        import igpt_keras
        from serving import export

        export(igpt_keras.load("my-model"), "served")  # writes served/1
        ```
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
    models, training = (list(column) for column in zip(*pairs, strict=True))
    check_feature_layer(models[0], feature_layer)
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export.", suffix=SUFFIX, dir=directory) as work:
        partial = pathlib.Path(work, "new")
        _write(partial, pathlib.Path(work), models, training, feature_layer, max_pixels)
        path = publish(partial, directory, version)
    return path


def _write(
    partial: pathlib.Path,
    work: pathlib.Path,
    models: list[GenerativeModel],
    training: list[dict[str, Any]],
    feature_layer: int | None,
    max_pixels: int,
) -> None:
    """Writes and checks the SavedModel `partial`, with further files in `work`."""
    with stage("tracing the signatures"):
        preprocessings = preprocess(models, max_pixels)
        signatures = make_signatures(preprocessings, feature_layer)
        rows = make_row_functions(preprocessings)
    # Only the variables are attached. A model would bring along the functions that Keras and
    # the sampler keep with it.
    module: Any = tf.Module()
    functions: list[Any] = list(signatures.values())
    module.weights = [variable for function in functions for variable in function.variables]
    if rows is not None:
        setattr(module, ROWS, rows)
    assets = work / "assets"
    assets.mkdir()
    paths = write_assets(assets, models, training, describe(signatures, models, feature_layer))
    module.assets = [tf.saved_model.Asset(str(path)) for path in paths]
    # A Python process that loads gradients never frees their functions, and serving needs none.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    with stage(f"writing the SavedModel with {', '.join(sorted(signatures))}"):
        tf.saved_model.save(module, str(partial), signatures, options)
    _set_signatures(partial)
    inputs = warmup_inputs(signatures.keys(), models[0])
    with stage("running each signature in a TensorFlow 1 session, as TensorFlow Serving does"):
        check_runs(partial, inputs)
    write_warmup_requests(partial, inputs)


def _set_signatures(folder: pathlib.Path) -> None:
    """Corrects the signatures that TensorFlow has written.

    `classify` is for the Classify call, where TensorFlow writes "Predict" for all of them. The
    default becomes the same as the signature that it stands for, so that servers need not
    prepare its graph once more.
    """
    path = folder / tf.saved_model.SAVED_MODEL_FILENAME_PB
    saved_model = SavedModelProto.FromString(path.read_bytes())
    signatures = saved_model.meta_graphs[0].signature_def
    if CLASSIFY in signatures:
        signatures[CLASSIFY].method_name = tf.saved_model.CLASSIFY_METHOD_NAME
    signatures[SERVING_DEFAULT].CopyFrom(signatures[default_signature(signatures)])
    path.write_bytes(saved_model.SerializeToString())
    # It holds the checksum of the file as it was before.
    (folder / "fingerprint.pb").unlink(missing_ok=True)


def _check_models(models: list[GenerativeModel]) -> None:
    check_backend("export", "tensorflow")
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
