"""A bundle without images or networks: its stages count their runs and write what the real ones write."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

VOCABULARY = {
    "bundle_root": ".", "dataset_dir": "$@bundle_root + '/data'", "output_dir": "$@bundle_root + '/eval'",
    "ckpt_dir": "$@bundle_root + '/models'", "seed": 0, "resume": False,
}  # fmt: skip
TRAIN = {
    "imports": ["$from pathlib import Path", "$import os", "$from fake_bundle import log"],
    **VOCABULARY,
    "rate": 0.1,
    "regime": "plain",
    "nested": {"deep": {"list": [1, 2]}},
    "layer": {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": "$int(@elsewhere)"},
    "other": {"text": "@rate"},
    "run": ["$log(@ckpt_dir, 'train', @rate, @regime, @seed)"],
}
EVALUATE = {
    "imports": ["$from fake_bundle import evaluate"],
    **VOCABULARY,
    "run": ["$evaluate(@ckpt_dir, @output_dir)"],
}


def make_bundle(root: Path, name: str = "fake_classification") -> Path:
    configs = root / name / "configs"
    configs.mkdir(parents=True)
    (configs / "metadata.json").write_text(json.dumps({"version": "0.1.0", "task": "nothing"}))
    (configs / "train.yaml").write_text(yaml.safe_dump(TRAIN, sort_keys=False))
    (configs / "evaluate.yaml").write_text(yaml.safe_dump(EVALUATE, sort_keys=False))
    (configs / "study.yaml").write_text("arms: {}")
    return root / name


def log(folder: str, *values: object) -> None:
    """Append a line to the run's record; the regime ``broken`` fails."""
    from medssl_monai.core import DataError

    path = Path(folder) / "runs.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        print(*values, file=stream)
    if "broken" in values:
        raise DataError("the data is broken", where="x.png", advice="Mend it.")


def evaluate(ckpt_dir: str, output_dir: str) -> None:
    """Write predictions that depend on the rate trained with, and the metrics."""
    rate = float((Path(ckpt_dir) / "runs.txt").read_text().splitlines()[-1].split()[1])
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    log(output_dir, "evaluate", rate)
    rows = ["image,subject,label,predicted,probability_a,probability_b"]
    for i in range(12):
        p = 0.5 + (rate if i % 2 else -rate) * (0.5 if i % 5 else -0.5)
        rows.append(f"{i}.png,{'' if i == 0 else f's{i}'},{'ab'[i % 2]},{'ab'[p > 0.5]},{1 - p:.6f},{p:.6f}")
    (folder / "predictions.csv").write_text("\n".join(rows) + "\n")
    report = {
        "label_counts": {"n_labels_training": 8, "n_labels_validation": 2},
        "metrics": {"acc": {"estimate": rate, "interval_95": [0.0, 1.0]}, "none": {"estimate": None}},
    }
    (folder / "metrics.json").write_text(json.dumps(report))
