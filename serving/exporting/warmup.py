"""Warm-up requests, which TensorFlow Serving runs before it serves a version.

Without them, the first request of each signature would wait for TensorFlow's set-up.
"""

# The classes of protocol buffers are made at import.
# pyright: reportAttributeAccessIssue=false

import math
import pathlib
from collections.abc import Collection

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    input_pb2,
    predict_pb2,
    prediction_log_pb2,
)

from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.tokenizers.base import tokenizer_of
from serving.exporting.classes import CLASS_LABELS, is_conditional
from serving.exporting.signatures import (
    CLASSIFY,
    COMPLETE,
    IMAGE_FEATURE,
    SAMPLE,
    SAMPLER,
    SCORE,
    SERVING_DEFAULT,
)
from serving.versions import WARMUP_FILE

DRAWING = {**SAMPLER().arrays(1), "seed": np.zeros(1, np.int64)}
LABELS = {"labels": np.zeros(1, np.int32)}
# Guidance runs whatever a request without it does.
CONDITION = {**LABELS, "guidance_scale": np.full(1, 2, np.float32)}


def warmup_inputs(
    names: Collection[str], model: GenerativeModel
) -> dict[str, dict[str, np.ndarray]]:
    """Returns one example for each of the named signatures: inputs [1, …] by their names.

    `complete` samples only one row of tokens, which runs the same operations as a whole image.

    Args:
        names: Names of signatures.
        model: A model whose image size and token grid the signatures have.
    """
    size = model.config.image_size
    keep_rows = size - math.ceil(size / tokenizer_of(model).grid[0])
    shades = np.linspace(0, 255, size * size * 3).reshape(size, size, 3).astype(np.uint8)
    content = tf.io.encode_png(shades).numpy()
    image = {"image_bytes": np.array([content], object)}
    rows = {"keep_rows": np.array([keep_rows], np.int32)}
    labels, condition = (LABELS, CONDITION) if is_conditional(model) else ({}, {})
    complete = {**image, **rows, **DRAWING, **condition}
    inputs = {
        COMPLETE: complete,
        SERVING_DEFAULT: complete if COMPLETE in names else image,
        SAMPLE: {**DRAWING, **condition},
        SCORE: {**image, **labels},
        CLASS_LABELS: {"class_names": np.array([b""], object)},
        CLASSIFY: {"inputs": np.array([_example(content).SerializeToString()], object)},
    }
    return {name: inputs.get(name, image) for name in names}


def write_warmup_requests(folder: pathlib.Path, inputs: dict[str, dict[str, np.ndarray]]) -> None:
    """Writes the file of warm-up requests into a SavedModel.

    Args:
        folder: The folder of the SavedModel.
        inputs: As `warmup_inputs` returns them.
    """
    file = folder / WARMUP_FILE
    file.parent.mkdir()
    with tf.io.TFRecordWriter(str(file)) as writer:
        for name, values in sorted(inputs.items()):
            log = _classify_log if name == CLASSIFY else _predict_log
            writer.write(log(name, values).SerializeToString(deterministic=True))


def _predict_log(signature_name, inputs) -> prediction_log_pb2.PredictionLog:
    request = predict_pb2.PredictRequest()
    request.model_spec.signature_name = signature_name
    for name, values in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
    return prediction_log_pb2.PredictionLog(
        predict_log=prediction_log_pb2.PredictLog(request=request)
    )


def _classify_log(signature_name, inputs) -> prediction_log_pb2.PredictionLog:
    examples = [tf.train.Example.FromString(content) for content in inputs["inputs"]]
    request = classification_pb2.ClassificationRequest(
        input=input_pb2.Input(example_list=input_pb2.ExampleList(examples=examples))
    )
    request.model_spec.signature_name = signature_name
    return prediction_log_pb2.PredictionLog(
        classify_log=prediction_log_pb2.ClassifyLog(request=request)
    )


def _example(content: bytes) -> tf.train.Example:
    bytes_list = tf.train.BytesList(value=[content])
    feature = {IMAGE_FEATURE: tf.train.Feature(bytes_list=bytes_list)}
    return tf.train.Example(features=tf.train.Features(feature=feature))
