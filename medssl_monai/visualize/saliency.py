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

from medssl_monai.visualize.figures import new_figure

_CELL = 1.7  # inches a picture


def saliency(
    network: nn.Module, images: Tensor, targets: Tensor | Sequence[int] | None = None, batch_size: int = 32
) -> Tensor:
    """Largest absolute gradient over the channels of a class's score with respect to each pixel.

    The network runs in evaluation mode, in which cases do not see each other, so that one backward pass of the summed
    scores gives every case its own gradient. Its modules' modes are put back, its parameters' gradients not touched.

    Args:
        network: maps (N, C, H, W) to scores (N, classes); with one score only, that one is explained.
        images: (N, C, H, W).
        targets: (N,) class to explain for each image; ``None`` takes the class of highest score.
        batch_size: images a pass, bounding memory.

    Returns:
        (N, H, W), on the device of ``images``, detached.

    Raises:
        ValueError: for other shapes, or targets that are no classes of the network.
    """
    if images.ndim != 4 or not len(images):
        raise ValueError(f"images have shape {tuple(images.shape)}; expected (N, C, H, W) with at least one image")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1")
    chosen = None if targets is None else torch.as_tensor(targets, device=images.device)
    if chosen is not None and (chosen.shape != (len(images),) or chosen.dtype.is_floating_point):
        raise ValueError(
            f"targets have shape {tuple(chosen.shape)} and dtype {chosen.dtype}; "
            f"expected one class index for each of {len(images)} images"
        )
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        maps = [
            _gradient(network, batch, None if chosen is None else chosen[start : start + batch_size])
            for start, batch in ((i, images[i : i + batch_size]) for i in range(0, len(images), batch_size))
        ]
    finally:
        for module, mode in modes:
            module.training = mode
    return torch.cat(maps)


def _gradient(network: nn.Module, images: Tensor, targets: Tensor | None) -> Tensor:
    # The caller may be inside no_grad or inference_mode; a copy made outside inference mode can carry a gradient.
    with torch.inference_mode(False), torch.enable_grad():
        pixels = images.detach().clone().requires_grad_(True)
        scores = network(pixels)
        if not isinstance(scores, Tensor) or scores.ndim != 2 or len(scores) != len(images):
            found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(f"the network returned {found} for {len(images)} images; expected scores (N, classes)")
        wanted = scores.argmax(dim=1) if targets is None else targets.long()
        if int(wanted.min()) < 0 or int(wanted.max()) >= scores.shape[1]:
            raise ValueError(
                f"targets reach from {int(wanted.min())} to {int(wanted.max())}; "
                f"the network has classes 0 to {scores.shape[1] - 1}"
            )
        (gradient,) = torch.autograd.grad(scores.gather(1, wanted[:, None]).sum(), pixels)
    return gradient.abs().amax(dim=1)


def saliency_panel(
    images: Tensor | NDArray[np.generic],
    maps: Mapping[str, Tensor | NDArray[np.generic]],
    titles: Sequence[str] | None = None,
) -> Figure:
    """A row for each image, with a column for the input and one for each method, as SRCL fig. 5.

    Each map runs from black (0) to white (its own 99th percentile), because gradients of different networks have
    different scales: compare where a map is bright, not how bright two maps are.

    Args:
        images: (N, H, W), (N, 1, H, W) or (N, 3, H, W); uint8, or floats. Images outside [0, 1] (normalised ones) are
            stretched each to their own range.
        maps: (N, H, W) saliency maps by name of the method.
        titles: a line for each image (true and predicted class, say), left of its row.

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
    caption = "Saliency: |gradient| of the class score, largest over channels; bright = strong"
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
