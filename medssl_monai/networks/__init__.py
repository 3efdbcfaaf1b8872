"""The nets and their blocks, on MONAI's, and the loading of published weights."""

from medssl_monai.networks.backbones import BACKBONES, STEMS, Backbone, BackboneSpec, build_backbone, stem_for
from medssl_monai.networks.classifier import ImageClassifier
from medssl_monai.networks.contrastive import ContrastiveNet
from medssl_monai.networks.cowpro import CoWProNet, EpisodeScores
from medssl_monai.networks.cowpro_segmenter import CoWProSegmenter
from medssl_monai.networks.dense_encoder import DenseEncoder
from medssl_monai.networks.head_choice import HEADS, build_head
from medssl_monai.networks.initial import initialize_encoder
from medssl_monai.networks.organ_confidence import organ_confidence
from medssl_monai.networks.prototype_heads import ALPNetHead, CoWProHead, PANetHead
from medssl_monai.networks.report import LoadReport
from medssl_monai.networks.slice_max import SliceMaxClassifier
from medssl_monai.networks.srcl import SRCLNet
from medssl_monai.networks.weights import load_backbone_weights, load_state

__all__ = [
    "ALPNetHead",
    "BACKBONES",
    "STEMS",
    "Backbone",
    "BackboneSpec",
    "CoWProHead",
    "CoWProNet",
    "CoWProSegmenter",
    "ContrastiveNet",
    "DenseEncoder",
    "EpisodeScores",
    "HEADS",
    "ImageClassifier",
    "LoadReport",
    "PANetHead",
    "SRCLNet",
    "SliceMaxClassifier",
    "build_backbone",
    "build_head",
    "initialize_encoder",
    "load_backbone_weights",
    "load_state",
    "organ_confidence",
    "stem_for",
]
