"""What travels with the graph in `assets/`, for people and programs to read.

| file | what it holds |
| --- | --- |
| `labels.txt` | the class names, one a line; only with a classifier |
| `palette.npy` | the palette as published, float32 [k, 3] |
| `classifier_palette.npy` | the classifier's, where two models have two |
| `MODEL_CARD.md` | what the models are, how they were trained, what they are not for |
"""

import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from igpt_keras.models.classifier import ImageGPTClassifier
from igpt_keras.models.generative_model import GenerativeModel

LABELS_FILE = "labels.txt"
PALETTE_FILE = "palette.npy"
CLASSIFIER_PALETTE_FILE = "classifier_palette.npy"
MODEL_CARD_FILE = "MODEL_CARD.md"

# Longer ones are histories, of which the last value counts.
LONGEST_LIST = 4

LIMITS = """\
## Limits

- Samples and completions follow the training images, what is wrong or one-sided in them
  included. They are guesses at how an image might go on, not what was there.
- Images are cropped to a square and reduced to the size and the colors above: detail below
  that is neither seen nor drawn.
- Classes are those of the training data; another image still gets one of them. Scores are
  softmax values, not calibrated probabilities.
- A log-likelihood compares images under this model and palette only.
"""


def write_assets(
    folder: pathlib.Path,
    models: Sequence[GenerativeModel],
    training: Sequence[dict[str, Any]],
    signatures: dict[str, str],
) -> list[pathlib.Path]:
    """Writes the files into `folder`, an empty one.

    Args:
        folder: for the files.
        models: those exported, an `ImageGPT` first.
        training: what is known of the training of each, as in a model folder.
        signatures: what each does, by name, for the model card.

    Returns: the files.
    """
    models[0].tokenizer.save(folder / PALETTE_FILE)
    other = models[-1].tokenizer
    if other.fingerprint() != models[0].tokenizer.fingerprint():
        other.save(folder / CLASSIFIER_PALETTE_FILE)
    for model in models:
        if isinstance(model, ImageGPTClassifier):
            _write(folder / LABELS_FILE, "".join(f"{name}\n" for name in model.class_names))
    _write(folder / MODEL_CARD_FILE, model_card(models, training, signatures))
    return sorted(folder.iterdir())


def model_card(
    models: Sequence[GenerativeModel],
    training: Sequence[dict[str, Any]],
    signatures: dict[str, str],
) -> str:
    """The model card, in Markdown. Arguments as `write_assets`."""
    parts = ["# Model card\n"]
    for model, about in zip(models, training, strict=True):
        parts.append(f"## {type(model).__name__}\n\n{_table(_sizes(model))}")
        parts.append("### Training\n")
        parts.append(_table(about) if about else "Not recorded.\n")
    parts.append(f"## Signatures\n\n{_table(signatures)}")
    return "\n".join([*parts, LIMITS])


def _sizes(model: GenerativeModel) -> dict[str, Any]:
    config = model.config
    sizes = {
        "objective": {"ar": "autoregressive", "bert": "BERT"}[model.objective],
        "image size": f"{config.image_size} × {config.image_size} pixels",
        "colors of the palette": config.vocabulary_size,
        "layers, width, heads": f"{config.num_layers}, {config.hidden_dim}, {config.num_heads}",
        "parameters": model.count_params(),
        "precision": model.dtype_policy.name,
    }
    if isinstance(model, ImageGPTClassifier):
        sizes["classes"] = model.num_classes
        sizes["layer of the class head"] = model.layer
    return sizes


def _table(values: dict[str, Any]) -> str:
    rows = [f"| {name} | {_cell(value)} |" for name, value in _flat(values)]
    return "\n".join(["| | |", "| --- | --- |", *rows, ""])


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values, those of dictionaries within under joined names."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}, ")
        else:
            yield f"{prefix}{name}", value


def _cell(value) -> str:
    if isinstance(value, list) and len(value) > LONGEST_LIST:
        return f"{_cell(value[-1])} at the end of {len(value)}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return " ".join(text.split()).replace("|", r"\|")


def _write(path: pathlib.Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
