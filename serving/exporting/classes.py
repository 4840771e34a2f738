"""What a class-conditional model adds to an export: its inputs, and signatures of its classes.

TensorFlow Serving requires every input of a signature, so a request for images of any class says
so: a label of -1, and a guidance scale of 1. Shapes: B examples, C classes.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

from igpt_keras.models.classifier import ImageGPTClassifier
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.models.image_gpt import ImageGPT
from igpt_keras.network.layers import NO_CLASS
from igpt_keras.sampling.conditioning import Condition
from igpt_keras.sampling.in_graph import condition_in_graph
from igpt_keras.sampling.scoring import token_log_probs
from igpt_keras.tensors import Tensor
from serving.exporting.preprocessing import IMAGE_BYTES, Preprocessing, require

CLASS_LABELS = "class_labels"
LABELS = tf.TensorSpec([None], tf.int32, "labels")
GUIDANCE_SCALE = tf.TensorSpec([None], tf.float32, "guidance_scale")
CLASS_NAMES = tf.TensorSpec([None], tf.string, "class_names")


def is_conditional(model: GenerativeModel) -> bool:
    """Returns whether a model is conditioned on classes."""
    return model.config.num_classes is not None


def label_names(models: Sequence[GenerativeModel]) -> list[str]:
    """Returns the names of the classes that the first of some models is conditioned on, or none."""
    first = models[0]
    if not isinstance(first, ImageGPT) or first.class_names is None:
        return []
    return list(first.class_names)


def label_inputs(model: GenerativeModel) -> list[tf.TensorSpec]:
    """Returns the inputs of a signature of a model that says how likely an image is."""
    return [LABELS] if is_conditional(model) else []


def condition_inputs(model: GenerativeModel) -> list[tf.TensorSpec]:
    """Returns the inputs of a signature of a model that samples."""
    return [LABELS, GUIDANCE_SCALE] if is_conditional(model) else []


def read_condition(
    model: GenerativeModel, inputs: Sequence[Tensor]
) -> tuple[Condition | tuple[()], list[tf.Operation]]:
    """Reads the values of `condition_inputs`.

    Returns:
        The classes for the decoder, and operations that refuse what none can be.
    """
    if not inputs:
        return (), []
    labels, scale = inputs
    checks = check_labels(model, labels)
    is_finite = (scale >= 0) & (scale <= tf.float32.max)
    checks.append(require(is_finite, "guidance_scale must be finite and >= 0", scale))
    with tf.control_dependencies([require_one_size(labels, scale)]):
        is_needed = (labels != NO_CLASS) | (scale == 1)
    message = "guidance_scale must be 1 where labels is -1 (no class)"
    checks.append(require(is_needed, message, scale))
    # The decoder would otherwise look labels up before they are refused.
    with tf.control_dependencies(checks):
        condition = condition_in_graph(tf.identity(labels), tf.identity(scale))
    return condition, checks


def read_labels(model: GenerativeModel, labels: Tensor) -> Tensor:
    """Returns labels, and refuses those that a model does not have."""
    with tf.control_dependencies(check_labels(model, labels)):
        return tf.identity(labels)


def check_labels(model: GenerativeModel, labels: Tensor) -> list[tf.Operation]:
    """Returns operations that refuse labels that a model does not have."""
    count = len(label_names([model]))
    message = f"labels must lie in -1…{count - 1} (-1 for no class)"
    return [require((labels >= NO_CLASS) & (labels < count), message, labels)]


def require_one_size(*inputs: Tensor) -> tf.Operation:
    """Returns an operation that refuses inputs [B] of different batch sizes."""
    sizes = tf.stack([tf.size(values) for values in inputs])
    return require(sizes == sizes[0], "inputs must have one batch size", sizes)


def classified(class_names: Sequence[str], logits: Tensor) -> dict[str, Tensor]:
    """Returns the outputs of `classify_images`.

    Args:
        class_names: C names.
        logits: float32 [B, C].
    """
    return {
        "classes": _for_each(class_names, tf.shape(logits)[0]),
        "scores": tf.nn.softmax(logits),
        "logits": logits,
    }


def discriminative(preprocessing: Preprocessing, features: Callable[[Tensor], Tensor]):
    """Returns `classify_images` of a classifier.

    Args:
        preprocessing: The classifier.
        features: From tokens int32 [B, n] to its features float32 [B, d].
    """
    classifier = preprocessing.model
    assert isinstance(classifier, ImageGPTClassifier)

    @tf.function(input_signature=[IMAGE_BYTES], autograph=False)
    def classify_images(image_bytes):
        # The class head is linear: its logits of mean features are the mean of its logits.
        logits = classifier.class_head(features(preprocessing.tokens(image_bytes)))
        return classified(classifier.class_names, logits)

    return classify_images


def generative(preprocessing: Preprocessing):
    """Returns `classify_images` of a class-conditional model, whose logits are log p(x | class)."""
    model = preprocessing.model
    names = label_names([model])

    @tf.function(input_signature=[IMAGE_BYTES], autograph=False)
    def classify_images(image_bytes):
        tokens = preprocessing.tokens(image_bytes)

        def log_likelihood(label):
            labels = tf.fill([tf.shape(tokens)[0]], label)
            return tf.reduce_sum(token_log_probs(model, tokens, labels), axis=1)

        # A pass for each class: all at once could take any amount of memory.
        of_classes = tf.map_fn(
            log_likelihood,
            tf.range(len(names)),
            fn_output_signature=tf.TensorSpec([None], tf.float32),
            parallel_iterations=1,
        )
        return classified(names, tf.transpose(of_classes))

    return classify_images


def class_labels(preprocessing: Preprocessing):
    """Returns the signature that finds the labels of names, and tells all names."""
    names = label_names([preprocessing.model])

    @tf.function(input_signature=[CLASS_NAMES], autograph=False)
    def find_labels(class_names):
        is_name = class_names[:, None] == tf.constant(names)[None]
        first = tf.argmax(tf.cast(is_name, tf.int32), axis=1, output_type=tf.int32)
        labels = tf.where(tf.reduce_any(is_name, axis=1), first, NO_CLASS)
        return {"labels": labels, "classes": _for_each(names, tf.size(class_names))}

    return find_labels


def _for_each(class_names: Sequence[str], count: Tensor) -> Tensor:
    """Names [C] for each of `count` examples: string [count, C]."""
    return tf.tile(tf.constant(list(class_names))[None], [count, 1])
