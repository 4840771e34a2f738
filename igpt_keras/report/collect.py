"""What each figure shows, picked from the findings: plain series of numbers.

Accuracies are fractions of the test split; choices between runs are made on validation.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

from igpt_keras.network.config import ImageGPTConfig
from igpt_keras.report.runs import BASELINES, Findings, FineTuning, Model, Probe, Run

OBJECTIVE_NAMES = {"ar": "AR", "bert": "BERT"}

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Curve:
    """Accuracy by layer of one probe; `best` is the layer that validation chose."""

    label: str
    layers: tuple[int, ...]
    accuracies: tuple[float, ...]
    best: int
    run: Run


@dataclasses.dataclass(frozen=True)
class Level:
    """Accuracy of a baseline."""

    label: str
    accuracy: float
    run: Run


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A probed snapshot: its validation loss (nats per pixel) and best-layer accuracy."""

    step: int
    validation_loss: float
    layer: int
    accuracy: float
    run: Run


@dataclasses.dataclass(frozen=True)
class Track:
    """Snapshots of one pre-training run in order of step."""

    label: str
    config: ImageGPTConfig
    snapshots: tuple[Snapshot, ...]


@dataclasses.dataclass(frozen=True)
class LossPanel:
    """Runs whose losses can be compared: one objective, data, resolution and palette size."""

    title: str
    tracks: tuple[Track, ...]


@dataclasses.dataclass(frozen=True)
class Bars:
    """Accuracies of one objective before and after fine-tuning; None where not measured."""

    label: str
    probe: float | None
    fine_tuned: float | None


@dataclasses.dataclass(frozen=True)
class ObjectivePanel:
    """Both objectives at one size, pre-trained on the same data."""

    title: str
    bars: tuple[Bars, ...]
    runs: tuple[Run, ...]


def data_sets(findings: Findings) -> list[str]:
    """Names of the data sets that were classified, in order of appearance."""
    measured = (*findings.probes, *findings.fine_tunings)
    return list(dict.fromkeys(entry.data_set for entry in measured))


def short(count: float) -> str:
    """A count in three digits: 76571648 to "76.6M", 131072 to "131K"."""
    for unit, size in (("M", 1e6), ("K", 1e3)):
        # What would round to 1000 of a unit belongs to the next.
        if count >= 0.9995 * size:
            value = count / size
            return f"{value:.0f}{unit}" if value >= 99.95 else f"{value:.3g}{unit}"
    return f"{count:g}"


def label(model: Model) -> str:
    """ "AR 76.6M name"."""
    return f"{OBJECTIVE_NAMES[model.objective]} {short(model.parameters)} {model.name}"


def baseline_label(probe: Probe) -> str:
    """ "palette tokens 32×32, 512 colors"."""
    config = probe.model.config
    size = f"{BASELINES[probe.features]} {config.image_size}×{config.image_size}"
    return size if probe.features == "pixels" else f"{size}, {config.vocabulary_size} colors"


def best_on_validation(candidates: Iterable[T]) -> T:
    """The highest validation accuracy; one without, validation folded into training, is last."""
    return max(
        candidates,
        key=lambda entry: (
            -math.inf if entry.validation_accuracy is None else entry.validation_accuracy
        ),
    )


def model_probes(findings: Findings, data_set: str) -> list[Probe]:
    """The probes of models on a data set, without baselines."""
    return [p for p in findings.probes if p.data_set == data_set and p.features not in BASELINES]


def last_probes(
    findings: Findings,
    data_set: str,
    choose: Callable[[Iterable[Probe]], Probe] = best_on_validation,
) -> list[Probe]:
    """Of each pre-training run the probe of its last step that was probed.

    Args:
        findings: of all runs.
        data_set: its name.
        choose: takes one of several probes of that step.
    """
    probes = []
    for of_run in _grouped(model_probes(findings, data_set), lambda p: _track_key(p.model)):
        last = max(_step(probe) for probe in of_run)
        probes.append(choose(probe for probe in of_run if _step(probe) == last))
    return probes


def _longest_curve(probes: Iterable[Probe]) -> Probe:
    """One with most layers, and of several the best on validation."""
    by_length = _grouped(probes, lambda probe: len(probe.layers))
    return best_on_validation(max(by_length, key=lambda alike: len(alike[0].layers)))


def baseline_probes(findings: Findings, data_set: str) -> list[Probe]:
    """One probe of each baseline."""
    probes = [p for p in findings.probes if p.data_set == data_set and p.features in BASELINES]
    return [best_on_validation(alike) for alike in _grouped(probes, baseline_label)]


def layer_curves(findings: Findings, data_set: str) -> tuple[list[Curve], list[Level]]:
    """The paper's Figure 2: the last probe of each run, and the baselines."""
    curves = [
        Curve(
            label(probe.model),
            tuple(entry.layer for entry in probe.layers),
            tuple(entry.test for entry in probe.layers),
            probe.best_layer,
            probe.run,
        )
        for probe in last_probes(findings, data_set, _longest_curve)
    ]
    levels = [
        Level(baseline_label(probe), probe.test_accuracy, probe.run)
        for probe in baseline_probes(findings, data_set)
    ]
    return curves, levels


def loss_panels(findings: Findings, data_set: str) -> list[LossPanel]:
    """The paper's Figure 3, one panel for losses that can be compared.

    A probe whose model has no finite validation loss is left out, and so is a panel of
    one point.
    """
    probes = [
        probe
        for probe in model_probes(findings, data_set)
        if probe.model.validation_loss is not None and math.isfinite(probe.model.validation_loss)
    ]

    def comparable(probe: Probe) -> Hashable:
        config = probe.model.config
        return probe.model.objective, probe.model.data, config.image_size, config.vocabulary_size

    panels = []
    for together in _grouped(probes, comparable):
        model, config = together[0].model, together[0].model.config
        tracks = [_track(of_run) for of_run in _grouped(together, lambda p: _track_key(p.model))]
        if sum(len(track.snapshots) for track in tracks) > 1:
            title = (
                f"{OBJECTIVE_NAMES[model.objective]} on {model.data or 'unknown data'}, "
                f"{config.image_size}×{config.image_size} pixels, {config.vocabulary_size} colors"
            )
            panels.append(LossPanel(title, tuple(tracks)))
    return panels


def _track(probes: list[Probe]) -> Track:
    snapshots = []
    for of_step in _grouped(sorted(probes, key=_step), _step):
        probe = best_on_validation(of_step)
        snapshots.append(
            Snapshot(
                _step(probe),
                probe.model.validation_loss,
                probe.best_layer,
                probe.test_accuracy,
                probe.run,
            )
        )
    model = probes[0].model
    return Track(label(model), model.config, tuple(snapshots))


def objective_panels(findings: Findings, data_set: str) -> list[ObjectivePanel]:
    """The paper's Figure 4, one panel for each size that was trained with both objectives.

    Of several fine-tunings of an objective, the best on validation counts, and beside it
    the best probe of the model it started from, or of any where that was not probed.
    Fine-tunings on a few labels or from scratch do not count.
    """
    entries = [
        *model_probes(findings, data_set),
        *(
            entry
            for entry in findings.fine_tunings
            if entry.data_set == data_set
            and entry.start == "pretrained"
            and entry.labels_per_class is None
        ),
    ]
    panels = []
    for alike in _grouped(entries, lambda entry: (entry.model.config, entry.model.data)):
        if {entry.model.objective for entry in alike} == set(OBJECTIVE_NAMES):
            panels.append(_objective_panel(alike))
    return panels


def _objective_panel(entries: list[Probe | FineTuning]) -> ObjectivePanel:
    chosen = {objective: _before_and_after(entries, objective) for objective in OBJECTIVE_NAMES}

    def bars(text: str, objective: str, figure: str) -> Bars:
        pair = chosen[objective]
        return Bars(text, *(None if entry is None else getattr(entry, figure) for entry in pair))

    groups = [
        bars("AR", "ar", "test_accuracy"),
        bars("BERT, one mask", "bert", "test_accuracy"),
        bars("BERT, vote over masks", "bert", "vote"),
    ]
    if groups[-1].probe is None and groups[-1].fine_tuned is None:
        del groups[-1]
    model, config = entries[0].model, entries[0].model.config
    title = (
        f"{config.num_layers} layers, width {config.hidden_dim}, "
        f"{config.image_size}×{config.image_size} pixels, on {model.data or 'unknown data'}"
    )
    shown = (entry for pair in chosen.values() for entry in pair if entry is not None)
    return ObjectivePanel(title, tuple(groups), tuple(entry.run for entry in shown))


def _before_and_after(
    entries: list[Probe | FineTuning], objective: str
) -> tuple[Probe | None, FineTuning | None]:
    of_objective = [entry for entry in entries if entry.model.objective == objective]
    tuned = [entry for entry in of_objective if isinstance(entry, FineTuning)]
    probes = [entry for entry in of_objective if isinstance(entry, Probe)]
    fine_tuning = best_on_validation(tuned) if tuned else None
    if fine_tuning is not None:
        start = fine_tuning.model
        of_start = [
            probe
            for probe in probes
            if _track_key(probe.model) == _track_key(start) and probe.model.step == start.step
        ]
        probes = of_start or probes
    return (best_on_validation(probes) if probes else None), fine_tuning


def with_origins(runs: Iterable[Run], findings: Findings) -> tuple[Run, ...]:
    """`runs`, each once, after the pre-training runs among the findings that they start from."""
    by_folder = {os.path.abspath(entry.run.folder): entry.run for entry in findings.pretrainings}
    origins = {
        entry.run.folder: entry.model.origin
        for entry in (*findings.probes, *findings.fine_tunings, *findings.evaluations)
    }
    ordered = {}
    for run in runs:
        origin = by_folder.get(origins.get(run.folder, ""))
        for each in (origin, run):
            if each is not None:
                ordered.setdefault(each.folder, each)
    return tuple(ordered.values())


def _step(probe: Probe) -> int:
    return probe.model.step or 0


def _track_key(model: Model) -> Hashable:
    return model.name, model.objective, model.config, model.data, model.origin


def _grouped(entries: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """Entries of equal key together, in order of first appearance."""
    groups: dict[Hashable, list[T]] = {}
    for entry in entries:
        groups.setdefault(key(entry), []).append(entry)
    return list(groups.values())
