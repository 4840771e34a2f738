import collections
import math

import keras
import numpy as np
import pytest
import scipy.special

from igpt_keras import ImageGPT, ImageGPTClassifier, InputError
from igpt_keras.evaluation.metrics import classifier_metrics, generative_loss
from igpt_keras.evaluation.voting import VOTES
from igpt_keras.models.masking import draw_mask

LABELS = np.random.default_rng(3).integers(0, 3, 40).astype(np.int32)


@pytest.fixture
def images():
    return np.random.default_rng(4).integers(0, 8, (40, 16)).astype(np.int32)


def cross_entropy(logits, labels):
    """One image at a time."""
    return [
        math.log(sum(math.exp(value) for value in row)) - row[label]
        for row, label in zip(logits.astype(float), labels, strict=True)
    ]


def generative_twin(classifier):
    """An `ImageGPT` with the classifier's weights, for `evaluate` to give its loss."""
    model = ImageGPT(
        classifier.config, classifier.objective, mask_probability=classifier.mask_probability
    )
    model.backbone.set_weights(classifier.backbone.get_weights())
    model.token_head.set_weights(classifier.token_head.get_weights())
    model.compile()
    return model


def test_figures_of_an_autoregressive_classifier(config, images, randomized):
    classifier = randomized(ImageGPTClassifier(config, 3, generative_weight=0.5, layer=1))
    metrics = classifier_metrics(classifier, images, LABELS, batch_size=16)
    logits = classifier.predict(images, verbose=0)
    assert metrics.accuracy == np.mean(logits.argmax(axis=1) == LABELS)
    assert 0 < metrics.accuracy < 1
    assert metrics.single_mask_accuracy is None
    assert metrics.top_5_accuracy is None  # of three classes
    np.testing.assert_array_equal(metrics.predictions.classes, logits.argmax(axis=1))
    assert metrics.classification_loss == pytest.approx(
        np.mean(cross_entropy(logits, LABELS)), abs=1e-5
    )
    nll = generative_twin(classifier).evaluate(images, verbose=0, return_dict=True)["loss"]
    assert metrics.generative_loss == pytest.approx(nll, abs=1e-5)
    assert generative_loss(classifier, images, batch_size=7) == pytest.approx(nll, abs=1e-5)


@pytest.mark.slow
def test_figures_of_a_bert_classifier_are_votes_and_means_over_masks(config, images, randomized):
    classifier = randomized(ImageGPTClassifier(config, 3, "bert", mask_probability=0.4))
    metrics = classifier_metrics(classifier, images, LABELS, batch_size=16, seed=7)
    twin = generative_twin(classifier)
    votes, losses, nll, of_votes = [], [], [], []
    for vote in range(5):
        inputs = {"tokens": images, "masked": draw_mask((40, 16), 0.4, 7, vote)}
        logits = classifier.predict(inputs, verbose=0)
        votes.append(logits.argmax(axis=1))
        of_votes.append(logits)
        losses.append(np.mean(cross_entropy(logits, LABELS)))
        nll.append(twin.evaluate(inputs, verbose=0, return_dict=True)["loss"])
    assert metrics.single_mask_accuracy == np.mean(votes[0] == LABELS)
    assert metrics.classification_loss == pytest.approx(np.mean(losses), abs=1e-5)
    assert metrics.generative_loss == pytest.approx(np.mean(nll), abs=1e-5)
    assert generative_loss(twin, images, seed=7) == pytest.approx(np.mean(nll), abs=1e-5)

    mean = scipy.special.softmax(of_votes, axis=2).mean(axis=0)
    ranks = [list(np.argsort(-row)).index(label) for row, label in zip(mean, LABELS, strict=True)]
    assert list(metrics.predictions.ranks) == ranks
    assert metrics.accuracy == np.mean(metrics.predictions.classes == LABELS)

    certain, possible = 0, 0
    for of_image, label in zip(np.transpose(votes), LABELS, strict=True):
        counts = collections.Counter(of_image.tolist())
        modes = [name for name, count in counts.items() if count == max(counts.values())]
        certain += modes == [label]
        possible += label in modes
    # Not every image is undisputed, or the vote would not be tested.
    assert len({tuple(vote) for vote in votes}) == VOTES
    assert certain < possible
    assert certain <= round(metrics.accuracy * 40) <= possible


@pytest.mark.parametrize("objective", ["ar", "bert"])
def test_figures_depend_on_the_seed_of_the_masks_and_not_on_the_batch_size(
    config, images, randomized, objective
):
    classifier = randomized(ImageGPTClassifier(config, 3, objective))

    def metrics(batch_size, seed):
        result = classifier_metrics(classifier, images, LABELS, batch_size=batch_size, seed=seed)
        return [value for value in vars(result).values() if isinstance(value, float)]

    whole = metrics(40, 0)
    assert metrics(9, 0) == pytest.approx(whole, abs=1e-5)
    other = metrics(40, 1)
    assert (other != whole) == (objective == "bert")


def test_tokens_on_disk_may_be_of_another_integer_type(config, images, randomized):
    model = randomized(ImageGPT(config))
    expected = generative_loss(model, images)
    assert generative_loss(model, images.astype(np.uint16)) == pytest.approx(expected)


def test_measuring_leaves_the_training_of_a_model_alone(config, images, randomized):
    classifier = randomized(ImageGPTClassifier(config, 3))
    optimizer = keras.optimizers.SGD(0.1)
    classifier.compile(optimizer)
    before = classifier.get_weights()
    classifier_metrics(classifier, images, LABELS)
    assert classifier.optimizer is optimizer
    for weight, old in zip(classifier.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)


@pytest.mark.parametrize("labels", [np.full(40, -1), np.full(40, 3), np.zeros(0, int)])
def test_labels_that_are_no_classes_are_named(config, images, labels):
    with pytest.raises(InputError, match=r"labels must lie in 0…2 \(num_classes=3\)"):
        classifier_metrics(ImageGPTClassifier(config, 3), images, labels)


def test_a_classifier_without_token_head_has_no_generative_loss(config, images):
    classifier = ImageGPTClassifier(config, 3, generative_weight=0)
    assert classifier_metrics(classifier, images, LABELS).generative_loss is None
    with pytest.raises(InputError, match="generative_weight must be above 0"):
        generative_loss(classifier, images)
