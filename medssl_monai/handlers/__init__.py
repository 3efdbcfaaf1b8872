"""Ignite handlers: checkpoints, guards, teacher, tables, estimates."""

from medssl_monai.handlers.budget import BudgetRecord, label_counts
from medssl_monai.handlers.checkpoint import RunCheckpoint
from medssl_monai.handlers.collapse import CollapseWatch
from medssl_monai.handlers.embeddings import EmbeddingWriter, LoadEncoder, inference_handlers
from medssl_monai.handlers.encoder import EncoderExport
from medssl_monai.handlers.episodes import SkippedEpisodes
from medssl_monai.handlers.estimate import RunEstimate
from medssl_monai.handlers.features import EmbeddingHook, FeatureCollector, Features, FeatureWriter, read_features
from medssl_monai.handlers.guards import NonFiniteError, check_finite
from medssl_monai.handlers.history import History
from medssl_monai.handlers.load import LoadModel
from medssl_monai.handlers.model_export import ModelExport
from medssl_monai.handlers.predictions import EvaluationWriter, PredictionWriter
from medssl_monai.handlers.progress import RunProgress
from medssl_monai.handlers.provenance import PretrainRecord, pretraining
from medssl_monai.handlers.queue import FeatureQueue
from medssl_monai.handlers.segmentation import SegmentationReport, SegmentationWriter
from medssl_monai.handlers.segmentation_files import read_organ_scores
from medssl_monai.handlers.serving import (
    ServingRecord,
    read_serving,
    serving_exclusive,
    serving_labels,
    serving_temperature,
)
from medssl_monai.handlers.start import check_pretrained_settings
from medssl_monai.handlers.storage import load_tensors, save_tensors
from medssl_monai.handlers.support_record import absence_thresholds, read_support, support_organs
from medssl_monai.handlers.teacher import EMATeacher
from medssl_monai.handlers.tracking import MLflowMetrics, MLflowTracking

__all__ = [
    "BudgetRecord",
    "CollapseWatch",
    "EMATeacher",
    "EmbeddingHook",
    "EmbeddingWriter",
    "EncoderExport",
    "EvaluationWriter",
    "FeatureCollector",
    "FeatureQueue",
    "FeatureWriter",
    "Features",
    "History",
    "LoadEncoder",
    "LoadModel",
    "MLflowMetrics",
    "MLflowTracking",
    "ModelExport",
    "NonFiniteError",
    "PredictionWriter",
    "PretrainRecord",
    "RunCheckpoint",
    "RunEstimate",
    "RunProgress",
    "SegmentationReport",
    "SegmentationWriter",
    "ServingRecord",
    "SkippedEpisodes",
    "absence_thresholds",
    "check_finite",
    "check_pretrained_settings",
    "inference_handlers",
    "label_counts",
    "load_tensors",
    "pretraining",
    "read_features",
    "read_organ_scores",
    "read_serving",
    "read_support",
    "save_tensors",
    "serving_exclusive",
    "serving_labels",
    "serving_temperature",
    "support_organs",
]
