"""The page's sections: what the runs show, or the command that would show it."""

from igpt_keras.report import figures, tables
from igpt_keras.report.confusions import confusions
from igpt_keras.report.page import Exhibit, Missing, Page, Section
from igpt_keras.report.runs import BASELINES, Findings

PRETRAIN = "igpt pretrain --data SOURCE --output RUN"
FINETUNE = "igpt finetune MODEL --data SOURCE --output RUN"
PROBE = "igpt probe MODEL --data SOURCE --output RUN"


def report_page(findings: Findings, title: str) -> Page:
    """Returns the whole report.

    Raises:
        InputError: A completions.png, samples.png or confusions.png is not a picture.
    """
    confused = confusions(findings)
    evaluations = [*tables.evaluations(findings), *tables.generated_images(findings)]
    sections = [
        _section(
            "Pre-training",
            [
                *tables.pretraining(findings),
                *figures.pretraining_curves(findings),
                *figures.probe_curves(findings),
            ],
            Missing("No pre-training run. Make one with", PRETRAIN),
        ),
        _by_layer(findings),
        _section(
            "Probe accuracy against validation loss (the paper's Figure 3)",
            figures.accuracy_by_loss(findings),
            Missing(
                "No two probes of comparable snapshots. Probe each folder in RUN/snapshots of a "
                "pre-training run with",
                PROBE,
            ),
        ),
        _section(
            "AR and BERT, before and after fine-tuning (the paper's Figure 4)",
            figures.before_and_after(findings),
            Missing(
                "No AR and BERT models of one size and pre-training data set were probed or "
                "fine-tuned. Probe and fine-tune one of each; make the BERT model with",
                f"{PRETRAIN} --objective bert",
            ),
        ),
        _section(
            "Transfer: linear probes (the paper's Tables 1 and 2)",
            [*tables.transfer(findings), *tables.other_probes(findings)],
            Missing("No probe. Make one with", PROBE),
        ),
        _section(
            "Fine-tuning (the paper's Table 3)",
            [*tables.fine_tuning(findings), *figures.fine_tuning_curves(findings)],
            Missing("No fine-tuning. Make one with", FINETUNE),
        ),
        _section(
            "Few labels (the paper's Table 4)",
            tables.low_data(findings),
            Missing(
                "No run with few labels. Make one with", f"{PROBE} --labels-per-class 4,25,400"
            ),
        ),
        *([Section("Confusions", tuple(confused))] if confused else []),
        _section(
            "Completions and samples",
            figures.pictures(findings),
            Missing("No completions or samples. An AR run ends with both:", PRETRAIN),
        ),
        *([Section("Evaluations", tuple(evaluations))] if evaluations else []),
    ]
    return Page(title, _introduction(findings), tuple(sections))


def _section(title: str, exhibits: list[Exhibit], missing: Missing) -> Section:
    return Section(title, tuple(exhibits) or (missing,))


def _by_layer(findings: Findings) -> Section:
    parts: list[Exhibit | Missing] = [*figures.accuracy_by_layer(findings)]
    if not parts:
        parts.append(Missing("No probe of a model. Probe all layers of one with", PROBE))
    if not any(probe.features in BASELINES for probe in findings.probes):
        missing = "No baseline. Fit a logistic regression to the input itself with"
        parts.append(Missing(missing, f"{PROBE} --baseline pixels"))
    return Section("Accuracy by layer (the paper's Figure 2)", tuple(parts))


def _introduction(findings: Findings) -> str:
    kinds = {
        "pre-training": findings.pretrainings,
        "fine-tuning": findings.fine_tunings,
        "probe": (*findings.probes, *findings.other_probes),
        "evaluation": findings.evaluations,
    }
    counts = ", ".join(f"{name} {len(runs)}" for name, runs in kinds.items() if runs)
    text = (
        f"Runs: {len(findings.runs)} ({counts}). Accuracies are in percent, generative losses in "
        "nats per token. Rows marked “paper” are from Generative Pretraining from Pixels (Chen "
        "et al., 2020). The commands and settings of its runs are below each figure and table."
    )
    if findings.unfinished:
        names = ", ".join(map(str, findings.unfinished))
        text += f" Unfinished runs are left out: {names}."
    unvalidated = [run.name for run in findings.runs if not run.result.data.get("validation")]
    if unvalidated:
        text += (
            " These runs had no validation split (--train-on-validation), so nothing was chosen "
            "on it, and the validation loss of a pre-training run is of the test split: "
            f"{', '.join(unvalidated)}."
        )
    refitted = [
        probe.run.name
        for probe in (*findings.probes, *findings.other_probes)
        if probe.run.result.settings.get("train_on_validation")
    ]
    if refitted:
        text += (
            " After the choice on validation, these probes were fitted again to training and "
            f"validation images (--train-on-validation): {', '.join(refitted)}."
        )
    return text
