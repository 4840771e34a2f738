"""Model cards: what a model is and how it was trained, in Markdown."""

import json
from collections.abc import Iterator
from typing import Any

OBJECTIVES = {"ar": "autoregressive", "bert": "BERT"}
# Longer lists are histories, of which the card tells the last value.
MAX_LIST_LENGTH = 4

CARD = """\
---
library_name: keras
pipeline_tag: {task}
tags:
- image-gpt
- igpt-keras
---

# Image GPT

{kind} for images of {size}×{size} pixels, saved by
[igpt-keras](https://github.com/igpt-keras/igpt-keras).

{sizes}
## Use

```python
import igpt_keras

model = igpt_keras.load("hf://OWNER/NAME")  # or the path of this folder
{use}
```

`images` are uint8 [B, {size}, {size}, 3].

## Training

{training}
## Limits

{limits}
"""
MODELS = {"ar": "An autoregressive model", "bert": "A BERT model"}
CLASSIFIERS = {
    "ar": "A classifier that began as an autoregressive model",
    "bert": "A classifier that began as a BERT model",
}
USES = {
    "ar": "completed = model.generate(images, keep_rows={half}).images",
    "bert": "features = model.features(images, layer={layer})",
}
CLASSIFY = "classes = model.predict(images).argmax(axis=1)"
LIMITS_OF_IMAGES = """\
- Samples and completions follow the training images, including their errors and biases. They
  are guesses at how an image might continue, not what was there.
- Images are cropped to a square and reduced to the size and tokens above. The model neither sees
  nor draws finer detail."""
LIMITS_OF_CLASSES = """\
- The classes are those of the training data; any other image still gets one of them. Scores are
  softmax values, not calibrated probabilities."""


def card_for_hub(model: Any, training: dict[str, Any] | None) -> str:
    """Returns the card of a model's folder, with the metadata that the Hugging Face Hub reads.

    License and terms of the training data are for those who publish the model to add.

    Args:
        model: An `ImageGPT` or `ImageGPTClassifier`.
        training: How it was trained; None if that is not known.

    Example:
        ```python
        print(card_for_hub(model, {"epochs": 20}))
        ```
    """
    is_classifier = hasattr(model, "class_head")
    objective, size = model.objective, model.config.image_size
    return CARD.format(
        task="image-classification" if is_classifier else "unconditional-image-generation",
        kind=CLASSIFIERS[objective] if is_classifier else MODELS[objective],
        size=size,
        sizes=table(sizes_of(model)),
        use=(CLASSIFY if is_classifier else USES[objective]).format(
            half=size // 2, layer=model.config.middle_layer
        ),
        training=table(training) if training else "Not recorded.\n",
        limits=LIMITS_OF_CLASSES if is_classifier else LIMITS_OF_IMAGES,
    )


def sizes_of(model: Any) -> dict[str, Any]:
    """Returns the sizes of a model and of its tokenizer, by their names in words."""
    config, tokenizer = model.config, model.tokenizer
    sizes = {
        "objective": OBJECTIVES[model.objective],
        "image size": f"{config.image_size} × {config.image_size} pixels",
        "tokenizer": "none" if tokenizer is None else type(tokenizer).__name__,
    }
    rows, columns = config.token_grid
    meaning = ", one for each pixel" if tokenizer is not None and tokenizer.pixelwise else ""
    sizes |= {
        "tokens of an image": f"{rows} × {columns}{meaning}",
        "vocabulary size": config.vocabulary_size,
        "layers, width, heads": f"{config.num_layers}, {config.hidden_dim}, {config.num_heads}",
        "attention": config.attention,
        "parameters": f"{model.count_params():,}",
        "precision": model.dtype_policy.name,
    }
    if hasattr(model, "class_head"):
        sizes |= {"classes": model.num_classes, "layer of the class head": model.layer}
    elif config.num_classes is not None:
        sizes["classes"] = config.num_classes
    return sizes


def table(values: dict[str, Any]) -> str:
    """Returns names and values as a Markdown table; nested dictionaries have joined names."""
    rows = [f"| {name} | {_cell(value)} |" for name, value in _flat(values)]
    return "\n".join(["| | |", "| --- | --- |", *rows, ""])


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}, ")
        else:
            yield f"{prefix}{name}", value


def _cell(value: Any) -> str:
    if isinstance(value, list) and len(value) > MAX_LIST_LENGTH:
        return f"{_cell(value[-1])} (the last of {len(value)} values)"
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    if isinstance(value, float):
        return f"{value:.5g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return " ".join(text.split()).replace("|", r"\|")
