"""Runs on disk, and what their `result.json` says as typed values."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

from igpt_keras.errors import InputError
from igpt_keras.network.config import ImageGPTConfig, check_objective
from igpt_keras.runs.result import RESULT_FILE, Result, read_result

BASELINES = {"pixels": "raw pixels", "tokens": "palette tokens"}


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's folder and its result."""

    folder: pathlib.Path
    result: Result

    @property
    def name(self) -> str:
        return self.folder.absolute().name


@dataclasses.dataclass(frozen=True)
class Model:
    """What a run was about; None where unknown.

    Attributes:
        name: of the run that trained it.
        objective: "ar" or "bert".
        config: its sizes.
        parameters: their number.
        data: what it was pre-trained on.
        step: steps it was pre-trained for.
        validation_loss: generative, nats per pixel, on the data it was pre-trained on.
        origin: absolute path of the run that trained it.
    """

    name: str
    objective: str
    config: ImageGPTConfig
    parameters: int
    data: str | None
    step: int | None
    validation_loss: float | None
    origin: str


@dataclasses.dataclass(frozen=True)
class LayerAccuracy:
    """Of a probe on the features of one layer; `layer` is None for a baseline."""

    layer: int | None
    test: float


@dataclasses.dataclass(frozen=True)
class LowData:
    """Test accuracy over random subsets with `labels_per_class` labels."""

    labels_per_class: int
    features: str
    subsets: int
    mean: float
    std: float


@dataclasses.dataclass(frozen=True)
class Probe:
    """A linear probe of a model, or a baseline (`features` "pixels" or "tokens").

    Accuracies are fractions; `layers` are in order. `test_accuracy` is that of the best
    layer on validation, `vote` that of the majority over several BERT masks there,
    `concatenated` the layers put side by side and their test accuracy.
    """

    run: Run
    model: Model
    data_set: str
    features: str
    layers: tuple[LayerAccuracy, ...]
    best_layer: int | None
    validation_accuracy: float | None
    test_accuracy: float
    vote: float | None
    concatenated: tuple[tuple[int, ...], float] | None
    low_data: tuple[LowData, ...]


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """A fine-tuned classifier.

    Accuracies are fractions: `test_accuracy` from one pass (BERT: one mask), `vote` from
    the majority over several BERT masks. `labels_per_class` is None where all were used.
    """

    run: Run
    model: Model
    data_set: str
    start: str
    generative_weight: float
    learning_rate: float
    layer: int | None
    train_images: int
    labels_per_class: int | None
    validation_accuracy: float | None
    test_accuracy: float
    vote: float | None
    test_generative_loss: float | None


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """A pre-training run; losses in nats per pixel."""

    run: Run
    model: Model
    data_set: str
    validation_loss: float | None
    test_loss: float | None
    images_per_second: float | None
    minutes: float | None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What `igpt evaluate` found; losses in nats per pixel, the accuracy a fraction."""

    run: Run
    model: Model
    data_set: str
    validation_loss: float | None
    test_loss: float | None
    test_accuracy: float | None


@dataclasses.dataclass(frozen=True)
class Findings:
    """All runs of a report, each kind in the order given."""

    runs: tuple[Run, ...]
    pretrainings: tuple[Pretraining, ...]
    fine_tunings: tuple[FineTuning, ...]
    probes: tuple[Probe, ...]
    evaluations: tuple[Evaluation, ...]


def find_runs(paths: Iterable[pathlib.Path]) -> list[Run]:
    """The runs at `paths` or one or two folders below, each once, in that order.

    Raises:
        FileNotFoundError: a path with no run.
        InputError: a damaged `result.json`.
    """
    folders: dict[pathlib.Path, pathlib.Path] = {}
    for path in paths:
        found = list(_run_folders(path))
        if not found:
            raise FileNotFoundError(
                f"{path} holds no run: no {RESULT_FILE} in it or up to two folders below"
            )
        for folder in found:
            folders.setdefault(folder.resolve(), folder)
    return [Run(folder, read_result(folder)) for folder in folders.values()]


def _run_folders(path: pathlib.Path) -> Iterable[pathlib.Path]:
    if (path / RESULT_FILE).is_file():
        return [path]
    below = [*path.glob(f"*/{RESULT_FILE}"), *path.glob(f"*/*/{RESULT_FILE}")]
    # A run that is being written lies in a hidden folder.
    return sorted(
        file.parent
        for file in below
        if not any(part.startswith(".") for part in file.relative_to(path).parts)
    )


def read_findings(runs: list[Run]) -> Findings:
    """The results of `runs` as typed values.

    Raises:
        InputError: a result that lacks a figure or holds one of another type.
    """
    return Findings(
        tuple(runs),
        *(
            tuple(_read(run, read) for run in runs if run.result.kind == kind)
            for kind, read in (
                ("pretrain", _read_pretraining),
                ("finetune", _read_fine_tuning),
                ("probe", _read_probe),
                ("evaluate", _read_evaluation),
            )
        ),
    )


def _read(run: Run, read: Callable[[Run], Any]) -> Any:
    try:
        return read(run)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{run.folder / RESULT_FILE} is not the result of igpt {run.result.kind}: {error!r}"
        ) from None


def _read_pretraining(run: Run) -> Pretraining:
    metrics = run.result.metrics
    return Pretraining(
        run,
        _read_model(run),
        _read_data_set(run),
        _optional(float, metrics["validation_loss"]),
        _optional(float, metrics["test_loss"]),
        _optional(float, metrics["images_per_second"]),
        _optional(float, metrics["minutes"]),
    )


def _read_fine_tuning(run: Run) -> FineTuning:
    metrics, settings = run.result.metrics, run.result.settings
    accuracy = float(metrics["test_accuracy"])
    single = _optional(float, metrics["single_mask_accuracy"])
    return FineTuning(
        run,
        _read_model(run),
        _read_data_set(run),
        str(settings["start"]),
        float(settings["generative_weight"]),
        float(settings["learning_rate"]),
        _optional(int, settings["layer"]),
        int(run.result.data["train"]),
        _optional(int, settings.get("labels_per_class")),
        _optional(float, metrics["validation_accuracy"]),
        accuracy if single is None else single,
        None if single is None else accuracy,
        _optional(float, metrics["test_generative_loss"]),
    )


def _read_probe(run: Run) -> Probe:
    metrics = run.result.metrics
    voting, concatenated = metrics["voting"], metrics["concatenated"]
    features = str(run.result.settings["features"])
    layers = tuple(
        LayerAccuracy(_optional(int, entry["layer"]), float(entry["test_accuracy"]))
        for entry in sorted(metrics["layers"], key=lambda entry: entry["layer"])
    )
    best = _optional(int, metrics["best_layer"])
    if best not in [entry.layer for entry in layers]:
        raise ValueError(f"best_layer {best} is none of its layers")
    if (best is None) != (features in BASELINES):
        raise ValueError(f"best_layer {best} of features {features!r}")
    return Probe(
        run,
        _read_model(run),
        _read_data_set(run),
        features,
        layers,
        best,
        _optional(float, metrics["validation_accuracy"]),
        float(metrics["test_accuracy"]),
        None if voting is None else float(voting["test_accuracy"]),
        None
        if concatenated is None
        else (tuple(map(int, concatenated["layers"])), float(concatenated["test_accuracy"])),
        tuple(
            LowData(
                int(entry["labels_per_class"]),
                str(entry["features"]),
                len(entry["accuracies"]),
                float(entry["mean"]),
                float(entry["std"]),
            )
            for entry in metrics["low_data"]
        ),
    )


def _read_evaluation(run: Run) -> Evaluation:
    names = ("validation_loss", "test_loss", "test_accuracy")
    metrics = (_optional(float, run.result.metrics.get(name)) for name in names)
    return Evaluation(run, _read_model(run), _read_data_set(run), *metrics)


def _read_model(run: Run) -> Model:
    model = run.result.model
    origin = _origin(model["path"])
    return Model(
        str(model["name"] or pathlib.Path(origin).name),
        check_objective(model["objective"]),
        ImageGPTConfig(**model["config"]),
        int(model["parameters"]),
        _optional(str, model["data"]),
        _optional(int, model["step"]),
        _optional(float, model["validation_loss"]),
        origin,
    )


def _origin(path: str) -> str:
    """The run's folder from that of a model in it: RUN, RUN/model or RUN/snapshots/step-…."""
    folder = pathlib.Path(os.path.abspath(path))
    if folder.name == "model":
        folder = folder.parent
    elif folder.parent.name == "snapshots":
        folder = folder.parent.parent
    return str(folder)


def _read_data_set(run: Run) -> str:
    return str(run.result.data["name"])


def _optional(kind: Callable, value: Any) -> Any:
    return None if value is None else kind(value)
