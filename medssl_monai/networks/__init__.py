"""The nets and their blocks, on MONAI's, and the loading of published weights."""

from medssl_monai.networks.backbones import BACKBONES, Backbone, BackboneSpec, build_backbone
from medssl_monai.networks.initial import initialize_encoder
from medssl_monai.networks.report import LoadReport
from medssl_monai.networks.srcl import SRCLNet
from medssl_monai.networks.weights import load_backbone_weights, load_state

__all__ = [
    "BACKBONES",
    "Backbone",
    "BackboneSpec",
    "LoadReport",
    "SRCLNet",
    "build_backbone",
    "initialize_encoder",
    "load_backbone_weights",
    "load_state",
]
