"""A bundle with a study but without networks, its dataset, and stages that write what the real ones write."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from medssl_monai.apps.processes import Stop
from medssl_monai.apps.run import parse_overrides
from medssl_monai.data import Budget, Datalist, load_datalist, select_budget

KEYS = {
    "bundle_root": ".", "dataset_dir": "data", "output_dir": "$@bundle_root + '/eval'", "seed": 0, "resume": False,
    "ckpt_dir": "$@bundle_root + '/models'", "label_fraction": 1.0, "label_budget": None, "split_seed": 0,
    "validation_share": 0.2, "labels": ["x", "y"], "max_epochs": 3,
}  # fmt: skip
STUDY = {
    "baseline_arm": "plain",
    "primary_arm": "better",
    "primary_metric": "macro_auroc",
    "arms": {
        "plain": {"stages": ["train", "evaluate"], "overrides": {"regime": "plain"}, "protocols": []},
        "better": {"stages": ["pretrain", "train", "evaluate"], "overrides": {"regime": "better"}},
        "other": {"stages": ["train", "evaluate"], "overrides": {"regime": "other"}},
    },
}
CLASSES = ["a", "b", "rare"]
SIGNAL = {"plain": 0.6, "better": 1.4, "other": 0.6}


def make_study_bundle(root: Path, **study: Any) -> Path:
    """The bundle; ``study`` replaces keys of ``study.yaml``."""
    configs = root / "study_classification" / "configs"
    configs.mkdir(parents=True)
    (configs / "metadata.json").write_text(json.dumps({"version": "0.3.0"}))
    train = {**KEYS, "regime": "plain", "imports": ["$import torch"], "layer": {"_target_": "torch.nn.Identity"}}
    (configs / "train.yaml").write_text(yaml.safe_dump(train))
    (configs / "pretrain.yaml").write_text(yaml.safe_dump({**KEYS, "temperature": 0.1}))
    (configs / "evaluate.yaml").write_text(yaml.safe_dump(KEYS))
    (configs / "inference.yaml").write_text(yaml.safe_dump({**KEYS, "crop": 8}))
    (configs / "study.yaml").write_text(yaml.safe_dump({**STUDY, **study}))
    return configs.parent


def make_dataset(root: Path, **changes: Any) -> Path:
    """200 training, 60 validation and 90 test images of two an subject; the third class has 3 test subjects."""

    def items(split: str, subjects: int, rare: int) -> list[dict[str, Any]]:
        return [
            {
                "image": f"{split}/{i}_{k}.png", "label": 2 if i < rare else i % 2, "subject": f"subject:{split}{i}",
            }
            for i in range(subjects)
            for k in range(2)
        ]  # fmt: skip

    root.mkdir(parents=True, exist_ok=True)
    content = {
        "name": "toy", "modality": "none", "task": "multiclass", "labels": CLASSES, "license": "none",
        "training": items("training", 100, 10), "validation": items("validation", 30, 4), "test": items("test", 45, 3),
    }  # fmt: skip
    (root / "datalist.json").write_text(json.dumps({**content, **changes}))
    return root


class Stages:
    """Stands for ``run_process``: writes into the run folder what the stages of the bundle would.

    Attributes:
        commands: (stage, overrides, run folder) of every call; of protocols the stage is ``protocols``.
        lines: the same calls as they were given.
        hook: called with stage and overrides before anything is written; what it returns other than ``None`` is the
            exit code, "stopped" a stage that was stopped.
    """

    def __init__(self, hook: Callable[[str, dict[str, Any], Stop], Any] | None = None) -> None:
        self.commands: list[tuple[str, dict[str, Any], Path]] = []
        self.lines: list[list[str]] = []
        self.hook = hook
        self._lock = threading.Lock()

    @property
    def stages(self) -> list[str]:
        """``arm budget seed stage`` of every call."""
        return [f"{' '.join(folder.parts[-3:])} {stage}" for stage, _, folder in self.commands]

    def __call__(self, command: list[str], log: Path, threads: int, stop: Stop) -> int | None:
        if command[3] == "protocol":
            stage, folder = "protocols", Path(command[command.index("--out") + 1]).parents[1]
        else:
            stage, folder = command[5], Path(command[command.index("--run-dir") + 1])
        keys = parse_overrides([text for text in command[6:] if "=" in text])
        with self._lock:
            self.commands.append((stage, keys, folder))
            self.lines.append(command)
        answer = None if self.hook is None else self.hook(stage, keys, stop)
        if answer is not None:
            log.write_text("line 1\nmedssl: x.png: it is broken. Mend it.\n")
            return None if answer == "stopped" else int(answer)
        if stage == "evaluate":
            write_results(folder, keys)
        elif stage == "protocols":
            write_protocols(command)
        else:
            (folder / "models").mkdir(parents=True, exist_ok=True)
            (folder / "models" / f"{stage}.json").write_text(json.dumps(keys))
            (folder / "models" / f"{stage}.pt").write_text(f"weights of seed {keys['seed']}")
        return 0


def write_results(folder: Path, keys: dict[str, Any]) -> None:
    """Predictions that are better with the regime, with more labels, and vary with the seed."""
    trained = json.loads((folder / "models" / "train.json").read_text())
    datalist = load_datalist(keys["dataset_dir"])
    budget = select_budget(
        datalist, **{key: keys[key] for key in ("label_fraction", "label_budget", "split_seed")}, validation_share=0.2
    )
    random = np.random.default_rng([keys["seed"], budget.n_labels, *trained["regime"].encode()])
    signal = SIGNAL[trained["regime"]] + budget.n_labels / 150
    write_figures(folder / "eval", datalist, budget, random, signal)


def write_protocols(command: list[str]) -> None:
    """Predictions of each protocol: better with a pre-trained encoder and more labels."""
    source, out = Path(command[5]), Path(command[command.index("--out") + 1])
    seed, text = (command[command.index(name) + 1] for name in ("--seed", "--budget"))
    datalist = load_datalist(command[6])
    asked = {"label_fraction": float(text[:-1]) / 100} if text.endswith("%") else {"label_budget": int(text)}
    budget = select_budget(datalist, **asked, split_seed=int(command[command.index("--split-seed") + 1]))
    if "--untrained" not in command:
        assert (source / "models" / "pretrain.pt").is_file()
    for name in command[4].split(","):
        random = np.random.default_rng([int(seed), budget.n_labels, *name.encode(), "--untrained" in command])
        signal = (0.3 if "--untrained" in command else 1.2) + budget.n_labels / 300
        write_figures(out / name, datalist, budget, random, signal)


def write_figures(folder: Path, datalist: Datalist, budget: Budget, random: np.random.Generator, signal: float) -> None:
    """``predictions.csv`` and what studies read of ``metrics.json``."""
    items = datalist.splits["test"]
    labels = np.array([item.label for item in items])
    logits = random.normal(size=(len(items), 3)) + signal * np.eye(3)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "predictions.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "subject", "label", "predicted", *(f"probability_{name}" for name in CLASSES)])
        for item, row in zip(items, probabilities):
            shown = [item.name, item.subject or "", CLASSES[item.label], CLASSES[row.argmax()]]
            writer.writerow([*shown, *(f"{p:.9g}" for p in row)])
    report = {
        "label_counts": {
            "n_labels_training": budget.n_labels_training, "n_labels_validation": budget.n_labels_validation,
        },
        "n_subjects_seen_in_training": 0,
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(report))
