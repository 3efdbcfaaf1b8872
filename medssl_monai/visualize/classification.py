"""Figures of a classifier on a test set: confusion matrix, ROC curves, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike
from sklearn.metrics import roc_curve

from medssl_monai.metrics import CalibrationCurve, one_vs_rest_auroc, one_vs_rest_rates
from medssl_monai.visualize.figures import MUTED, new_figure, style, tidy

_FIRM_BIN = 10  # images below which a bin's accuracy is mostly chance


def confusion_figure(matrix: ArrayLike, class_names: Sequence[str]) -> Figure:
    """Confusion matrix: colour is the share of the true class, each cell gives share and count.

    Args:
        matrix: (C, C) counts; row is the true class, column the predicted one.
        class_names: C names.

    Raises:
        ValueError: for another shape, negative counts, or names that do not fit.
    """
    counts = np.asarray(matrix)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.shape[0] != len(class_names):
        raise ValueError(f"matrix has shape {counts.shape}; expected ({len(class_names)}, {len(class_names)})")
    if (counts < 0).any():
        raise ValueError("matrix holds negative counts")
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    side, label = 0.72 * len(counts), 0.09 * max(len(name) for name in class_names)
    figure = new_figure(side + label + 2.6, side + 0.7 * label + 1.1, "compressed")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(*counts.shape):
        text = f"{shares[i, j]:.0%}\n{counts[i, j]}" if counts[i, j] else "0"
        colour = MUTED if not counts[i, j] else "white" if shares[i, j] > 0.55 else "black"
        axes.text(j, i, text, ha="center", va="center", fontsize=8, color=colour)
    ticks = range(len(counts))
    axes.set_xticks(ticks, class_names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, [f"{name} (n = {total})" for name, total in zip(class_names, totals[:, 0])])
    axes.set(xlabel="Predicted class (highest probability)", ylabel="True class")
    axes.set_title(f"Confusion matrix, n = {counts.sum()} images", fontsize=11)
    bar = figure.colorbar(image, ax=axes, format=PercentFormatter(1))
    bar.set_label("Share of the true class")
    return figure


def label_confusion_figure(matrices: Mapping[str, ArrayLike]) -> Figure:
    """Confusion of each label that is there or not: two rows (without, with) by two columns (not called, called).

    Args:
        matrices: by label, [[TN, FP], [FN, TP]].

    Raises:
        ValueError: for no label, another shape or negative counts.
    """
    counts = {name: np.asarray(matrix) for name, matrix in matrices.items()}
    if not counts:
        raise ValueError("no label to show")
    for name, matrix in counts.items():
        if matrix.shape != (2, 2) or (matrix < 0).any():
            raise ValueError(f"the matrix of {name!r} is {matrix.tolist()}; expected counts [[TN, FP], [FN, TP]]")
    columns = min(3, len(counts))
    rows = -(-len(counts) // columns)
    figure = new_figure(2.9 * columns + 0.3, 2.5 * rows + 0.5)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(counts) :]:
        axes.set_visible(False)
    for axes, (name, matrix) in zip(grid, counts.items()):
        totals = matrix.sum(axis=1, keepdims=True)
        shares = np.divide(matrix, totals, out=np.zeros((2, 2)), where=totals > 0)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for i, j in np.ndindex(2, 2):
            text = f"{shares[i, j]:.0%}\n{matrix[i, j]}" if matrix[i, j] else "0"
            colour = MUTED if not matrix[i, j] else "white" if shares[i, j] > 0.55 else "black"
            axes.text(j, i, text, ha="center", va="center", fontsize=9, color=colour)
        axes.set_xticks([0, 1], ["not called", "called"])
        axes.set_yticks([0, 1], [f"without\n(n = {totals[0, 0]})", f"with\n(n = {totals[1, 0]})"])
        axes.set_title(name, fontsize=11)
    figure.suptitle(f"Each label at its threshold, n = {next(iter(counts.values())).sum()} images", fontsize=11)
    return figure


def roc_figure(
    y_true: ArrayLike,
    probabilities: ArrayLike,
    class_names: Sequence[str],
    operating_points: Mapping[str, Mapping[str, Any]] | None = None,
) -> Figure:
    """ROC curve of each class against the rest, with AUROC and number of cases in the legend.

    Args:
        y_true: class indices (N,) or 0/1 table (N, C).
        probabilities: (N, C).
        class_names: C names; a class without cases, or without others, has a legend entry but no curve.
        operating_points: as chosen on validation; where they fall on these cases is marked by a dot.

    Raises:
        ValueError: for shapes or labels that do not fit.
    """
    scores, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(y_true)
    aurocs = one_vs_rest_auroc(labels, scores)
    if len(class_names) != len(aurocs):
        raise ValueError(f"{len(class_names)} class names for {len(aurocs)} columns of probabilities")
    figure = new_figure(8.2, 4.6, "compressed")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (4, 4)))
    for k, name in enumerate(class_names):
        truth = labels[:, k] == 1 if labels.ndim == 2 else labels == k
        colour, line = style(k)
        if np.isnan(aurocs[k]):
            axes.plot([], [], color=colour, linestyle=line, label=f"{name}: undefined (n = {truth.sum()})")
            continue
        false_rate, true_rate, _ = roc_curve(truth, scores[:, k])
        label = f"{name}: AUROC {aurocs[k]:.3f} (n = {truth.sum()})"
        axes.plot(false_rate, true_rate, color=colour, linestyle=line, linewidth=1.6, label=label)
        limit = ((operating_points or {}).get(name) or {}).get("threshold")
        if limit is not None:
            rates = one_vs_rest_rates(truth.astype(int)[:, None], scores[:, [k]], float(limit))
            place = (1 - rates.specificity[0], rates.sensitivity[0])
            axes.plot(*place, marker="o", color=colour, markeredgecolor="black", markersize=7, linestyle="")
    if operating_points:
        axes.plot([], [], "o", color="white", markeredgecolor="black", label="operating point chosen on validation")
    axes.set(xlabel="1 − specificity", ylabel="Sensitivity", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    which = "Each label" if labels.ndim == 2 else "Each class against the rest"
    axes.set_title(f"{which}, n = {len(scores)} images", fontsize=11)
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    tidy(axes)
    return figure


def calibration_figure(curves: Mapping[str, CalibrationCurve | Mapping[str, Any]], *, labels: bool = False) -> Figure:
    """Accuracy against confidence of the most probable class, with the number of cases in each bin below.

    Args:
        curves: by name ("before", "after temperature scaling"), curves or what their ``to_json`` wrote.
        labels: the curves are those of labels that are each there or not: share with the label against probability.

    Raises:
        ValueError: for no curves.
    """
    if not curves:
        raise ValueError("no calibration curves to show")
    known = {
        name: curve if isinstance(curve, CalibrationCurve) else CalibrationCurve.from_json(curve)
        for name, curve in curves.items()
    }
    figure = new_figure(5.2, 6.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (4, 4)), label="perfect calibration")
    sparse = False
    for k, (name, curve) in enumerate(known.items()):
        firm, thin = curve.count >= _FIRM_BIN, (curve.count > 0) & (curve.count < _FIRM_BIN)
        sparse |= bool(thin.any())
        colour, line = style(k)
        look: dict[str, Any] = {"color": colour, "marker": "osD^v"[k % 5], "markersize": 5}
        label = f"{name}: ECE {curve.ece:.3f}"
        upper.plot(curve.confidence[firm], curve.accuracy[firm], linestyle=line, label=label, **look)
        upper.plot(curve.confidence[thin], curve.accuracy[thin], linestyle="", markerfacecolor="white", **look)
        lower.stairs(curve.count, curve.edges, color=colour, linestyle=line, linewidth=1.6)
        lower.stairs(curve.count, curve.edges, color=colour, alpha=0.15, fill=True)
    if sparse:
        upper.plot([], [], "o", color=MUTED, markerfacecolor="white", label=f"fewer than {_FIRM_BIN} images")
    n = sorted({int(curve.count.sum()) for curve in known.values()})
    upper.set_title(f"Calibration, n = {' / '.join(map(str, n))} images", fontsize=11)
    upper.set(ylabel="Share with the label" if labels else "Accuracy", xlim=(0, 1), ylim=(-0.02, 1.02))
    upper.legend(loc="upper left", frameon=False, fontsize=9)
    lower.set(xlabel="Probability of the label" if labels else "Confidence (highest probability)", ylabel="Images")
    for axes in (upper, lower):
        tidy(axes)
    return figure
