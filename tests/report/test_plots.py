"""The plots, as Matplotlib's own objects tell of them."""

import io

import numpy as np
import pytest
from PIL import Image

from igpt_keras.report.collect import Bars, LossPanel, ObjectivePanel
from igpt_keras.report.curves import loss_curves
from tests.report import report_runs as runs
from tests.report.report_runs import findings

plots = pytest.importorskip("igpt_keras.report.plots")


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


def test_curves_have_integer_steps_and_a_point_for_each_record(tmp_path):
    for name in ("a", "b"):
        folder = runs.pretraining(tmp_path / name)
        losses = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.5, "val_loss": 2.0}]
        runs.history(folder, losses)
    panels = loss_curves(findings(tmp_path))
    (axes,) = plots.training_curves(panels, "loss, nats", 100).axes
    assert axes.get_title(loc="left") == "AR on folder:/images/cifar10, 4×4 pixels, 8 colors"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "loss, nats")
    assert all(step == int(step) for step in axes.get_xticks())
    training, validation = axes.lines[0], axes.lines[1]
    assert list(training.get_ydata()) == [300, 250]
    assert (list(validation.get_xdata()), list(validation.get_ydata())) == ([2], [200])
    assert validation.get_marker() != axes.lines[3].get_marker()


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


def test_a_matrix_of_few_classes_shows_names_and_numbers():
    figure = plots.confusion_matrix(np.array([[90, 10], [0, 0]]), ["cat", "dog"])
    (axes,) = figure.axes
    numbers = {text.get_position(): (text.get_text(), text.get_color()) for text in axes.texts}
    # A position is a column and a row; dark cells have light numbers.
    assert numbers == {(0, 0): ("90", "white"), (1, 0): ("10", "black")}
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["cat", "dog"]
    np.testing.assert_array_equal(axes.images[0].get_array(), [[0.9, 0.1], [0, 0]])
    many = plots.confusion_matrix(np.eye(50, dtype=int), [str(name) for name in range(50)])
    assert not many.axes[0].texts
