"""One picture for the reader in a hurry: what each arm reached, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medssl_monai.visualize.figures import COLOURS, MUTED, new_figure, tidy

_NAMES = {
    "macro_auroc": "AUROC, mean over classes",
    "top1_accuracy": "Accuracy (top-1)",
    "balanced_top1_accuracy": "Balanced accuracy (top-1)",
    "ovr_accuracy": "Accuracy, one class against the rest",
    "ovr_sensitivity": "Sensitivity, one class against the rest",
    "ovr_specificity": "Specificity, one class against the rest",
}


def summary_figure(
    results: Mapping[str, Mapping[str, Mapping[str, Any]]],
    metrics: Sequence[str] | None = None,
    *,
    interval: str = "interval_95",
    title: str = "",
) -> Figure:
    """Point estimates with interval bars: a panel for each metric, a line for each arm.

    Args:
        results: by arm, by metric, the entries of :func:`~medssl_monai.metrics.classification_report` (``estimate``,
            ``interval_90``, ``interval_95``, ``n``, ``n_subjects``).
        metrics: which, in which order; ``None`` takes those that all arms have, in the first arm's order.
        interval: ``interval_95`` or ``interval_90``.
        title: goes before the number of images and subjects.

    Raises:
        ValueError: for no arms, no common metric, a metric an arm lacks, or another interval.
    """
    if interval not in ("interval_90", "interval_95"):
        raise ValueError(f"interval is {interval!r}; expected 'interval_95' or 'interval_90'")
    if not results:
        raise ValueError("no arms to show")
    if metrics is None:
        first, *others = results.values()
        metrics = [name for name in first if all(name in other for other in others)]
    if not metrics:
        raise ValueError(f"the arms {list(results)} have no metric in common")
    for arm, entries in results.items():
        missing = [name for name in metrics if name not in entries]
        if missing:
            raise ValueError(f"arm {arm!r} lacks {missing}; it has {list(entries)}")
    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    longest = max(len(arm) for arm in results)
    figure = new_figure(3.3 * columns + 0.075 * longest + 0.2, (0.95 + 0.46 * len(results)) * rows + 1.0)
    grid = figure.subplots(rows, columns, squeeze=False)
    for index, axes in enumerate(grid.ravel()):
        if index >= len(metrics):
            axes.set_visible(False)
            continue
        _panel(axes, {arm: entries[metrics[index]] for arm, entries in results.items()}, interval)
        axes.set_title(_NAMES.get(metrics[index], metrics[index].replace("_", " ")), fontsize=10, loc="left")
        axes.set_yticklabels(list(results) if index % columns == 0 else [])
    counts = {key: _range(results, metrics, key) for key in ("n", "n_subjects")}
    share = interval.removeprefix("interval_")
    lines = [f"n = {counts['n']} images of {counts['n_subjects']} subjects", f"bars: {share} % interval over subjects"]
    below = ("; " if columns > 1 else "\n").join(lines)
    wrapped = fill(title, int(11 * figure.get_figwidth()))
    figure.suptitle(f"{wrapped}\n{below}" if title else below, fontsize=11)
    figure.supxlabel("Estimate; each axis shows the range of its values only", fontsize=9)
    figure.get_layout_engine().set(hspace=0.08, wspace=0.04)  # type: ignore[union-attr, call-arg]
    return figure


def _panel(axes: Axes, entries: Mapping[str, Mapping[str, Any]], interval: str) -> None:
    # With an interval the room to its right takes the numbers; limits come from what is shown, not from 0.
    ends = [end for entry in entries.values() for end in (entry.get(interval) or [])]
    shown = ends + [entry["estimate"] for entry in entries.values() if entry["estimate"] is not None]
    low, high = (min(shown), max(shown)) if shown else (0.0, 1.0)
    room = max(high - low, 0.02)
    for k, entry in enumerate(entries.values()):
        colour, estimate, bar = COLOURS[k % len(COLOURS)], entry["estimate"], entry.get(interval)
        if estimate is None:
            text = "undefined"
        elif bar is None:
            axes.plot(estimate, k, "o", markerfacecolor="white", markeredgecolor=colour, markersize=7)
            text = f"{estimate:.3f} (no interval)"
        else:
            axes.plot(bar, [k, k], color=colour, linewidth=2.4, solid_capstyle="butt")
            axes.plot(estimate, k, "o", color=colour, markersize=7)
            text = f"{estimate:.3f} ({bar[0]:.3f}–{bar[1]:.3f})"
        axes.text(1.0, k - 0.16, text, transform=axes.get_yaxis_transform(), ha="right", va="bottom", fontsize=8)
    axes.set_ylim(len(entries) - 0.5, -0.75)
    axes.set_yticks(range(len(entries)))
    axes.set_xlim(low - 0.1 * room, high + 0.1 * room)
    axes.locator_params(axis="x", nbins=5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=MUTED, alpha=0.2, linewidth=0.6)
    tidy(axes)


def _range(results: Mapping[str, Mapping[str, Mapping[str, Any]]], metrics: Sequence[str], key: str) -> str:
    found = sorted({entries[name][key] for entries in results.values() for name in metrics})
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"
