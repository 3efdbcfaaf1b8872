"""Tensor maths of the objectives, one family a file."""

from medssl_monai.losses.binary import LabelledBinaryCrossEntropyLoss, positive_weights
from medssl_monai.losses.contrastive import DCLLoss, DCLWLoss, EuclideanInfoNCELoss, NTXentLoss
from medssl_monai.losses.dystress import DySTreSSLoss, dystress_temperature
from medssl_monai.losses.factory import contrastive_loss
from medssl_monai.losses.momentum import MomentumContrastLoss
from medssl_monai.losses.pair_classification import BinaryContrastiveLoss, ComboContrastiveLoss, MIOLoss
from medssl_monai.losses.probability import (
    LabelledCrossEntropyLoss,
    LabelledLoss,
    PredictionConsistencyLoss,
    ProbabilityMSELoss,
    class_weights,
    supervised_loss,
)
from medssl_monai.losses.prototype import CoWProLoss
from medssl_monai.losses.ramps import sigmoid_ramp_up
from medssl_monai.losses.relation import SampleRelationLoss, relation_matrix
from medssl_monai.losses.supcon import SupConLoss

__all__ = [
    "BinaryContrastiveLoss",
    "CoWProLoss",
    "ComboContrastiveLoss",
    "DCLLoss",
    "DCLWLoss",
    "DySTreSSLoss",
    "EuclideanInfoNCELoss",
    "LabelledBinaryCrossEntropyLoss",
    "LabelledCrossEntropyLoss",
    "LabelledLoss",
    "MIOLoss",
    "MomentumContrastLoss",
    "NTXentLoss",
    "PredictionConsistencyLoss",
    "ProbabilityMSELoss",
    "SampleRelationLoss",
    "SupConLoss",
    "class_weights",
    "contrastive_loss",
    "dystress_temperature",
    "positive_weights",
    "relation_matrix",
    "sigmoid_ramp_up",
    "supervised_loss",
]
