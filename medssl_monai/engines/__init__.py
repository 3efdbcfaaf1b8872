"""One trainer a learning scheme, on MONAI's workflow."""

from medssl_monai.engines.base import LabelEfficientTrainer
from medssl_monai.engines.contrastive import SupConTrainer
from medssl_monai.engines.mean_teacher import MeanTeacherTrainer
from medssl_monai.engines.srcl import REGIMES, Regime, srcl_regime

__all__ = ["REGIMES", "LabelEfficientTrainer", "MeanTeacherTrainer", "Regime", "SupConTrainer", "srcl_regime"]
