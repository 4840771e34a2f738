"""The classes that requests to a class-conditional model ask for.

A model's metadata say whether it takes labels, and its signature `class_labels` has their names.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from igpt_keras.errors import InputError
from igpt_keras.sampling.requests import (
    NO_CLASS,
    check_guidance_scale,
    class_numbers,
    is_integer,
)
from serving.client.carriers import Carrier, Exchange

CLASS_LABELS = "class_labels"
LABELS, GUIDANCE_SCALE = "labels", "guidance_scale"
# A class by its number or its name.
Label = int | str
Labels = Label | Sequence[Label] | np.ndarray


@dataclasses.dataclass(frozen=True)
class Condition:
    """What a request asks of a class-conditional model, and nothing of another one.

    Attributes:
        labels: The class of each of B examples; None for any class.
        guidance_scale: How much it counts.
    """

    labels: list[Label] | None = None
    guidance_scale: float = 1.0

    def inputs(
        self, carrier: Carrier, signature_name: str, count: int
    ) -> Exchange[dict[str, np.ndarray]]:
        """Returns the inputs of a signature that a class-conditional model has besides others.

        Args:
            carrier: Says the requests about the model.
            signature_name: The signature.
            count: B.

        Raises:
            InputError: There are labels, and the model has none, or not these.
        """
        signatures = yield from carrier.signatures()
        # A signature that is not there is told by the request for it.
        names = signatures.get(signature_name, ())
        if LABELS not in names:
            if self.labels is not None and names:
                raise InputError(
                    "labels needs a class-conditional model; the model on the server is none, "
                    f"got labels={self.labels}"
                )
            return {}
        numbers = [NO_CLASS] * count
        if self.labels is not None:
            numbers = yield from _numbers(carrier, self.labels)
        inputs: dict[str, np.ndarray] = {LABELS: np.array(numbers, np.int32)}
        if GUIDANCE_SCALE in names:
            inputs[GUIDANCE_SCALE] = np.full(count, self.guidance_scale, np.float32)
        return inputs


def make_condition(
    labels: Labels | None, guidance_scale: float, num_images: int, num_completions: int = 1
) -> Condition:
    """Checks the classes of images.

    Args:
        labels: The class of all images, or one for each; None for any.
        guidance_scale: How much it counts.
        num_images: B.
        num_completions: N, examples of each image.

    Raises:
        InputError: There can be no such classes, or no such scale.
    """
    check_guidance_scale(guidance_scale, labels)
    if labels is None:
        return Condition()
    given: Any = labels
    each = [given] * num_images if isinstance(given, str) or is_integer(given) else list(given)
    if len(each) != num_images or not all(map(_is_label, each)):
        raise InputError(
            f"labels must be the number or name of a class, or one for each of {num_images} "
            f"images, got {labels}"
        )
    of_examples = [label for label in each for _ in range(num_completions)]
    return Condition(of_examples, float(guidance_scale))


def _is_label(label: Any) -> bool:
    return isinstance(label, str) or (is_integer(label) and 0 <= label < 1 << 31)


def _numbers(carrier: Carrier, labels: list[Label]) -> Exchange[list[int]]:
    """Returns the numbers of classes; the server knows the names."""
    if all(map(is_integer, labels)):
        return [int(label) for label in labels]
    inputs = {"class_names": np.array([b""], object)}
    answer = yield from carrier.predict(CLASS_LABELS, inputs, ["classes"])
    names = [name.decode(errors="replace") for name in answer["classes"][0]]
    return class_numbers(labels, names)
