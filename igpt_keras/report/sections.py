"""The page's sections: what the runs show, or which command would show it."""

from igpt_keras.report import figures, tables
from igpt_keras.report.page import Exhibit, Missing, Page, Section
from igpt_keras.report.runs import BASELINES, Findings

PRETRAIN = "igpt pretrain --data SOURCE --output RUN"
FINETUNE = "igpt finetune MODEL --data SOURCE --output RUN"
PROBE = "igpt probe MODEL --data SOURCE --output RUN"


def report_page(findings: Findings, title: str) -> Page:
    """The whole report.

    Raises:
        InputError: a completions.png or samples.png that is no picture.
    """
    sections = [
        _section(
            "Pre-training",
            tables.pretraining(findings),
            Missing("No pre-training run among these. One is made by", PRETRAIN),
        ),
        _by_layer(findings),
        _section(
            "Probe accuracy against validation loss (the paper's Figure 3)",
            figures.accuracy_by_loss(findings),
            Missing(
                "No two probes of comparable snapshots among these runs. Each is made from a "
                "folder under RUN/snapshots of a pre-training run by",
                PROBE,
            ),
        ),
        _section(
            "AR against BERT, before and after fine-tuning (the paper's Figure 4)",
            figures.before_and_after(findings),
            Missing(
                "No AR and BERT models of one size and pre-training data set were probed or "
                "fine-tuned in these runs. igpt probe and igpt finetune measure a model of "
                "each, of which BERT's is made by",
                f"{PRETRAIN} --objective bert",
            ),
        ),
        _section(
            "Transfer: linear probes (the paper's Tables 1 and 2)",
            tables.transfer(findings),
            Missing("No probe among these runs. One is made by", PROBE),
        ),
        _section(
            "Fine-tuning (the paper's Table 3)",
            tables.fine_tuning(findings),
            Missing("No fine-tuning among these runs. One is made by", FINETUNE),
        ),
        _section(
            "Few labels (the paper's Table 4)",
            tables.low_data(findings),
            Missing(
                "No run with few labels among these. One is made by",
                f"{PROBE} --labels-per-class 4,25,400",
            ),
        ),
        _section(
            "Completions and samples",
            figures.pictures(findings),
            Missing(
                "No completions or samples among these runs. At the end of an AR run both are "
                "drawn by",
                PRETRAIN,
            ),
        ),
    ]
    evaluations = tables.evaluations(findings)
    if evaluations:
        sections.append(Section("Evaluations", tuple(evaluations)))
    return Page(title, _introduction(findings), tuple(sections))


def _section(title: str, exhibits: list[Exhibit], missing: Missing) -> Section:
    return Section(title, tuple(exhibits) or (missing,))


def _by_layer(findings: Findings) -> Section:
    parts: list[Exhibit | Missing] = [*figures.accuracy_by_layer(findings)]
    if not parts:
        parts.append(
            Missing(
                "No probe of a model among these runs. One, of all its layers, is made by", PROBE
            )
        )
    if not any(probe.features in BASELINES for probe in findings.probes):
        parts.append(
            Missing(
                "No baseline among these runs. Logistic regression on the input itself is made by",
                f"{PROBE} --baseline pixels",
            )
        )
    return Section("Accuracy by layer (the paper's Figure 2)", tuple(parts))


def _introduction(findings: Findings) -> str:
    kinds = {
        "pre-training": findings.pretrainings,
        "fine-tuning": findings.fine_tunings,
        "probe": findings.probes,
        "evaluation": findings.evaluations,
    }
    counts = ", ".join(f"{name} {len(runs)}" for name, runs in kinds.items() if runs)
    text = (
        f"Runs read: {len(findings.runs)} ({counts}). Accuracies are in percent, generative "
        "losses in nats per pixel. Rows marked “paper” are those of Generative Pretraining "
        "from Pixels (Chen et al., 2020). Below each figure are the commands and settings of "
        "the runs it was made from."
    )
    folded = [run.name for run in findings.runs if not run.result.data.get("validation")]
    if folded:
        text += (
            " These runs had no validation split (--train-on-validation), so nothing was chosen on "
            "one, and what a pre-training run calls validation loss is of the test split: "
            f"{', '.join(folded)}."
        )
    refitted = [
        probe.run.name
        for probe in findings.probes
        if probe.run.result.settings.get("train_on_validation")
    ]
    if refitted:
        text += (
            " After the choice on validation, these probes were trained anew on training and "
            f"validation images (--train-on-validation): {', '.join(refitted)}."
        )
    return text
