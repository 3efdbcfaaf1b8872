"""One trainer a learning scheme, on MONAI's workflow."""

from medssl_monai.engines.base import LabelEfficientTrainer
from medssl_monai.engines.classification import ClassificationTrainer
from medssl_monai.engines.contrastive import ContrastiveTrainer, SupConTrainer
from medssl_monai.engines.contrastive_choice import check_objective, contrastive_trainer
from medssl_monai.engines.ensemble import PlaneEnsemble
from medssl_monai.engines.ensemble_record import plane_folders
from medssl_monai.engines.episodic import EpisodicTrainer
from medssl_monai.engines.evaluator import ClassificationEvaluator
from medssl_monai.engines.lars import LARS
from medssl_monai.engines.mean_teacher import MeanTeacherTrainer
from medssl_monai.engines.moco import MoCoTrainer
from medssl_monai.engines.optimizers import OPTIMIZERS, build_optimizer, check_optimizer, scaled_learning_rate
from medssl_monai.engines.precision import autocast_dtype, suitable_amp_dtype
from medssl_monai.engines.schedules import cosine_with_warmup, exponential_with_warmup, multi_step
from medssl_monai.engines.segmentation import SegmentationEvaluator, label_ranges
from medssl_monai.engines.settings import check_settings
from medssl_monai.engines.srcl import REGIMES, Regime, srcl_regime
from medssl_monai.engines.support import SupportMemory, SupportScans, read_scans, remember_supports
from medssl_monai.engines.support_confidence import OrganCheck, SupportCheck, leave_one_slice_out
from medssl_monai.engines.support_table import SupportRow, support_table

__all__ = [
    "LARS",
    "OPTIMIZERS",
    "REGIMES",
    "ClassificationEvaluator",
    "ClassificationTrainer",
    "ContrastiveTrainer",
    "EpisodicTrainer",
    "LabelEfficientTrainer",
    "MeanTeacherTrainer",
    "MoCoTrainer",
    "OrganCheck",
    "PlaneEnsemble",
    "Regime",
    "SegmentationEvaluator",
    "SupConTrainer",
    "SupportCheck",
    "SupportMemory",
    "SupportRow",
    "SupportScans",
    "autocast_dtype",
    "build_optimizer",
    "check_objective",
    "check_optimizer",
    "check_settings",
    "contrastive_trainer",
    "cosine_with_warmup",
    "exponential_with_warmup",
    "label_ranges",
    "leave_one_slice_out",
    "multi_step",
    "plane_folders",
    "read_scans",
    "remember_supports",
    "scaled_learning_rate",
    "srcl_regime",
    "suitable_amp_dtype",
    "support_table",
]
