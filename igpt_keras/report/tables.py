"""The tables: ours beside the paper's rows, one for each data set."""

from collections.abc import Iterable, Iterator

from igpt_keras.report import paper
from igpt_keras.report.collect import (
    OBJECTIVE_NAMES,
    baseline_label,
    baseline_probes,
    label,
    last_probes,
    short,
    with_origins,
)
from igpt_keras.report.page import (
    ABSENT,
    Exhibit,
    Table,
    known,
    nll,
    percent,
    square,
)
from igpt_keras.report.runs import (
    Evaluation,
    Findings,
    FineTuning,
    LowData,
    Model,
    Pretraining,
    Probe,
    Run,
)


def pretraining(findings: Findings) -> list[Exhibit]:
    """Generative losses of the pre-training runs, all in one table."""
    entries = findings.pretrainings
    if not entries:
        return []
    rows = [_pretraining_row(entry) for entry in entries]
    data_sets = {_paper_data_set(entry.run) for entry in entries}
    rows += [
        (
            *("paper", "AR", name, short(millions * 1e6), square(32), data_set),
            *("1000000", ABSENT, nll(loss), ABSENT, ABSENT),
        )
        for data_set, published in paper.TEST_LOSSES.items()
        if data_set in data_sets
        for name, millions, loss in published
    ]
    header = (
        *("from", "objective", "run", "parameters", "input", "data", "steps"),
        *("validation loss", "test loss", "images/s", "minutes"),
    )
    caption = (
        "Generative losses in nats per pixel: AR's mean over all pixels, BERT's over the "
        "masked ones, so the two are not comparable, nor are losses at different resolutions "
        "or palettes. The validation loss is for choosing settings; nothing was chosen by the "
        "test loss."
    )
    return [_exhibit("Pre-training runs", header, rows, caption, entries, findings)]


def evaluations(findings: Findings) -> list[Exhibit]:
    """What `igpt evaluate` measured, all in one table."""
    entries = findings.evaluations
    if not entries:
        return []
    rows = [
        (
            *("ours", *_size(entry.model), entry.data_set),
            *(nll(entry.validation_loss), nll(entry.test_loss), percent(entry.test_accuracy)),
        )
        for entry in entries
    ]
    header = (
        *("from", "objective", "run", "parameters", "input", "data"),
        *("validation loss", "test loss", "test accuracy, %"),
    )
    caption = "Models as they are, losses in nats per pixel. Nothing was chosen."
    return [_exhibit("Evaluated models", header, rows, caption, entries, findings)]


def transfer(findings: Findings) -> list[Exhibit]:
    """Linear probes beside the paper's Tables 1 and 2."""
    probed = dict.fromkeys(probe.data_set for probe in findings.probes)
    return [_transfer(findings, data_set) for data_set in probed]


def _transfer(findings: Findings, data_set: str) -> Exhibit:
    entries = [*last_probes(findings, data_set), *baseline_probes(findings, data_set)]
    rows = [row for probe in entries for row in _probe_rows(probe)]
    data_set_of_paper = _paper_data_set(entries[0].run)
    published = paper.LINEAR_PROBES.get(data_set_of_paper, ())
    rows += [
        (
            *("paper", row.model, row.pretraining),
            known(row.parameters, lambda millions: short(millions * 1e6)),
            known(row.image_size, square),
            row.features or ABSENT,
            f"{row.accuracy:.1f}",
        )
        for row in published
    ]
    header = (
        *("from", "model", "pre-training", "parameters", "input", "features"),
        "test accuracy, %",
    )
    caption = (
        f"Linear probes on {data_set}; of each pre-training run the last probed step. Chosen on "
        "validation: the best layer, the layers put side by side around it, and "
        "regularization or learning rate. Accuracies are of the test split, on which nothing "
        f"was chosen. {_about_paper(published, data_set_of_paper)}"
    )
    return _exhibit(data_set, header, rows, caption, entries, findings)


def _probe_rows(probe: Probe) -> Iterator[tuple[str, ...]]:
    """One row for each figure of a probe: best layer, last layer, vote, concatenated layers."""
    if probe.best_layer is None:
        name = f"logistic regression on {baseline_label(probe)}"
        start = ("ours", name, paper.NONE, ABSENT, square(probe.model.config.image_size))
        yield (*start, "the input", percent(probe.test_accuracy))
        return
    model, last = probe.model, probe.model.config.num_layers
    start = (
        *("ours", model.name, _origin(model), short(model.parameters)),
        square(model.config.image_size),
    )
    best = f"layer {probe.best_layer} of {last}"
    yield (*start, f"best: {best}", percent(probe.test_accuracy))
    if probe.vote is not None:
        yield (*start, f"best: {best}, vote over masks", percent(probe.vote))
    if probe.concatenated is not None:
        layers, accuracy = probe.concatenated
        text = f"layers {', '.join(map(str, layers))} concatenated"
        yield (*start, text, percent(accuracy))
    if probe.layers[-1].layer == last:
        yield (*start, f"last: layer {last}", percent(probe.layers[-1].test))


def fine_tuning(findings: Findings) -> list[Exhibit]:
    """Fine-tuned classifiers beside the paper's Table 3."""
    tuned = dict.fromkeys(entry.data_set for entry in findings.fine_tunings)
    return [_fine_tuning(findings, data_set) for data_set in tuned]


def _fine_tuning(findings: Findings, data_set: str) -> Exhibit:
    entries = [entry for entry in findings.fine_tunings if entry.data_set == data_set]
    rows = [_fine_tuning_row(entry) for entry in entries]
    data_set_of_paper = _paper_data_set(entries[0].run)
    published = paper.FINE_TUNINGS.get(data_set_of_paper, ())
    rows += [
        (
            *("paper", row.model, ABSENT, row.pretraining, ABSENT, ABSENT, ABSENT),
            known(row.image_size, square),
            *(ABSENT, ABSENT, f"{row.accuracy:.1f}", ABSENT, ABSENT),
        )
        for row in published
    ]
    header = (
        *("from", "run", "objective", "start", "L_GEN weight", "learning rate", "head"),
        *("input", "images", "validation, %", "test, %", "vote, %", "test L_GEN"),
    )
    caption = (
        f"Networks trained whole on {data_set}, with L_CLF + weight · L_GEN. Chosen on "
        "validation: the epoch, by early stopping; compare settings by validation accuracy. "
        "The other accuracies, and L_GEN in nats per pixel, are of the test split, on which "
        "nothing was chosen. BERT's inputs are masked: with one mask, and by the vote of "
        "several. “Images” are those trained on, “head” the layer that the classes are read "
        f"from. {_about_paper(published, data_set_of_paper)}"
    )
    return _exhibit(data_set, header, rows, caption, entries, findings)


def _fine_tuning_row(entry: FineTuning) -> tuple[str, ...]:
    return (
        *("ours", entry.run.name, OBJECTIVE_NAMES[entry.model.objective], entry.start),
        f"{entry.generative_weight:g}",
        f"{entry.learning_rate:g}",
        "last" if entry.layer in (None, entry.model.config.num_layers) else f"layer {entry.layer}",
        square(entry.model.config.image_size),
        str(entry.train_images),
        percent(entry.validation_accuracy),
        percent(entry.test_accuracy),
        percent(entry.vote),
        nll(entry.test_generative_loss),
    )


def low_data(findings: Findings) -> list[Exhibit]:
    """Few labels, beside the paper's Table 4."""
    probes = [entry for entry in findings.probes if entry.low_data]
    tuned = [entry for entry in findings.fine_tunings if entry.labels_per_class is not None]
    measured = dict.fromkeys(entry.data_set for entry in (*probes, *tuned))
    return [
        _low_data(
            data_set,
            [entry for entry in probes if entry.data_set == data_set],
            [entry for entry in tuned if entry.data_set == data_set],
            findings,
        )
        for data_set in measured
    ]


def _low_data(
    data_set: str, probes: list[Probe], tuned: list[FineTuning], findings: Findings
) -> Exhibit:
    entries = [*probes, *tuned]
    data_set_of_paper = _paper_data_set(entries[0].run)
    published = paper.LOW_DATA.get(data_set_of_paper, ())
    counts = sorted(
        {few.labels_per_class for probe in probes for few in probe.low_data}
        | {entry.labels_per_class for entry in tuned}
        | {count for row in published for count in row.errors}
    )
    rows = [row for probe in probes for row in _low_data_rows(probe, counts)]
    rows += [
        (
            *("ours", f"{OBJECTIVE_NAMES[entry.model.objective]} {entry.run.name}"),
            f"fine-tuned whole, {entry.start}",
            *(
                percent(entry.test_accuracy if count == entry.labels_per_class else None)
                for count in counts
            ),
        )
        for entry in tuned
    ]
    rows += [
        (
            *("paper", row.model, ABSENT),
            *(known(row.errors.get(count), _accuracy_of_error) for count in counts),
        )
        for row in published
    ]
    subsets = sorted({few.subsets for probe in probes for few in probe.low_data})
    caption = f"Test accuracy in percent on {data_set} with a few labels of each class."
    if subsets:
        caption += (
            " Logistic regression on features: mean ± standard deviation over "
            f"{' or '.join(map(str, subsets))} random subsets; the layer, that of the probe with "
            "all labels, and the regularization were chosen on the whole validation split."
        )
    if tuned:
        caption += " Fine-tuned: one subset, the epoch chosen on validation."
    caption += (
        f" Nothing was chosen on the test split. {_about_paper(published, data_set_of_paper)}"
    )
    if published:
        caption += (
            " Its Table 4 gives errors, here turned into accuracies (100 − error). "
            "Fine-tuned on 40 labels, its iGPT-L reached 42.1."
        )
    header = ("from", "model", "features", *(f"{count} per class" for count in counts))
    return _exhibit(data_set, header, rows, caption, entries, findings)


def _low_data_rows(probe: Probe, counts: list[int]) -> Iterator[tuple[str, ...]]:
    model = probe.model
    name = (
        "logistic regression"
        if probe.best_layer is None
        else f"{label(model)}, step {known(model.step, str)}"
    )
    for features in dict.fromkeys(few.features for few in probe.low_data):
        by_count = {few.labels_per_class: few for few in probe.low_data if few.features == features}
        text = baseline_label(probe) if probe.best_layer is None else features
        yield ("ours", name, text, *(known(by_count.get(count), _mean) for count in counts))


def _mean(few: LowData) -> str:
    return f"{100 * few.mean:.1f} ± {100 * few.std:.1f}"


def _accuracy_of_error(error: tuple[float, float]) -> str:
    mean, deviation = error
    return f"{100 - mean:.1f} ± {deviation:.1f}"


def _pretraining_row(entry: Pretraining) -> tuple[str, ...]:
    return (
        *("ours", *_size(entry.model), entry.data_set, known(entry.model.step, str)),
        *(nll(entry.validation_loss), nll(entry.test_loss)),
        *(known(value, "{:.1f}".format) for value in (entry.images_per_second, entry.minutes)),
    )


def _exhibit(
    heading: str,
    header: tuple[str, ...],
    rows: list[tuple[str, ...]],
    caption: str,
    entries: Iterable[Pretraining | FineTuning | Probe | Evaluation],
    findings: Findings,
) -> Exhibit:
    runs = with_origins((entry.run for entry in entries), findings)
    return Exhibit(heading, Table(header, tuple(rows)), caption, runs)


def _size(model: Model) -> tuple[str, ...]:
    return (
        OBJECTIVE_NAMES[model.objective],
        model.name,
        short(model.parameters),
        square(model.config.image_size),
    )


def _origin(model: Model) -> str:
    text = f"{OBJECTIVE_NAMES[model.objective]} on {model.data or 'unknown data'}"
    return text if model.step is None else f"{text}, step {model.step}"


def _paper_data_set(run: Run) -> str | None:
    return paper.data_set_of(str(run.result.data["name"]), run.result.data.get("classes"))


def _about_paper(published: tuple, data_set: str | None) -> str:
    if not published:
        return "The paper has no figures for this data set."
    return f"The paper's rows are of {data_set}."
