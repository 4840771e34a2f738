"""Baselines: what simple models reach on the same split."""

import numpy as np

from igpt_keras.data.splits import LabelledImages


def generative_baselines(
    tokens: np.ndarray, held_out: np.ndarray, vocabulary_size: int, image_size: int
) -> dict[str, float]:
    """Losses in nats per pixel of count-based models, fitted to `tokens`.

    Counts start at 1 (Laplace). The two conditional models see the pixel to the
    left or above; a pixel without such a neighbour conditions on "none".

    Args:
        tokens: int32 [N, n], what the counts are taken from.
        held_out: int32 [M, n], what the losses are of.
        vocabulary_size: V.
        image_size: R, n = R².

    Returns: the losses of "uniform", "unigram", "left pixel" and "pixel above".
    """

    def conditional(neighbour):
        counts = np.ones((vocabulary_size + 1, vocabulary_size))
        np.add.at(counts, (neighbour(tokens).ravel(), tokens.ravel()), 1)
        probabilities = counts / counts.sum(axis=1, keepdims=True)
        return float(-np.log(probabilities[neighbour(held_out).ravel(), held_out.ravel()]).mean())

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


def raw_pixel_accuracy(
    train: LabelledImages, validation: LabelledImages, test: LabelledImages
) -> float:
    """Test accuracy of logistic regression on raw pixels.

    The inverse regularisation strength is the best of 0.001, 0.01, … 100 on
    `validation`, and of equal ones the smallest.
    """
    from sklearn.linear_model import LogisticRegression

    def pixels(part):
        return part.images.reshape(len(part), -1) / 255

    def accuracy(classifier, part):
        return float(classifier.score(pixels(part), part.labels))

    fitted = [
        LogisticRegression(C=strength, max_iter=5000).fit(pixels(train), train.labels)
        for strength in 10.0 ** np.arange(-3, 3)
    ]
    return accuracy(max(fitted, key=lambda classifier: accuracy(classifier, validation)), test)
