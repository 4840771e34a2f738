import base64
import dataclasses
import html.parser
import re

import numpy as np
import pytest

from igpt_keras.errors import InputError
from igpt_keras.report import published, write_report
from igpt_keras.report.runs import find_runs
from tests.report import report_runs as runs
from tests.report.report_runs import change

pytest.importorskip("matplotlib")

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


def test_generated_and_real_images_are_rows_of_one_table(tmp_path):
    runs.comparison(tmp_path / "ours")
    runs.comparison(tmp_path / "fid", features="Inception", real_images=False)
    page = report(tmp_path, tmp_path / "out")
    rows = page.table("kernel distance")
    columns = ("run", "what", "features", "Fréchet distance", "kernel distance")
    ours = "layer 2 of image_gpt_nano"
    assert [tuple(row[column] for column in columns) for row in rows] == [
        ("fid", "samples", "Inception", "3.9877", "0.01234 ± 0.00123"),
        ("ours", "samples", ours, "3.9877", "0.01234 ± 0.00123"),
        ("ours", "real images", ours, "0.5123", "-0.00021 ± 0.00032"),
    ]
    assert [row["images"] for row in rows[1:]] == ["1,000 with 2,000 test", "900 with 1,100 test"]
    assert [(row["precision"], row["recall"]) for row in rows[1:]] == [
        ("0.876", "0.432"),
        ("0.900", "0.910"),
    ]
    assert "With the features “Inception” the distances are FID and KID" in page.text


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

    tuned = page.table("vote, %")
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


def test_courses_of_trainings_are_drawn_and_listed(tmp_path):
    folder = tmp_path / "runs"
    losses = [{"step": 10, "loss": 2.5}, {"step": 20, "loss": 2.25, "val_loss": 2.125}]
    runs.history(runs.pretraining(folder / "ar"), losses)
    runs.pretraining(folder / "without-history")
    tuned = [{"step": 5, "accuracy": 0.5, "val_accuracy": 0.625}]
    runs.history(runs.fine_tuning(folder / "tuned"), tuned)
    page = report(folder, tmp_path / "out")
    (row,) = page.table("validation loss, nats per token")
    assert row["run"].endswith(" ar")
    assert (row["step"], row["validation loss, nats per token"]) == ("20", "2.1250")
    assert [row["validation accuracy, %"] for row in page.table("validation accuracy, %")] == [
        "62.5"
    ]
    files = {file.name for file in (tmp_path / "out").glob("*.png")}
    assert files == {"pre-training-curves.png", "fine-tuning-curves.png"}


def test_a_damaged_history_is_named(tmp_path):
    run = runs.pretraining(tmp_path / "run")
    for damaged in ('{"loss": 1.0}\n', '{"step": 1, "loss": "low"}\n', "[1]\n", "step\n"):
        (run / "history.jsonl").write_text(damaged)
        with pytest.raises(InputError, match="history.jsonl is damaged"):
            write_report([run], tmp_path / "out")


def test_unfinished_runs_are_named_and_left_out(tmp_path):
    runs.pretraining(tmp_path / "runs" / "done")
    unfinished = tmp_path / "runs" / "search" / "unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "run.json").write_text("{}")
    (tmp_path / "runs" / "done" / "run.json").write_text("{}")
    page = report(tmp_path / "runs", tmp_path / "out")
    assert f"Unfinished runs are left out: {unfinished}." in page.text
    with pytest.raises(FileNotFoundError, match=f"unfinished: {re.escape(str(unfinished))}"):
        write_report([tmp_path / "runs" / "search"], tmp_path / "none")


def test_pictures_are_numbered_without_gaps(tmp_path):
    for name, drawn in (("a", True), ("b", False), ("c", True)):
        pictures = {"samples.png": sheet()} if drawn else {}
        runs.pretraining(tmp_path / "runs" / name, pictures=pictures)
    report(tmp_path / "runs", tmp_path / "out")
    files = sorted(file.name for file in (tmp_path / "out").glob("*.png"))
    assert files == ["samples-1.png", "samples-2.png"]


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


def test_bits_per_dimension_are_listed_where_there_are_any(tmp_path):
    runs.evaluation(tmp_path / "runs" / "palette")
    metrics = {"test_loss": 1.94081, "test_bits_per_dimension": 2.80001}
    runs.write(tmp_path / "runs" / "rgb", "evaluate", runs.model("rgb"), metrics)
    rows = report(tmp_path / "runs", tmp_path / "out").table("test bits per dimension")
    assert [row["test bits per dimension"] for row in rows] == ["–", "2.8000"]


def test_losses_given_the_class_are_named_so(tmp_path):
    runs.pretraining(tmp_path / "runs" / "ar")
    config = dataclasses.replace(runs.SMALL, num_classes=10)
    runs.pretraining(tmp_path / "runs" / "conditional", runs.model("conditional", config=config))
    rows = report(tmp_path / "runs", tmp_path / "out").table("images/s")
    named = {row["run"]: row["objective"] for row in rows if row["from"] == "ours"}
    assert named == {"ar": "AR", "conditional": "AR given the class"}


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


def test_probes_by_other_methods_stand_in_a_table_of_their_own(tmp_path):
    runs.probe(tmp_path / "runs" / "linear", test=[0.1, 0.2, 0.3, 0.1])
    neighbors = runs.probe(tmp_path / "runs" / "neighbors", test=[0.1, 0.9, 0.3, 0.1])
    change(neighbors, lambda content: content["metrics"].update(method="knn"))
    page = report(tmp_path / "runs", tmp_path / "out")
    (row,) = page.table("method")
    assert (row["method"], row["run"], row["model"]) == ("knn", "neighbors", "ar")
    assert (row["features"], row["test accuracy, %"]) == ("best: layer 1 of 3", "90.0")
    cells = [cell for table in page.tables for row in table for cell in row]
    assert cells.count("90.0") == 2  # on validation and on test


def confused(folder, validation, names=("cat", "dog")):
    """Gives a probe or a fine-tuning confusions and their picture."""
    confusion = {
        "class_names": names,
        "matrix": [[7, 3], [0, 10]],
        "most_confused": [{"label": "cat", "predicted": "dog", "images": 3, "share": 0.3}],
    }
    metrics = {"validation_accuracy": validation, "test_confusion": confusion}
    change(folder, lambda content: content["metrics"].update(metrics))
    runs.save_png(runs.contact_sheet(sheet()), folder / "confusions.png")


def test_confusions_of_the_best_are_drawn_and_listed(tmp_path):
    for name, validation in (("good", 0.6), ("better", 0.7)):
        confused(runs.probe(tmp_path / "runs" / name), validation)
    confused(runs.fine_tuning(tmp_path / "runs" / "tuned"), 0.8)
    runs.probe(tmp_path / "runs" / "without", validation=[0.9] * 4)
    page = report(tmp_path / "runs", tmp_path / "out")
    alts = [image["alt"] for image in page.images]
    assert sum(alt.startswith("Matrix: test images") for alt in alts) == 2
    assert sum("predicted wrong" in alt for alt in alts) == 2
    listed = [table[1:] for table in page.tables if table[0][:2] == ["class", "taken for"]]
    assert listed == [[["cat", "dog", "3", "30.0"]]] * 4
    assert "Best probe on folder:/images/cifar10: better" in page.text
    assert "Best fine-tuned classifier on folder:/images/cifar10: tuned" in page.text
    assert "cifar10: good" not in page.text
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"confusion-matrix-1.png", "confusions-1.png", "confusion-matrix-2.png"} <= names


def test_a_damaged_confusion_matrix_is_named(tmp_path):
    folder = runs.probe(tmp_path / "runs" / "probe")
    confused(folder, 0.5, names=("cat", "dog", "frog"))
    with pytest.raises(InputError, match="a confusion matrix of 3 classes is"):
        write_report([tmp_path / "runs"], tmp_path / "out")


def test_folded_validation_is_said(tmp_path):
    runs.fine_tuning(tmp_path / "runs" / "final", validation=None, on=runs.data(validation=0))
    runs.fine_tuning(tmp_path / "runs" / "searched", lora_rank=4, freeze_blocks=1)
    before = runs.fine_tuning(tmp_path / "runs" / "before")
    change(before, lambda result: result["metrics"].pop("trainable_parameters"))
    page = report(tmp_path / "runs", tmp_path / "out")
    assert "of the test split: final." in page.text
    rows = {row["run"]: row for row in page.table("validation, %")}
    assert rows["final"]["validation, %"] == "–"
    trained = {name: (row["trained"], row["parameters"]) for name, row in rows.items()}
    assert trained["final"] == ("weights", "1,234 of 56,789")
    assert trained["searched"] == ("LoRA 4, 1 frozen", "1,234 of 56,789")
    assert trained["before"] == ("weights", "–")


def test_what_all_fine_tunings_have_in_common_stands_in_the_caption(tmp_path):
    for name, rate in (("low", 1e-4), ("high", 1e-3)):
        runs.fine_tuning(tmp_path / "runs" / name, learning_rate=rate)
    page = report(tmp_path / "runs", tmp_path / "out")
    (header,) = [table[0] for table in page.tables if "validation, %" in table[0]]
    # One accuracy and one L_GEN, but readers look for what was measured. The paper's input differs.
    settings = ["from", "run", "start", "learning rate", "input"]
    assert header == [*settings, "validation, %", "test, %", "test L_GEN"]
    rates = {row["learning rate"] for row in page.table("learning rate")}
    assert rates == {"0.0001", "0.001", "–"}
    assert "All of our runs have: objective AR, L_GEN weight 1, head last, trained" in page.text


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
