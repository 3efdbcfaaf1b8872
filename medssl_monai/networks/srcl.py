"""The network of SRCL: encoder, classifier and projection head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medssl_monai.networks.classifier import ImageClassifier


class SRCLNet(ImageClassifier):
    """Encoder with a linear classifier and a projection head (SRCL, section 3 and 4.1).

    ``forward`` is the served network, one tensor in and one out. Training uses the parts: the relation loss takes
    :meth:`features`, the contrastive loss :meth:`project` of them, the supervised and consistency losses
    :meth:`classify` of them. The net can be scripted and traced with every backbone.

    Args:
        backbone: name for :func:`build_backbone`; the paper's is DenseNet-121.
        in_channels: channels of the images.
        num_classes: C, classes (7 skin lesions in the paper).
        projection: widths of the projection head's fully connected layers, with ReLU between (100-50-25).
        dropout: probability of dropping a pooled feature in training.
        width: factor of the encoder's channels; 1 is the published layout.

    Raises:
        ConfigError: for an unknown backbone.
        ValueError: for sizes below 1 or a dropout outside [0, 1).
    """

    def __init__(
        self,
        backbone: str = "densenet121",
        in_channels: int = 3,
        num_classes: int = 7,
        projection: Sequence[int] = (100, 50, 25),
        dropout: float = 0.2,
        width: float = 1.0,
    ) -> None:
        if not projection or min(projection) < 1:
            raise ValueError(f"projection: expected the widths of one or more layers, got {tuple(projection)}")
        super().__init__(backbone, num_classes, in_channels, width, dropout=dropout)
        layers: list[nn.Module] = []
        for incoming, outgoing in zip((self.encoder.num_features, *projection[:-1]), projection):
            layers += [nn.Linear(incoming, outgoing), nn.ReLU()]
        self.projector = nn.Sequential(*layers[:-1])

    @torch.jit.export
    def project(self, features: Tensor) -> Tensor:
        """Embeddings, shape (N, last width of the projection), of features (N, F); not normalised."""
        embeddings: Tensor = self.projector(features)
        return embeddings
