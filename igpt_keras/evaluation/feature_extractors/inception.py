"""Inception features through torch-fidelity: those of the published FID and KID."""

import os
import pickle
import sys
import warnings
from typing import Any

import numpy as np

from igpt_keras.data.files import check_regular, whole_file_digest
from igpt_keras.errors import InputError, InputWarning, first_line
from igpt_keras.evaluation.feature_extractors import (
    ImageFeatureExtractor,
    register_feature_extractor,
)
from igpt_keras.extras import require

EXTRA = "fidelity"
LAYER = "2048"
# The weights of 2015-12-05, converted; the end of the name is the start of their SHA-256.
FILE = "weights-inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}"
DIGEST = "6726825d"
# What PyTorch raises for files that are damaged or hold something else.
LOADING_ERRORS = (
    *(OSError, RuntimeError, TypeError, ValueError, AttributeError, EOFError),
    pickle.UnpicklingError,
)


@register_feature_extractor("inception")
class InceptionFeatures(ImageFeatureExtractor):
    """The 2,048 features before the last layer of the Inception network that FID is defined by.

    The network resizes images to 299 × 299 as TensorFlow 1 did. It runs on a GPU if PyTorch has
    one. An `InputWarning` says where the weights are others than those of published numbers.

    Args:
        location: The file of weights, `FILE` from `URL`.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: torch-fidelity is not installed, or the file holds no weights of the network.
    """

    def __init__(self, location: str = ""):
        super().__init__(location)
        if not location:
            raise InputError(f"features=inception must name a file of weights, {FILE} from {URL}")
        path = os.path.expanduser(location)
        check_regular(path)
        self.digest = whole_file_digest(path).hex()
        self.is_published = self.digest.startswith(DIGEST)
        self.name = "Inception" if self.is_published else f"Inception with weights {location}"
        # Triton, which PyTorch compiles with, ends a process that has TensorFlow (a clash of their
        # LLVM libraries). Nothing is compiled here.
        sys.modules.setdefault("triton", None)  # pyright: ignore[reportArgumentType]
        self._torch: Any = require("torch", EXTRA)
        self._device = "cuda" if self._torch.cuda.is_available() else "cpu"
        self._network = self._load(path).to(self._device)
        if not self.is_published:
            warnings.warn(
                f"{location} is not {FILE}: distances on its features are not FID and KID",
                InputWarning,
                stacklevel=2,
            )

    def _load(self, path: str) -> Any:
        """Returns the network with the weights at `path`."""
        module: Any = require("torch_fidelity.feature_extractor_inceptionv3", EXTRA)
        try:
            # torch-fidelity unpickles anything; this refuses all but tensors.
            self._torch.load(path, map_location="cpu", weights_only=True)
            return module.FeatureExtractorInceptionV3(
                "inception-v3-compat", [LAYER], feature_extractor_weights_path=path
            )
        except LOADING_ERRORS as error:
            raise InputError(
                f"{path} must be a file of Inception weights such as {FILE} from {URL}: "
                f"{first_line(error)}"
            ) from None

    def extract(self, images: np.ndarray) -> np.ndarray:
        channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        (features,) = self._network(self._torch.from_numpy(channels_first).to(self._device))
        return features.cpu().numpy()

    def describe(self) -> dict[str, Any]:
        fidelity: Any = require("torch_fidelity", EXTRA)
        return {
            "layer": LAYER,
            "digest": self.digest,
            "torch_fidelity": fidelity.__version__,
            "resizing": "bilinear to 299, as TensorFlow 1",
        }
