"""Saliency and Grad-CAM of a batch against one image at a time."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from monai.networks.nets import resnet18
from monai.visualize import GradCAM, VanillaGrad
from torch import Tensor, nn

from benchmarks.harness import Row, paired
from medssl_monai.networks import SRCLNet
from medssl_monai.visualize import grad_cam, saliency

Method = Callable[[nn.Module, Tensor], Tensor]


def _networks(tiny: bool) -> dict[str, tuple[nn.Module, str]]:
    """Networks by name, with the layer of their Grad-CAM."""
    torch.manual_seed(0)
    width = 0.125 if tiny else 1.0
    nets: dict[str, tuple[nn.Module, str]] = {"ResNet-18": (SRCLNet("resnet18", width=width), "encoder.body.layer3")}
    if not tiny:
        nets["DenseNet-121"] = (SRCLNet("densenet121"), "encoder.body.denseblock3")
        whole = resnet18(spatial_dims=2, n_input_channels=3, num_classes=7)
        nets["MONAI's `resnet18` (stem of stride 1)"] = (whole, "layer3")
    return {name: (net.eval(), layer) for name, (net, layer) in nets.items()}


def saliency_maps(tiny: bool = False) -> list[Row]:
    """Input gradients: MONAI's ``VanillaGrad`` takes one image."""

    def monai(net: nn.Module, images: Tensor) -> Tensor:
        method = VanillaGrad(net)
        return torch.cat([method(image[None].clone()) for image in images]).abs().amax(dim=1)

    def singly(net: nn.Module, images: Tensor) -> Tensor:
        return torch.cat([saliency(net, image[None]) for image in images])

    rows = []
    for name, (net, _) in _networks(tiny).items():
        rows += _rows("saliency", name, net, saliency, {"MONAI `VanillaGrad`": monai, "ours": singly}, tiny)
    return rows


def cam_maps(tiny: bool = False) -> list[Row]:
    """Grad-CAM: MONAI's takes a batch, but mixes its classes."""
    rows = []
    for name, (net, layer) in _networks(tiny).items():

        def monai(net: nn.Module, images: Tensor, layer: str = layer) -> Tensor:
            method = GradCAM(net, layer, postprocessing=lambda x: x)
            maps = torch.cat([method(image[None]).detach() for image in images])[:, 0]
            for module in net.modules():  # its hooks would stay and add up
                module._forward_hooks.clear()
                module._backward_hooks.clear()
            return maps

        def ours(net: nn.Module, images: Tensor, layer: str = layer) -> Tensor:
            return grad_cam(net, images, layer)

        def singly(net: nn.Module, images: Tensor, layer: str = layer) -> Tensor:
            return torch.cat([grad_cam(net, image[None], layer) for image in images])

        rows += _rows("grad-cam", name, net, ours, {"MONAI `GradCAM`": monai, "ours": singly}, tiny)
    return rows


def _rows(benchmark: str, name: str, net: nn.Module, ours: Method, peers: dict[str, Method], tiny: bool) -> list[Row]:
    number, size, repeats = (3, 64, 1) if tiny else (32, 64, 7)
    images = torch.rand(number, 3, size, size, generator=torch.Generator().manual_seed(1))
    rows = []
    for peer, method in peers.items():
        # in double precision: rounding can flip a ReLU near zero, where the gradient jumps
        exact, few = deepcopy(net).double(), images[:3].double()
        torch.testing.assert_close(ours(exact, few), method(exact, few), rtol=1e-8, atol=1e-12)
        pairs = paired(lambda: ours(net, images), lambda method=method: method(net, images), repeats)
        goal = "8 times or more at batch 32" if peer.startswith("MONAI") else None
        ratio = sorted(pairs.ratios)[len(pairs.ratios) // 2]
        rows.append(
            pairs.row(
                benchmark,
                f"{name}, {number} images of {size} pixels",
                f"{peer}, one image at a time",
                "maps in float64, 1e-8",
                goal=goal,
                met=None if goal is None or tiny else ratio >= 8,
            )
        )
    return rows
