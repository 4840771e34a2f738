import numpy as np
import sklearn.metrics

from igpt_keras.evaluation.predictions import Predictions


def test_accuracies_and_confusions_are_scikit_learns():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 8, 300)
    labels[labels == 6] = 5  # A class without images.
    scores = generator.normal(size=(300, 8)) + 1.2 * np.eye(8)[labels]
    scores[:, 3] = -np.inf  # A class that is never predicted.
    predictions = Predictions.of([scores[:100], scores[100:100], scores[100:]], labels)
    classes = scores.argmax(axis=1)
    assert predictions.accuracy == sklearn.metrics.accuracy_score(labels, classes)
    finite = np.maximum(scores, -100)
    expected = sklearn.metrics.top_k_accuracy_score(labels, finite, k=5, labels=range(8))
    assert predictions.accuracy < predictions.top_5_accuracy == expected < 1
    matrix = sklearn.metrics.confusion_matrix(labels, classes, labels=range(8))
    np.testing.assert_array_equal(predictions.confusion_matrix(), matrix)

    errors = matrix - np.diag(np.diag(matrix))
    confused = predictions.most_confused(100)
    assert len(confused) == (errors > 0).sum()
    assert sum(count for *_, count in confused) == errors.sum()
    assert all(errors[label, predicted] == count for label, predicted, count in confused)
    counts = [count for *_, count in confused]
    assert counts == sorted(counts, reverse=True)
    assert predictions.most_confused(3) == confused[:3]


def test_equal_scores_do_not_make_an_image_right():
    # Nearest neighbors give most classes a score of 0.
    labels = np.arange(8)
    predictions = Predictions.of([np.eye(8)[[7] * 8]], labels)
    assert list(predictions.ranks) == [1, 2, 3, 4, 5, 6, 7, 0]
    assert predictions.accuracy == 1 / 8
    assert predictions.top_5_accuracy == 5 / 8
    assert (predictions.classes == 7).all()


def test_without_errors_or_many_classes_there_is_nothing_to_say():
    predictions = Predictions.of([np.eye(5)], np.arange(5))
    assert predictions.most_confused(3) == []
    assert predictions.top_5_accuracy is None
