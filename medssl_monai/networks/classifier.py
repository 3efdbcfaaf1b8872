"""Encoder and linear classifier: the net of fine-tuning."""

from __future__ import annotations

from torch import Tensor, nn

from medssl_monai.networks.backbones import build_backbone


class ImageClassifier(nn.Module):
    """Encoder with one linear layer (thesis 4.5.2.2, 5.5 and 6.5.2.2: what fine-tuning trains).

    The net can be scripted and traced with every backbone.

    Args:
        backbone: name for :func:`build_backbone`.
        num_classes: C, logits.
        in_channels: channels of the images.
        width: factor of the encoder's channels; 1 is the published layout.
        stem: stem of the encoder, see :func:`build_backbone`.
        dropout: probability of dropping a pooled feature in training.

    Raises:
        ConfigError: for an unknown backbone or stem.
        ValueError: for sizes below 1 or a dropout outside [0, 1).
    """

    def __init__(
        self,
        backbone: str = "resnet18",
        num_classes: int = 2,
        in_channels: int = 3,
        width: float = 1.0,
        stem: str = "imagenet",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes: expected at least 1, got {num_classes}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected a probability in [0, 1), got {dropout}")
        self.encoder = build_backbone(backbone, in_channels, width, stem)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(self.encoder.num_features, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Pooled features after dropout, shape (N, F), of images in [0, 1], shape (N, in_channels, H, W).

        Raises:
            ValueError: for images of another shape or dtype.
        """
        pooled: Tensor = self.dropout(self.encoder(x))
        return pooled

    def classify(self, features: Tensor) -> Tensor:
        """Logits, shape (N, C), of features (N, F)."""
        logits: Tensor = self.classifier(features)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (N, C), of images in [0, 1], shape (N, in_channels, H, W).

        Raises:
            ValueError: for images of another shape or dtype.
        """
        return self.classify(self.features(x))
