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

import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

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

OBJECTIVES = {"ar": "autoregressive", "bert": "BERT"}
# Longer lists are histories, of which the card tells the last value.
MAX_LIST_LENGTH = 4

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
        parts.append(f"## {type(model).__name__}\n\n{_table(_sizes(model))}")
        parts.append("### Training\n")
        parts.append(_table(about) if about else "Not recorded.\n")
    parts.append(f"## Signatures\n\n{_table(signatures)}")
    return "\n".join([*parts, LIMITS])


def _sizes(model: GenerativeModel) -> dict[str, Any]:
    config, tokenizer = model.config, tokenizer_of(model)
    rows, columns = tokenizer.grid
    meaning = ", one for each pixel" if tokenizer.pixelwise else ""
    sizes = {
        "objective": OBJECTIVES[model.objective],
        "image size": f"{config.image_size} × {config.image_size} pixels",
        "tokenizer": type(tokenizer).__name__,
        "tokens of an image": f"{rows} × {columns}{meaning}",
        "vocabulary size": config.vocabulary_size,
        "layers, width, heads": f"{config.num_layers}, {config.hidden_dim}, {config.num_heads}",
        "attention": config.attention,
        "parameters": f"{model.count_params():,}",
        "precision": model.dtype_policy.name,
    }
    if isinstance(model, ImageGPTClassifier):
        sizes["classes"] = model.num_classes
        sizes["layer of the class head"] = model.layer
    elif is_conditional(model):
        sizes["classes"] = model.config.num_classes
    return sizes


def _table(values: dict[str, Any]) -> str:
    rows = [f"| {name} | {_cell(value)} |" for name, value in _flat(values)]
    return "\n".join(["| | |", "| --- | --- |", *rows, ""])


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values; those of nested dictionaries have joined names."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}, ")
        else:
            yield f"{prefix}{name}", value


def _cell(value) -> str:
    if isinstance(value, list) and len(value) > MAX_LIST_LENGTH:
        return f"{_cell(value[-1])} (the last of {len(value)} values)"
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    if isinstance(value, float):
        return f"{value:.5g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return " ".join(text.split()).replace("|", r"\|")


def _write(path: pathlib.Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
