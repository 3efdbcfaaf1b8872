"""The encoder of prototype segmentation: a fine feature map with few channels."""

from __future__ import annotations

from torch import Tensor, nn

from medssl_monai.networks.backbones import build_backbone


class DenseEncoder(nn.Module):
    """A dilated ResNet and a 1 x 1 convolution behind it (thesis 7.4.1.2): 256 x 256 pixels give 256 x 32 x 32.

    The ResNet is that of DeepLabv3 (arXiv:1706.05587), without its pooling pyramid. Published ImageNet weights, and
    those of DeepLabv3 trained on COCO, load into ``encoder`` by :func:`initialize_encoder`. Images are in [0, 1].

    Args:
        backbone: name of a ResNet for :func:`build_backbone`.
        in_channels: channels of the images; grey ones are copied to as many.
        width: factor of the ResNet's channels; 1 is the published layout.
        num_features: D, channels of the feature map.
        stages: 4, or 3 for a light variant that stops after the third stage, on the same grid.

    Raises:
        ConfigError: for an unknown backbone, or one that has no dilated form.
        ValueError: for sizes below 1.
    """

    def __init__(
        self,
        backbone: str = "resnet101",
        in_channels: int = 3,
        width: float = 1.0,
        num_features: int = 256,
        stages: int = 4,
    ) -> None:
        super().__init__()
        if isinstance(num_features, bool) or not isinstance(num_features, int) or num_features < 2:
            raise ValueError(f"num_features: expected an integer of at least 2, got {num_features!r}")
        self.encoder = build_backbone(backbone, in_channels, width, output_stride=8, stages=stages)
        self.reduce = nn.Conv2d(self.encoder.num_features, num_features, kernel_size=1, bias=False)
        self.in_channels, self.num_features = in_channels, num_features

    def forward(self, x: Tensor) -> Tensor:
        """Feature map (N, D, H/8, W/8) of images (N, C, H, W), or grey ones (N, 1, H, W), in [0, 1].

        Raises:
            ValueError: for another number of dimensions or channels, or images that are not floating point.
        """
        if x.dim() == 4 and x.shape[1] == 1:
            x = x.expand(-1, self.in_channels, -1, -1)
        features: Tensor = self.reduce(self.encoder.feature_map(x))
        return features
