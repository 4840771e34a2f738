"""Files in a SavedModel's `assets/`, for people and programs to read.

| file | content |
| --- | --- |
| `labels.txt` | the class names, one per line; with a classifier or a class-conditional model |
| `palette.npy` | the color palette in its published format, float32 [k, 3] |
| `classifier_palette.npy` | the classifier's palette, if the two models have different ones |
| `MODEL_CARD.md` | what the models are, how they were trained, and their limits |
| `igpt.json` | image size, sizes in words and class names, for a page (`serving.description`) |

A tokenizer that is not a color palette is part of the graph only.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

from igpt_keras.model_cards import OBJECTIVES, sizes_of, table
from igpt_keras.models.classifier import ImageGPTClassifier
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.tokenizers.base import tokenizer_of
from igpt_keras.tokenizers.color_palette import ColorPalette
from igpt_keras.wording import plural
from serving.description import DESCRIPTION_FILE, Description
from serving.exporting.classes import is_conditional, label_names

LABELS_FILE = "labels.txt"
PALETTE_FILE = "palette.npy"
CLASSIFIER_PALETTE_FILE = "classifier_palette.npy"
MODEL_CARD_FILE = "MODEL_CARD.md"

LIMITS = """\
## Limits

- Samples and completions follow the training images, including their errors and biases. They
  are guesses at how an image might continue, not what was there.
- Images are cropped to a square and reduced to the size and tokens above. The models neither see
  nor draw finer detail.
- The classes are those of the training data; any other image still gets one of them. Scores are
  softmax values, not calibrated probabilities.
- Log-likelihoods are of tokens, and bits per pixel are their bits divided by the number of pixels.
  They are comparable only between images under the same model and tokenizer.
"""


def write_assets(
    folder: pathlib.Path,
    models: Sequence[GenerativeModel],
    training: Sequence[dict[str, Any]],
    signatures: dict[str, str],
) -> list[pathlib.Path]:
    """Writes the files into an empty folder.

    Args:
        folder: The folder.
        models: The exported models, an `ImageGPT` first.
        training: For each model a description of its training.
        signatures: For each signature by its name a description, for the model card.

    Returns:
        The paths of the files.
    """
    first, last = tokenizer_of(models[0]), tokenizer_of(models[-1])
    if isinstance(first, ColorPalette):
        first.save(folder / PALETTE_FILE)
    if isinstance(last, ColorPalette) and last.fingerprint() != first.fingerprint():
        last.save(folder / CLASSIFIER_PALETTE_FILE)
    description = describe_models(models)
    if description.class_names:
        _write(folder / LABELS_FILE, "".join(f"{name}\n" for name in description.class_names))
    _write(folder / MODEL_CARD_FILE, model_card(models, training, signatures))
    description.write(folder / DESCRIPTION_FILE)
    return sorted(folder.iterdir())


def describe_models(models: Sequence[GenerativeModel]) -> Description:
    """Returns what `igpt.json` says of models, an `ImageGPT` first."""
    labels = names = tuple(label_names(models))
    if isinstance(models[-1], ImageGPTClassifier):
        names = tuple(models[-1].class_names)
    text = "; ".join(map(_in_words, models))
    return Description(models[0].config.image_size, text, names, labels)


def _in_words(model: GenerativeModel) -> str:
    layers = plural(model.config.num_layers, "layer")
    kind = OBJECTIVES[model.objective]
    if isinstance(model, ImageGPTClassifier):
        kind += f" classifier of {model.num_classes} classes"
    elif is_conditional(model):
        kind += f", conditioned on {model.config.num_classes} classes"
    width, parameters = model.config.hidden_dim, plural(model.count_params(), "parameter")
    return f"{kind}, {layers} of width {width}, {parameters}"


def model_card(
    models: Sequence[GenerativeModel],
    training: Sequence[dict[str, Any]],
    signatures: dict[str, str],
) -> str:
    """Returns the model card in Markdown. Arguments: see `write_assets`."""
    parts = ["# Model card\n"]
    for model, about in zip(models, training, strict=True):
        parts.append(f"## {type(model).__name__}\n\n{table(sizes_of(model))}")
        parts.append("### Training\n")
        parts.append(table(about) if about else "Not recorded.\n")
    parts.append(f"## Signatures\n\n{table(signatures)}")
    return "\n".join([*parts, LIMITS])


def _write(path: pathlib.Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
