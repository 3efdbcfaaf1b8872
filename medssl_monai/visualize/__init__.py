"""Figures: saliency panels, confusion, calibration, curves."""

from medssl_monai.visualize.class_activation import grad_cam, last_feature_layer
from medssl_monai.visualize.classification import calibration_figure, confusion_figure, roc_figure
from medssl_monai.visualize.curves import training_curves_figure
from medssl_monai.visualize.evaluation import EvaluationFigures
from medssl_monai.visualize.figures import save_figure
from medssl_monai.visualize.mosaic import overlay_mosaic
from medssl_monai.visualize.organ_mosaics import OrganMosaics
from medssl_monai.visualize.saliency import saliency, saliency_panel
from medssl_monai.visualize.summary import summary_figure

__all__ = [
    "EvaluationFigures",
    "OrganMosaics",
    "calibration_figure",
    "confusion_figure",
    "grad_cam",
    "last_feature_layer",
    "roc_figure",
    "overlay_mosaic",
    "saliency",
    "saliency_panel",
    "save_figure",
    "summary_figure",
    "training_curves_figure",
]
