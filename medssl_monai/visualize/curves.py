"""Training curves: losses and metrics over the epochs, one panel a quantity."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medssl_monai.visualize.figures import new_figure, style, tidy

_PHASE = re.compile(r"^(train|training|val|valid|validation|test)[_/ .:-]+", re.IGNORECASE)
_PHASES = {"train": "training", "val": "validation", "valid": "validation"}
_COLUMNS = 3


def training_curves_figure(history: Mapping[str, Sequence[float | None]], unit: str = "epoch") -> Figure:
    """Curves by name; those that differ in phase only (``train_loss``, ``val_loss``) share a panel.

    Args:
        history: values by name, the first of epoch 1; ``None`` and NaN leave a gap.
        unit: what the horizontal axis counts.

    Raises:
        ValueError: for no curves or an empty one.
    """
    if not history:
        raise ValueError("no curves to show")
    panels: dict[str, list[tuple[str, str]]] = {}
    for key, values in history.items():
        if not len(values):
            raise ValueError(f"curve {key!r} has no values")
        found = _PHASE.match(key)
        phase = found.group(1).lower() if found else ""
        panels.setdefault(key[found.end() :] if found else key, []).append((_PHASES.get(phase, phase), key))
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(3.9 * columns, 2.8 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (quantity, lines) in zip(grid, panels.items()):
        for k, (phase, key) in enumerate(lines):
            curve = np.array([np.nan if value is None else value for value in history[key]], dtype=np.float64)
            colour, line = style(k)
            marker = "o" if len(curve) <= 30 else ""
            steps = np.arange(1, len(curve) + 1)
            axes.plot(steps, curve, color=colour, linestyle=line, marker=marker, markersize=3, label=phase or key)
        axes.set(xlabel=unit.capitalize(), ylabel=quantity.replace("_", " ").replace("auroc", "AUROC"))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        if len(lines) > 1 or lines[0][0]:
            axes.legend(frameon=False, fontsize=8)
        tidy(axes)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    return figure
