"""What a run measured, as `result.json` in the run's folder.

A run is one call of `igpt pretrain`, `finetune`, `probe` or `evaluate`. Its folder holds
`result.json`, where it trained one `model/` (a model folder), and `snapshots/`.
"""

import dataclasses
import json
import os
import pathlib
from typing import Any

from igpt_keras.atomic import atomic_path
from igpt_keras.errors import InputError
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.saving import read_training

RESULT_FILE = "result.json"
FORMAT_VERSION = 1
KINDS = ("pretrain", "finetune", "probe", "evaluate")


@dataclasses.dataclass(frozen=True)
class Result:
    """One run.

    Attributes:
        kind: "pretrain", "finetune", "probe" or "evaluate".
        command: the command line that made it.
        model: as `describe_model` returns.
        data: as `DataSet.describe` returns.
        settings: the options that shaped the metrics.
        metrics: what was measured; see the module that makes it.
    """

    kind: str
    command: str
    model: dict[str, Any]
    data: dict[str, Any]
    settings: dict[str, Any]
    metrics: dict[str, Any]


def write_result(result: Result, folder: str | os.PathLike) -> None:
    """Writes `folder`/result.json whole or not at all; the folder exists."""
    with atomic_path(pathlib.Path(folder, RESULT_FILE), overwrite=True) as partial:
        content = {"format_version": FORMAT_VERSION, **dataclasses.asdict(result)}
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_result(folder: str | os.PathLike) -> Result:
    """Reads the result of a run.

    Raises:
        FileNotFoundError: no `result.json` in `folder`.
        InputError: a `result.json` that is damaged or of another version.
    """
    file = pathlib.Path(folder, RESULT_FILE)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        version = content.pop("format_version")
        if version != FORMAT_VERSION:
            raise InputError(
                f"{file} has format_version {version}; this version reads {FORMAT_VERSION}"
            )
        result = Result(**content)
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{file} is not the result of a run: {error}") from None
    if result.kind not in KINDS:
        raise InputError(f"{file} is of kind {result.kind!r}; expected one of {', '.join(KINDS)}")
    return result


def describe_model(model: GenerativeModel, path: str | os.PathLike) -> dict[str, Any]:
    """What a result says of the model it is about.

    Args:
        model: as loaded from `path`.
        path: of the model folder, or of what else `igpt_keras.load` read.

    Returns: `path`, `objective`, `config`, `parameters`; and from the model folder's
    `training.json`, null where unknown: `name` (of the run), `data`, `step`, and
    `validation_loss` (nats per pixel, on the data it was pre-trained on).
    """
    training = read_training(path)
    return {
        "path": str(path),
        "objective": model.objective,
        "config": model.config.to_dict(),
        "parameters": model.count_params(),
        **{key: training.get(key) for key in ("name", "data", "step", "validation_loss")},
    }
