"""Selects what each figure shows from the findings, as plain series of numbers.

Accuracies are fractions of the test split; choices between runs are made on validation.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

from igpt_keras.report.runs import BASELINES, Entry, Findings, FineTuning, Model, Probe, Run

OBJECTIVE_NAMES = {"ar": "AR", "bert": "BERT"}

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class LossPanel:
    """Runs with comparable losses: one objective, data set, resolution and kind of tokens.

    A track holds the probes of a pre-training run's snapshots in order of step.
    """

    title: str
    tracks: tuple[tuple[Probe, ...], ...]


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


def short(count: float) -> str:
    """Formats a count with three digits: 76571648 as "76.6M", 131072 as "131K"."""
    for unit, size in (("M", 1e6), ("K", 1e3)):
        # A value that would round to 1000K is 1M.
        if count >= 0.9995 * size:
            value = count / size
            return f"{value:.0f}{unit}" if value >= 99.95 else f"{value:.3g}{unit}"
    return f"{count:g}"


def label(model: Model) -> str:
    """Names a model, such as "AR 76.6M small"."""
    return f"{OBJECTIVE_NAMES[model.objective]} {short(model.parameters)} {model.name}"


def baseline_label(probe: Probe) -> str:
    """Names a baseline, such as "palette tokens 32×32, 512 colors"."""
    config = probe.model.config
    if probe.features == "tokens" and config.grid is not None:
        return f"what the tokens hold of {config.describe_input()}"
    size = f"{BASELINES[probe.features]} {config.image_size}×{config.image_size}"
    return size if probe.features == "pixels" else f"{size}, {config.vocabulary_size} colors"


def grouped(entries: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """Groups entries of equal key, in order of first appearance."""
    groups: dict[Hashable, list[T]] = {}
    for entry in entries:
        groups.setdefault(key(entry), []).append(entry)
    return list(groups.values())


def best_on_validation(candidates: Iterable[T]) -> T:
    """Returns the entry with the highest validation accuracy; one without counts as lowest."""

    def accuracy(entry):
        value = entry.validation_accuracy
        return -math.inf if value is None else value

    return max(candidates, key=accuracy)


def model_probes(findings: Findings, data_set: str) -> list[Probe]:
    """Returns the probes of models on a data set, without baselines."""
    return [p for p in findings.probes if p.data_set == data_set and p.features not in BASELINES]


def baseline_probes(findings: Findings, data_set: str) -> list[Probe]:
    """Returns the best probe of each baseline."""
    probes = [p for p in findings.probes if p.data_set == data_set and p.features in BASELINES]
    return [best_on_validation(alike) for alike in grouped(probes, baseline_label)]


def last_probes(
    findings: Findings,
    data_set: str,
    choose: Callable[[Iterable[Probe]], Probe] = best_on_validation,
) -> list[Probe]:
    """Returns the probe of the last probed step of each pre-training run.

    Args:
        findings: All runs.
        data_set: Name of the data set.
        choose: Selects one of several probes of that step.
    """
    probes = []
    for of_run in grouped(model_probes(findings, data_set), _track_key):
        last = max(_step(probe) for probe in of_run)
        probes.append(choose(probe for probe in of_run if _step(probe) == last))
    return probes


def _longest_curve(probes: Iterable[Probe]) -> Probe:
    by_length = grouped(probes, lambda probe: len(probe.layers))
    return best_on_validation(max(by_length, key=lambda alike: len(alike[0].layers)))


def layer_curves(findings: Findings, data_set: str) -> tuple[list[Probe], list[Probe]]:
    """Selects the paper's Figure 2: the last probe of each run, and the baselines."""
    curves = last_probes(findings, data_set, _longest_curve)
    return curves, baseline_probes(findings, data_set)


def loss_panels(findings: Findings, data_set: str) -> list[LossPanel]:
    """Selects the paper's Figure 3, one panel for each set of comparable losses.

    Probes without a finite validation loss are omitted, and so are panels of one point.
    """
    probes = [
        probe
        for probe in model_probes(findings, data_set)
        if probe.model.validation_loss is not None and math.isfinite(probe.model.validation_loss)
    ]

    def comparable(probe: Probe) -> tuple[str, str | None, str]:
        model = probe.model
        return model.objective, model.data, model.config.describe_input()

    panels = []
    for together in grouped(probes, comparable):
        objective, data, seen = comparable(together[0])
        tracks = [_track(of_run) for of_run in grouped(together, _track_key)]
        if sum(map(len, tracks)) > 1:
            title = f"{OBJECTIVE_NAMES[objective]} on {data or 'unknown data'}, {seen}"
            panels.append(LossPanel(title, tuple(tracks)))
    return panels


def _track(probes: list[Probe]) -> tuple[Probe, ...]:
    by_step = grouped(sorted(probes, key=_step), _step)
    return tuple(best_on_validation(same) for same in by_step)


def objective_panels(findings: Findings, data_set: str) -> list[ObjectivePanel]:
    """Selects the paper's Figure 4, one panel for each size with models of both objectives.

    It shows the fine-tuning that is best on validation and the best probe of the model that
    it started from, or of any model where that one was not probed. Fine-tunings on a few
    labels or from scratch do not count.
    """
    tuned = [
        entry
        for entry in findings.fine_tunings
        if entry.data_set == data_set
        and entry.start == "pretrained"
        and entry.labels_per_class is None
    ]
    entries = [*model_probes(findings, data_set), *tuned]
    return [
        _objective_panel(alike)
        for alike in grouped(entries, lambda entry: (entry.model.config, entry.model.data))
        if {entry.model.objective for entry in alike} == set(OBJECTIVE_NAMES)
    ]


def _objective_panel(entries: list[Probe | FineTuning]) -> ObjectivePanel:
    ar, bert = (_before_and_after(entries, objective) for objective in OBJECTIVE_NAMES)

    def bars(text, pair, metric):
        return Bars(text, *(None if entry is None else getattr(entry, metric) for entry in pair))

    groups = [bars("AR", ar, "test_accuracy"), bars("BERT, one mask", bert, "test_accuracy")]
    vote = bars("BERT, vote over masks", bert, "vote")
    if vote.probe is not None or vote.fine_tuned is not None:
        groups.append(vote)
    model, config = entries[0].model, entries[0].model.config
    title = (
        f"{config.num_layers} layers, width {config.hidden_dim}, {config.describe_input()}, "
        f"on {model.data or 'unknown data'}"
    )
    runs = tuple(entry.run for entry in (*ar, *bert) if entry is not None)
    return ObjectivePanel(title, tuple(groups), runs)


def _before_and_after(
    entries: list[Probe | FineTuning], objective: str
) -> tuple[Probe | None, FineTuning | None]:
    alike = [entry for entry in entries if entry.model.objective == objective]
    tuned = [entry for entry in alike if isinstance(entry, FineTuning)]
    probes = [entry for entry in alike if isinstance(entry, Probe)]
    fine_tuning = best_on_validation(tuned) if tuned else None
    if fine_tuning is not None:
        start = (_track_key(fine_tuning), fine_tuning.model.step)
        probes = [p for p in probes if (_track_key(p), p.model.step) == start] or probes
    return (best_on_validation(probes) if probes else None), fine_tuning


def with_origins(runs: Iterable[Run], findings: Findings) -> tuple[Run, ...]:
    """Returns `runs`, each once and after the pre-training run that it starts from, if known."""
    by_folder = {os.path.abspath(entry.run.folder): entry.run for entry in findings.pretrainings}
    origins = {entry.run.folder: entry.model.origin for entry in findings.entries()}
    ordered = {}
    for run in runs:
        for each in (by_folder.get(origins[run.folder]), run):
            if each is not None:
                ordered.setdefault(each.folder, each)
    return tuple(ordered.values())


def _step(probe: Probe) -> int:
    return probe.model.step or 0


def _track_key(entry: Entry) -> Hashable:
    model = entry.model
    return model.name, model.objective, model.config, model.data, model.origin
