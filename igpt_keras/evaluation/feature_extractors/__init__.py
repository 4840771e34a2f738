"""Feature extractors: what sets of images are compared by, one module each.

To add one, put a module of its name into this folder, or list one under the entry-point group
`igpt_keras.plugins`. It registers a class that is made from what follows `KIND:`:

```python
import numpy as np

from igpt_keras.evaluation.feature_extractors import (
    ImageFeatureExtractor,
    register_feature_extractor,
)


@register_feature_extractor("mean_color")
class MeanColor(ImageFeatureExtractor):
    \"\"\"Three features: the means of red, green and blue.\"\"\"

    name = "mean color"

    def extract(self, images):
        return images.mean(axis=(1, 2))
```
"""

import abc
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from igpt_keras.registry import Registry


class ImageFeatureExtractor(abc.ABC):
    """Maps images to the vectors by which sets of images are compared.

    The vector of an image depends on nothing but the image.

    Args:
        location: What follows `KIND:`; empty if nothing does.

    Attributes:
        name: What the features are, for tables.
        is_published: Whether distances between these features are what is published as FID and
            KID.
    """

    name: str
    is_published: bool = False

    def __init__(self, location: str = ""):
        self.location = location

    @abc.abstractmethod
    def extract(self, images: np.ndarray) -> np.ndarray:
        """Returns features, float [B, d], of images uint8 [B, R, R, 3] of any size R."""

    def describe(self) -> dict[str, Any]:
        """Returns what identifies the features, JSON-serializable, such as a digest of weights."""
        return {}


feature_extractors: Registry[type[ImageFeatureExtractor]] = Registry(
    "feature extractor", package=__name__
)
register_feature_extractor = feature_extractors.register


def open_feature_extractor(spec: str) -> ImageFeatureExtractor:
    """Opens a feature extractor.

    Args:
        spec: `model:PATH` for a model in any format that `igpt_keras.load` reads, `inception:FILE`
            for the Inception network with torch-fidelity's file of weights, or `KIND:LOCATION`
            of a plug-in.

    Raises:
        InputError: There is no such kind, or nothing usable at the location.

    Example:
        ```python
        from igpt_keras.evaluation.feature_extractors import open_feature_extractor

        extractor = open_feature_extractor("model:image_gpt_nano")
        extractor.extract(np.zeros((2, 16, 16, 3), np.uint8)).shape  # (2, 128)
        ```
    """
    kind, _, location = spec.partition(":")
    return feature_extractors.get(kind)(location)


def extract_all(
    extractor: ImageFeatureExtractor,
    batches: Iterable[np.ndarray],
    on_batch: Callable[[int], object] | None = None,
) -> np.ndarray:
    """Returns the features of all images, float32 [N, d].

    Args:
        extractor: The extractor.
        batches: Images, uint8 [B, R, R, 3] each; only one batch is in memory at a time.
        on_batch: Called with the number of images after each batch.
    """
    features = []
    for batch in batches:
        if len(batch):
            features.append(np.asarray(extractor.extract(batch), np.float32))
        if on_batch is not None:
            on_batch(len(batch))
    return np.concatenate(features)
