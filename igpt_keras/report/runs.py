"""Run folders, and the content of their `result.json` as typed values."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from igpt_keras.errors import InputError
from igpt_keras.evaluation.set_distances import SetDistances
from igpt_keras.network.config import ImageGPTConfig, check_objective
from igpt_keras.runs.folder import RUN_FILE, SNAPSHOTS
from igpt_keras.runs.result import RESULT_FILE, Result, read_result
from igpt_keras.saving import MODEL_FOLDER

T = TypeVar("T")
# Methods of the paper; probes by others stand in a table of their own.
PAPER_METHODS = ("lbfgs", "sgd")
BASELINES = {"pixels": "raw pixels", "tokens": "palette tokens"}


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's folder and its result."""

    folder: pathlib.Path
    result: Result

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.absolute().name

    @property
    def settings(self) -> str:
        """The settings as JSON."""
        return json.dumps(self.result.settings, ensure_ascii=False)


@dataclasses.dataclass(frozen=True)
class Model:
    """The model of a run; None where a value is unknown.

    Attributes:
        name: Name of the run that trained it.
        objective: "ar" or "bert".
        config: Its sizes.
        parameters: Number of parameters.
        data: The data it was pre-trained on.
        step: Steps of its pre-training.
        validation_loss: Generative loss in nats per token, on the data it was pre-trained on.
        origin: Absolute path of the run that trained it.
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
class Entry:
    """A run, its model, and the data set it was measured on."""

    run: Run
    model: Model
    data_set: str


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Generated images compared with real ones, or real ones among each other.

    Attributes:
        what: "samples" or "real images".
        num_images: Number of these.
        num_others: Number of the real images that they are compared with.
        split: The split of the real images.
        features: Name of the features that they are compared by.
        distances: What was measured.
    """

    what: str
    num_images: int
    num_others: int
    split: str
    features: str
    distances: SetDistances


@dataclasses.dataclass(frozen=True)
class Losses(Entry):
    """A pre-training run or an evaluation; losses in nats per token, accuracy as a fraction."""

    validation_loss: float | None = None
    test_loss: float | None = None
    test_bits_per_dimension: float | None = None
    test_accuracy: float | None = None
    images_per_second: float | None = None
    minutes: float | None = None
    comparisons: tuple[Comparison, ...] = ()


@dataclasses.dataclass(frozen=True)
class LowData:
    """Test accuracy over random subsets with `labels_per_class` labels."""

    labels_per_class: int
    features: str
    subsets: int
    mean: float
    std: float


@dataclasses.dataclass(frozen=True)
class Probe(Entry):
    """A probe of a model, or a baseline; accuracies as fractions.

    Attributes:
        method: Name of the method.
        features: "model", or for a baseline "pixels" or "tokens".
        layers: Test accuracy by layer, in order; empty for a baseline.
        best_layer: The layer with the highest validation accuracy; None for a baseline.
        validation_accuracy: Validation accuracy of that layer.
        test_accuracy: Test accuracy of that layer.
        vote: Test accuracy of the majority vote over several BERT masks at that layer.
        concatenated: Layers whose features were concatenated, and the test accuracy.
        low_data: Accuracies with few labels.
    """

    method: str
    features: str
    layers: dict[int, float]
    best_layer: int | None
    validation_accuracy: float | None
    test_accuracy: float
    vote: float | None
    concatenated: tuple[tuple[int, ...], float] | None
    low_data: tuple[LowData, ...]


@dataclasses.dataclass(frozen=True)
class FineTuning(Entry):
    """A fine-tuned classifier; accuracies as fractions.

    Attributes:
        start: "pretrained" or "scratch".
        generative_weight: Weight of L_GEN.
        learning_rate: The constant rate.
        layer: The layer that the class head reads.
        lora_rank: Rank of the adapters that were trained; None where weights were.
        frozen_blocks: Number of first blocks that did not train.
        parameters: How many parameters trained, and how many there were; None where unknown.
        train_images: Images it was trained on.
        labels_per_class: Labels of each class; None where all were used.
        validation_accuracy: Validation accuracy of the best epoch.
        test_accuracy: Test accuracy of one pass (BERT: with one mask).
        vote: Test accuracy of the majority vote over several BERT masks.
        test_generative_loss: L_GEN on the test split, nats per token.
    """

    start: str
    generative_weight: float
    learning_rate: float
    layer: int | None
    lora_rank: int | None
    frozen_blocks: int
    parameters: tuple[int, int] | None
    train_images: int
    labels_per_class: int | None
    validation_accuracy: float | None
    test_accuracy: float
    vote: float | None
    test_generative_loss: float | None


@dataclasses.dataclass(frozen=True)
class Findings:
    """All runs of a report, and those of each kind in the same order.

    `probes` holds the linear ones of the paper's methods, `other_probes` the others;
    `unfinished` holds the folders of trainings that have no result yet.
    """

    runs: tuple[Run, ...]
    pretrainings: tuple[Losses, ...]
    fine_tunings: tuple[FineTuning, ...]
    probes: tuple[Probe, ...]
    other_probes: tuple[Probe, ...]
    evaluations: tuple[Losses, ...]
    unfinished: tuple[pathlib.Path, ...] = ()

    def entries(self) -> tuple[Entry, ...]:
        """Returns the runs of all kinds."""
        probes = (*self.probes, *self.other_probes)
        return (*self.pretrainings, *self.fine_tunings, *probes, *self.evaluations)


def find_runs(paths: Iterable[pathlib.Path]) -> list[Run]:
    """Returns the runs at `paths`, or one or two folders below, each once and in that order.

    Raises:
        FileNotFoundError: A path holds no run.
        InputError: A `result.json` is damaged.
    """
    folders: dict[pathlib.Path, pathlib.Path] = {}
    for path in paths:
        found = list(_run_folders(path))
        if not found:
            unfinished = ", ".join(map(str, find_unfinished([path])))
            also = f"; unfinished: {unfinished}" if unfinished else ""
            raise FileNotFoundError(
                f"{path} holds no run: no {RESULT_FILE} in it or up to two folders below{also}"
            )
        for folder in found:
            folders.setdefault(folder.resolve(), folder)
    return [Run(folder, read_result(folder)) for folder in folders.values()]


def find_unfinished(paths: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    """Returns the folders at `paths`, or up to two folders below, of runs without a result."""
    folders = [folder for path in paths for folder in _run_folders(path, RUN_FILE)]
    unfinished = [folder for folder in folders if not (folder / RESULT_FILE).is_file()]
    return list({folder.resolve(): folder for folder in unfinished}.values())


def _run_folders(path: pathlib.Path, file: str = RESULT_FILE) -> Iterable[pathlib.Path]:
    if (path / file).is_file():
        return [path]
    below = [*path.glob(f"*/{file}"), *path.glob(f"*/*/{file}")]
    # What is not written whole yet is in hidden folders.
    return sorted(
        file.parent
        for file in below
        if not any(part.startswith(".") for part in file.relative_to(path).parts)
    )


def read_findings(runs: list[Run], unfinished: Iterable[pathlib.Path] = ()) -> Findings:
    """Reads the results of `runs` as typed values.

    Args:
        runs: The runs.
        unfinished: Folders of trainings that have no result yet.

    Raises:
        InputError: A result lacks a metric or holds one of another type.
    """

    def of_kind(kind: str, reader: Callable[[Run], T]) -> tuple[T, ...]:
        return tuple(read_metrics(run, reader) for run in runs if run.result.kind == kind)

    probes = of_kind("probe", _read_probe)
    return Findings(
        tuple(runs),
        of_kind("pretrain", _read_pretraining),
        of_kind("finetune", _read_fine_tuning),
        tuple(probe for probe in probes if probe.method in PAPER_METHODS),
        tuple(probe for probe in probes if probe.method not in PAPER_METHODS),
        of_kind("evaluate", _read_evaluation),
        tuple(unfinished),
    )


def read_metrics(run: Run, reader: Callable[[Run], T]) -> T:
    """Returns what `reader` makes of a run.

    Raises:
        InputError: The result lacks a metric or holds one of another type.
    """
    try:
        return reader(run)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{run.folder / RESULT_FILE} is not the result of igpt {run.result.kind}: {error!r}"
        ) from None


def _entry(run: Run) -> tuple[Run, Model, str]:
    model, origin = run.result.model, _origin(run.result.model["path"])
    described = Model(
        str(model["name"] or pathlib.Path(origin).name),
        check_objective(model["objective"]),
        ImageGPTConfig.from_dict(model["config"]),
        int(model["parameters"]),
        _optional(str, model["data"]),
        _optional(int, model["step"]),
        _optional(float, model["validation_loss"]),
        origin,
    )
    return run, described, str(run.result.data["name"])


def _origin(path: str) -> str:
    """The run's folder from a model in it: RUN, RUN/model or RUN/snapshots/step-…."""
    folder = pathlib.Path(os.path.abspath(path))
    if folder.name == MODEL_FOLDER:
        folder = folder.parent
    elif folder.parent.name == SNAPSHOTS:
        folder = folder.parent.parent
    return str(folder)


def _read_pretraining(run: Run) -> Losses:
    names = ("validation_loss", "test_loss", "images_per_second", "minutes")
    metrics = {name: _optional(float, run.result.metrics[name]) for name in names}
    return Losses(*_entry(run), **metrics)


def _read_evaluation(run: Run) -> Losses:
    names = ("validation_loss", "test_loss", "test_bits_per_dimension", "test_accuracy")
    metrics = {name: _optional(float, run.result.metrics.get(name)) for name in names}
    comparisons = tuple(_read_comparisons(run)) if "samples" in run.result.metrics else ()
    return Losses(*_entry(run), **metrics, comparisons=comparisons)


def _read_comparisons(run: Run) -> Iterable[Comparison]:
    measured, about = dict(run.result.metrics["samples"]), run.result.settings["samples"]
    real_images = measured.pop("real_images")
    measured["num_images"] = about["samples"]["num_images"]
    measured["num_others"] = about["reference"]["num_images"]
    rows = {"samples": measured} | ({"real images": dict(real_images)} if real_images else {})
    for what, each in rows.items():
        counts = int(each.pop("num_images")), int(each.pop("num_others"))
        distances = SetDistances(**{name: float(value) for name, value in each.items()})
        split, features = str(about["reference"]["split"]), str(about["features"]["name"])
        yield Comparison(what, *counts, split, features, distances)


def _read_fine_tuning(run: Run) -> FineTuning:
    metrics, settings = run.result.metrics, run.result.settings
    accuracy = float(metrics["test_accuracy"])
    single = _optional(float, metrics["single_mask_accuracy"])
    # Runs of earlier versions trained all parameters and did not count them.
    trained = metrics.get("trainable_parameters")
    return FineTuning(
        *_entry(run),
        start=str(settings["start"]),
        generative_weight=float(settings["generative_weight"]),
        learning_rate=float(settings["learning_rate"]),
        layer=_optional(int, settings["layer"]),
        lora_rank=_optional(int, settings.get("lora_rank")),
        frozen_blocks=int(settings.get("freeze_blocks", 0)),
        parameters=None if trained is None else (int(trained), int(metrics["total_parameters"])),
        train_images=int(run.result.data["train"]),
        labels_per_class=_optional(int, settings.get("labels_per_class")),
        validation_accuracy=_optional(float, metrics["validation_accuracy"]),
        test_accuracy=accuracy if single is None else single,
        vote=None if single is None else accuracy,
        test_generative_loss=_optional(float, metrics["test_generative_loss"]),
    )


def _read_probe(run: Run) -> Probe:
    metrics, features = run.result.metrics, str(run.result.settings["features"])
    layers = {
        _optional(int, entry["layer"]): float(entry["test_accuracy"])
        for entry in sorted(metrics["layers"], key=lambda entry: entry["layer"])
    }
    best = _optional(int, metrics["best_layer"])
    if best not in layers or (best is None) != (features in BASELINES):
        raise ValueError(f"best_layer {best} of {features!r} with layers {[*layers]}")
    voting, concatenated = metrics["voting"], metrics["concatenated"]
    if concatenated is not None:
        layers_together = tuple(map(int, concatenated["layers"]))
        concatenated = (layers_together, float(concatenated["test_accuracy"]))
    return Probe(
        *_entry(run),
        method=str(metrics["method"]),
        features=features,
        layers={n: accuracy for n, accuracy in layers.items() if n is not None},
        best_layer=best,
        validation_accuracy=_optional(float, metrics["validation_accuracy"]),
        test_accuracy=float(metrics["test_accuracy"]),
        vote=None if voting is None else float(voting["test_accuracy"]),
        concatenated=concatenated,
        low_data=tuple(
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


def _optional(kind: Callable, value: Any) -> Any:
    return None if value is None else kind(value)
