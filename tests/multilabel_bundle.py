"""A small bundle for labels that are each there or not, and pictures whose colours follow their labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from medssl_monai.data import Datalist, Item

NAMES = ["red", "green", "blue"]

COMMON = """
imports:
  - "$import torch"
  - "$from medssl_monai.core import seed_torch"
  - "$from medssl_monai.data import evaluation_items"
  - "$from medssl_monai.data import evaluation_records"
  - "$from medssl_monai.handlers import serving_temperature"
bundle_root: "."
dataset_dir: "$@bundle_root + '/data'"
output_dir: "$@bundle_root + '/eval'"
ckpt_dir: "$@bundle_root + '/models'"
device: "$torch.device('cpu')"
seed: 0
batch_size: 16
max_epochs: 4
learning_rate: 0.01
label_fraction: 1.0
label_budget: null
split_seed: 0
resume: false
n_boot: 50
labels: [red, green, blue]
exclusive: false
positive_weighting: true
split: test
preprocessing:
  _target_: Compose
  transforms:
    - {_target_: LoadImaged, keys: image, reader: medssl_monai.data.readers.MedicalImageReader, dtype: null}
    - {_target_: EnsureChannelFirstd, keys: image}
    - {_target_: medssl_monai.transforms.DescribeInputd, keys: image, spatial_dims: 2}
    - {_target_: medssl_monai.transforms.ToUnitRanged, keys: image}
network_def:
  _target_: medssl_monai.networks.ImageClassifier
  backbone: resnet18
  num_classes: "$len(@labels)"
  width: 0.125
network: "$@network_def.to(@device)"
inferer: {_target_: SimpleInferer}
"""

DATALIST = """
datalist:
  _target_: medssl_monai.data.classification_datalist
  folder: "@dataset_dir"
  labels: "@labels"
  exclusive: "@exclusive"
"""

TRAIN = (
    COMMON
    + DATALIST
    + """
budget:
  _target_: medssl_monai.data.select_budget
  datalist: "@datalist"
  label_fraction: "@label_fraction"
  label_budget: "@label_budget"
  split_seed: "@split_seed"
  min_validation: 10
loss:
  _target_: medssl_monai.losses.supervised_loss
  kind: bce
  class_weights: "$@positive_weights if @positive_weighting else None"
  gather_distributed: true
positive_weights:
  _target_: medssl_monai.losses.positive_weights
  n_positive: "$[@budget.classes_training[name] for name in @labels]"
  n_labels: "$@budget.n_labels_training"
optimizer: {_target_: torch.optim.Adam, params: "$@network.parameters()", lr: "@learning_rate"}
settings: {bundle: multilabel_classification, stage: train, seed: "@seed", labels: "@labels"}
train:
  dataset:
    _target_: medssl_monai.data.SeededCacheDataset
    data: "$@budget.records('training')"
    transform: "@preprocessing"
    seed: "@seed"
  sampler:
    _target_: medssl_monai.data.SeededBatchSampler
    size: "$len(@train::dataset)"
    batch_size: "@batch_size"
    min_batch_size: 2
    seed: "@seed"
  dataloader: {_target_: DataLoader, dataset: "@train::dataset", batch_sampler: "@train::sampler"}
  handlers:
    - {_target_: medssl_monai.handlers.BudgetRecord, budget: "@budget", folder: "@ckpt_dir"}
    - {_target_: ValidationHandler, validator: "@validate::evaluator", interval: 1, epoch_level: true}
    - _target_: medssl_monai.handlers.ModelExport
      network: "@network"
      folder: "@ckpt_dir"
      evaluator: "@validate::evaluator"
      select: "$@budget.select_on_validation"
    - _target_: medssl_monai.handlers.History
      folder: "@ckpt_dir"
      optimizer: "@optimizer"
      evaluator: "@validate::evaluator"
    - _target_: medssl_monai.handlers.ServingRecord
      folder: "@ckpt_dir"
      network: "@network"
      validation: "@validate::dataloader"
      class_names: "@labels"
      calibrate: "$@budget.select_on_validation"
      records: "@train::dataset::data"
      loading: "@preprocessing"
      budget: "@budget"
      settings: "@settings"
      device: "@device"
      exclusive: "$@datalist.exclusive"
  trainer:
    _target_: medssl_monai.engines.ClassificationTrainer
    device: "@device"
    max_epochs: "@max_epochs"
    train_data_loader: "@train::dataloader"
    network: "@network"
    optimizer: "@optimizer"
    loss: "@loss"
    seed: "@seed"
    train_handlers: "@train::handlers"
validate:
  dataset:
    _target_: medssl_monai.data.SeededCacheDataset
    data: "$@budget.records('validation')"
    transform: "@preprocessing"
    allow_empty: true
  dataloader: {_target_: DataLoader, dataset: "@validate::dataset", batch_size: "@batch_size"}
  evaluator:
    _target_: medssl_monai.engines.ClassificationEvaluator
    device: "@device"
    val_data_loader: "@validate::dataloader"
    network: "@network"
    inferer: "@inferer"
    exclusive: "$@datalist.exclusive"
initialize: ["$seed_torch(@seed, 'initialize')"]
run: ["$@train::trainer.run()"]
"""
)

SERVING = """
serving: {_target_: medssl_monai.handlers.read_serving, folder: "@ckpt_dir", class_names: "@labels"}
load_model: {_target_: medssl_monai.handlers.LoadModel, network: "@network", folder: "@ckpt_dir"}
"""

EVALUATE = (
    COMMON
    + DATALIST
    + SERVING
    + """
dataset:
  _target_: medssl_monai.data.SeededCacheDataset
  data: "$evaluation_records(@datalist, @split, @ckpt_dir)"
  transform: "@preprocessing"
dataloader: {_target_: DataLoader, dataset: "@dataset", batch_size: "@batch_size"}
writer:
  _target_: medssl_monai.handlers.EvaluationWriter
  output_dir: "@output_dir"
  items: "$evaluation_items(@datalist, @split, @ckpt_dir)"
  serving: "@serving"
  dataset: "$@datalist.name"
  split: "@split"
  n_boot: "@n_boot"
  seed: "@seed"
handlers:
  - "@load_model"
  - "@writer"
  - _target_: medssl_monai.visualize.EvaluationFigures
    writer: "@writer"
    network: "@network"
    dataset: "@dataset"
    output_dir: "@output_dir"
    n_images: 4
  - _target_: medssl_monai.handlers.FeatureWriter
    network: "@network"
    output_dir: "@output_dir"
    class_names: "@labels"
    weights: "$@ckpt_dir + '/model.pt'"
    split: "@split"
    serving: "@serving"
evaluator:
  _target_: medssl_monai.engines.ClassificationEvaluator
  device: "@device"
  val_data_loader: "@dataloader"
  network: "@network"
  inferer: "@inferer"
  exclusive: "$@datalist.exclusive"
  val_handlers: "@handlers"
run: ["$@evaluator.run()"]
"""
)

INFERENCE = (
    COMMON
    + SERVING
    + """
inference_split: null
dataset:
  _target_: medssl_monai.data.SeededCacheDataset
  data: {_target_: medssl_monai.data.inference_records, folder: "@dataset_dir", split: "@inference_split"}
  transform: "@preprocessing"
dataloader: {_target_: DataLoader, dataset: "@dataset", batch_size: "@batch_size"}
postprocessing:
  _target_: Compose
  transforms:
    - _target_: medssl_monai.transforms.ScaleLogitsd
      keys: pred
      temperature: "$serving_temperature(@ckpt_dir)"
    - {_target_: Activationsd, keys: pred, sigmoid: true}
    - {_target_: medssl_monai.transforms.AsScoresd, keys: pred}
handlers:
  - "@load_model"
  - _target_: medssl_monai.handlers.PredictionWriter
    output_dir: "@output_dir"
    class_names: "@labels"
    inputs: "$@serving['inputs']"
    exclusive: "$@serving['exclusive']"
    operating_points: "$@serving['operating_points']"
evaluator:
  _target_: medssl_monai.engines.ClassificationEvaluator
  device: "@device"
  val_data_loader: "@dataloader"
  network: "@network"
  inferer: "@inferer"
  postprocessing: "@postprocessing"
  decollate: true
  with_metrics: false
  val_handlers: "@handlers"
run: ["$@evaluator.run()"]
"""
)

STUDY: dict[str, Any] = {
    "baseline_arm": "plain",
    "primary_arm": "weighted",
    "primary_metric": "macro_auroc",
    "arms": {
        "plain": {"stages": ["train", "evaluate"], "overrides": {"positive_weighting": False}},
        "weighted": {"stages": ["train", "evaluate"], "overrides": {"positive_weighting": True}},
    },
}


def make_bundle(root: Path) -> Path:
    """The bundle's folder."""
    configs = root / "multilabel_classification" / "configs"
    configs.mkdir(parents=True)
    (configs / "metadata.json").write_text(json.dumps({"version": "0.1.0", "network_data_format": {"inputs": {}}}))
    for stage, text in {"train": TRAIN, "evaluate": EVALUATE, "inference": INFERENCE}.items():
        (configs / f"{stage}.yaml").write_text(text)
    (configs / "study.yaml").write_text(yaml.safe_dump(STUDY))
    return configs.parent


def make_dataset(root: Path, training: int = 160, test: int = 60, unlabeled: int = 6) -> Datalist:
    """Pictures of 32 pixels with a coloured square for each label, in noise; two of a subject."""
    rng = np.random.default_rng(0)
    splits: dict[Any, list[Item]] = {}
    for split, number in (("training", training), ("test", test), ("unlabeled", unlabeled)):
        splits[split] = []
        for k in range(number):
            vector = (rng.random(3) < [0.6, 0.25, 0.4]).astype(int)
            picture = rng.normal(110, 25, (32, 32, 3))
            for channel in np.flatnonzero(vector):
                x, y = rng.integers(0, 20, 2)
                picture[x : x + 12, y : y + 12, channel] += 60
            name = f"{split}/{k:03d}.png"
            (root / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(root / name)
            label = None if split == "unlabeled" else tuple(int(v) for v in vector)
            splits[split].append(Item(name, label, f"subject:{split}{k // 2}", {"site": "ab"[k // 2 % 2]}))
    datalist = Datalist("squares", "multilabel", NAMES, splits, root=root)
    datalist.save(root)
    return datalist
