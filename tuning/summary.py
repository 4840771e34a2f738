"""Results of searches, as tables and as JSON."""

import math
import pathlib
from typing import Any

from keras_tuner.engine.trial import Trial, TrialStatus
from rich.table import Table

from igpt_keras.json_files import write_json
from tuning.oracle import Search
from tuning.rates import FLOOR, RATE, WORSE
from tuning.tuner import SECONDS, LearningRateSearch

SUMMARY_FILE = "summary.json"
WORDS = {
    TrialStatus.COMPLETED: "finished",
    TrialStatus.FAILED: "diverged",
    TrialStatus.RUNNING: "running",
}


def trials_table(tuner: LearningRateSearch, running: str = "") -> Table:
    """Returns a table with a row for each trial: rate, final metric, status, time.

    Args:
        tuner: The search.
        running: What to add to the status of the running trial.
    """
    objective = tuner.oracle.objective.name
    searches = [search for search in tuner.oracle.searches() if search.trials]
    table = Table(title="Learning rates, from large to small", title_justify="left")
    others = list(dict.fromkeys(name for search in searches for name in search.others))
    for name in [*others, "rate", objective, "status", "time"]:
        table.add_column(name, justify="left" if name in (*others, "status") else "right")
    for search in searches:
        for trial in search.trials:
            status = WORDS[trial.status]
            if trial.status == TrialStatus.RUNNING and running:
                status += f", {running}"
            if trial is search.best and search.ending in (WORSE, FLOOR):
                status += ", best"
            table.add_row(
                *(str(search.others.get(name, "")) for name in others),
                f"{rate_of(trial):g}",
                f"{trial.score:.4f}" if trial.status == TrialStatus.COMPLETED else "",
                status,
                _clock(trial),
            )
        table.add_section()
    return table


def sizes_table(searches: list[Search], models: list[tuple[str, str, int]], metric: str) -> Table:
    """Returns a table of the best rates, as in the paper's Table 5.

    Args:
        searches: One search for each size.
        models: The name, the objective ("ar" or "bert") and the image size of each model.
        metric: Name of the final metric.
    """
    table = Table(title="Learning rate of each model (paper, Table 5)", title_justify="left")
    for name in ("model", "objective", "input", "learning rate", f"final {metric}"):
        table.add_column(name, no_wrap=True)
    for search, (name, objective, side) in zip(searches, models, strict=True):
        best = search.best
        table.add_row(
            name,
            objective.upper(),
            f"{side}² × 3",
            f"{rate_of(best):g}" if best else "none",
            f"{best.score:.4f}" if best else "",
        )
    return table


def verdict(search: Search) -> str:
    """Returns, in a sentence, the best rate of a search, and how reliable it is."""
    best = search.best
    if best is None:
        return f"every rate down to {rate_of(search.trials[-1]):g} diverged: no rate worked"
    found = f"learning rate {rate_of(best):g}"
    if search.ending == FLOOR and best is search.trials[-1]:
        return f"{found}: the floor was reached; the optimum may lie below"
    if search.ending == FLOOR:
        return f"{found}: the floor was reached, without an increase beyond the tolerance"
    if best is search.trials[0]:
        return f"{found}, the first one tried: the optimum may lie above"
    return f"{found}: smaller ones were worse"


def write_summary(
    tuner: LearningRateSearch, commands: list[str | None], folder: pathlib.Path
) -> None:
    """Writes `folder`/summary.json: the trials, the ending and the best trial of each search.

    Args:
        tuner: The search.
        commands: For each search the command that trains with the best rate, or None.
        folder: An existing folder.
    """
    searches = [
        {
            "hyperparameters": search.others,
            "trials": [trial_as_json(trial) for trial in search.trials],
            "ending": search.ending,
            "best": search.best and trial_as_json(search.best),
            "command": command,
        }
        for search, command in zip(tuner.oracle.searches(), commands, strict=True)
    ]
    content = {"objective": tuner.oracle.objective.name, "searches": searches}
    write_json(folder / SUMMARY_FILE, content)


def trial_as_json(trial: Trial) -> dict[str, Any]:
    """Returns the values, final metric (None if it diverged), status and seconds of a trial."""
    score = trial.score
    return {
        "trial": trial.trial_id,
        **trial.hyperparameters.values,
        "score": score if score is not None and math.isfinite(score) else None,
        "status": WORDS[trial.status],
        "message": trial.message,
        "seconds": seconds_of(trial),
    }


def rate_of(trial: Trial) -> float:
    """Returns the learning rate of a trial."""
    return trial.hyperparameters.get(RATE)


def seconds_of(trial: Trial) -> float | None:
    """Returns the seconds that the process which ended a trial took for it; None before its end."""
    if not trial.metrics.exists(SECONDS):
        return None
    return trial.metrics.get_last_value(SECONDS)


def _clock(trial):
    seconds = seconds_of(trial)
    if seconds is None:
        return ""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02}"
