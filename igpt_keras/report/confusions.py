"""Which classes are taken for which others: matrices, pictures and the most frequent errors."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from igpt_keras.report import plots
from igpt_keras.report.collect import best_on_validation, grouped, label, with_origins
from igpt_keras.report.figures import read_png
from igpt_keras.report.page import Exhibit, Picture, Table, percent
from igpt_keras.report.runs import Entry, Findings, Run, read_metrics
from igpt_keras.runs.folder import CONFUSIONS_FILE

NOTHING_CHOSEN = "Nothing was chosen on the test images."


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Errors on the test images.

    Attributes:
        class_names: C names.
        matrix: int [C, C], images of each label and prediction; None for many classes.
        most_confused: Label, prediction, number of images, and share of the label's images.
    """

    class_names: tuple[str, ...]
    matrix: np.ndarray | None
    most_confused: tuple[tuple[str, str, int, float], ...]


def read_confusion(run: Run) -> Confusion | None:
    """Returns the errors that a run found; None if it looked for none.

    Raises:
        InputError: The result holds something else.
    """
    return read_metrics(run, _read) if run.result.metrics.get("test_confusion") else None


def _read(run: Run) -> Confusion:
    content = run.result.metrics["test_confusion"]
    names = tuple(map(str, content["class_names"]))
    matrix = content["matrix"]
    if matrix is not None:
        matrix = np.asarray(matrix, np.int64)
        if matrix.shape != (len(names), len(names)):
            raise ValueError(f"a confusion matrix of {len(names)} classes is {matrix.shape}")
    pairs = tuple(
        (str(e["label"]), str(e["predicted"]), int(e["images"]), float(e["share"]))
        for e in content["most_confused"]
    )
    return Confusion(names, matrix, pairs)


def confusions(findings: Findings) -> list[Exhibit]:
    """Returns the errors of the best probe and the best fine-tuned classifier of each data set.

    Raises:
        InputError: A confusions.png is not a picture.
    """
    probes = _best((*findings.probes, *findings.other_probes))
    best = [("probe", entry) for entry in probes]
    best += [("fine-tuned classifier", entry) for entry in _best(findings.fine_tunings)]
    return [
        exhibit
        for number, (kind, entry) in enumerate(best, start=1)
        for exhibit in _exhibits(entry, kind, number, findings)
    ]


def _best(entries: Sequence[Entry]) -> Iterable[Entry]:
    """Yields for each data set the best entry on validation of those with confusions."""
    known = [entry for entry in entries if read_confusion(entry.run)]
    for of_data_set in grouped(known, lambda entry: entry.data_set):
        yield best_on_validation(of_data_set)


def _exhibits(entry: Entry, kind: str, number: int, findings: Findings) -> Iterable[Exhibit]:
    confusion = read_confusion(entry.run)
    assert confusion is not None, "entries without were left out"
    heading = f"Best {kind} on {entry.data_set}: {entry.run.name}"
    about = f"{label(entry.model)}, the best {kind} on the validation images of {entry.data_set}"
    runs = with_origins([entry.run], findings)
    rows = ((*pair, str(count), percent(share)) for *pair, count, share in confusion.most_confused)
    table = Table(("class", "taken for", "test images", "of the class, %"), tuple(rows))
    if confusion.matrix is not None:
        picture = Picture(
            f"confusion-matrix-{number}.png",
            plots.png(plots.confusion_matrix(confusion.matrix, confusion.class_names)),
            f"Matrix: test images of {entry.data_set} by class and predicted class.",
        )
        caption = (
            f"Test images by class (rows) and predicted class (columns): {about}. Shades are "
            f"shares of a class. {NOTHING_CHOSEN}"
        )
        yield Exhibit(heading, picture, caption, runs, table if table.rows else None)
    path = entry.run.folder / CONFUSIONS_FILE
    if path.is_file():
        png = read_png(path)
        alt = "Contact sheet: test images whose class was predicted wrong, a row for each error."
        caption = (
            f"Test images of the most frequent errors, with their numbers: {about}, which sees "
            f"the images like this. {NOTHING_CHOSEN}"
        )
        picture = Picture(f"confusions-{number}.png", png, alt)
        yield Exhibit(f"{heading}, errors", picture, caption, runs, table)
