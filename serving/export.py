"""Models as a SavedModel that TensorFlow Serving runs: image files in, images or classes out.

Preprocessing, sampling and postprocessing are part of the graph. Shapes: B examples,
R `image_size`, n = R² positions, C classes. The batch comes first in every input and
output. A completion model and a classifier may share one SavedModel; each has its own
image size and palette.

`complete`, also `serving_default`:

| inputs | | outputs | |
| --- | --- | --- | --- |
| `image_bytes` | string [B], PNG, JPEG, GIF or BMP | `png_bytes` | string [B] |
| `keep_rows` | int32 [B], 0…R | `pixels` | uint8 [B, R, R, 3] |
| `temperature` | float32 [B], at least 0 | `tokens` | int32 [B, n] |
| `top_k` | int32 [B], 0 for all | `log_likelihood` | float32 [B] |
| `top_p` | float32 [B], in (0, 1] | | |
| `seed` | int64 [B] | | |

`classify_images`, also `serving_default` where there is no `complete`:

| inputs | | outputs | |
| --- | --- | --- | --- |
| `image_bytes` | string [B] | `classes` | string [B, C] |
| | | `scores` | float32 [B, C], softmax of the logits |
| | | `logits` | float32 [B, C] |
"""

import os
import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from igpt_keras.atomic import atomic_path
from igpt_keras.data.images import decode_image, dequantize, fit_to_size, quantize
from igpt_keras.errors import InputError
from igpt_keras.models import GenerativeModel, ImageGPT, ImageGPTClassifier
from igpt_keras.sampling import check_backend, check_can_sample, sample_tokens
from serving.versions import version_folders

COMPLETE = "complete"
CLASSIFY_IMAGES = "classify_images"
SERVING_DEFAULT = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
# A BERT model sees masked images in evaluation too (paper, appendix: 5 masks).
BERT_MASKS = 5


def export(
    models: GenerativeModel | Sequence[GenerativeModel],
    directory: str | os.PathLike,
    version: int | None = None,
) -> pathlib.Path:
    """Writes `<directory>/<version>/`, a SavedModel, whole or not at all.

    Args:
        models: an autoregressive `ImageGPT` (served as `complete`), an
            `ImageGPTClassifier` (as `classify_images`), or one of each; with palettes.
        directory: holds all versions of what is served; created if need be.
        version: at least 1; None for one more than the highest in `directory`.

    Returns: the path of the version's folder.

    Raises:
        InputError: models that cannot be served, or an unusable version.
        FileExistsError: the version exists already.
    """
    models = list(models) if isinstance(models, Sequence) else [models]
    _check_models(models)
    if version is None:
        existing = version_folders(directory) if os.path.exists(directory) else {}
        version = max(existing, default=0) + 1
    if version < 1:
        raise InputError(f"version must be at least 1, got {version}")
    path = pathlib.Path(directory, str(version))
    with atomic_path(path) as partial:
        signatures = dict(_signature(model) for model in models)
        # Only the variables are attached: a model would bring along the functions that
        # Keras and the sampler keep with it.
        module = tf.Module()
        module.weights = [v for function in signatures.values() for v in function.variables]
        signatures[SERVING_DEFAULT] = signatures.get(COMPLETE) or signatures[CLASSIFY_IMAGES]
        tf.saved_model.save(module, str(partial), signatures)
        check_servable(_read_graph(partial))
    return path


def check_servable(graph: tf.compat.v1.GraphDef) -> None:
    """Raises `InputError` if TensorFlow Serving's server cannot run `graph`.

    It has no Python, and runs XLA-compiled functions only behind a flag.
    """
    places = [("the graph", graph.node)]
    for function in graph.library.function:
        where = f"function {function.signature.name}"
        _refuse_must_compile(function.attr, where)
        places.append((where, function.node_def))
    for where, nodes in places:
        for node in nodes:
            if node.op.startswith("Xla") or "PyFunc" in node.op:
                raise InputError(
                    f"the model cannot be served: operation {node.op} ({node.name} in {where}) "
                    "needs XLA or Python"
                )
            _refuse_must_compile(node.attr, f"operation {node.name} in {where}")


def _refuse_must_compile(attributes, where: str) -> None:
    if "_XlaMustCompile" in attributes and attributes["_XlaMustCompile"].b:
        raise InputError(f"the model cannot be served: {where} must be compiled by XLA")


def _read_graph(folder: pathlib.Path) -> tf.compat.v1.GraphDef:
    saved_model = saved_model_pb2.SavedModel()
    saved_model.ParseFromString((folder / tf.saved_model.SAVED_MODEL_FILENAME_PB).read_bytes())
    return saved_model.meta_graphs[0].graph_def


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
        if isinstance(model, ImageGPT):
            check_can_sample(model)
        if model.palette is None:
            raise InputError(f"palette is needed: the {type(model).__name__} has none")


def _signature(model: GenerativeModel) -> tuple[str, tf.types.experimental.ConcreteFunction]:
    """The name of the model's signature, and its traced function."""
    if isinstance(model, ImageGPT):
        return COMPLETE, _completion(model).get_concrete_function()
    return CLASSIFY_IMAGES, _classification(model).get_concrete_function()


def _completion(model: ImageGPT):
    """The function behind `complete`."""
    size, length = model.config.image_size, model.config.sequence_length

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, "image_bytes"),
            tf.TensorSpec([None], tf.int32, "keep_rows"),
            tf.TensorSpec([None], tf.float32, "temperature"),
            tf.TensorSpec([None], tf.int32, "top_k"),
            tf.TensorSpec([None], tf.float32, "top_p"),
            tf.TensorSpec([None], tf.int64, "seed"),
        ]
    )
    def complete(image_bytes, keep_rows, temperature, top_k, top_p, seed):
        sizes = tf.stack(
            [tf.size(x) for x in (image_bytes, keep_rows, temperature, top_k, top_p, seed)]
        )
        checks = [
            _require(sizes == sizes[0], "inputs must have one batch size", sizes),
            _require(
                (keep_rows >= 0) & (keep_rows <= size),
                f"keep_rows must lie in 0…{size} (the image height)",
                keep_rows,
            ),
            _require(
                (temperature >= 0) & tf.math.is_finite(temperature),
                "temperature must be finite and at least 0",
                temperature,
            ),
            _require(top_k >= 0, "top_k must be at least 0 (0 for all colours)", top_k),
            _require((top_p > 0) & (top_p <= 1), "top_p must be above 0 and at most 1", top_p),
        ]
        # All that follows needs the tokens, so nothing is sampled before the checks.
        with tf.control_dependencies(checks):
            tokens = _encode(image_bytes, model)
        known = tf.range(length)[None] < keep_rows[:, None] * size
        tokens, log_likelihood = sample_tokens(
            model, tokens, known, seed, temperature, top_k, top_p
        )
        pixels = dequantize(tokens, model.palette, size)
        return {
            "png_bytes": tf.io.encode_png(pixels),
            "pixels": pixels,
            "tokens": tokens,
            "log_likelihood": log_likelihood,
        }

    return complete


def _classification(classifier: ImageGPTClassifier):
    """The function behind `classify_images`."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def classify_images(image_bytes):
        logits = _class_logits(classifier, _encode(image_bytes, classifier))
        names = tf.constant(classifier.class_names)[None]
        return {
            "classes": tf.tile(names, [tf.size(image_bytes), 1]),
            "scores": tf.nn.softmax(logits),
            "logits": logits,
        }

    return classify_images


def _class_logits(classifier: ImageGPTClassifier, tokens):
    """Tokens int32 [B, n] to logits float32 [B, C]; for BERT, the mean over fixed masks M.

    The classifier itself would draw other masks at every call.
    """
    if classifier.objective == "ar":
        return classifier.class_logits(classifier.features(tokens, classifier.layer))
    length = classifier.config.sequence_length
    drawn = np.random.default_rng(0).random((BERT_MASKS, length))
    masks = tf.constant(drawn < classifier.mask_probability)
    batch = tf.shape(tokens)[0]
    inputs = {
        "tokens": tf.repeat(tokens, BERT_MASKS, axis=0),
        "masked": tf.tile(masks, [batch, 1]),
    }
    logits = classifier.class_logits(classifier.features(inputs, classifier.layer))
    return tf.reduce_mean(tf.reshape(logits, [batch, BERT_MASKS, classifier.num_classes]), axis=1)


def _encode(image_bytes, model: GenerativeModel):
    """Image files string [B] to the model's tokens int32 [B, n]."""
    size, length = model.config.image_size, model.config.sequence_length

    def encode(content):
        image = fit_to_size(decode_image(content), size)
        return quantize(image[None], model.palette)[0]

    return tf.map_fn(encode, image_bytes, fn_output_signature=tf.TensorSpec([length], tf.int32))


def _require(condition, message: str, values):
    return tf.debugging.Assert(tf.reduce_all(condition), [message + ", got", values])
