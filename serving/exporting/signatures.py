"""Signatures: TensorFlow functions from image files to images, classes, features and scores.

They include preprocessing, sampling and postprocessing. Shapes: B examples, R `image_size`, n
tokens, C classes, d `hidden_dim`. The batch is the first dimension of every input and output.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial

import tensorflow as tf

from igpt_keras.errors import InputError
from igpt_keras.evaluation.voting import VOTES
from igpt_keras.models.classifier import ImageGPTClassifier
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.models.masking import draw_mask
from igpt_keras.sampling.autoregressive import sample_tokens
from igpt_keras.sampling.samplers import Categorical
from igpt_keras.sampling.scoring import token_log_probs
from igpt_keras.tensors import Tensor
from igpt_keras.tokenizers.base import tokenizer_of
from serving.exporting.image_decoding import decode_image, fit_to_size

COMPLETE = "complete"
SAMPLE = "sample"
CLASSIFY = "classify"
CLASSIFY_IMAGES = "classify_images"
FEATURES = "features"
SCORE = "score"
SERVING_DEFAULT = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
# The feature of a `tf.Example` that holds an image file, as in TensorFlow's own data sets.
IMAGE_FEATURE = "image/encoded"
# The seed of the masks of BERT models, which see masked images in evaluation too (paper,
# section 4.6).
MASK_SEED = 0
# An image of the largest size takes three bytes per pixel, and as many again when cropped.
MAX_PARALLEL_DECODES = 2

ConcreteFunction = tf.types.experimental.ConcreteFunction

IMAGE_BYTES = tf.TensorSpec([None], tf.string, "image_bytes")
EXAMPLES = tf.TensorSpec([None], tf.string, "inputs")
KEEP_ROWS = tf.TensorSpec([None], tf.int32, "keep_rows")
# The sampler of an exported model; each of its fields is an input.
SAMPLER = Categorical
DRAWING = (
    *(tf.TensorSpec([None], field.dtype, field.name) for field in SAMPLER.parameters()),
    tf.TensorSpec([None], tf.int64, "seed"),
)


def make_signatures(
    models: list[GenerativeModel], feature_layer: int | None, max_pixels: int
) -> dict[str, ConcreteFunction]:
    """Returns all signatures of some models, each from the first model that has it.

    Args:
        models: Models with tokenizers, an `ImageGPT` before an `ImageGPTClassifier`.
        feature_layer: The layer of `features`; None for `default_feature_layer`.
        max_pixels: A larger image, by the size in its header, is refused before it is decoded.
    """
    signatures = {}
    for model in models:
        functions = _functions(model, Preprocessing(model, max_pixels), feature_layer)
        for name in functions.keys() - signatures.keys():
            signatures[name] = functions[name].get_concrete_function()
    default = next(name for name in (COMPLETE, CLASSIFY_IMAGES, FEATURES) if name in signatures)
    return {**signatures, SERVING_DEFAULT: signatures[default]}


def signature_names(models: Iterable[GenerativeModel]) -> set[str]:
    """Returns the names of the models' signatures, without `serving_default`."""
    names = {FEATURES}
    for model in models:
        if can_sample(model):
            names |= {COMPLETE, SAMPLE, SCORE}
        if isinstance(model, ImageGPTClassifier):
            names |= {CLASSIFY, CLASSIFY_IMAGES}
    return names


def describe(
    names: Iterable[str], models: list[GenerativeModel], feature_layer: int | None
) -> dict[str, str]:
    """Returns a description of each of the named signatures.

    Args:
        names: Names of signatures.
        models: As for `make_signatures`.
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
    return math.ceil(model.config.num_layers / 2)


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


class Preprocessing:
    """From image files to a model's tokens, and from tokens to images.

    Args:
        model: A model with a tokenizer.
        max_pixels: A larger image, by the size in its header, is refused before it is decoded.

    Attributes:
        tokens: A function from image files, string [B], to tokens, int32 [B, n].
    """

    def __init__(self, model: GenerativeModel, max_pixels: int):
        self.size = model.config.image_size
        self.length = model.config.sequence_length
        self.tokenizer = tokenizer_of(model)
        self.max_pixels = max_pixels
        # Traced once, for all signatures.
        self.tokens = tf.function(self._tokens, input_signature=[IMAGE_BYTES], autograph=False)

    def _tokens(self, image_bytes):
        return tf.map_fn(
            self._tokens_of_one,
            image_bytes,
            fn_output_signature=tf.TensorSpec([self.length], tf.int32),
            parallel_iterations=MAX_PARALLEL_DECODES,
        )

    def _tokens_of_one(self, content):
        image = fit_to_size(decode_image(content, self.max_pixels), self.size)
        return self.tokenizer.tokenize_in_graph(image[None])[0]

    def known(self, keep_rows: Tensor) -> Tensor:
        """Returns the known tokens, bool [B, n], of images of which int32 [B] rows are kept."""
        rows, columns = self.tokenizer.grid
        num_known = keep_rows // (self.size // rows) * columns
        return tf.range(self.length)[None] < num_known[:, None]

    def checks_of(self, keep_rows: Tensor) -> list:
        """Returns operations that refuse a number of rows that cannot be kept."""
        height = self.size // self.tokenizer.grid[0]
        checks = [
            _require(
                (keep_rows >= 0) & (keep_rows <= self.size),
                f"keep_rows must lie in 0…{self.size} (the image height)",
                keep_rows,
            )
        ]
        if height > 1:
            message = f"keep_rows must be a multiple of {height} (the height of a token)"
            checks.append(_require(keep_rows % height == 0, message, keep_rows))
        return checks

    def outputs(self, tokens: Tensor, log_likelihood: Tensor) -> dict[str, Tensor]:
        """Returns the outputs of `complete` and `sample` for sampled tokens."""
        pixels = self.tokenizer.detokenize_in_graph(tokens)
        return {
            "png_bytes": tf.io.encode_png(pixels),
            "pixels": pixels,
            "tokens": tokens,
            "log_likelihood": log_likelihood,
        }


def _functions(
    model: GenerativeModel, preprocessing: Preprocessing, feature_layer: int | None
) -> dict[str, Callable]:
    """The `tf.function`s of one model, by the names of their signatures."""
    makers = {
        COMPLETE: _complete,
        SAMPLE: _sample,
        CLASSIFY: _classify,
        CLASSIFY_IMAGES: _classify_images,
        FEATURES: partial(_features, layer=_feature_layer(model, feature_layer)),
        SCORE: _score,
    }
    return {name: makers[name](model, preprocessing) for name in signature_names([model])}


def _complete(model: GenerativeModel, preprocessing: Preprocessing):
    @tf.function(input_signature=[IMAGE_BYTES, KEEP_ROWS, *DRAWING], autograph=False)
    def complete(image_bytes, keep_rows, *drawing):
        sampler, seed, checks = _sampler_and_seed(drawing)
        checks.append(_require_one_batch_size(image_bytes, keep_rows, *drawing))
        checks += preprocessing.checks_of(keep_rows)
        # Everything below needs the tokens, so nothing is sampled before the checks.
        with tf.control_dependencies(checks):
            tokens = preprocessing.tokens(image_bytes)
        known = preprocessing.known(keep_rows)
        return preprocessing.outputs(*sample_tokens(model, tokens, known, seed, sampler))

    return complete


def _sample(model: GenerativeModel, preprocessing: Preprocessing):
    @tf.function(input_signature=DRAWING, autograph=False)
    def sample(*drawing):
        sampler, seed, checks = _sampler_and_seed(drawing)
        with tf.control_dependencies([*checks, _require_one_batch_size(*drawing)]):
            blank = tf.zeros([tf.size(seed), preprocessing.length], tf.int32)
        known = tf.zeros_like(blank, tf.bool)
        return preprocessing.outputs(*sample_tokens(model, blank, known, seed, sampler))

    return sample


def _classify(classifier: ImageGPTClassifier, preprocessing: Preprocessing):
    description = {IMAGE_FEATURE: tf.io.FixedLenFeature([], tf.string)}

    @tf.function(input_signature=[EXAMPLES], autograph=False)
    def classify(inputs):
        image_bytes = tf.io.parse_example(inputs, description)[IMAGE_FEATURE]
        outputs = _classes(classifier, preprocessing, image_bytes)
        return {name: outputs[name] for name in ("classes", "scores")}

    return classify


def _classify_images(classifier: ImageGPTClassifier, preprocessing: Preprocessing):
    @tf.function(input_signature=[IMAGE_BYTES], autograph=False)
    def classify_images(image_bytes):
        return _classes(classifier, preprocessing, image_bytes)

    return classify_images


def _classes(classifier: ImageGPTClassifier, preprocessing: Preprocessing, image_bytes) -> dict:
    """The outputs of `classify_images`."""
    tokens = preprocessing.tokens(image_bytes)
    # The class head is linear: its logits of mean features are the mean of its logits.
    logits = classifier.class_head(mean_features(classifier, tokens, classifier.layer))
    return {
        "classes": tf.tile(tf.constant(classifier.class_names)[None], [tf.size(image_bytes), 1]),
        "scores": tf.nn.softmax(logits),
        "logits": logits,
    }


def _features(model: GenerativeModel, preprocessing: Preprocessing, layer: int):
    @tf.function(input_signature=[IMAGE_BYTES], autograph=False)
    def features(image_bytes):
        return {"features": mean_features(model, preprocessing.tokens(image_bytes), layer)}

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


def _score(model: GenerativeModel, preprocessing: Preprocessing):
    @tf.function(input_signature=[IMAGE_BYTES], autograph=False)
    def score(image_bytes):
        log_probs = token_log_probs(model, preprocessing.tokens(image_bytes))
        log_likelihood = tf.reduce_sum(log_probs, axis=1)
        return {
            "log_likelihood": log_likelihood,
            "bits_per_pixel": -log_likelihood / (preprocessing.size**2 * math.log(2)),
        }

    return score


def _sampler_and_seed(drawing) -> tuple:
    """The sampler and the seeds of inputs as in `DRAWING`, and operations that check them."""
    *values, seed = drawing
    fields = SAMPLER.parameters()
    checks = [
        _require(field.allows(value), f"{field.name} must be {field.requirement}", value)
        for field, value in zip(fields, values, strict=True)
    ]
    names = [field.name for field in fields]
    return SAMPLER(**dict(zip(names, values, strict=True))), seed, checks


def _require_one_batch_size(*inputs):
    sizes = tf.stack([tf.size(values) for values in inputs])
    return _require(sizes == sizes[0], "inputs must have one batch size", sizes)


def _require(condition, message: str, values):
    return tf.debugging.Assert(tf.reduce_all(condition), [message + ", got", values])
