"""Class activation maps (Grad-CAM): which part of a feature map the score of a class rests on, for whole batches.

MONAI's ``GradCAM`` takes a batch, but with a class for each image it sums the scores of all the batch's classes for
every image, so that maps mix classes; it also leaves its hooks on the network and gradients in the parameters, and sets
every module to one mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medssl_monai.visualize.explained import batches, chosen_scores, in_fastest_layout, undisturbed


def grad_cam(
    network: nn.Module,
    images: Tensor,
    layer: str,
    targets: Tensor | Sequence[int] | None = None,
    batch_size: int = 32,
) -> Tensor:
    """Grad-CAM (Selvaraju et al., arXiv:1610.02391, eq. 1 and 2), upsampled to the image, not normalised.

    The map of an image is ReLU(sum over channels k of a_k A_k), A the layer's output, a_k the mean over positions of
    the class score's gradient with respect to A_k. Layers before ``layer`` keep nothing for the backward pass. The
    network is left as it was: modes, gradients, hooks.

    Args:
        network: maps (N, C, H, W) or (N, C, H, W, D) to scores (N, classes); with one score, that one is explained.
        images: the images.
        layer: name of the module, as in ``network.named_modules()``; its output is a feature map of the images, used
            once a forward pass.
        targets: (N,) class to explain for each image; ``None`` takes the class of highest score.
        batch_size: images a pass, bounding memory.

    Returns:
        (N, H, W) or (N, H, W, D), at least 0, on the device of ``images``, detached.

    Raises:
        ValueError: for other shapes, images that are not floating point, a layer that the network lacks, that is not
            used once, that gives no feature map or that the scores do not depend on, targets that are no classes of the
            network, or a network with lazy parameters without values.
    """
    modules = dict(network.named_modules())
    if not layer or layer not in modules:
        raise ValueError(f"the network has no layer {layer!r}; known: {', '.join(name for name in modules if name)}")

    def explain(channels_last: bool) -> Tensor:
        maps = []
        with undisturbed(network, channels_last):
            for part, classes in batches(images, targets, batch_size, channels_last):
                outputs: list[Tensor] = []
                handle = modules[layer].register_forward_hook(_Cut(outputs, layer, part))
                try:
                    scores = network(part)
                finally:
                    handle.remove()
                score = chosen_scores(scores, classes, len(part))
                if len(outputs) != 1:
                    raise ValueError(f"layer {layer!r} was used {len(outputs)} times in a forward pass; expected once")
                maps.append(_map(score, outputs[0], layer, part.shape[2:]))
        return torch.cat(maps)

    return in_fastest_layout(explain)


class _Cut:
    """Forward hook that begins the graph at a layer's output and keeps that output."""

    def __init__(self, outputs: list[Tensor], layer: str, images: Tensor) -> None:
        self.outputs, self.layer, self.images = outputs, layer, images

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim != self.images.ndim or len(output) != len(self.images):
            found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"layer {self.layer!r} gives {found}; expected a feature map of {self.images.ndim} dimensions, one for "
                f"each of {len(self.images)} images"
            )
        start = output.detach().requires_grad_(True)
        self.outputs.append(start)
        return start.clone()  # the next layer may work in place, which a leaf does not allow


def _map(score: Tensor, features: Tensor, layer: str, size: torch.Size) -> Tensor:
    gradient = torch.autograd.grad(score, features, allow_unused=True)[0] if score.requires_grad else None
    if gradient is None:
        raise ValueError(f"the scores do not depend on layer {layer!r}; name one that lies before them")
    weights = gradient.flatten(2).mean(dim=2)
    cam = F.relu(torch.einsum("nk,nk...->n...", weights, features.detach()))
    mode = "bilinear" if len(size) == 2 else "trilinear"
    return F.interpolate(cam[:, None], size=size, mode=mode, align_corners=False)[:, 0]


def last_feature_layer(network: nn.Module, image: Tensor, min_size: int = 4) -> tuple[str, tuple[int, ...]] | None:
    """The deepest layer whose map is still fine enough to point at something.

    It is the module that is finished last, in one forward pass, among those that give a feature map with at least
    ``min_size`` positions along each side and are used once. In the package's encoders that is ``encoder.body``, the
    last feature map (1/32 of the image), for images of 128 pixels and more; for smaller ones an earlier stage.

    Args:
        network: see :func:`grad_cam`.
        image: one image, (C, H, W) or (C, H, W, D).
        min_size: positions along each side.

    Returns:
        Name of the layer and size of its map, or ``None`` when there is none.
    """
    finished: list[tuple[str, tuple[int, ...]]] = []

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                finished.append((name, tuple(output.shape)))

        return hook

    # inside, where other threads wait: their passes would be noted too
    with undisturbed(network), torch.no_grad():
        handles = [module.register_forward_hook(note(name)) for name, module in network.named_modules() if name]
        try:
            network(image.detach().clone()[None])
        finally:
            for handle in handles:
                handle.remove()
    used = [name for name, _ in finished]
    for name, shape in reversed(finished):
        if len(shape) == image.ndim + 1 and min(shape[2:]) >= min_size and used.count(name) == 1:
            return name, shape[2:]
    return None
