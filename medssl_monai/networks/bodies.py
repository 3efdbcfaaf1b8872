"""MONAI's nets cut after their last feature map, in the layout of the published weights."""

from __future__ import annotations

from collections import OrderedDict
from typing import cast

from monai.networks.nets.densenet import DenseNet
from monai.networks.nets.efficientnet import EfficientNet, MBConvBlock
from monai.networks.nets.resnet import ResNet
from torch import nn

from medssl_monai.networks.key_maps import LITE0_REPEATS

# EfficientNet-B0's stages without squeeze-and-excitation: repeats, kernel, stride, expansion, input, output.
_LITE0_STAGES = (
    "r{}_k3_s11_e1_i32_o16", "r{}_k3_s22_e6_i16_o24", "r{}_k5_s22_e6_i24_o40", "r{}_k3_s22_e6_i40_o80",
    "r{}_k5_s11_e6_i80_o112", "r{}_k5_s22_e6_i112_o192", "r{}_k3_s11_e6_i192_o320",
)  # fmt: skip
_RESNET_PLANES = (64, 128, 256, 512)
_SQUEEZE_LAYERS = ("_se_adaptpool", "_se_reduce", "_se_reduce_padding", "_se_expand", "_se_expand_padding")


def densenet121_body(in_channels: int, width: float) -> tuple[nn.Module, int]:
    """DenseNet-121 (arXiv:1608.06993) up to the activation of its last feature map, and its channels (1024)."""
    net = DenseNet(
        spatial_dims=2,
        in_channels=in_channels,
        out_channels=1,
        init_features=_scaled(64, width),
        growth_rate=_scaled(32, width),
        block_config=(6, 12, 24, 16),
    )
    body = net.features
    body.add_module("relu5", nn.ReLU())
    return body, cast(nn.BatchNorm2d, body.norm5).num_features


def resnet_body(
    block: str, layers: tuple[int, ...], in_channels: int, width: float, small_images: bool = False
) -> tuple[nn.Module, int]:
    """ResNet (arXiv:1512.03385) up to its last feature map, and its channels (512, or 2048 for bottlenecks).

    MONAI's defaults (a first stride of 1, a bias in the shortcuts) differ from the published layout, taken here. With
    ``small_images`` the first convolution is 3 x 3 with stride 1 and nothing is pooled behind it (arXiv:2002.05709,
    appendix B.9; thesis 6.5.2.1); all names stay the same.
    """
    net = ResNet(
        block=block,
        layers=list(layers),
        block_inplanes=[_scaled(planes, width) for planes in _RESNET_PLANES],
        spatial_dims=2,
        n_input_channels=in_channels,
        conv1_t_size=3 if small_images else 7,
        conv1_t_stride=1 if small_images else 2,
        shortcut_type="B",
        bias_downsample=False,
        feed_forward=False,
    )
    names = ("conv1", "bn1", "act", "maxpool", "layer1", "layer2", "layer3", "layer4")
    parts: OrderedDict[str, nn.Module] = OrderedDict((name, getattr(net, name)) for name in names)
    if small_images:
        parts["maxpool"] = nn.Identity()
    return nn.Sequential(parts), net.in_planes


def dense_resnet(body: nn.Sequential, output_stride: int = 8, stages: int = 4) -> tuple[nn.Sequential, int]:
    """A ResNet's body with a finer last feature map and the same weights, in place; its channels.

    A stage that would halve the grid beyond ``output_stride`` keeps it and dilates what comes after instead (DeepLab,
    arXiv:1706.05587, as torchvision's ``replace_stride_with_dilation`` does for bottlenecks): at every second place the
    new map equals the old one.

    Args:
        body: of :func:`resnet_body`, whose map is a 32nd of the image.
        output_stride: 32, 16 or 8: pixels of the image to one of the map.
        stages: 4, or 3 to leave out the last one.
    """
    if stages == 3:
        del body.layer4
    dilation = 1
    for name, stride in (("layer3", 16), ("layer4", 32)):
        if stride <= output_stride or not hasattr(body, name):
            continue
        for convolution in _convolutions(getattr(body, name)):
            if convolution.kernel_size == (1, 1):
                convolution.stride = (1, 1)
                continue
            # the layer that halved the grid still sees it as before, those behind it see every second place
            convolution.dilation = convolution.padding = (dilation, dilation)
            if convolution.stride != (1, 1):
                convolution.stride = (1, 1)
                dilation *= 2
    *_, last = _convolutions(body)
    return body, last.out_channels


def _convolutions(module: nn.Module) -> list[nn.Conv2d]:
    """In the order of the pass; a block's shortcut comes last."""
    return [part for part in module.modules() if isinstance(part, nn.Conv2d)]


def efficientnet_lite0_body(in_channels: int, width: float) -> tuple[nn.Module, int]:
    """EfficientNet-Lite0 up to the activation of its last feature map, and its channels (1280).

    Lite is EfficientNet-B0 (arXiv:1905.11946) without squeeze-and-excitation and with ReLU6 for swish in every
    block. The padding is that of 224 x 224 images, as published; it is right for every size divisible by 32.
    """
    net = EfficientNet(
        blocks_args_str=[stage.format(repeats) for stage, repeats in zip(_LITE0_STAGES, LITE0_REPEATS)],
        spatial_dims=2,
        in_channels=in_channels,
        num_classes=1,
        width_coefficient=width,
        depth_coefficient=1.0,
        image_size=224,
    )
    for module in net.modules():
        if isinstance(module, MBConvBlock):
            module._swish = nn.ReLU6(inplace=True)
            for name in _SQUEEZE_LAYERS:
                # Never called; TorchScript looks for them all the same, and MONAI leaves them out.
                setattr(module, name, nn.Identity())
    names = ("_conv_stem_padding", "_conv_stem", "_bn0", "_blocks", "_conv_head_padding", "_conv_head", "_bn1")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name in names:
        layers[name] = getattr(net, name)
        if name in ("_bn0", "_bn1"):
            layers[name.replace("bn", "act")] = nn.ReLU6(inplace=True)
    return nn.Sequential(layers), net._conv_head.out_channels


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))
