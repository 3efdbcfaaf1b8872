"""Tensor maths of the objectives, one family a file."""

from medssl_monai.losses.binary import LabelledBinaryCrossEntropyLoss, positive_weights
from medssl_monai.losses.probability import (
    LabelledCrossEntropyLoss,
    LabelledLoss,
    PredictionConsistencyLoss,
    ProbabilityMSELoss,
    class_weights,
    supervised_loss,
)
from medssl_monai.losses.ramps import sigmoid_ramp_up
from medssl_monai.losses.relation import SampleRelationLoss, relation_matrix
from medssl_monai.losses.supcon import SupConLoss

__all__ = [
    "LabelledBinaryCrossEntropyLoss",
    "LabelledCrossEntropyLoss",
    "LabelledLoss",
    "PredictionConsistencyLoss",
    "ProbabilityMSELoss",
    "SampleRelationLoss",
    "SupConLoss",
    "class_weights",
    "positive_weights",
    "relation_matrix",
    "sigmoid_ramp_up",
    "supervised_loss",
]
