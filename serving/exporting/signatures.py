"""Signatures: TensorFlow functions from image files to images, classes, features and scores.

They include preprocessing, sampling and postprocessing. Shapes: B examples, R `image_size`, n
tokens, C classes, d `hidden_dim`. The batch is the first dimension of every input and output.
"""

import math
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from igpt_keras.errors import InputError
from igpt_keras.evaluation.voting import VOTES
from igpt_keras.models.classifier import ImageGPTClassifier
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.models.masking import draw_mask
from igpt_keras.sampling.conditioning import Condition
from igpt_keras.sampling.in_graph import sample_tokens
from igpt_keras.sampling.samplers import Categorical, Sampler
from igpt_keras.sampling.scoring import token_log_probs
from igpt_keras.tensors import Tensor
from serving.exporting.classes import (
    CLASS_LABELS,
    class_labels,
    condition_inputs,
    discriminative,
    generative,
    is_conditional,
    label_inputs,
    read_condition,
    read_labels,
    require_one_size,
)
from serving.exporting.preprocessing import (
    IMAGE_BYTES,
    KEEP_ROWS,
    Preprocessing,
    outputs,
    require,
)

COMPLETE = "complete"
SAMPLE = "sample"
CLASSIFY = "classify"
CLASSIFY_IMAGES = "classify_images"
FEATURES = "features"
SCORE = "score"
CLASSIFICATION = {CLASSIFY, CLASSIFY_IMAGES}
SERVING_DEFAULT = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
# The feature of a `tf.Example` that holds an image file, as in TensorFlow's own data sets.
IMAGE_FEATURE = "image/encoded"
# The seed of the masks of BERT models, which see masked images in evaluation too (paper,
# section 4.6).
MASK_SEED = 0
ConcreteFunction = tf.types.experimental.ConcreteFunction

EXAMPLES = tf.TensorSpec([None], tf.string, "inputs")
# The sampler of an exported model; each of its fields is an input.
SAMPLER = Categorical
DRAWING = (
    *(tf.TensorSpec([None], field.dtype, field.name) for field in SAMPLER.parameters()),
    tf.TensorSpec([None], tf.int64, "seed"),
)


def make_signatures(
    preprocessings: Iterable[Preprocessing], feature_layer: int | None
) -> dict[str, ConcreteFunction]:
    """Returns all signatures of some models, each from the first model that has it.

    Args:
        preprocessings: The models, an `ImageGPT` before an `ImageGPTClassifier`.
        feature_layer: The layer of `features`; None for `default_feature_layer`.
    """
    signatures = {}
    preprocessings = list(preprocessings)
    for preprocessing in preprocessings:
        functions = signature_functions(preprocessing, feature_layer)
        if preprocessing is not preprocessings[-1]:
            # A classifier that comes along says what an image is.
            functions = {name: functions[name] for name in functions.keys() - CLASSIFICATION}
        for name in functions.keys() - signatures.keys():
            signatures[name] = functions[name].get_concrete_function()
    return {**signatures, SERVING_DEFAULT: signatures[default_signature(signatures)]}


def default_signature(names: Container[str]) -> str:
    """Returns the name of the signature that is the default."""
    return next(name for name in (COMPLETE, CLASSIFY_IMAGES, FEATURES) if name in names)


def describe(
    names: Iterable[str], models: list[GenerativeModel], feature_layer: int | None
) -> dict[str, str]:
    """Returns a description of each of the named signatures.

    Args:
        names: Names of signatures.
        models: The models, an `ImageGPT` before an `ImageGPTClassifier`.
        feature_layer: As for `make_signatures`.
    """
    layer = _feature_layer(models[0], feature_layer)
    descriptions = {
        COMPLETE: "completes images whose first rows are kept",
        SAMPLE: "samples images from nothing",
        CLASSIFY: "classes of tf.Examples, for the Classify call",
        CLASSIFY_IMAGES: "classes of images",
        FEATURES: f"the features of layer {layer}, averaged over the image",
        SCORE: "log-likelihoods of images in nats, and bits per pixel",
        CLASS_LABELS: "the numbers of the classes to sample, by their names",
    }
    return {name: text for name, text in descriptions.items() if name in names}


def _feature_layer(model: GenerativeModel, feature_layer: int | None) -> int:
    return default_feature_layer(model) if feature_layer is None else feature_layer


def default_feature_layer(model: GenerativeModel) -> int:
    """Returns the layer of a classifier, or the middle layer of another model.

    The features of generative models are best near the middle (paper, section 4.2).
    """
    if isinstance(model, ImageGPTClassifier):
        return model.layer
    return model.config.middle_layer


def check_feature_layer(model: GenerativeModel, feature_layer: int | None) -> None:
    """Raises `InputError` for a layer that a model does not have."""
    layers = model.config.num_layers
    if feature_layer is not None and not 0 <= feature_layer <= layers:
        raise InputError(
            f"feature_layer must lie in 0…{layers} (num_layers={layers}), got {feature_layer}"
        )


def can_sample(model: GenerativeModel) -> bool:
    """Returns whether a model has a distribution of the next token."""
    return model.objective == "ar" and model.generative_weight > 0


def signature_functions(
    preprocessing: Preprocessing, feature_layer: int | None
) -> dict[str, Callable]:
    """Returns the `tf.function`s of one model, by the names of their signatures.

    Args:
        preprocessing: The model.
        feature_layer: As for `make_signatures`.
    """
    model = preprocessing.model
    functions: dict[str, Callable] = {
        FEATURES: _features(preprocessing, _feature_layer(model, feature_layer))
    }
    if can_sample(model):
        functions |= {
            COMPLETE: _complete(preprocessing),
            SAMPLE: _sample(preprocessing),
            SCORE: _score(preprocessing),
        }
    if is_conditional(model):
        functions[CLASS_LABELS] = class_labels(preprocessing)
    classes = _classes(preprocessing)
    if classes is not None:
        functions |= {CLASSIFY: _classify(classes), CLASSIFY_IMAGES: classes}
    return functions


def _complete(preprocessing: Preprocessing):
    model = preprocessing.model
    drawing = drawing_inputs(model)

    @tf.function(input_signature=[IMAGE_BYTES, KEEP_ROWS, *drawing], autograph=False)
    def complete(image_bytes, keep_rows, *drawing):
        drawing = _read_drawing(model, drawing, image_bytes, keep_rows)
        # All that samples needs the tokens, so it waits for the checks.
        with tf.control_dependencies([*drawing.checks, *preprocessing.checks_of(keep_rows)]):
            primers = preprocessing.primers(image_bytes, keep_rows)
        tokens, log_likelihood = sample_tokens(model, primers.tokens, primers.known, *drawing.how)
        known = tf.range(preprocessing.size)[None, :, None] < keep_rows[:, None, None]
        pixels = preprocessing.completed(tokens, known, primers.images)
        return outputs(pixels, tokens, log_likelihood)

    return complete


def _sample(preprocessing: Preprocessing):
    model = preprocessing.model

    @tf.function(input_signature=drawing_inputs(model), autograph=False)
    def sample(*drawing):
        drawing = _read_drawing(model, drawing)
        with tf.control_dependencies(drawing.checks):
            blank = tf.zeros([tf.size(drawing.seed), preprocessing.length], tf.int32)
        known = tf.zeros_like(blank, tf.bool)
        tokens, log_likelihood = sample_tokens(model, blank, known, *drawing.how)
        pixels = preprocessing.tokenizer.detokenize_in_graph(tokens)
        return outputs(pixels, tokens, log_likelihood)

    return sample


def _classify(classes: Callable):
    """The signature for the Classify call, given the function of `classify_images`."""
    description = {IMAGE_FEATURE: tf.io.FixedLenFeature([], tf.string)}

    @tf.function(input_signature=[EXAMPLES], autograph=False)
    def classify(inputs):
        found = classes(tf.io.parse_example(inputs, description)[IMAGE_FEATURE])
        return {name: found[name] for name in ("classes", "scores")}

    return classify


def _classes(preprocessing: Preprocessing) -> Callable | None:
    """The signature `classify_images` of a model; None for one without classes."""
    model = preprocessing.model
    if isinstance(model, ImageGPTClassifier):
        return discriminative(
            preprocessing, lambda tokens: mean_features(model, tokens, model.layer)
        )
    return generative(preprocessing) if is_conditional(model) else None


def _features(preprocessing: Preprocessing, layer: int):
    @tf.function(input_signature=[IMAGE_BYTES], autograph=False)
    def features(image_bytes):
        tokens = preprocessing.tokens(image_bytes)
        return {"features": mean_features(preprocessing.model, tokens, layer)}

    return features


def mean_features(model: GenerativeModel, tokens: Tensor, layer: int) -> Tensor:
    """Returns the features f^l of tokens; for a BERT model their mean over fixed masks M.

    The model itself would draw other masks at every call.

    Args:
        model: The model.
        tokens: int32 [B, n].
        layer: l, 0…L.

    Returns:
        float32 [B, d].
    """
    if model.objective == "ar":
        return model.layer_features(tokens, layer)
    shape = (VOTES, model.config.sequence_length)
    masks = tf.constant(draw_mask(shape, model.mask_probability, MASK_SEED, vote=0))
    batch = tf.shape(tokens)[0]
    inputs = {
        "tokens": tf.repeat(tokens, VOTES, axis=0),
        "masked": tf.tile(masks, tf.stack([batch, 1])),
    }
    features: Tensor = model.layer_features(inputs, layer)
    return tf.reduce_mean(tf.reshape(features, [batch, VOTES, model.config.hidden_dim]), axis=1)


def _score(preprocessing: Preprocessing):
    model = preprocessing.model

    @tf.function(input_signature=[IMAGE_BYTES, *label_inputs(model)], autograph=False)
    def score(image_bytes, *labels):
        checks = [require_one_size(image_bytes, *labels)] if labels else []
        with tf.control_dependencies(checks):
            tokens = preprocessing.tokens(image_bytes)
            labels = [read_labels(model, values) for values in labels]
        log_likelihood = tf.reduce_sum(token_log_probs(model, tokens, *labels), axis=1)
        return {
            "log_likelihood": log_likelihood,
            "bits_per_pixel": -log_likelihood / (preprocessing.size**2 * math.log(2)),
        }

    return score


class _Drawing(NamedTuple):
    """How B images are sampled, and operations that refuse what cannot be."""

    seed: Tensor
    sampler: Sampler
    condition: Condition | tuple[()]
    checks: list[tf.Operation]

    @property
    def how(self) -> tuple:
        """The last arguments of `sample_tokens`."""
        return self.seed, self.sampler, self.condition


def drawing_inputs(model: GenerativeModel) -> list[tf.TensorSpec]:
    """Returns the inputs that say how images of a model are sampled."""
    return [*DRAWING, *condition_inputs(model)]


def _read_drawing(model: GenerativeModel, inputs: Sequence[Any], *others: Tensor) -> _Drawing:
    """Reads the values of `drawing_inputs`; `others` are further inputs of the signature."""
    fields = SAMPLER.parameters()
    values, (seed, *condition) = inputs[: len(fields)], inputs[len(fields) :]
    checks = [
        require(field.allows(value), f"{field.name} must be {field.requirement}", value)
        for field, value in zip(fields, values, strict=True)
    ]
    checks.append(require_one_size(*others, *inputs))
    classes, further = read_condition(model, condition)
    names = [field.name for field in fields]
    sampler = SAMPLER(**dict(zip(names, values, strict=True)))
    return _Drawing(seed, sampler, classes, [*checks, *further])
