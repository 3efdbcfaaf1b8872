"""What all figures share: colours that colour-blind readers tell apart, sizes, and writing them whole or not at all.

Figures are made and drawn without pyplot, so that they need no display and leave no global state behind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from medssl_monai.core import OutputError, atomic_path

# Okabe & Ito's palette, ordered so that neighbours differ in lightness too; yellow is left out on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINES = ("-", "--", ":", "-.")
MUTED = "#666666"

# No dates or programme names in the files, so that the same figure is the same bytes.
_FORMATS: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    "svg": {"Date": None, "Creator": None},
}


def new_figure(width: float, height: float, layout: Literal["constrained", "compressed"] = "constrained") -> Figure:
    """An empty figure of ``width`` by ``height`` inches that lays its parts out without overlap.

    ``compressed`` is for pictures of fixed proportions: it takes the room between them away.
    """
    figure = Figure(figsize=(width, height), layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | Path, dpi: int = 150) -> Path:
    """Write a figure as PNG, PDF or SVG, by the ending of ``path``; the file is whole or not there.

    Args:
        figure: the figure.
        path: where to; missing folders are made, an existing file is replaced.
        dpi: dots an inch, for PNG and for pictures inside PDF and SVG.

    Returns:
        ``path``.

    Raises:
        OutputError: for another ending, or when the file cannot be written.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in _FORMATS:
        raise OutputError(
            "unknown kind of figure",
            where=path,
            found=repr(path.suffix),
            expected=" or ".join(f".{f}" for f in _FORMATS),
        )
    with atomic_path(path) as temporary, rc_context({"svg.hashsalt": "medssl"}):
        figure.savefig(temporary, format=kind, dpi=dpi, metadata=_FORMATS[kind])
    return path


def style(index: int) -> tuple[str, str]:
    """Colour and line style of the ``index``-th line; 28 differ."""
    return COLOURS[index % len(COLOURS)], LINES[index // len(COLOURS) % len(LINES)]


def tidy(axes: Axes) -> None:
    """Take away the upper and right border."""
    axes.spines[["top", "right"]].set_visible(False)
