"""The course of trainings: metrics by step, from the histories of runs."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from igpt_keras.errors import InputError
from igpt_keras.report.collect import OBJECTIVE_NAMES, grouped, label
from igpt_keras.report.runs import Entry, Findings
from igpt_keras.training.callbacks.history_logger import HISTORY_FILE, read_history

Points = tuple[tuple[int, float], ...]


@dataclasses.dataclass(frozen=True)
class Curve:
    """A metric of one training.

    Attributes:
        entry: The training.
        training: Steps, and means since the step before, on training images.
        validation: Steps and values on validation images.
    """

    entry: Entry
    training: Points
    validation: Points


@dataclasses.dataclass(frozen=True)
class CurvePanel:
    """Trainings whose metrics are comparable."""

    title: str
    curves: tuple[Curve, ...]


def loss_curves(findings: Findings) -> list[CurvePanel]:
    """Selects the losses of pre-training runs, a panel for each set of comparable losses."""

    def title(entry: Entry) -> str:
        model = entry.model
        objective = OBJECTIVE_NAMES[model.objective]
        return f"{objective} on {entry.data_set}, {model.config.describe_input()}"

    return _panels(findings.pretrainings, "loss", title)


def probe_curves(findings: Findings) -> list[CurvePanel]:
    """Selects the accuracies of probes during pre-training, a panel for each set of images."""

    def title(entry: Entry) -> str:
        return f"Probes on {entry.run.result.settings.get('probe_data') or entry.data_set}"

    return _panels(findings.pretrainings, "probe_accuracy", title)


def accuracy_curves(findings: Findings) -> list[CurvePanel]:
    """Selects the accuracies of fine-tunings, a panel for each data set."""
    return _panels(
        findings.fine_tunings, "accuracy", lambda entry: f"Fine-tuning on {entry.data_set}"
    )


def name_of(curve: Curve) -> str:
    """Returns the name of a curve in a legend and a table."""
    run, model = curve.entry.run.name, curve.entry.model.name
    return label(curve.entry.model) if run == model else f"{run}, from {label(curve.entry.model)}"


def _panels(entries: Sequence[Entry], metric: str, title: Any) -> list[CurvePanel]:
    curves = [curve for entry in entries if (curve := _read(entry, metric)) is not None]
    together = grouped(curves, lambda curve: title(curve.entry))
    return [CurvePanel(title(alike[0].entry), tuple(alike)) for alike in together]


def _read(entry: Entry, metric: str) -> Curve | None:
    """Returns a curve, or None if the run has no history of the metric."""
    folder = entry.run.folder
    if not (folder / HISTORY_FILE).is_file():
        return None
    records = read_history(folder)
    try:
        training, validation = (_points(records, name) for name in (metric, f"val_{metric}"))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / HISTORY_FILE} is damaged: {error!r}") from None
    return Curve(entry, training, validation) if training or validation else None


def _points(records: Sequence[dict[str, Any]], name: str) -> Points:
    return tuple(
        (int(record["step"]), float(record[name]))
        for record in records
        if record.get(name) is not None
    )
