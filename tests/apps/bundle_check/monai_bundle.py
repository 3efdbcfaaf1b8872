"""A segmentation bundle as MONAI's documentation describes one: JSON, `#` as separator, overrides, its own code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

METADATA: dict[str, Any] = {
    "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json",
    "version": "0.2.0",
    "changelog": {"0.2.0": "evaluation", "0.1.0": "first version"},
    "monai_version": "1.6.1",
    "pytorch_version": "2.13.0",
    "numpy_version": "2.4.6",
    "required_packages_version": {"nibabel": "5.4.2"},
    "supported_apps": {},
    "name": "Organ segmentation",
    "task": "Segmentation of an organ in CT",
    "description": "A small UNet.",
    "authors": "A. Author",
    "copyright": "Copyright (c) A. Author",
    "references": ["A paper (2020)"],
    "network_data_format": {
        "inputs": {
            "image": {
                "type": "image", "format": "hounsfield", "modality": "CT", "num_channels": 1,
                "spatial_shape": ["16*n", "16*n", "*"], "dtype": "float32", "value_range": [0, 1],
                "is_patch_data": True, "channel_def": {"0": "image"},
            }
        },
        "outputs": {
            "pred": {
                "type": "image", "format": "segmentation", "num_channels": 2, "spatial_shape": ["16*n", "16*n", "*"],
                "dtype": "float32", "value_range": [0, 1], "channel_def": {"0": "background", "1": "organ"},
            }
        },
    },
}  # fmt: skip
SHARED: dict[str, Any] = {
    "bundle_root": ".",
    "output_dir": "$@bundle_root + '/eval'",
    "dataset_dir": "/workspace/data/organ",
    "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    "network_def": {
        "_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [4, 8, 16],
        "strides": [2, 2],
    },
    "network": "$@network_def.to(@device)",
}  # fmt: skip
LOADING = [
    {"_target_": "LoadImaged", "keys": ["image", "label"]},
    {"_target_": "EnsureChannelFirstd", "keys": ["image", "label"]},
    {"_target_": "Spacingd", "keys": ["image", "label"], "pixdim": [1.5, 1.5, 2.0], "mode": ["bilinear", "nearest"]},
]
POST = [
    {"_target_": "Activationsd", "keys": "pred", "softmax": True},
    {"_target_": "AsDiscreted", "keys": ["pred", "label"], "argmax": [True, False], "to_onehot": 2},
]
TRAIN: dict[str, Any] = {
    "imports": ["$import glob", "$import os", "$from scripts.pairs import pairs"],
    **SHARED,
    "ckpt_dir": "$@bundle_root + '/models'",
    "images": "$sorted(glob.glob(os.path.join(@dataset_dir, 'images', '*.nii.gz')))",
    "labels": "$sorted(glob.glob(os.path.join(@dataset_dir, 'labels', '*.nii.gz')))",
    "val_interval": 1,
    "loss": {"_target_": "DiceCELoss", "to_onehot_y": True, "softmax": True},
    "optimizer": {"_target_": "torch.optim.Adam", "params": "$@network.parameters()", "lr": 0.0001},
    "train": {
        "deterministic_transforms": LOADING,
        "random_transforms": [
            {
                "_target_": "RandCropByPosNegLabeld", "keys": ["image", "label"], "label_key": "label",
                "spatial_size": [16, 16, 16], "num_samples": 1,
            }
        ],
        "preprocessing": {
            "_target_": "Compose", "transforms": "$@train#deterministic_transforms + @train#random_transforms",
        },
        "dataset": {
            "_target_": "Dataset", "data": "$pairs(@images[:-1], @labels[:-1])", "transform": "@train#preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@train#dataset", "batch_size": 1, "shuffle": True},
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {"_target_": "Compose", "transforms": POST},
        "handlers": [
            {
                "_target_": "ValidationHandler", "validator": "@validate#evaluator", "epoch_level": True,
                "interval": "@val_interval",
            },
            {"_target_": "StatsHandler", "tag_name": "train_loss", "output_transform": "$lambda x: None"},
        ],
        "trainer": {
            "_target_": "SupervisedTrainer", "max_epochs": 2, "device": "@device",
            "train_data_loader": "@train#dataloader", "network": "@network", "loss_function": "@loss",
            "optimizer": "@optimizer", "inferer": "@train#inferer", "postprocessing": "@train#postprocessing",
            "train_handlers": "@train#handlers",
        },
    },
    "validate": {
        "preprocessing": {"_target_": "Compose", "transforms": "%train#deterministic_transforms"},
        "dataset": {
            "_target_": "Dataset", "data": "$pairs(@images[-1:], @labels[-1:])", "transform": "@validate#preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@validate#dataset", "batch_size": 1},
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16]},
        "postprocessing": "%train#postprocessing",
        "handlers": [{"_target_": "StatsHandler", "iteration_log": False}],
        "key_metric": {
            "val_mean_dice": {
                "_target_": "MeanDice", "include_background": False,
                "output_transform": "$monai.handlers.from_engine(['pred', 'label'])",
            }
        },
        "evaluator": {
            "_target_": "SupervisedEvaluator", "device": "@device", "val_data_loader": "@validate#dataloader",
            "network": "@network", "inferer": "@validate#inferer", "postprocessing": "@validate#postprocessing",
            "key_val_metric": "@validate#key_metric", "val_handlers": "@validate#handlers",
        },
    },
    "initialize": ["$monai.utils.set_determinism(seed=123)", "$setattr(torch.backends.cudnn, 'benchmark', True)"],
    "run": ["$@train#trainer.run()"],
}  # fmt: skip
EVALUATE: dict[str, Any] = {
    "validate#handlers": [
        {"_target_": "CheckpointLoader", "load_path": "$@ckpt_dir + '/model.pt'", "load_dict": {"model": "@network"}},
        {"_target_": "MetricsSaver", "save_dir": "@output_dir", "metrics": ["val_mean_dice"]},
    ],
    "run": ["$@validate#evaluator.run()"],
}
MULTI_GPU_TRAIN: dict[str, Any] = {
    "device": "$torch.device(f'cuda:{dist.get_rank()}')",
    "network": {
        "_target_": "torch.nn.parallel.DistributedDataParallel", "module": "$@network_def.to(@device)",
        "device_ids": ["@device"],
    },
    "train#sampler": {"_target_": "DistributedSampler", "dataset": "@train#dataset", "shuffle": True},
    "train#dataloader#sampler": "@train#sampler",
    "train#dataloader#shuffle": False,
    "train#trainer#train_handlers": "$@train#handlers[: -1 if dist.get_rank() > 0 else None]",
    "initialize": [
        "$import torch.distributed as dist",
        "$dist.is_initialized() or dist.init_process_group(backend='nccl')",
    ],
    "run": ["$@train#trainer.run()"],
    "finalize": ["$dist.is_initialized() and dist.destroy_process_group()"],
}  # fmt: skip
INFERENCE: dict[str, Any] = {
    "imports": ["$import glob"],
    **SHARED,
    "datalist": "$sorted(glob.glob(@dataset_dir + '/images/*.nii.gz'))",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
        ],
    },
    "dataset": {"_target_": "Dataset", "data": "$[{'image': i} for i in @datalist]", "transform": "@preprocessing"},
    "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
    "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16]},
    "postprocessing": {"_target_": "Compose", "transforms": POST[:1]},
    "handlers": [{"_target_": "StatsHandler", "iteration_log": False}],
    "evaluator": {
        "_target_": "SupervisedEvaluator", "device": "@device", "val_data_loader": "@dataloader", "network": "@network",
        "inferer": "@inferer", "postprocessing": "@postprocessing", "val_handlers": "@handlers",
    },
    "checkpointloader": {
        "_target_": "CheckpointLoader", "load_path": "$@bundle_root + '/models/model.pt'",
        "load_dict": {"model": "@network"},
    },
    "initialize": ["$monai.utils.set_determinism(seed=123)", "$@checkpointloader(@evaluator)"],
    "run": ["$@evaluator.run()"],
}  # fmt: skip
LOGGING = """[loggers]
keys=root
[handlers]
keys=console
[formatters]
keys=line
[logger_root]
level=INFO
handlers=console
[handler_console]
class=StreamHandler
args=(sys.stdout,)
formatter=line
[formatter_line]
format=%(message)s
"""
PAIRS = '''"""Images with their labels."""


def pairs(images, labels):
    return [{"image": image, "label": label} for image, label in zip(images, labels)]
'''
README = """# Organ segmentation

# Data
See data_license.txt.

# License
Apache-2.0 for the code; the weights come under CC BY 4.0.
"""


def make_monai_bundle(root: Path, name: str = "organ_segmentation") -> Path:
    """Write the bundle and return its folder."""
    bundle = root / name
    for folder in ("configs", "docs", "scripts"):
        (bundle / folder).mkdir(parents=True)
    files = {
        "metadata": METADATA, "train": TRAIN, "evaluate": EVALUATE, "inference": INFERENCE,
        "multi_gpu_train": MULTI_GPU_TRAIN,
    }  # fmt: skip
    for stem, content in files.items():
        # MONAI's own files are indented by tabs in places, which YAML would not read
        (bundle / f"configs/{stem}.json").write_text(json.dumps(content, indent="\t" if stem == "train" else 4))
    (bundle / "configs/logging.conf").write_text(LOGGING)
    (bundle / "scripts/__init__.py").write_text("")
    (bundle / "scripts/pairs.py").write_text(PAIRS)
    (bundle / "docs/README.md").write_text(README)
    (bundle / "docs/data_license.txt").write_text("The images are under CC BY-SA 4.0.\n")
    (bundle / "LICENSE").write_text("Apache License 2.0\n")
    return bundle
