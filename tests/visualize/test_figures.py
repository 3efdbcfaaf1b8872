"""Figures: the numbers they show, files whole or not there, and no text over text or cut off."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.text import Text
from PIL import Image
from sklearn.metrics import roc_auc_score

from medssl_monai.core import OutputError
from medssl_monai.metrics import calibration_curve, choose_operating_points, classification_report
from medssl_monai.visualize import (
    calibration_figure,
    confusion_figure,
    roc_figure,
    saliency_panel,
    save_figure,
    summary_figure,
    training_curves_figure,
)

NAMES = ["Melanocytic nevus", "Melanoma", "Basal cell carcinoma", "Dermatofibroma"]


def case(n=300, signal=1.5, seed=0):
    random = np.random.default_rng(seed)
    y = random.choice(4, n, p=[0.6, 0.2, 0.15, 0.05])
    logits = random.normal(size=(n, 4))
    logits[np.arange(n), y] += signal
    return y, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def results():
    arms = {"Supervised": 1.0, "SRCL-Joint": 1.6, "SRCL, two steps": 2.2}
    return {
        arm: classification_report(*case(signal=signal), [i // 2 for i in range(300)], NAMES, n_boot=100)["metrics"]
        for arm, signal in arms.items()
    }


def texts(figure):
    """Visible texts with their boxes in pixels and their slant, after the layout is done."""
    figure.canvas.draw()
    unseen = set()  # labels of ticks beyond the axis have a box but are not drawn
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            unseen |= {
                tick.label1 for tick in axis.get_major_ticks() if not low - 1e-9 <= tick.get_loc() <= high + 1e-9
            }
    found = []
    for text in figure.findobj(Text):
        shown = text.get_visible() and (text.axes is None or text.axes.get_visible())
        box = text.get_window_extent()
        if shown and text not in unseen and text.get_text().strip() and box.width > 0:
            found.append((text.get_text(), box, text.get_rotation() % 90))
    return found


def assert_readable(figure):
    frame = figure.bbox
    boxes = texts(figure)
    assert boxes
    for name, box, _ in boxes:
        inside = frame.x0 - 1 <= box.x0 and box.x1 <= frame.x1 + 1 and frame.y0 - 1 <= box.y0 and box.y1 <= frame.y1 + 1
        assert inside, f"{name!r} is cut off"
    for (name, a, turned), (other, b, _) in itertools.combinations(boxes, 2):
        if turned:  # the upright box of a slanted label says little
            continue
        overlap = min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1
        assert not overlap, f"{name!r} lies on {other!r}"


def figures(results):
    y, p = case()
    matrix = np.array([[170, 5, 3, 0], [20, 30, 1, 2], [9, 1, 31, 0], [4, 0, 1, 9]])
    return {
        "summary": summary_figure(results, title="Skin lesions"),
        "one metric": summary_figure(results, ["macro_auroc"], title="Skin lesions at twenty per cent of the labels"),
        "confusion": confusion_figure(matrix, NAMES),
        "calibration": calibration_figure({"before": calibration_curve(p, y)}),
        "roc": roc_figure(y, p, NAMES, choose_operating_points(*case(seed=2), NAMES)),
        "curves": training_curves_figure(
            {"train_loss": [3, 2, 1], "val_loss": [3, 2.5, 2], "val_auroc": [0.5, 0.6, None]}
        ),
        "panel": saliency_panel(
            np.random.default_rng(0).random((2, 3, 16, 16)), {"SRCL": np.ones((2, 16, 16))}, ["a", "b"]
        ),
    }


@pytest.mark.parametrize("name", ["summary", "one metric", "confusion", "roc", "calibration", "curves", "panel"])
def test_nothing_overlaps_or_is_cut_off(results, name):
    assert_readable(figures(results)[name])


def test_the_check_for_overlap_sees_one():
    figure = confusion_figure(np.eye(2, dtype=int), ["a", "b"])
    figure.text(0.5, 0.5, "on top of it all " * 3)
    with pytest.raises(AssertionError, match=r"lies on|is cut off"):
        assert_readable(figure)


class TestSave:
    @pytest.mark.parametrize("ending", ["png", "PDF", "svg"])
    def test_same_figure_same_bytes(self, tmp_path, ending):
        for name in ("a", "b"):
            path = save_figure(
                confusion_figure(np.eye(2, dtype=int), ["a", "b"]), tmp_path / "new" / f"{name}.{ending}"
            )
        assert path.stat().st_size > 1000
        assert path.read_bytes() == (tmp_path / "new" / f"a.{ending}").read_bytes()
        assert sorted(p.name for p in path.parent.iterdir()) == [f"a.{ending}", f"b.{ending}"]

    def test_resolution(self, tmp_path):
        figure = confusion_figure(np.eye(2, dtype=int), ["a", "b"])
        save_figure(figure, tmp_path / "f.png", dpi=50)
        width, height = figure.get_size_inches()
        assert Image.open(tmp_path / "f.png").size == (int(width * 50), int(height * 50))

    def test_other_endings(self, tmp_path):
        with pytest.raises(OutputError, match=r"unknown kind of figure \(found '.gif', expected .png or .pdf"):
            save_figure(confusion_figure([[1]], ["a"]), tmp_path / "f.gif")

    def test_a_failure_leaves_the_old_file(self, tmp_path, monkeypatch):
        path = tmp_path / "f.png"
        path.write_text("old")
        figure = confusion_figure([[1]], ["a"])
        monkeypatch.setattr(figure, "savefig", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("disk")))
        with pytest.raises(RuntimeError, match="disk"):
            save_figure(figure, path)
        assert path.read_text() == "old"
        assert len(list(tmp_path.iterdir())) == 1


def test_no_figure_is_left_with_pyplot(results):
    before = pyplot.get_fignums()
    figures(results)
    assert pyplot.get_fignums() == before


class TestConfusion:
    def test_cells_show_share_of_the_row_and_count(self):
        figure = confusion_figure([[8, 2], [0, 5]], ["healthy", "ill"])
        axes = figure.axes[0]
        assert [text.get_text() for text in axes.texts] == ["80%\n8", "20%\n2", "0", "100%\n5"]
        assert [label.get_text() for label in axes.get_yticklabels()] == ["healthy (n = 10)", "ill (n = 5)"]
        assert axes.get_title() == "Confusion matrix, n = 15 images"
        np.testing.assert_allclose(axes.images[0].get_array(), [[0.8, 0.2], [0, 1]])

    def test_a_class_without_cases_is_an_empty_row(self):
        figure = confusion_figure([[3, 1], [0, 0]], ["a", "b"])
        assert [text.get_text() for text in figure.axes[0].texts][2:] == ["0", "0"]

    @pytest.mark.parametrize(
        ("matrix", "message"),
        [
            ([[1, 2, 3], [1, 2, 3]], r"shape \(2, 3\); expected \(2, 2\)"),
            ([[1, -1], [0, 1]], "negative counts"),
        ],
    )
    def test_errors(self, matrix, message):
        with pytest.raises(ValueError, match=message):
            confusion_figure(matrix, ["a", "b"])


class TestROC:
    def test_legend_states_auroc_and_n(self):
        y, p = case()
        legend = [text.get_text() for text in roc_figure(y, p, NAMES).legends[0].get_texts()]
        assert legend[1] == f"Melanoma: AUROC {roc_auc_score(y == 1, p[:, 1]):.3f} (n = {(y == 1).sum()})"
        assert len(legend) == 4

    def test_area_under_the_drawn_line_is_the_auroc(self):
        y, p = case()
        line = roc_figure(y, p, NAMES).axes[0].lines[2]
        assert np.trapezoid(line.get_ydata(), line.get_xdata()) == pytest.approx(roc_auc_score(y == 1, p[:, 1]))

    def test_operating_points_lie_where_their_threshold_leads(self):
        y, p = case()
        figure = roc_figure(y, p, NAMES, {"Melanoma": {"threshold": 0.3}, "Dermatofibroma": {"threshold": None}})
        dots = [line for line in figure.axes[0].lines if line.get_marker() == "o" and len(line.get_xdata())]
        assert len(dots) == 1
        called, truth = p[:, 1] >= 0.3, y == 1
        assert dots[0].get_xdata()[0] == pytest.approx(called[~truth].mean())
        assert dots[0].get_ydata()[0] == pytest.approx(called[truth].mean())

    def test_absent_classes_and_several_labels(self):
        p = np.array([[0.9, 0.1, 0.3], [0.2, 0.8, 0.3], [0.7, 0.6, 0.3]])
        legend = roc_figure([0, 1, 0], p, ["a", "b", "c"]).legends[0].get_texts()
        assert legend[2].get_text() == "c: undefined (n = 0)"
        table = roc_figure([[1, 0, 0], [0, 1, 0], [1, 1, 0]], p, ["a", "b", "c"]).legends[0].get_texts()
        assert table[1].get_text() == "b: AUROC 1.000 (n = 2)"

    def test_names_must_fit(self):
        with pytest.raises(ValueError, match="2 class names for 4 columns"):
            roc_figure(*case(), ["a", "b"])


class TestCalibration:
    def test_points_are_the_curves_and_thin_bins_are_hollow(self):
        y, p = case()
        curve = calibration_curve(p, y)
        figure = calibration_figure({"before": curve})
        firm = curve.count >= 10
        line = figure.axes[0].lines[1]
        np.testing.assert_allclose(line.get_xdata(), curve.confidence[firm])
        np.testing.assert_allclose(line.get_ydata(), curve.accuracy[firm])
        assert line.get_label() == f"before: ECE {curve.ece:.3f}"
        assert len(figure.axes[0].lines[2].get_xdata()) == ((curve.count > 0) & ~firm).sum()

    def test_a_report_from_disk_draws_the_same(self):
        y, p = case()
        curve = calibration_curve(p, y)
        drawn = calibration_figure({"before": curve.to_json()}).axes[0].lines[1]
        np.testing.assert_allclose(drawn.get_ydata(), curve.accuracy[curve.count >= 10])

    def test_nothing_to_show(self):
        with pytest.raises(ValueError, match="no calibration curves to show"):
            calibration_figure({})


class TestCurves:
    def test_phases_of_one_quantity_share_a_panel_and_gaps_stay_gaps(self):
        figure = training_curves_figure(
            {"train_loss": [3, 2, 1], "val_loss": [None, 2.5, 2], "lr": [1, 1, float("nan")]}
        )
        first, second = (axes for axes in figure.axes if axes.get_visible())
        assert first.get_ylabel() == "loss"
        assert [text.get_text() for text in first.get_legend().get_texts()] == ["training", "validation"]
        np.testing.assert_array_equal(first.lines[1].get_ydata(), [np.nan, 2.5, 2])
        np.testing.assert_array_equal(first.lines[0].get_xdata(), [1, 2, 3])
        assert second.get_ylabel() == "lr"

    def test_names_that_merely_begin_like_a_phase(self):
        figure = training_curves_figure({"trainable": [1, 2], "value": [1, 2]})
        assert [axes.get_ylabel() for axes in figure.axes] == ["trainable", "value"]

    @pytest.mark.parametrize(("history", "message"), [({}, "no curves to show"), ({"lr": []}, "'lr' has no values")])
    def test_errors(self, history, message):
        with pytest.raises(ValueError, match=message):
            training_curves_figure(history)


class TestSummary:
    def test_points_and_bars_are_the_reports(self, results):
        figure = summary_figure(results, ["macro_auroc"], interval="interval_90")
        axes = figure.axes[0]
        for k, entries in enumerate(results.values()):
            bar, point = axes.lines[2 * k], axes.lines[2 * k + 1]
            assert list(bar.get_xdata()) == entries["macro_auroc"]["interval_90"]
            assert point.get_xdata()[0] == entries["macro_auroc"]["estimate"]
        assert [label.get_text() for label in axes.get_yticklabels()] == list(results)
        assert figure.get_suptitle() == "n = 300 images of 150 subjects\nbars: 90 % interval over subjects"

    def test_missing_intervals_and_undefined_values_say_so(self, results):
        entry = dict(results["Supervised"]["macro_auroc"])
        arms = {
            "few subjects": {"m": {**entry, "interval_95": None}},
            "one class": {"m": {**entry, "estimate": None, "interval_95": None}},
        }
        figure = summary_figure(arms)
        assert [text.get_text() for text in figure.axes[0].texts] == [
            f"{entry['estimate']:.3f} (no interval)",
            "undefined",
        ]
        assert_readable(figure)

    def test_metrics_all_arms_have(self, results):
        cut = {"a": results["Supervised"], "b": {"top1_accuracy": results["Supervised"]["top1_accuracy"]}}
        assert [axes.get_title(loc="left") for axes in summary_figure(cut).axes] == ["Accuracy (top-1)"]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"metrics": ["dice"]}, r"arm 'Supervised' lacks \['dice'\]; it has \['macro_auroc'"),
            ({"interval": "95"}, "interval is '95'; expected 'interval_95' or 'interval_90'"),
            ({"results": {}}, "no arms to show"),
            ({"results": {"a": {"x": {}}, "b": {"y": {}}}}, r"the arms \['a', 'b'\] have no metric in common"),
        ],
    )
    def test_errors(self, results, change, message):
        with pytest.raises(ValueError, match=message):
            summary_figure(**{"results": results, **change})
