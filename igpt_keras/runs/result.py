"""The result of a run: what it measured, and on which model and data."""

import dataclasses
import os
import pathlib
from typing import Any

from igpt_keras.errors import InputError
from igpt_keras.json_files import read_json, write_json
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.runs.folder import RESULT_FILE
from igpt_keras.saving import read_training

FORMAT_VERSION = 1
KINDS = (
    *("pretrain", "finetune", "probe", "evaluate", "complete", "sample"),
    "tokenizer fit vqvae",
)


@dataclasses.dataclass(frozen=True, repr=False)
class Result:
    """The result of one run.

    Attributes:
        kind: One of `KINDS`.
        command: The command that made the run.
        model: What `describe_model` returns; of a tokenizer `path`, `config` and `parameters`.
        data: What `DataSet.describe` returns.
        settings: The settings that shaped the metrics.
        metrics: What was measured; the verb's module documents the keys.
    """

    kind: str
    command: str
    model: dict[str, Any]
    data: dict[str, Any]
    settings: dict[str, Any]
    metrics: dict[str, Any]

    def __repr__(self) -> str:
        numbers = {n: v for n, v in self.metrics.items() if isinstance(v, int | float)}
        metrics = "".join(f", {name} {value:.5g}" for name, value in numbers.items())
        return f"<Result of {self.kind} {self.model['path']}{metrics}>"


def write_result(result: Result, folder: str | os.PathLike) -> None:
    """Writes `folder`/result.json, whole or not at all; the folder must exist."""
    content = {"format_version": FORMAT_VERSION, **dataclasses.asdict(result)}
    write_json(pathlib.Path(folder, RESULT_FILE), content)


def read_result(folder: str | os.PathLike) -> Result:
    """Reads the result of a run.

    Raises:
        FileNotFoundError: `folder` holds no `result.json`.
        InputError: The file is damaged or of another format version.
    """
    file = pathlib.Path(folder, RESULT_FILE)
    content = read_json(file)
    try:
        version = content.pop("format_version")
        if version != FORMAT_VERSION:
            raise InputError(
                f"{file} has format_version {version}; this version reads {FORMAT_VERSION}"
            )
        result = Result(**content)
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{file} is not the result of a run: {error}") from None
    if result.kind not in KINDS:
        raise InputError(f"{file} is of kind {result.kind!r}; expected one of {', '.join(KINDS)}")
    return result


def describe_model(model: GenerativeModel, path: str | os.PathLike) -> dict[str, Any]:
    """Describes the model of a run, for its result.

    Args:
        model: The model.
        path: Where it was loaded from, or where it was saved.

    Returns:
        `path`, `objective`, `config`, `parameters` (their number), and from the model folder's
        `training.json`, None where unknown: `name` (of the run that trained it), `data`, `step`
        and `validation_loss` (nats per token, on the data it was pre-trained on).
    """
    training = read_training(path)
    return {
        "path": str(path),
        "objective": model.objective,
        "config": model.config.to_dict(),
        "parameters": model.count_params(),
        **{key: training.get(key) for key in ("name", "data", "step", "validation_loss")},
    }
