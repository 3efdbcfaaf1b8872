"""Figures of merit: classification, calibration, intervals."""

from medssl_monai.metrics.acquisition import Choice, choose_batch, coverage_radius, predictive_entropy
from medssl_monai.metrics.calibration import (
    CalibrationCurve,
    TemperatureFit,
    apply_temperature,
    brier_score,
    calibrate_temperature,
    calibration_curve,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
)
from medssl_monai.metrics.classification import (
    MacroAverage,
    OneVsRest,
    balanced_label_accuracy,
    balanced_top1_accuracy,
    confusion_matrix,
    macro_auroc,
    one_vs_rest_auroc,
    one_vs_rest_rates,
    top1_accuracy,
)
from medssl_monai.metrics.delong import DeLongResult, delong_test
from medssl_monai.metrics.distribution import Distribution, Interval, average_distributions
from medssl_monai.metrics.embedding import (
    alignment,
    collapse_warning,
    effective_rank,
    spread,
    tolerance,
    uniformity,
)
from medssl_monai.metrics.ensemble import ensemble_weights, weighted_vote
from medssl_monai.metrics.intervals import bootstrap_distribution, bootstrap_interval, paired_bootstrap
from medssl_monai.metrics.knn import knn_accuracy, knn_scores
from medssl_monai.metrics.label_calibration import (
    apply_label_temperatures,
    fit_label_temperatures,
    label_calibration_curve,
)
from medssl_monai.metrics.label_metrics import F1, AveragePrecision
from medssl_monai.metrics.label_report import decision_thresholds, multilabel_report
from medssl_monai.metrics.operating_points import choose_operating_points, target_sensitivity
from medssl_monai.metrics.probe import LinearClassifier, ProbeResult, fit_linear, linear_probe, linear_svm
from medssl_monai.metrics.report import classification_report
from medssl_monai.metrics.segmentation import OrganScore, organ_scores
from medssl_monai.metrics.segmentation_report import segmentation_distributions, segmentation_report
from medssl_monai.metrics.weighted import (
    AUROC,
    METRICS,
    PAPER_THRESHOLD,
    Accuracy,
    BalancedAccuracy,
    MacroAUROC,
    Mean,
    Rate,
    WeightedMetric,
)

__all__ = [
    "AUROC",
    "F1",
    "METRICS",
    "PAPER_THRESHOLD",
    "Accuracy",
    "AveragePrecision",
    "BalancedAccuracy",
    "CalibrationCurve",
    "Choice",
    "DeLongResult",
    "Distribution",
    "Interval",
    "LinearClassifier",
    "MacroAUROC",
    "MacroAverage",
    "Mean",
    "OneVsRest",
    "OrganScore",
    "ProbeResult",
    "Rate",
    "TemperatureFit",
    "WeightedMetric",
    "alignment",
    "apply_label_temperatures",
    "apply_temperature",
    "average_distributions",
    "balanced_label_accuracy",
    "balanced_top1_accuracy",
    "bootstrap_distribution",
    "bootstrap_interval",
    "brier_score",
    "calibrate_temperature",
    "calibration_curve",
    "choose_batch",
    "choose_operating_points",
    "classification_report",
    "collapse_warning",
    "confusion_matrix",
    "coverage_radius",
    "decision_thresholds",
    "delong_test",
    "effective_rank",
    "ensemble_weights",
    "expected_calibration_error",
    "fit_linear",
    "fit_label_temperatures",
    "fit_temperature",
    "knn_accuracy",
    "knn_scores",
    "linear_probe",
    "linear_svm",
    "label_calibration_curve",
    "macro_auroc",
    "multilabel_report",
    "negative_log_likelihood",
    "one_vs_rest_auroc",
    "one_vs_rest_rates",
    "organ_scores",
    "paired_bootstrap",
    "predictive_entropy",
    "segmentation_distributions",
    "segmentation_report",
    "spread",
    "target_sensitivity",
    "tolerance",
    "top1_accuracy",
    "uniformity",
    "weighted_vote",
]
