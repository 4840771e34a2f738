"""Features of a model of this package; distances between them are not FID."""

from typing import Any

import numpy as np

from igpt_keras.data.augmentation import resize_area
from igpt_keras.errors import InputError
from igpt_keras.evaluation.feature_extractors import (
    ImageFeatureExtractor,
    register_feature_extractor,
)
from igpt_keras.evaluation.features import digest_of_weights
from igpt_keras.models import load
from igpt_keras.tokenizers.base import tokenizer_of


@register_feature_extractor("model")
class ModelFeatures(ImageFeatureExtractor):
    """f^l of the middle layer, where features are about the best (paper, section 4.2).

    Images are averaged by area to the size of the model. A BERT model sees them without a mask.

    Args:
        location: Path of the model.

    Raises:
        InputError: There is no model with a tokenizer.
    """

    def __init__(self, location: str = ""):
        super().__init__(location)
        if not location:
            raise InputError("features=model must name a model, such as model:image_gpt_nano")
        self.model = load(location)
        self.tokenizer = tokenizer_of(self.model)
        self.layer = self.model.config.middle_layer
        self.name = f"layer {self.layer} of {location}"

    def extract(self, images: np.ndarray) -> np.ndarray:
        size = self.model.config.image_size
        tokens: Any = self.tokenizer.tokenize(resize_area(images, size, size))
        if self.model.objective == "bert":
            tokens = {"tokens": tokens, "masked": np.zeros(tokens.shape, bool)}
        return self.model.features(tokens, self.layer, batch_size=len(images))

    def describe(self) -> dict[str, Any]:
        return {
            "layer": self.layer,
            "digest": digest_of_weights(self.model.backbone),
            "tokenizer_digest": self.tokenizer.fingerprint(),
            "resizing": f"area average to {self.model.config.image_size}",
        }
