"""Image GPT (Generative Pretraining from Pixels) in Keras.

Importing the package imports neither Keras nor TensorFlow; its names do so when they are used.
"""

import importlib
from typing import TYPE_CHECKING, Any

import wrapt

from igpt_keras.errors import InputError

if TYPE_CHECKING:
    from igpt_keras import data
    from igpt_keras.data.data_set import open_data
    from igpt_keras.models import ImageGPT, ImageGPTClassifier, load
    from igpt_keras.network.backbone import ImageGPTBackbone
    from igpt_keras.network.config import ImageGPTConfig
    from igpt_keras.sampling import samplers
    from igpt_keras.sampling.requests import Completions
    from igpt_keras.tokenizers import ColorPalette, ImageTokenizer, RGBTokenizer
    from igpt_keras.tokenizers.learned.vqvae import VQVAE

__version__ = "0.2.0"
__all__ = [
    "ColorPalette",
    "Completions",
    "ImageGPT",
    "ImageGPTBackbone",
    "ImageGPTClassifier",
    "ImageGPTConfig",
    "ImageTokenizer",
    "InputError",
    "RGBTokenizer",
    "VQVAE",
    "data",
    "load",
    "open_data",
    "samplers",
]

# The module of each name.
_LAZY = {
    "ColorPalette": "igpt_keras.tokenizers",
    "Completions": "igpt_keras.sampling.requests",
    "ImageGPT": "igpt_keras.models",
    "ImageGPTBackbone": "igpt_keras.network.backbone",
    "ImageGPTClassifier": "igpt_keras.models",
    "ImageGPTConfig": "igpt_keras.network.config",
    "ImageTokenizer": "igpt_keras.tokenizers",
    "RGBTokenizer": "igpt_keras.tokenizers",
    "VQVAE": "igpt_keras.tokenizers.learned.vqvae",
    "data": "igpt_keras.data",
    "load": "igpt_keras.models",
    "open_data": "igpt_keras.data.data_set",
    "samplers": "igpt_keras.sampling.samplers",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_LAZY[name])
    value = module if name in ("data", "samplers") else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Deferred:
    """Stands for a model class in Keras' registry until the class is needed.

    It lets `keras.saving.load_model` find the classes of a `.keras` file after
    `import igpt_keras` alone. The real class takes its place when its module is imported.
    """

    name: str

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return __getattr__(cls.name).from_config(config)

    def get_config(self) -> dict[str, Any]:
        raise NotImplementedError  # Keras asks for the method and never calls it.


@wrapt.when_imported("keras")
def _register_deferred(keras: Any) -> None:
    for name in ("ImageGPT", "ImageGPTBackbone", "ImageGPTClassifier", "VQVAE"):
        deferred = type(name, (_Deferred,), {"name": name})
        keras.saving.register_keras_serializable("igpt_keras", name)(deferred)
