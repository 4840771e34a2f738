"""The tables: measured rows with the paper's, one table for each data set."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TypeVar

from igpt_keras.report import published
from igpt_keras.report.collect import (
    OBJECTIVE_NAMES,
    baseline_label,
    baseline_probes,
    grouped,
    label,
    last_probes,
    short,
    with_origins,
)
from igpt_keras.report.page import ABSENT, Exhibit, Table, known, nll, percent, square
from igpt_keras.report.runs import Entry, Findings, FineTuning, LowData, Model, Probe

Row = tuple[str, ...]
ACCURACIES = ("validation, %", "test, %", "vote, %")
T = TypeVar("T")


def pretraining(findings: Findings) -> list[Exhibit]:
    """Returns one table of the generative losses of all pre-training runs."""
    entries = findings.pretrainings
    rows = [
        (
            *("ours", *_size(entry.model), entry.data_set, known(entry.model.step, str)),
            *(nll(entry.validation_loss), nll(entry.test_loss)),
            *(known(value, "{:.1f}".format) for value in (entry.images_per_second, entry.minutes)),
        )
        for entry in entries
    ]
    data_sets = {_paper_data_set(entry) for entry in entries}
    rows += [
        (
            *("paper", "AR", name, short(millions * 1e6), square(32), data_set),
            *(str(published.TEST_LOSS_STEPS), ABSENT, nll(loss), ABSENT, ABSENT),
        )
        for data_set, losses in published.TEST_LOSSES.items()
        if data_set in data_sets
        for name, millions, loss in losses
    ]
    header = (
        *("from", "objective", "run", "parameters", "input", "data", "steps"),
        *("validation loss", "test loss", "images/s", "minutes"),
    )
    caption = (
        "Generative losses in nats per token: the mean over all tokens for AR, over the masked "
        "ones for BERT. Losses of different objectives, resolutions or tokenizers, with the class "
        "given or without, are not comparable. The validation loss is for choosing settings; "
        "nothing was chosen by the test loss."
    )
    return _exhibits("Pre-training runs", header, rows, caption, entries, findings)


def evaluations(findings: Findings) -> list[Exhibit]:
    """Returns one table of all that `igpt evaluate` measured."""
    entries = findings.evaluations
    rows = [
        (
            *("ours", *_size(entry.model), entry.data_set, nll(entry.validation_loss)),
            *(nll(entry.test_loss), nll(entry.test_bits_per_dimension)),
            percent(entry.test_accuracy),
        )
        for entry in entries
    ]
    header = (
        *("from", "objective", "run", "parameters", "input", "data"),
        *("validation loss", "test loss", "test bits per dimension", "test accuracy, %"),
    )
    caption = (
        "Models as they are, losses in nats per token. Bits per dimension are those of lossless "
        "tokens. Nothing was chosen."
    )
    return _exhibits("Evaluated models", header, rows, caption, entries, findings)


def generated_images(findings: Findings) -> list[Exhibit]:
    """Returns one table of how generated images compare with real ones."""
    entries = [entry for entry in findings.evaluations if entry.comparisons]
    rows = [
        (
            *(entry.run.name, each.what, entry.data_set),
            f"{each.num_images:,} with {each.num_others:,} {each.split}",
            *(each.features, f"{each.distances.frechet_distance:.4f}"),
            f"{each.distances.kernel_distance:.5f} ± {each.distances.kernel_distance_std:.5f}",
            *(f"{each.distances.precision:.3f}", f"{each.distances.recall:.3f}"),
        )
        for entry in entries
        for each in entry.comparisons
    ]
    header = (
        *("run", "what", "data", "images", "features"),
        *("Fréchet distance", "kernel distance", "precision", "recall"),
    )
    caption = (
        "Generated images compared with real ones, and real ones among each other. With the "
        "features “Inception” the distances are FID and KID; with others they are not. Distances "
        "compare between rows with equal features, data and numbers of images."
    )
    return _exhibits("Generated images", header, rows, caption, entries, findings)


def transfer(findings: Findings) -> list[Exhibit]:
    """Returns linear probes with the paper's Tables 1 and 2."""
    exhibits = []
    for data_set in dict.fromkeys(probe.data_set for probe in findings.probes):
        entries = [*last_probes(findings, data_set), *baseline_probes(findings, data_set)]
        paper = _paper_rows(published.LINEAR_PROBES, entries[0])
        rows = [row for probe in entries for row in _probe_rows(probe)]
        rows += [
            (
                *("paper", row.model, row.pretraining),
                known(row.parameters, lambda millions: short(millions * 1e6)),
                known(row.image_size, square),
                row.features or ABSENT,
                f"{row.accuracy:.1f}",
            )
            for row in paper
        ]
        header = (
            *("from", "model", "pre-training", "parameters", "input", "features"),
            "test accuracy, %",
        )
        caption = (
            f"Linear probes on {data_set}, of the last probed step of each pre-training run. "
            "Validation chose the best layer, the concatenated layers around it, and the "
            "regularization or learning rate. Accuracies are of the test split, on which nothing "
            f"was chosen. {_about_paper(paper, entries[0])}"
        )
        exhibits += _exhibits(data_set, header, rows, caption, entries, findings)
    return exhibits


def other_probes(findings: Findings) -> list[Exhibit]:
    """Returns one table of the probes by methods that the paper does not have."""
    entries = findings.other_probes
    rows = [
        (
            *(entry.method, entry.run.name, *_size(entry.model), entry.data_set),
            _features(entry),
            *(percent(entry.validation_accuracy), percent(entry.test_accuracy)),
        )
        for entry in entries
    ]
    header = (
        *("method", "run", "objective", "model", "parameters", "input", "data", "features"),
        *("validation accuracy, %", "test accuracy, %"),
    )
    caption = (
        "Probes by methods other than logistic regression, which no figure of this page shows. "
        "Validation chose the best layer. Nothing was chosen on the test split."
    )
    return _exhibits("Other methods", header, rows, caption, entries, findings)


def _features(probe: Probe) -> str:
    if probe.best_layer is None:
        return baseline_label(probe)
    return f"best: layer {probe.best_layer} of {probe.model.config.num_layers}"


def _probe_rows(probe: Probe) -> Iterator[Row]:
    """A row for each accuracy of a probe: best layer, vote, concatenated layers, last layer."""
    size = square(probe.model.config.image_size)
    if probe.best_layer is None:
        name = f"logistic regression on {baseline_label(probe)}"
        accuracy = percent(probe.test_accuracy)
        yield ("ours", name, published.NONE, ABSENT, size, "the input", accuracy)
        return
    model, last = probe.model, probe.model.config.num_layers
    origin = f"{OBJECTIVE_NAMES[model.objective]} on {model.data or 'unknown data'}"
    if model.step is not None:
        origin += f", step {model.step}"
    start = ("ours", model.name, origin, short(model.parameters), size)
    best = _features(probe)
    yield (*start, best, percent(probe.test_accuracy))
    if probe.vote is not None:
        yield (*start, f"{best}, vote over masks", percent(probe.vote))
    if probe.concatenated is not None:
        layers, accuracy = probe.concatenated
        yield (*start, f"layers {', '.join(map(str, layers))} concatenated", percent(accuracy))
    if last in probe.layers:
        yield (*start, f"last: layer {last}", percent(probe.layers[last]))


def fine_tuning(findings: Findings) -> list[Exhibit]:
    """Returns fine-tuned classifiers with the paper's Table 3."""
    exhibits = []
    for entries in grouped(findings.fine_tunings, lambda entry: entry.data_set):
        data_set = entries[0].data_set
        paper = _paper_rows(published.FINE_TUNINGS, entries[0])
        ours = [_fine_tuning_row(entry) for entry in entries]
        papers = [
            (
                *("paper", row.model, ABSENT, row.pretraining, *[ABSENT] * 5),
                known(row.image_size, square),
                *(ABSENT, ABSENT, f"{row.accuracy:.1f}", ABSENT, ABSENT),
            )
            for row in paper
        ]
        header = (
            *("from", "run", "objective", "start", "L_GEN weight", "learning rate", "head"),
            *("trained", "parameters", "input", "images", *ACCURACIES, "test L_GEN"),
        )
        measured = ("from", "run", "start", *ACCURACIES, "test L_GEN")
        header, rows, constants = _without_constants(header, ours, papers, measured)
        caption = (
            f"Networks fine-tuned on {data_set} with L_CLF + weight · L_GEN. Validation chose the "
            "epoch (early stopping); compare settings by validation accuracy. The other "
            "accuracies, and L_GEN in nats per token, are of the test split, on which nothing was "
            "chosen. BERT's inputs are masked: with one mask, and with the vote of several. "
            "“Images” is the number of training images, “head” the layer that the class head "
            "reads. “Trained” are all weights, or LoRA adapters of a rank, without frozen first "
            f"blocks; “parameters” says how many trained, of how many. {constants}"
            f"{_about_paper(paper, entries[0])}"
        )
        exhibits += _exhibits(data_set, header, rows, caption, entries, findings)
    return exhibits


def _fine_tuning_row(entry: FineTuning) -> Row:
    config = entry.model.config
    return (
        *("ours", entry.run.name, OBJECTIVE_NAMES[entry.model.objective], entry.start),
        *(f"{entry.generative_weight:g}", f"{entry.learning_rate:g}"),
        "last" if entry.layer in (None, config.num_layers) else f"layer {entry.layer}",
        *_what_trained(entry),
        *(square(config.image_size), str(entry.train_images)),
        *(percent(entry.validation_accuracy), percent(entry.test_accuracy), percent(entry.vote)),
        nll(entry.test_generative_loss),
    )


def _what_trained(entry: FineTuning) -> tuple[str, str]:
    """Returns in words what trained, and how many parameters of all."""
    what = "weights" if entry.lora_rank is None else f"LoRA {entry.lora_rank}"
    frozen = f", {entry.frozen_blocks} frozen" if entry.frozen_blocks else ""
    if entry.parameters is None:
        return what + frozen, ABSENT
    trained, total = entry.parameters
    return what + frozen, f"{trained:,} of {total:,}"


def low_data(findings: Findings) -> list[Exhibit]:
    """Returns accuracies with few labels, with the paper's Table 4."""
    probes = [entry for entry in findings.probes if entry.low_data]
    tuned = [entry for entry in findings.fine_tunings if entry.labels_per_class is not None]
    exhibits = []
    for entries in grouped([*probes, *tuned], lambda entry: entry.data_set):
        data_set = entries[0].data_set
        paper = _paper_rows(published.LOW_DATA, entries[0])
        few = [few for entry in entries if isinstance(entry, Probe) for few in entry.low_data]
        by_fine_tuning = [entry for entry in entries if isinstance(entry, FineTuning)]
        counts = sorted(
            {each.labels_per_class for each in few}
            | {n for entry in by_fine_tuning if (n := entry.labels_per_class) is not None}
            | {count for row in paper for count in row.errors}
        )
        rows = [row for entry in entries for row in _low_data_rows(entry, counts)]
        rows += [
            (
                *("paper", row.model, ABSENT),
                *(known(row.errors.get(count), _accuracy_of_error) for count in counts),
            )
            for row in paper
        ]
        caption = f"Test accuracy in percent on {data_set} with few labels of each class."
        if few:
            subsets = " or ".join(map(str, sorted({each.subsets for each in few})))
            caption += (
                " Logistic regression on features: mean ± standard deviation over "
                f"{subsets} random subsets; the whole validation split chose the regularization "
                "and, with all labels, the layer."
            )
        if by_fine_tuning:
            caption += " Fine-tuned: one subset, the epoch chosen on validation."
        about = _about_paper(paper, entries[0])
        caption += f" Nothing was chosen on the test split. {about}"
        if paper:
            caption += (
                " Its Table 4 gives errors, shown here as accuracies (100 − error). "
                "Fine-tuned on 40 labels, its iGPT-L reached 42.1."
            )
        header = ("from", "model", "features", *(f"{count} per class" for count in counts))
        exhibits += _exhibits(data_set, header, rows, caption, entries, findings)
    return exhibits


def _low_data_rows(entry: Probe | FineTuning, counts: list[int]) -> Iterator[Row]:
    model = entry.model
    if isinstance(entry, FineTuning):
        name = f"{OBJECTIVE_NAMES[model.objective]} {entry.run.name}"
        accuracies = {entry.labels_per_class: entry.test_accuracy}
        cells = (percent(accuracies.get(count)) for count in counts)
        yield ("ours", name, f"fine-tuned, {entry.start}", *cells)
        return
    name = f"{label(model)}, step {known(model.step, str)}"
    if entry.best_layer is None:
        name = "logistic regression"
    for alike in grouped(entry.low_data, lambda few: few.features):
        by_count = {few.labels_per_class: few for few in alike}
        features = baseline_label(entry) if entry.best_layer is None else alike[0].features
        yield ("ours", name, features, *(known(by_count.get(count), _mean) for count in counts))


def _mean(few: LowData) -> str:
    return f"{100 * few.mean:.1f} ± {100 * few.std:.1f}"


def _accuracy_of_error(error: tuple[float, float]) -> str:
    mean, deviation = error
    return f"{100 - mean:.1f} ± {deviation:.1f}"


def _exhibits(
    heading: str,
    header: Row,
    rows: list[Row],
    caption: str,
    entries: Sequence[Entry],
    findings: Findings,
) -> list[Exhibit]:
    """One table; none without entries."""
    if not entries:
        return []
    runs = with_origins((entry.run for entry in entries), findings)
    return [Exhibit(heading, Table(header, tuple(rows)), caption, runs)]


def _without_constants(
    header: Row, ours: Sequence[Row], paper: Sequence[Row], measured: Collection[str]
) -> tuple[Row, list[Row], str]:
    """Leaves out columns that tell no row from another.

    Args:
        header: Names of the columns.
        ours: Our rows.
        paper: The paper's, which lack some values.
        measured: Columns that stay unless they are empty.

    Returns:
        The header, all rows, and a sentence for the caption with what all rows have in common.
    """
    shown, constants = [], []
    for index, name in enumerate(header):
        values = {row[index] for row in ours} | {row[index] for row in paper} - {ABSENT}
        if len(values) > 1 or (name in measured and values != {ABSENT}):
            shown.append(index)
        elif values != {ABSENT}:
            constants.append(f"{name} {values.pop()}")
    sentence = f"All of our runs have: {', '.join(constants)}. " if constants else ""
    rows = [tuple(row[index] for index in shown) for row in (*ours, *paper)]
    return tuple(header[index] for index in shown), rows, sentence


def _size(model: Model) -> Row:
    given = "" if model.config.num_classes is None else " given the class"
    return (
        *(f"{OBJECTIVE_NAMES[model.objective]}{given}", model.name),
        *(short(model.parameters), square(model.config.image_size)),
    )


def _paper_data_set(entry: Entry) -> str | None:
    return published.data_set_of(entry.data_set, entry.run.result.data.get("classes"))


def _paper_rows(table: Mapping[str, tuple[T, ...]], entry: Entry) -> tuple[T, ...]:
    """The rows of a table of the paper for the data set of an entry."""
    data_set = _paper_data_set(entry)
    return () if data_set is None else table.get(data_set, ())


def _about_paper(rows: Sequence, entry: Entry) -> str:
    if not rows:
        return "The paper has no results for this data set."
    return f"The paper's rows are of {_paper_data_set(entry)}."
