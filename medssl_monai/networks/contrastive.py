"""The network of contrastive pre-training: encoder and projector."""

from __future__ import annotations

from torch import Tensor, nn

from medssl_monai.networks.backbones import build_backbone


class ContrastiveNet(nn.Module):
    """Encoder with a projector of two linear layers (thesis fig. 4.3, section 4.4.2).

    Losses compare :meth:`forward`'s embeddings; what is kept after pre-training is ``encoder``. The net can be scripted
    and traced with every backbone.

    Args:
        backbone: name for :func:`build_backbone`; the thesis has ResNet-50 and ResNet-101.
        projection_dim: D, width of the embedding (512 or 1024 in chapter 4).
        hidden_dim: width between the two layers; ``None``: that of the encoder's feature, as in the thesis.
        batch_norm: BatchNorm behind each linear layer, whose bias it makes void and which has none then (SimCLR's
            projector, thesis 6.5.2.1); the ReLU is behind the first.
        in_channels: channels of the images.
        width: factor of the encoder's channels; 1 is the published layout.
        stem: stem of the encoder, see :func:`build_backbone`.

    Raises:
        ConfigError: for an unknown backbone or stem.
        ValueError: for sizes below 1.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        projection_dim: int = 512,
        hidden_dim: int | None = None,
        batch_norm: bool = False,
        in_channels: int = 1,
        width: float = 1.0,
        stem: str = "imagenet",
    ) -> None:
        super().__init__()
        for name, value in (("projection_dim", projection_dim), ("hidden_dim", hidden_dim)):
            if value is not None and value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        self.encoder = build_backbone(backbone, in_channels, width, stem)
        incoming = self.encoder.num_features
        hidden = incoming if hidden_dim is None else hidden_dim
        layers: list[nn.Module] = [
            nn.Linear(incoming, hidden, bias=not batch_norm),
            nn.BatchNorm1d(hidden) if batch_norm else nn.Identity(),
            nn.ReLU(),
            nn.Linear(hidden, projection_dim, bias=not batch_norm),
            nn.BatchNorm1d(projection_dim) if batch_norm else nn.Identity(),
        ]
        self.projector = nn.Sequential(*(layer for layer in layers if not isinstance(layer, nn.Identity)))

    def features(self, x: Tensor) -> Tensor:
        """Pooled features, shape (N, F), of images in [0, 1], shape (N, in_channels, H, W).

        Raises:
            ValueError: for images of another shape or dtype.
        """
        pooled: Tensor = self.encoder(x)
        return pooled

    def project(self, features: Tensor) -> Tensor:
        """Embeddings, shape (N, D), of features (N, F); not normalised.

        Raises:
            ValueError: in training with BatchNorm, for a single row, which has no batch statistics.
        """
        embeddings: Tensor = self.projector(features)
        return embeddings

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings, shape (N, D), of images in [0, 1], shape (N, in_channels, H, W); not normalised.

        Raises:
            ValueError: for images of another shape or dtype.
        """
        return self.project(self.features(x))
