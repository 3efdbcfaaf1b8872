"""Datasets: datalists, readers, splits and label budgets, checks, loaders; preparation and phantoms."""

from medssl_monai.data.budget import Budget, select_budget
from medssl_monai.data.datalist import Datalist, Item, load_datalist
from medssl_monai.data.datasets import SeededCacheDataset
from medssl_monai.data.episodes import episode_dataset
from medssl_monai.data.exams import select_plane
from medssl_monai.data.inputs import InputProfile
from medssl_monai.data.labelled_episodes import LabelledEpisodes
from medssl_monai.data.long_tail import long_tail_counts, long_tailed
from medssl_monai.data.records import (
    classification_datalist,
    datalist_labels,
    evaluation_items,
    evaluation_records,
    exam_items,
    inference_records,
)
from medssl_monai.data.sampling import SampleKey, SeededBatchSampler, StepBatchSampler, TwoStreamBatchSampler
from medssl_monai.data.segmentation import datalist_organs, segmentation_datalist
from medssl_monai.data.shards import ShardSampler, gather_shards
from medssl_monai.data.splits import k_folds, split_by_subject
from medssl_monai.data.supports import choose_supports
from medssl_monai.data.volumes import CachedVolumeDataset

__all__ = [
    "Budget",
    "CachedVolumeDataset",
    "Datalist",
    "InputProfile",
    "Item",
    "LabelledEpisodes",
    "SampleKey",
    "SeededBatchSampler",
    "SeededCacheDataset",
    "StepBatchSampler",
    "ShardSampler",
    "TwoStreamBatchSampler",
    "choose_supports",
    "classification_datalist",
    "datalist_labels",
    "datalist_organs",
    "episode_dataset",
    "evaluation_items",
    "evaluation_records",
    "exam_items",
    "gather_shards",
    "inference_records",
    "k_folds",
    "load_datalist",
    "long_tail_counts",
    "long_tailed",
    "segmentation_datalist",
    "select_budget",
    "select_plane",
    "split_by_subject",
]
