"""Saliency: which pixels the score of a class answers to (SRCL fig. 5), for whole batches at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from medssl_monai.visualize.explained import batches, chosen_scores, in_fastest_layout, undisturbed
from medssl_monai.visualize.figures import new_figure

_CELL = 1.7  # inches a picture
SALIENCY_CAPTION = "Saliency: |gradient| of the class score, largest over channels; bright = strong"
CAM_CAPTION = "Grad-CAM: where a feature map speaks for the class"


def saliency(
    network: nn.Module, images: Tensor, targets: Tensor | Sequence[int] | None = None, batch_size: int = 32
) -> Tensor:
    """Largest absolute gradient over the channels of a class's score with respect to each pixel.

    One backward pass of the summed scores gives every image its own gradient, because the network runs in evaluation
    mode. It is left as it was: modes, gradients, which parameters want one.

    Args:
        network: maps (N, C, H, W) or (N, C, H, W, D) to scores (N, classes); with one score, that one is explained.
        images: the images.
        targets: (N,) class to explain for each image; ``None`` takes the class of highest score.
        batch_size: images a pass, bounding memory.

    Returns:
        (N, H, W) or (N, H, W, D), on the device of ``images``, detached.

    Raises:
        ValueError: for other shapes, images that are not floating point, targets that are no classes of the network, or
            a network with lazy parameters without values.
    """

    def explain(channels_last: bool) -> Tensor:
        maps = []
        with undisturbed(network, channels_last):
            for part, classes in batches(images, targets, batch_size, channels_last):
                score = chosen_scores(network(part.requires_grad_(True)), classes, len(part))
                (gradient,) = torch.autograd.grad(score, part)
                maps.append(gradient.abs().amax(dim=1))
        return torch.cat(maps)

    return in_fastest_layout(explain)


def saliency_panel(
    images: Tensor | NDArray[np.generic],
    maps: Mapping[str, Tensor | NDArray[np.generic]],
    titles: Sequence[str] | None = None,
    caption: str = SALIENCY_CAPTION,
) -> Figure:
    """A row for each image, with a column for the input and one for each method, as SRCL fig. 5.

    Each map runs from black (0) to white (its own 99th percentile), because gradients of different networks have
    different scales: compare where a map is bright, not how bright two maps are.

    Args:
        images: (N, H, W), (N, 1, H, W) or (N, 3, H, W); uint8, or floats. Images outside [0, 1] (normalised ones) are
            stretched each to their own range.
        maps: (N, H, W) saliency maps by name of the method.
        titles: a line for each image (true and predicted class, say), left of its row.
        caption: line below the pictures that says what the maps are.

    Raises:
        ValueError: for shapes or numbers that do not fit, or no method.
    """
    pictures = _pictures(_array(images))
    if not maps:
        raise ValueError("no saliency maps to show; expected at least one method")
    columns = {name: _array(values).astype(np.float64) for name, values in maps.items()}
    for name, values in columns.items():
        if values.shape != pictures.shape[:3]:
            raise ValueError(f"maps of {name!r} have shape {values.shape}; the images need {pictures.shape[:3]}")
    if titles is not None and len(titles) != len(pictures):
        raise ValueError(f"{len(titles)} titles for {len(pictures)} images")
    rows, height, width = pictures.shape[:3]
    longest = max((len(line) for title in titles or [] for line in title.split("\n")), default=0)
    margin = 0.2 + 0.075 * longest
    figure = new_figure(_CELL * (1 + len(columns)) + margin, _CELL * height / width * rows + 0.8, "compressed")
    grid = figure.subplots(rows, 1 + len(columns), squeeze=False)
    for row in range(rows):
        _show(grid[row][0], pictures[row].squeeze(-1) if pictures.shape[3] == 1 else pictures[row], 1.0)
        for column, values in enumerate(columns.values(), start=1):
            _show(grid[row][column], values[row], max(float(np.percentile(values[row], 99)), 1e-12))
        if titles is not None:
            grid[row][0].set_ylabel(titles[row], rotation=0, ha="right", va="center", fontsize=9, labelpad=6)
    for axes, name in zip(grid[0], ["Input", *columns]):
        axes.set_title(name, fontsize=10)
    figure.supxlabel(fill(caption, int(15 * figure.get_figwidth())), fontsize=8)
    return figure


def _show(axes: Axes, picture: NDArray[np.float64], top: float) -> None:
    axes.imshow(picture, cmap="gray", vmin=0, vmax=top, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])


def _array(values: Tensor | NDArray[np.generic]) -> NDArray[np.generic]:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _pictures(images: NDArray[np.generic]) -> NDArray[np.float64]:
    """Images as (N, H, W, channels) in [0, 1]."""
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise ValueError(
            f"images have shape {images.shape}; expected (N, H, W), (N, 1, H, W) or (N, 3, H, W), at least one image"
        )
    pictures = np.moveaxis(images.astype(np.float64), 1, -1)
    if images.dtype == np.uint8:
        return pictures / 255
    low, high = (edge(pictures, axis=(1, 2, 3), keepdims=True) for edge in (np.min, np.max))
    stretched = (pictures - low) / np.where(high > low, high - low, 1)
    return np.asarray(np.where((low < 0) | (high > 1), stretched, pictures))
