"""What a network starts from: random weights, published weights, or the encoder of a pretrain stage."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypeVar

from torch import nn

from medssl_monai.core import ConfigError
from medssl_monai.networks.backbones import Backbone
from medssl_monai.networks.dense_encoder import DenseEncoder
from medssl_monai.networks.weights import load_backbone_weights, load_state

logger = logging.getLogger(__name__)

Network = TypeVar("Network", bound=nn.Module)


def initialize_encoder(
    network: Network, backbone_weights: str | Path | None = None, pretrained: str | Path | None = None
) -> Network:
    """Load the start of a network's ``encoder`` in place and log what was matched, renamed, missing and skipped.

    Args:
        network: a network with an ``encoder``: a :class:`Backbone`, or a :class:`DenseEncoder` around one. Published
            weights go into the backbone, ``pretrained`` into the whole encoder.
        backbone_weights: published weights: a file, ``package:NAME`` of an installed weights package, a URL, or
            ``published``.
        pretrained: ``pretrain.pt`` of our own pretrain stage; it takes the place of ``backbone_weights``, because the
            pretrain stage started from those.

    Returns:
        The network.

    Raises:
        ConfigError: when the network has no such encoder.
        CheckpointError: when a file cannot be had, is damaged, or of another network.
    """
    encoder = getattr(network, "encoder", None)
    backbone = encoder.encoder if isinstance(encoder, DenseEncoder) else encoder
    if not isinstance(encoder, nn.Module) or not isinstance(backbone, Backbone):
        raise ConfigError("the network has no encoder to load weights into", where="network_def")
    if pretrained is not None:
        logger.info("pretrained encoder\n%s", load_state(encoder, pretrained))
    elif backbone_weights is not None:
        logger.info("backbone weights\n%s", load_backbone_weights(backbone, backbone_weights))
    return network
