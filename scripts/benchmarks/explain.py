"""Saliency and Grad-CAM of a batch against one image at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch
from monai.networks.nets import resnet18
from monai.visualize import GradCAM, VanillaGrad
from torch import Tensor, nn

from benchmarks.harness import Pairs, Row, choose_clock, chosen_clock, paired
from medssl_monai.networks import SRCLNet
from medssl_monai.visualize import grad_cam, saliency

_SCRIPTS = Path(__file__).parents[1]
Method = Callable[[nn.Module, Tensor, str], Tensor]
"""Maps of images by a network; the name is that of the layer, for Grad-CAM."""


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


def _saliency() -> tuple[Method, dict[str, Method]]:
    """Input gradients: MONAI's ``VanillaGrad`` takes one image."""

    def monai(net: nn.Module, images: Tensor, layer: str) -> Tensor:
        method = VanillaGrad(net)
        return torch.cat([method(image[None].clone()) for image in images]).abs().amax(dim=1)

    def ours(net: nn.Module, images: Tensor, layer: str) -> Tensor:
        return saliency(net, images)

    return ours, {"MONAI `VanillaGrad`": monai, "ours": _singly(ours)}


def _cam() -> tuple[Method, dict[str, Method]]:
    """Grad-CAM: MONAI's takes a batch, but mixes its classes."""

    def monai(net: nn.Module, images: Tensor, layer: str) -> Tensor:
        method = GradCAM(net, layer, postprocessing=lambda x: x)
        maps = torch.cat([method(image[None]).detach() for image in images])[:, 0]
        for module in net.modules():  # its hooks would stay and add up
            module._forward_hooks.clear()
            module._backward_hooks.clear()
        return maps

    def ours(net: nn.Module, images: Tensor, layer: str) -> Tensor:
        return grad_cam(net, images, layer)

    return ours, {"MONAI `GradCAM`": monai, "ours": _singly(ours)}


def _singly(method: Method) -> Method:
    return lambda net, images, layer: torch.cat([method(net, image[None], layer) for image in images])


METHODS = {"saliency": _saliency, "grad-cam": _cam}


def saliency_maps(tiny: bool = False) -> list[Row]:
    """Input gradients of a batch."""
    return _rows("saliency", tiny)


def cam_maps(tiny: bool = False) -> list[Row]:
    """Grad-CAM of a batch."""
    return _rows("grad-cam", tiny)


def _rows(benchmark: str, tiny: bool) -> list[Row]:
    ours, peers = METHODS[benchmark]()
    rows = []
    for name, (net, layer) in _networks(tiny).items():
        images = _images(tiny)
        # in double precision: rounding can flip a ReLU near zero, where the gradient jumps
        exact, few = deepcopy(net).double(), images[:3].double()
        for peer, method in peers.items():
            torch.testing.assert_close(ours(exact, few, layer), method(exact, few, layer), rtol=1e-8, atol=1e-12)
            aim = peer.startswith("MONAI")
            for threads in _thread_counts() if aim else [torch.get_num_threads()]:
                pairs = _timed_apart(benchmark, name, peer, threads, tiny)
                ratio = sorted(pairs.ratios)[len(pairs.ratios) // 2]
                on = f", {threads} threads" if threads > 1 else ""
                rows.append(
                    pairs.row(
                        benchmark,
                        f"{name}, {len(images)} images of {images.shape[-1]} pixels{on}",
                        f"{peer}, one image at a time",
                        "maps in float64, 1e-8",
                        goal="8 times or more at batch 32" if aim else None,
                        met=None if tiny or not aim else ratio >= 8,
                    )
                )
    return rows


def _images(tiny: bool) -> Tensor:
    return torch.rand(3 if tiny else 32, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def _thread_counts() -> list[int]:
    """The threads asked for, and all cores: users wait on those. Processor time adds up over threads: one only."""
    here = torch.get_num_threads()
    return [here] if chosen_clock() == "cpu" else sorted({here, os.cpu_count() or here})


def _timed_apart(benchmark: str, network: str, peer: str, threads: int, tiny: bool) -> Pairs:
    """Pairs timed in a process of their own.

    What ran before in a process (the comparison in float64 above all) leaves its allocator with memory that either
    side gains from by chance: up to a tenth of the ratio.
    """
    command = [sys.executable, str(Path(__file__)), benchmark, network, peer, str(threads), chosen_clock(), str(tiny)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_SCRIPTS), *filter(None, sys.path)])}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return Pairs(*json.loads(done.stdout))


def _measure(benchmark: str, network: str, peer: str, threads: int, clock: str, tiny: bool) -> None:
    torch.set_num_threads(threads)
    choose_clock(clock)
    net, layer = _networks(tiny)[network]
    images = _images(tiny)
    ours, peers = METHODS[benchmark]()
    theirs = peers[peer]
    repeats = 1 if tiny else 9
    pairs = paired(lambda: ours(net, images, layer), lambda: theirs(net, images, layer), repeats)
    print(json.dumps([pairs.ours, pairs.theirs]))


if __name__ == "__main__":
    _measure(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5], sys.argv[6] == "True")
