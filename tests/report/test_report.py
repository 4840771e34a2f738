import base64
import html.parser
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from igpt_keras.errors import InputError
from igpt_keras.report import published, write_report
from igpt_keras.report.collect import (
    Bars,
    LossPanel,
    ObjectivePanel,
    baseline_label,
    label,
    layer_curves,
    loss_panels,
    objective_panels,
    short,
    with_origins,
)
from igpt_keras.report.runs import find_runs, read_findings
from tests.report import report_runs as runs

plots = pytest.importorskip("igpt_keras.report.plots")

CIFAR = "folder:/images/cifar10"
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Parsed(html.parser.HTMLParser):
    """A page's tables as rows of cells, its images, its text; fails on unbalanced tags."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.images = [], set(), [], []
        self.tables, self.text = [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(dict(attributes))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data
        if self.open and self.open[-1] != "style":
            self.text += data

    def table(self, *columns):
        """The rows of the only table with these columns, each as a dictionary."""
        (found,) = [table for table in self.tables if set(columns) <= set(table[0])]
        return [dict(zip(found[0], row, strict=True)) for row in found[1:]]


def findings(folder):
    return read_findings(find_runs([folder]))


def report(folder, output, **options):
    write_report([folder], output, **options)
    return Parsed((output / "report.html").read_text(encoding="utf-8"))


def sheet():
    return [[np.full((4, 4, 3), value, np.uint8) for value in (10, 200)]]


@pytest.fixture
def everything(tmp_path):
    """A folder of runs of every kind; AR with three snapshots, BERT with one."""
    folder = tmp_path / "runs"
    pictures = {"completions.png": sheet(), "samples.png": sheet()}
    runs.pretraining(folder / "ar", pictures=pictures)
    for step, loss, best in ((100, 2.0, 0.5), (400, 1.7, 0.6), (200, 1.85, 0.55)):
        of = runs.model(step=step, loss=loss, path=str(folder / f"ar/snapshots/step-{step}"))
        few = [
            {"labels_per_class": 4, "features": "best layer 2", "accuracies": [0.2] * 5}
            | {"mean": 0.2345, "std": 0.0111}
        ]
        runs.probe(
            folder / "probes" / f"ar-{step}",
            of,
            (0.3, 0.4, best, 0.45),
            low_data=few if step == 400 else [],
            concatenated={"layers": [1, 2, 3], "validation_accuracy": 0.6, "test_accuracy": 0.6543},
        )
    bert = runs.model("bert", "bert", loss=1.5)
    vote = {"test_accuracy": 0.5123, "single_mask_accuracy": 0.5}
    runs.probe(folder / "probes" / "bert", bert, (0.3, 0.4, 0.5, 0.45), voting=vote)
    runs.baseline(folder / "probes" / "pixels")
    start = runs.model(step=200, loss=1.85, path=str(folder / "ar/snapshots/step-200"))
    runs.fine_tuning(folder / "tuned" / "ar", start, test=0.7111)
    runs.fine_tuning(folder / "tuned" / "bert", bert, test=0.7055, single=0.6999)
    runs.fine_tuning(folder / "tuned" / "few", test=0.4444, labels_per_class=4, start="scratch")
    runs.evaluation(folder / "evaluated")
    return folder


def test_runs_are_found_in_a_folder_and_up_to_two_below_each_once(tmp_path):
    for name in ("b", "a", "deep/c", "deep/.hidden", "deep/too/far", ".d.partial/new"):
        runs.probe(tmp_path / name)
    found = find_runs([tmp_path / "b", tmp_path, tmp_path / "a" / ".." / "a"])
    assert [run.folder for run in found] == [tmp_path / name for name in ("b", "a", "deep/c")]
    with pytest.raises(FileNotFoundError, match=r"nothing holds no run"):
        find_runs([tmp_path / "nothing"])


def change(folder, edit):
    file = folder / "result.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("make", "edit"),
    [
        (runs.probe, lambda result: result["metrics"].pop("layers")),
        (runs.probe, lambda result: result["metrics"].update(best_layer=9)),
        (runs.probe, lambda result: result["metrics"].update(best_layer=None)),
        (runs.probe, lambda result: result["metrics"].update(test_accuracy="high")),
        (runs.probe, lambda result: result["metrics"].update(layers=[3])),
        (runs.probe, lambda result: result["model"].update(config={})),
        (runs.probe, lambda result: result["model"].update(objective="gan")),
        (runs.probe, lambda result: result.update(data={})),
        (runs.baseline, lambda result: result["settings"].update(features="model")),
        (runs.fine_tuning, lambda result: result["settings"].pop("start")),
        (runs.pretraining, lambda result: result["metrics"].pop("minutes")),
        (runs.evaluation, lambda result: result["metrics"].update(test_loss=[])),
    ],
)
def test_a_result_of_another_form_is_named(tmp_path, make, edit):
    change(make(tmp_path / "run"), edit)
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "run" / "result.json"))):
        findings(tmp_path)


def test_a_damaged_result_is_named_and_nothing_written(tmp_path):
    run = runs.probe(tmp_path / "run")
    (run / "result.json").write_text('{"kind": "pro')
    with pytest.raises(InputError, match=re.escape(str(run / "result.json"))):
        write_report([run], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_picture_that_is_none_is_named(tmp_path):
    run = runs.pretraining(tmp_path / "run", pictures={"samples.png": sheet()})
    whole = (run / "samples.png").read_bytes()
    for damaged in (b"", b"GIF89a", whole[: len(whole) // 2]):
        (run / "samples.png").write_bytes(damaged)
        with pytest.raises(InputError, match="samples.png is not a PNG picture"):
            write_report([run], tmp_path / "out")


def test_figure_2_shows_the_last_step_of_each_run_and_the_baselines(tmp_path):
    for step, accuracies in ((300, (0.1, 0.5, 0.4, 0.2)), (100, (0.1, 0.2, 0.9, 0.3))):
        runs.probe(tmp_path / f"ar-{step}", runs.model(step=step), accuracies)
    bert = runs.model("bert", "bert", runs.BIG)
    # Layer 1 is the best on the test split, layer 3 on validation.
    runs.probe(tmp_path / "bert", bert, (0.1, 0.8, 0.6, 0.7), validation=[0.1, 0.5, 0.6, 0.65])
    # Once more with other settings: better on the test split, worse on validation.
    runs.probe(tmp_path / "other", bert, (0.1, 0.9, 0.9, 0.9), validation=[0.1, 0.2, 0.3, 0.4])
    # One layer alone, better everywhere, is no curve.
    runs.probe(
        tmp_path / "part", bert, (0.95,), layers=[{"layer": 2, "test_accuracy": 0.95}], best_layer=2
    )
    # Layers come in the order that the user gave them in.
    change(tmp_path / "bert", lambda result: result["metrics"]["layers"].reverse())
    runs.baseline(tmp_path / "pixels", test=0.25, validation=0.3)
    runs.baseline(tmp_path / "pixels-again", test=0.27, validation=0.2)
    runs.baseline(tmp_path / "tokens", "tokens", 0.22)
    runs.probe(tmp_path / "elsewhere", on=runs.data("tfds:stl10"))

    curves, baselines = layer_curves(findings(tmp_path), CIFAR)
    small, big = (
        short(config.parameter_count(objective))
        for config, objective in ((runs.SMALL, "ar"), (runs.BIG, "bert"))
    )
    assert [(label(c.model), [*c.layers.items()], c.best_layer, c.run.name) for c in curves] == [
        (f"AR {small} ar", [(0, 0.1), (1, 0.5), (2, 0.4), (3, 0.2)], 1, "ar-300"),
        (f"BERT {big} bert", [(0, 0.1), (1, 0.8), (2, 0.6), (3, 0.7)], 3, "bert"),
    ]
    assert [(baseline_label(each), each.test_accuracy) for each in baselines] == [
        ("raw pixels 4×4", 0.25),
        ("palette tokens 4×4, 8 colors", 0.22),
    ]


def test_runs_of_one_name_in_different_folders_stay_apart(tmp_path):
    for folder, last in (("a", 0.5), ("b", 0.6)):
        for step in (100, 200):
            of = runs.model(step=step, path=f"/{folder}/ar/snapshots/step-{step}")
            runs.probe(tmp_path / f"{folder}{step}", of, (0.1, 0.2, last, 0.3))
    # The last snapshot is also the model of the run.
    runs.probe(tmp_path / "c", runs.model(step=300, path="/a/ar/model"), (0.1, 0.2, 0.7, 0.3))
    panels = loss_panels(findings(tmp_path), CIFAR)
    assert [[probe.model.step for probe in track] for track in panels[0].tracks] == [
        [100, 200, 300],
        [100, 200],
    ]


def test_figure_3_joins_checkpoints_in_order_and_parts_what_cannot_be_compared(tmp_path):
    bigger_input = type(runs.SMALL)(8, 8, 16, 3, 2)
    for name, config, objective, data, points in (
        ("small", runs.SMALL, "ar", "folder:p", [(300, 1.8, 0.6), (100, 2.0, 0.5)]),
        ("big", runs.BIG, "ar", "folder:p", [(100, 1.9, 0.55)]),
        ("bert", runs.SMALL, "bert", "folder:p", [(100, 1.0, 0.4), (200, 0.9, 0.5)]),
        ("wide", bigger_input, "ar", "folder:p", [(100, 1.5, 0.4), (200, 1.4, 0.5)]),
        ("alone", runs.SMALL, "ar", "folder:q", [(100, 1.9, 0.4)]),
        ("diverged", runs.SMALL, "ar", "folder:p", [(100, float("nan"), 0.1)]),
        ("unknown", runs.SMALL, "ar", "folder:p", [(100, None, 0.1)]),
    ):
        for step, loss, accuracy in points:
            of = runs.model(name, objective, config, step, loss, data=data)
            # Folders are read in another order than that of the steps.
            runs.probe(tmp_path / f"{name}-{1000 - step}", of, (0.05, accuracy, 0.1, 0.1))

    panels = loss_panels(findings(tmp_path), CIFAR)
    series = {
        panel.title: {
            track[0].model.name: [
                (p.model.step, p.model.validation_loss, p.best_layer, p.test_accuracy)
                for p in track
            ]
            for track in panel.tracks
        }
        for panel in panels
    }
    assert series == {
        "AR on folder:p, 4×4 pixels, 8 colors": {
            "small": [(100, 2.0, 1, 0.5), (300, 1.8, 1, 0.6)],
            "big": [(100, 1.9, 1, 0.55)],
        },
        "BERT on folder:p, 4×4 pixels, 8 colors": {
            "bert": [(100, 1.0, 1, 0.4), (200, 0.9, 1, 0.5)]
        },
        "AR on folder:p, 8×8 pixels, 8 colors": {"wide": [(100, 1.5, 1, 0.4), (200, 1.4, 1, 0.5)]},
    }


def test_figure_4_pairs_equal_sizes_and_chooses_on_validation(tmp_path):
    bert = runs.model("bert", "bert")
    runs.probe(tmp_path / "probe", test=(0.1, 0.6, 0.2, 0.2))
    vote = {"test_accuracy": 0.58, "single_mask_accuracy": 0.55}
    runs.probe(tmp_path / "probe-bert", bert, (0.1, 0.55, 0.2, 0.2), voting=vote)
    # Better, and another snapshot than the one that the fine-tuning started from.
    runs.probe(tmp_path / "early", runs.model(step=50), (0.1, 0.65, 0.2, 0.2))
    runs.fine_tuning(tmp_path / "chosen", test=0.7, validation=0.75)
    runs.fine_tuning(tmp_path / "better-on-test", test=0.8, validation=0.74)
    runs.fine_tuning(tmp_path / "scratch", test=0.9, validation=0.9, start="scratch")
    runs.fine_tuning(tmp_path / "few", test=0.9, validation=0.9, labels_per_class=4)
    runs.fine_tuning(tmp_path / "folded", test=0.9, validation=None)
    runs.fine_tuning(tmp_path / "tuned-bert", bert, test=0.69, single=0.68)
    # No BERT model of this size, and none pre-trained on that data.
    runs.probe(tmp_path / "big", runs.model("big", config=runs.BIG))
    runs.probe(tmp_path / "other", runs.model("other", data="folder:q"))

    (panel,) = objective_panels(findings(tmp_path), CIFAR)
    assert panel.title == "3 layers, width 16, 4×4 pixels, on folder:p"
    assert panel.bars == (
        Bars("AR", 0.6, 0.7),
        Bars("BERT, one mask", 0.55, 0.68),
        Bars("BERT, vote over masks", 0.58, 0.69),
    )
    assert [run.name for run in panel.runs] == ["probe", "chosen", "probe-bert", "tuned-bert"]


def test_the_run_that_pretrained_a_model_comes_before_its_probe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs.pretraining(tmp_path / "ar")
    runs.pretraining(tmp_path / "unused")
    # As the probe was told it: from the folder that the report is made in.
    for name, path in (("p1", "ar/model"), ("p2", "./ar/snapshots/step-1"), ("p3", "ar")):
        runs.probe(tmp_path / name, runs.model(path=path))
    found = findings(tmp_path)
    probes = [probe.run for probe in found.probes]
    assert [run.name for run in with_origins(probes, found)] == ["ar", "p1", "p2", "p3"]


def test_counts_keep_three_digits():
    units = {"K": 1e3, "M": 1e6}
    for count in (1, 12, 999, 1000, 1234, 99949, 99951, 131072, 999499, 999501, 76571648):
        text = short(count)
        number = text.rstrip("KM")
        assert float(number) * units.get(text[-1], 1) == pytest.approx(count, rel=0.005)
        assert len(number.replace(".", "")) <= 3, text
    assert short(1362250752) == "1362M"


def probes_of(folder, count):
    """Probes of models with long names, with accuracies that differ little."""
    generator = np.random.default_rng(0)
    for index in range(count):
        name = f"run-{index:02d} with a name that does not end for quite a while"
        accuracies = 0.5 + 0.001 * generator.normal(size=4)
        runs.probe(folder / f"{index:02d}", runs.model(name), tuple(accuracies))
    return list(findings(folder).probes)


def percent(values):
    return pytest.approx([100 * value for value in values])


def test_figure_2_is_drawn_without_need_of_color(tmp_path):
    curves = probes_of(tmp_path / "models", 19)
    runs.baseline(tmp_path / "inputs" / "pixels", test=0.3)
    runs.baseline(tmp_path / "inputs" / "tokens", "tokens", 0.301)
    baselines = findings(tmp_path / "inputs").probes
    figure = plots.accuracy_by_layer(curves, baselines, "Probes")
    drawn = []
    for axes in figure.axes:
        assert axes.get_title(loc="left") == "Probes"
        lines, levels = axes.lines[:-2], axes.lines[-2:]
        styles = {(line.get_marker(), line.get_linestyle()) for line in lines}
        assert len(styles) == len(lines)
        drawn += zip(lines, axes.collections, strict=True)
        assert [line.get_ydata()[0] for line in levels] == percent([0.3, 0.301])
        named = [text.get_text() for text in axes.get_legend().get_texts()]
        assert len(set(named)) == len(axes.lines)
        assert named[-2:] == ["raw pixels 4×4: 30.0", "palette tokens 4×4, 8 colors: 30.1"]
    assert len(drawn) == len(curves)
    for curve, (line, ring) in zip(curves, drawn, strict=True):
        assert list(line.get_ydata()) == percent(curve.layers.values())
        best = curve.best_layer
        assert list(ring.get_offsets()[0]) == [best, *percent([curve.layers[best]]).expected]


def test_figure_3_tells_sizes_by_marker_and_runs_by_line(tmp_path):
    def track(name, config, shift):
        for step, loss, accuracy in ((100, 2.0, 0.5), (200, 1.9, 0.55), (400, 1.8, 0.6)):
            of = runs.model(name, config=config, step=step, loss=loss + shift)
            runs.probe(tmp_path / name / str(step), of, (0.1, accuracy + shift, 0.1, 0.1))
        return findings(tmp_path / name).probes

    first = LossPanel("AR", (track("a", runs.SMALL, 0), track("b", runs.SMALL, 0.002)))
    second = LossPanel("BERT", (track("c", runs.BIG, 0), track("d", runs.SMALL, -0.1)))
    figure = plots.accuracy_by_loss([first, second])
    (a, b), (c, d) = (axes.lines for axes in figure.axes)
    assert a.get_marker() == b.get_marker() == d.get_marker() != c.get_marker()
    assert a.get_linestyle() != b.get_linestyle()
    assert list(d.get_xdata()) == pytest.approx([1.9, 1.8, 1.7])
    assert list(d.get_ydata()) == percent([0.4, 0.45, 0.5])
    for axes, title in zip(figure.axes, ("AR", "BERT"), strict=True):
        assert axes.get_title(loc="left") == title
        left, right = axes.get_xlim()
        assert left > right
        shown = [text.get_text() for text in axes.texts]
        assert [shown.count(step) for step in ("100", "200", "400")] == [2, 2, 2]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()


def test_figure_4_hatches_its_bars_and_prints_their_values():
    bars = (Bars("AR", 0.512, 0.7), Bars("BERT, one mask", None, 0.69))
    figure = plots.before_and_after([ObjectivePanel("size", bars, ())])
    (axes,) = figure.axes
    heights = [patch.get_height() for patch in axes.patches]
    assert heights == pytest.approx([51.2, 0, 70, 69])
    probe, tuned = axes.containers
    hatches = [{patch.get_hatch() for patch in container} for container in (probe, tuned)]
    assert all(len(each) == 1 for each in hatches)
    assert hatches[0] != hatches[1]
    assert [text.get_text() for text in axes.texts] == ["51.2", "not run", "70.0", "69.0"]
    assert axes.get_ylim()[0] == 0


def test_plots_take_any_name_and_leave_the_settings_alone(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    runs.probe(tmp_path / "probe", runs.model(r"$\frac{$ a%b _{"))
    (curve,) = findings(tmp_path).probes
    with matplotlib.rc_context({"axes.facecolor": "red"}):
        drawn = plots.png(plots.accuracy_by_layer([curve], []))
    assert dict(matplotlib.rcParams) == before
    assert drawn == plots.png(plots.accuracy_by_layer([curve], []))
    assert Image.open(io.BytesIO(drawn)).format == "PNG"


def test_page_is_whole_and_refers_to_nothing_outside(everything, tmp_path):
    page = report(everything, tmp_path / "out")
    assert {"html", "head", "title", "body", "h1", "h2", "h3", "table", "details"} <= page.tags
    assert not page.tags & {"script", "link", "iframe", "object", "base"}
    references = [value for name, value in page.attributes if name in ("src", "href", "srcset")]
    assert len(references) == len(page.images)
    files = sorted((tmp_path / "out").glob("*.png"))
    assert [file.name for file in files] == [
        "accuracy-by-layer-1.png",
        "accuracy-by-loss-1.png",
        "ar-against-bert-1.png",
        "completions-1.png",
        "samples-1.png",
    ]
    prefix = "data:image/png;base64,"
    assert all(image["src"].startswith(prefix) and image["alt"] for image in page.images)
    embedded = [base64.b64decode(image["src"].removeprefix(prefix)) for image in page.images]
    assert embedded == [file.read_bytes() for file in files]
    assert embedded[3] == (everything / "ar" / "completions.png").read_bytes()
    style = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "url(" not in style and "@import" not in style
    assert "igpt pretrain --data" not in page.text, "nothing is missing"


def test_tables_show_what_was_measured(everything, tmp_path):
    page = report(everything, tmp_path / "out")
    (row,) = page.table("images/s")
    assert (row["validation loss"], row["test loss"]) == ("2.0000", "2.0124")
    assert (row["images/s"], row["minutes"]) == ("123.5", "6.8")
    (row,) = page.table("test loss", "test accuracy, %")
    assert (row["validation loss"], row["test loss"]) == ("2.5000", "2.5555")
    assert row["test accuracy, %"] == "–"

    by_layer = page.table("layer")
    ar, bert = [name for name in by_layer[0] if name != "layer"]
    assert [row[ar] for row in by_layer] == ["30.0", "40.0", "60.0", "45.0", "25.0"]
    assert [row[bert] for row in by_layer] == ["30.0", "40.0", "50.0", "45.0", "25.0"]

    points = page.table("best layer")
    assert [(row["step"], row["validation loss"], row["test accuracy, %"]) for row in points] == [
        ("100", "2.0000", "50.0"),
        ("200", "1.8500", "55.0"),
        ("400", "1.7000", "60.0"),
    ]

    bars = page.table("linear probe, %")
    assert [(row["linear probe, %"], row["fine-tuned, %"]) for row in bars] == [
        ("55.0", "71.1"),
        ("50.0", "70.0"),
        ("51.2", "70.5"),
    ]

    transfer = page.table("features", "pre-training")
    ours = [
        (row["model"], row["features"], row["test accuracy, %"])
        for row in transfer
        if row["from"] == "ours"
    ]
    assert ours == [
        ("ar", "best: layer 2 of 3", "60.0"),
        ("ar", "layers 1, 2, 3 concatenated", "65.4"),
        ("ar", "last: layer 3", "45.0"),
        ("bert", "best: layer 2 of 3", "50.0"),
        ("bert", "best: layer 2 of 3, vote over masks", "51.2"),
        ("bert", "last: layer 3", "45.0"),
        ("logistic regression on raw pixels 4×4", "the input", "25.0"),
    ]
    published = [row["test accuracy, %"] for row in transfer if row["from"] == "paper"]
    assert published == ["94.0", "95.3", "96.3"]

    tuned = page.table("L_GEN weight")
    columns = ("run", "start", "validation, %", "test, %", "vote, %", "test L_GEN")
    assert [tuple(row[name] for name in columns) for row in tuned if row["from"] == "ours"] == [
        ("ar", "pretrained", "72.0", "71.1", "–", "2.1234"),
        ("bert", "pretrained", "72.0", "70.0", "70.5", "2.1234"),
        ("few", "scratch", "72.0", "44.4", "–", "2.1234"),
    ]
    assert {row["test, %"] for row in tuned if row["from"] == "paper"} == {"98.5", "98.6", "99.0"}

    few = page.table("4 per class")
    assert [row["4 per class"] for row in few if row["from"] == "ours"] == ["23.4 ± 1.1", "44.4"]
    by_name = {row["model"]: row for row in few if row["from"] == "paper"}
    # Section 4.7 gives these accuracies in words.
    assert by_name["iGPT-L"]["4 per class"] == "73.2 ± 1.5"
    assert by_name["iGPT-L"]["25 per class"] == "87.6 ± 0.6"
    assert by_name["Mean Teacher"]["4 per class"] == "–"


def test_every_figure_says_how_to_make_it_again(everything, tmp_path):
    page = report(everything, tmp_path / "out")
    for run in find_runs([everything]):
        assert run.result.command in page.text
        assert str(run.folder) in page.text
    assert '"generative_weight": 1.0' in page.text
    assert page.text.count("on which nothing was chosen") == 5


def test_names_are_text_not_markup(tmp_path):
    name = '<script>alert("1")</script>|`&amp;*_[x](http://evil) $'
    of = runs.model(name, data=name)
    on = runs.data(f"folder:/images/{name}")
    runs.probe(tmp_path / "runs" / "<b>&", of, on=on)
    runs.fine_tuning(tmp_path / "runs" / "tuned", of, on=on)
    page = report(tmp_path / "runs", tmp_path / "out", title=name)
    assert "script" not in page.tags and "b" not in page.tags
    assert page.text.count(name) >= 5
    assert str(tmp_path / "runs" / "<b>&") in page.text
    assert name in "".join(cell for table in page.tables for row in table for cell in row)
    assert any(name in image["alt"] for image in page.images)


def test_what_is_missing_is_said_with_its_command(tmp_path):
    runs.write(tmp_path / "runs" / "evaluated", "evaluate", runs.model(), {"test_loss": 2.0})
    page = report(tmp_path / "runs", tmp_path / "out")
    assert not page.images
    assert len(page.tables) == 1
    for command in (
        "igpt pretrain --data SOURCE --output RUN",
        "igpt pretrain --data SOURCE --output RUN --objective bert",
        "igpt finetune MODEL --data SOURCE --output RUN",
        "igpt probe MODEL --data SOURCE --output RUN",
        "igpt probe MODEL --data SOURCE --output RUN --labels-per-class 4,25,400",
    ):
        assert f" {command}." in page.text
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["report.html"]


def test_a_missing_baseline_is_said(tmp_path):
    runs.probe(tmp_path / "runs" / "probe")
    page = report(tmp_path / "runs", tmp_path / "out")
    assert "igpt probe MODEL --data SOURCE --output RUN --baseline pixels." in page.text
    assert len(page.images) == 1


def test_baselines_alone_make_a_table_and_no_figure(tmp_path):
    runs.baseline(tmp_path / "runs" / "pixels")
    page = report(tmp_path / "runs", tmp_path / "out")
    assert not page.images
    assert page.table("features", "pre-training")[0]["test accuracy, %"] == "25.0"


def test_folded_validation_is_said(tmp_path):
    runs.fine_tuning(tmp_path / "runs" / "final", validation=None, on=runs.data(validation=0))
    runs.fine_tuning(tmp_path / "runs" / "searched")
    page = report(tmp_path / "runs", tmp_path / "out")
    assert "of the test split: final." in page.text
    rows = {row["run"]: row for row in page.table("L_GEN weight")}
    assert rows["final"]["validation, %"] == "–"


def test_a_probe_of_some_layers_has_no_row_for_the_last(tmp_path):
    layers = [{"layer": layer, "test_accuracy": 0.5} for layer in (2, 0)]
    run = runs.probe(tmp_path / "runs" / "some", test=(0.5,), layers=layers, best_layer=2)
    change(run, lambda result: result["settings"].update(train_on_validation=True))
    page = report(tmp_path / "runs", tmp_path / "out")
    rows = page.table("features", "pre-training")
    assert [row["features"] for row in rows if row["from"] == "ours"] == ["best: layer 2 of 3"]
    assert [row["layer"] for row in page.table("layer")] == ["0", "2"]
    assert "validation images (--train-on-validation): some." in page.text


def test_data_sets_have_figures_of_their_own(tmp_path):
    other = runs.data("tfds:stl10")
    runs.probe(tmp_path / "runs" / "a")
    runs.probe(tmp_path / "runs" / "b", test=(0.2, 0.3, 0.4, 0.1), on=other)
    runs.probe(tmp_path / "runs" / "c", on=runs.data("folder:/pets", classes=7))
    page = report(tmp_path / "runs", tmp_path / "out")
    assert len(page.images) == 3
    cells = [[cell for row in table for cell in row] for table in page.tables]
    assert sum("95.5" in table for table in cells) == 1
    assert sum("96.3" in table for table in cells) == 1
    assert "The paper has no results for this data set." in page.text


@pytest.mark.parametrize(
    ("name", "classes", "expected"),
    [
        ("tfds:cifar10", 10, "CIFAR-10"),
        ("tfds:cifar100", 100, "CIFAR-100"),
        ("folder:/images/CIFAR10-jpeg/@weight=2", 10, "CIFAR-10"),
        ("tfds:stl10 + folder:/web/cifar10", 10, "STL-10"),
        ("tfds:imagenet_resized/32x32", 1000, "ImageNet"),
        ("tfds:imagenette", 10, None),
        ("folder:/cifar10/pets", 10, None),
        ("folder:/tiny-imagenet-32", 200, None),
        ("digits", 10, None),
    ],
)
def test_data_sets_of_the_paper_are_known_by_name_and_classes(name, classes, expected):
    assert published.data_set_of(name, classes) == expected
