"""Baselines: what simple models reach on the same split."""

import numpy as np

from igpt_keras.data.labeled import LabeledImages, LabeledTokens
from igpt_keras.evaluation.probes import LBFGS, LayerFeatures, ProbeSplits, fit_probe
from igpt_keras.tokenizers.color_palette import ColorPalette


def generative_baselines(
    tokens: np.ndarray, held_out: np.ndarray, vocabulary_size: int, image_size: int
) -> dict[str, float]:
    """Losses in nats per pixel of count-based models, fitted to `tokens`.

    Counts start at 1 (Laplace). The two conditional models see the pixel to the
    left or above; a pixel without such a neighbor conditions on "none".

    Args:
        tokens: int32 [N, n], what the counts are taken from.
        held_out: int32 [M, n], what the losses are of.
        vocabulary_size: V.
        image_size: R, n = R².

    Returns: the losses of "uniform", "unigram", "left pixel" and "pixel above".
    """

    def conditional(neighbor):
        counts = np.ones((vocabulary_size + 1, vocabulary_size))
        np.add.at(counts, (neighbor(tokens).ravel(), tokens.ravel()), 1)
        probabilities = counts / counts.sum(axis=1, keepdims=True)
        return float(-np.log(probabilities[neighbor(held_out).ravel(), held_out.ravel()]).mean())

    def shifted(flat, axis):
        images = flat.reshape(-1, image_size, image_size)
        padding = [(0, 0), (0, 0), (0, 0)]
        padding[axis] = (1, 0)
        padded = np.pad(images, padding, constant_values=vocabulary_size)
        return np.take(padded, np.arange(image_size), axis=axis)

    return {
        "uniform": float(np.log(vocabulary_size)),
        "unigram": conditional(np.zeros_like),
        "left pixel": conditional(lambda flat: shifted(flat, axis=2)),
        "pixel above": conditional(lambda flat: shifted(flat, axis=1)),
    }


def pixel_features(images: LabeledImages) -> LayerFeatures:
    """Raw pixels as the features of a single layer, [N, H · W · 3]."""
    return LayerFeatures([images.images.reshape(len(images.images), -1)], images.labels)


def token_features(tokens: LabeledTokens, palette: ColorPalette) -> LayerFeatures:
    """The colors of the tokens as the features of a single layer, [N, n · 3].

    What the model is shown of an image. (One-hot tokens would be n · V wide.)
    """
    colors = palette.detokenize(tokens.tokens)
    return LayerFeatures([colors.reshape(len(tokens), -1)], tokens.labels)


def raw_pixel_accuracy(
    train: LabeledImages, validation: LabeledImages, test: LabeledImages
) -> float:
    """Test accuracy of logistic regression on raw pixels, regularized as `validation` says."""
    features = [pixel_features(split) for split in (train, validation, test)]
    num_classes = 1 + max(int(split.labels.max()) for split in features)
    splits = ProbeSplits(*features, num_classes)
    return fit_probe(LBFGS(), splits).accuracy(splits.test)
