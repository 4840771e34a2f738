"""What a classifier predicted: accuracies and confusions."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from igpt_keras.short_repr import ShortRepr

TOP = 5


@dataclasses.dataclass(frozen=True, repr=False)
class Predictions(ShortRepr):
    """Predicted classes of images beside their labels.

    Attributes:
        labels: int [N].
        classes: int [N], the predictions.
        ranks: int [N], how many classes come before an image's label when they are sorted by
            their scores; of equal scores, the first class comes first.
        num_classes: C.

    Example:
        ```python
        from igpt_keras.evaluation.predictions import Predictions

        scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
        predictions = Predictions.of([scores], labels=np.array([0, 1, 1]))
        predictions.accuracy  # 0.666…
        predictions.confusion_matrix()  # [[1, 0], [1, 1]]
        ```
    """

    labels: np.ndarray
    classes: np.ndarray
    ranks: np.ndarray
    num_classes: int

    @classmethod
    def of(cls, scores: Iterable[np.ndarray], labels: np.ndarray) -> "Predictions":
        """Predicts the class of the highest score.

        Args:
            scores: Parts of float [N, C], in order.
            labels: int [N].
        """
        classes, ranks, end, num_classes = [], [], 0, 0
        for some in scores:
            start, end, num_classes = end, end + len(some), some.shape[1]
            right = labels[start:end, None]
            of_right = np.take_along_axis(some, right.astype(np.int64), axis=1)
            before = (some > of_right) | ((some == of_right) & (np.arange(num_classes) < right))
            classes.append(some.argmax(axis=1))
            ranks.append(before.sum(axis=1))
        return cls(labels, np.concatenate(classes), np.concatenate(ranks), num_classes)

    @property
    def accuracy(self) -> float:
        """Share of the images whose class is right."""
        return float((self.classes == self.labels).mean())

    @property
    def top_5_accuracy(self) -> float | None:
        """Share of the images whose class is among the 5 of the highest scores.

        None where there are no more than 5 classes.
        """
        return float((self.ranks < TOP).mean()) if self.num_classes > TOP else None

    def confusion_matrix(self) -> np.ndarray:
        """Returns the number of images of each label (row) and prediction (column): int [C, C]."""
        cells = self.labels.astype(np.int64) * self.num_classes + self.classes
        counts = np.bincount(cells, minlength=self.num_classes**2)
        return counts.reshape(self.num_classes, self.num_classes)

    def most_confused(self, count: int) -> list[tuple[int, int, int]]:
        """Returns the most frequent errors.

        Args:
            count: How many, at most.

        Returns:
            Label, prediction and number of images, the largest number first; of equal ones the
            first in the confusion matrix.
        """
        wrong = self.labels != self.classes
        pairs = np.stack([self.labels[wrong], self.classes[wrong]], axis=1)
        pairs, numbers = np.unique(pairs, axis=0, return_counts=True)
        largest = np.argsort(-numbers, kind="stable")[:count]
        return [(int(pairs[i, 0]), int(pairs[i, 1]), int(numbers[i])) for i in largest]
