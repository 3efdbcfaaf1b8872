"""Figures of merit: classification, calibration, intervals."""

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
    balanced_top1_accuracy,
    confusion_matrix,
    macro_auroc,
    one_vs_rest_auroc,
    one_vs_rest_rates,
    top1_accuracy,
)
from medssl_monai.metrics.delong import DeLongResult, delong_test
from medssl_monai.metrics.distribution import Distribution, Interval, average_distributions
from medssl_monai.metrics.intervals import bootstrap_distribution, bootstrap_interval, paired_bootstrap
from medssl_monai.metrics.operating_points import choose_operating_points
from medssl_monai.metrics.report import classification_report
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
    "METRICS",
    "PAPER_THRESHOLD",
    "Accuracy",
    "BalancedAccuracy",
    "CalibrationCurve",
    "DeLongResult",
    "Distribution",
    "Interval",
    "MacroAUROC",
    "MacroAverage",
    "Mean",
    "OneVsRest",
    "Rate",
    "TemperatureFit",
    "WeightedMetric",
    "apply_temperature",
    "average_distributions",
    "balanced_top1_accuracy",
    "bootstrap_distribution",
    "bootstrap_interval",
    "brier_score",
    "calibrate_temperature",
    "calibration_curve",
    "choose_operating_points",
    "classification_report",
    "confusion_matrix",
    "delong_test",
    "expected_calibration_error",
    "fit_temperature",
    "macro_auroc",
    "negative_log_likelihood",
    "one_vs_rest_auroc",
    "one_vs_rest_rates",
    "paired_bootstrap",
    "top1_accuracy",
]
